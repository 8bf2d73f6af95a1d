"""Scientific Data Exchange HDF5: ``/exchange/data``, ``data_white`` and ``data_dark`` [theta, v, u], ``theta``.

Orientation: the format orders frames (v, u); rows are taken as they are stored. A file whose rows run downwards is
described by ``orientation`` in the scan manifest.

Source: F. De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224-1230, doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from marspipe.readers import hdf5
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, dtype_name

SUFFIXES = (".h5", ".hdf5", ".hdf")
DATASETS: dict[FrameType, str] = {
    "projection": "/exchange/data",
    "open_beam": "/exchange/data_white",
    "dark": "/exchange/data_dark",
}


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the frames of one dataset; pixels are not read.

    Parameters
    ----------
    file : seekable binary file
        The file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of frames; by default all.
    dataset : str, optional
        HDF5 path; by default the one of ``frame_type``, see :data:`DATASETS`.
    frame_type : {"projection", "open_beam", "dark"}
        What the frames are.

    Raises
    ------
    RawFormatError
        If the file is not HDF5, the dataset is missing, not of rank 3, empty, of a pixel type that is not read, or
        lies in files outside the folder. The message names file and dataset.
    """
    path = dataset or DATASETS[frame_type]
    with hdf5.opened(file, uri) as container:
        stack = container.stack(path)
        frames, rows, cols = (int(n) for n in stack.shape)
        itemsize, dtype = stack.dtype.itemsize, dtype_name(stack.dtype)
    return [
        FrameEntry(
            uri=uri,
            dataset=path,
            offset=i,
            length=rows * cols * itemsize,
            sequence=i,
            exposure_index=i,
            counter=0,
            rows=rows,
            cols=cols,
            dtype=dtype,
        )
        for i in clip_range(first, count, frames)
    ]


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of frames of a dataset; parameters and errors as :func:`index`."""
    with hdf5.opened(file, uri) as container:
        return int(container.stack(dataset or DATASETS[frame_type]).shape[0])


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one frame ``[row v, column u]``, native byte order.

    Raises
    ------
    RawFormatError
        If the frame cannot be read.
    """
    (frame,) = read_many(file, (entry,))
    return frame


read_many = hdf5.read_many


def read_angles(file: BinaryIO, uri: str, dataset: str) -> tuple[NDArray[np.float64], str | None]:
    """Return a one-dimensional dataset of angles and the unit it claims.

    Parameters
    ----------
    file : seekable binary file
        The HDF5 file.
    uri : str
        Its name, for messages.
    dataset : str
        HDF5 path, such as ``/exchange/theta``.

    Returns
    -------
    angles : ndarray, float64
        In the unit of the file.
    unit : str or None
        The text of its ``units`` attribute.

    Raises
    ------
    RawFormatError
        If the dataset is missing, not one-dimensional or not of numbers.
    """
    with hdf5.opened(file, uri) as container:
        return container.numbers(dataset)
