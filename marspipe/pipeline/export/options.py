"""What an export of DICOM objects writes, and as whose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from marspipe.dicom.compression import TransferSyntax
from marspipe.dicom.deidentify import deidentified
from marspipe.dicom.identity import SeriesIdentity, load_identity
from marspipe.dicom.identity_dicom import identity_from_dicom
from marspipe.dicom.multi_frame import MAX_INSTANCE_BYTES
from marspipe.dicom.series import ObjectKind, SeriesHeader, series_header
from marspipe.errors import InputError
from marspipe.store import storage
from marspipe.store.volume import Volume

KEY_VARIABLE = "MARSPIPE_DEIDENTIFICATION_KEY"


@dataclass(frozen=True)
class DicomOptions:
    """What is written, and as whose.

    Attributes
    ----------
    kind : {"ct-image", "enhanced-ct", "parametric-map"}
        A file per slice, multi-frame files, or multi-frame files of the volume's own float values.
    bins : tuple of int or None
        Energy bins or maps; None for all.
    identity : SeriesIdentity or None
        Patient and study; None for nobody's.
    water_attenuation_per_mm : mapping
        Attenuation of water by bin, 1/mm: these series are written in Hounsfield units.
    transfer_syntax : {"uncompressed", "jpeg-ls", "jpeg-2000", "rle"}
        How pixels are encoded; all are lossless.
    deidentification_key : bytes or None
        The secret that pseudonyms are made with; None for a series that tells whose it is.
    max_instance_bytes : int
        Size that no multi-frame file exceeds.
    """

    kind: ObjectKind = "ct-image"
    bins: tuple[int, ...] | None = None
    identity: SeriesIdentity | None = field(default=None, repr=False)
    water_attenuation_per_mm: Mapping[int, float] = field(default_factory=dict)
    transfer_syntax: TransferSyntax = "uncompressed"
    deidentification_key: bytes | None = field(default=None, repr=False)
    max_instance_bytes: int = MAX_INSTANCE_BYTES

    def bins_of(self, volume: Volume) -> tuple[int, ...]:
        """Return the bins that are written.

        Raises
        ------
        InputError
            If one does not exist, here or among those that water is given for.
        """
        bins = tuple(range(len(volume))) if self.bins is None else tuple(dict.fromkeys(self.bins))
        for bin_ in (*bins, *self.water_attenuation_per_mm):
            if not 0 <= bin_ < len(volume):
                raise InputError(f"the volume has energy bins 0 to {len(volume) - 1}, asked for bin {bin_}")
        return bins

    def plan(self, volume: Volume, ranges: Mapping[int, tuple[float, float]] | None = None) -> dict[int, SeriesHeader]:
        """Return what the instances of each bin share but the window, which takes a look at pixels.

        Raises
        ------
        InputError
            If the volume lacks what the objects need, or an option does not fit it.
        """
        found = ranges or {}
        return {bin_: self.header(volume, bin_, found.get(bin_), (0.0, 1.0)) for bin_ in self.bins_of(volume)}

    def header(
        self,
        volume: Volume,
        bin_: int,
        value_range: tuple[float, float] | None = None,
        window: tuple[float, float] | None = None,
    ) -> SeriesHeader:
        """Return what the instances of a bin share."""
        header = series_header(
            volume,
            bin_,
            self.identity,
            water_attenuation_per_mm=self.water_attenuation_per_mm.get(bin_),
            window=window,
            value_range=value_range,
            transfer_syntax=self.transfer_syntax,
            kind=self.kind,
        )
        return header if self.deidentification_key is None else deidentified(header, self.deidentification_key)


def read_identity(uri: str) -> SeriesIdentity:
    """Read patient and study from a YAML file or, if its name does not end so, from a DICOM file such as a raw frame.

    Raises
    ------
    InputError
        If it cannot be read; values are not repeated in the message.
    """
    try:
        content = storage.read_bytes(uri)
        if not uri.lower().endswith((".yaml", ".yml")):
            return identity_from_dicom(content, uri)
        return load_identity(content.decode("utf-8"), uri)
    except UnicodeDecodeError:
        raise InputError(f"{uri} is not a text in UTF-8") from None  # the cause would carry the text
    except OSError as error:
        raise InputError(f"{uri} cannot be read: {error.strerror}") from error


def read_key(uri: str | None) -> bytes:
    """Read the secret that pseudonyms are made with, from a file or the environment.

    Raises
    ------
    InputError
        If there is none.
    """
    if uri is not None:
        try:
            return storage.read_bytes(uri).strip()
        except OSError as error:
            raise InputError(f"{uri}: the key cannot be read: {error.strerror}") from error
    key = os.environ.get(KEY_VARIABLE, "").encode()
    if not key:
        raise InputError(f"de-identification needs a secret of at least 16 bytes: --key-file FILE, or ${KEY_VARIABLE}")
    return key
