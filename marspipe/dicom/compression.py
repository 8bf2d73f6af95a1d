"""Lossless compression of stored pixels, by pydicom's encoders.

Of noisy 512 x 512 slices one core compresses about a hundred a second as JPEG-LS, as many as run lengths, and some
twenty as JPEG 2000; on noise the first and the last save about a fifth, and where there is padding half.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from marspipe.errors import EnvironmentMissingError, InputError

TransferSyntax = Literal["uncompressed", "jpeg-ls", "jpeg-2000", "rle"]
TRANSFER_SYNTAXES: tuple[str, ...] = get_args(TransferSyntax)

_UIDS = {
    "uncompressed": ExplicitVRLittleEndian,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "rle": RLELossless,
}
# One encoder for each, so that equal pixels give equal bytes wherever a task runs.
_PLUGINS = {"jpeg-ls": "pyjpegls", "jpeg-2000": "pylibjpeg", "rle": "pylibjpeg"}
# Below, pylibjpeg's six resolutions and pyjpegls' output buffer do not fit.
_JPEG_2000_SIDE_PX, _JPEG_LS_PIXELS = 32, 64
_PACKAGES = {"jpeg-ls": "pyjpegls", "jpeg-2000": "pylibjpeg-openjpeg", "rle": "pylibjpeg-rle"}


def transfer_syntax_uid(transfer_syntax: str) -> UID:
    """Return the UID of a transfer syntax.

    Raises
    ------
    InputError
        If it is none of :data:`TRANSFER_SYNTAXES`.
    """
    if transfer_syntax not in _UIDS:
        raise InputError(f"transfer_syntax must be one of {', '.join(TRANSFER_SYNTAXES)}, got {transfer_syntax!r}")
    return _UIDS[transfer_syntax]


def check_compressible(rows: int, columns: int, transfer_syntax: str) -> None:
    """Refuse images that an encoder cannot take.

    Raises
    ------
    InputError
        If the transfer syntax is unknown, or the images are too small for it.
    """
    transfer_syntax_uid(transfer_syntax)
    if transfer_syntax == "jpeg-2000" and min(rows, columns) < _JPEG_2000_SIDE_PX:
        least = f"{_JPEG_2000_SIDE_PX} pixels a side"
    elif transfer_syntax == "jpeg-ls" and rows * columns < _JPEG_LS_PIXELS:
        least = f"{_JPEG_LS_PIXELS} pixels"
    else:
        return
    raise InputError(
        f"images of {rows} x {columns} pixels are too small for {transfer_syntax} (at least {least}): write them "
        "uncompressed"
    )


def compressed(stored: NDArray[np.int16], transfer_syntax: str) -> bytes:
    """Return a frame as a lossless code stream.

    Parameters
    ----------
    stored : ndarray, int16, shape (rows, columns)
        Signed pixels, padding included.
    transfer_syntax : {"jpeg-ls", "jpeg-2000", "rle"}
        How.

    Raises
    ------
    EnvironmentMissingError
        If the package that compresses is not installed.
    """
    encoder = get_encoder(transfer_syntax_uid(transfer_syntax))
    plugin = _PLUGINS[transfer_syntax]
    if plugin not in encoder.available_plugins:
        raise EnvironmentMissingError(
            f"compression as {transfer_syntax} needs the package {_PACKAGES[transfer_syntax]}: pip install "
            f"{_PACKAGES[transfer_syntax]}"
        )
    rows, columns = stored.shape
    frame: bytes = encoder.encode(
        stored.astype("<i2", copy=False).tobytes(),
        encoding_plugin=plugin,
        rows=rows,
        columns=columns,
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
    )
    return bytes(frame)
