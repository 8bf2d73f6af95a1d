"""Raw files to frames: one module per format, found by name in a plain dict.

A reader is a value of four functions (:class:`Reader`). All of them deliver frames ``[row v, column u]`` whose indices
grow with the coordinate, see :mod:`marspipe.scan`. What a file cannot know, how its camera was mounted, is the
manifest's ``orientation``, applied by :func:`orient`.

To add a format, write a module with these functions and add a line to :data:`READERS`.
"""

from __future__ import annotations

import numpy as np

from marspipe.readers import data_exchange, dicom_frames, merlin, nxtomo, tiff
from marspipe.readers.frames import Frame, FrameEntry, FrameType, Reader
from marspipe.readers.manifest import Orientation

__all__ = ["READERS", "Frame", "FrameEntry", "FrameType", "Reader", "orient", "oriented_shape"]

READERS: dict[str, Reader] = {
    "merlin": Reader(merlin.index, merlin.count, merlin.read, merlin.read_many, merlin.SUFFIXES),
    "data_exchange": Reader(
        data_exchange.index,
        data_exchange.count,
        data_exchange.read,
        data_exchange.read_many,
        data_exchange.SUFFIXES,
    ),
    "nxtomo": Reader(nxtomo.index, nxtomo.count, nxtomo.read, nxtomo.read_many, nxtomo.SUFFIXES),
    "tiff": Reader(tiff.index, tiff.count, tiff.read, tiff.read_many, tiff.SUFFIXES),
    "dicom": Reader(
        dicom_frames.index, dicom_frames.count, dicom_frames.read, dicom_frames.read_many, dicom_frames.SUFFIXES
    ),
}


def orient(frame: Frame, orientation: Orientation) -> Frame:
    """Turn a frame of a rotated or mirrored camera into ``[row v, column u]``.

    Parameters
    ----------
    frame : ndarray, shape (rows, cols)
        The frame as its reader delivers it.
    orientation : Orientation
        First ``transpose`` exchanges rows and columns, then ``flip_rows`` and ``flip_columns`` reverse the result.

    Returns
    -------
    ndarray
        C-contiguous, same type; ``frame`` itself if nothing is to do.
    """
    if orientation.transpose:
        frame = frame.T
    if orientation.flip_rows:
        frame = frame[::-1]
    if orientation.flip_columns:
        frame = frame[:, ::-1]
    return np.ascontiguousarray(frame)


def oriented_shape(rows: int, cols: int, orientation: Orientation) -> tuple[int, int]:
    """Return the shape (rows, cols) of a frame after :func:`orient`."""
    return (cols, rows) if orientation.transpose else (rows, cols)
