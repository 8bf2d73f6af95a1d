"""The files of a series as bytes, data sets or files of a folder, whatever objects it is made of."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from marspipe.dicom.ct import series_files
from marspipe.dicom.enhanced import enhanced_files
from marspipe.dicom.parametric_map import parametric_map_files
from marspipe.dicom.series import SeriesHeader, SourceVolume

WRITERS: dict[str, Callable[..., Iterator[Any]]] = {
    "ct-image": series_files,
    "enhanced-ct": enhanced_files,
    "parametric-map": parametric_map_files,
}
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "rle": RLELossless,
}


def contents(volume: SourceVolume, header: SeriesHeader, **options: Any) -> Iterator[tuple[str, bytes]]:
    """Yield relative path and content of each file; options are those of the kind's writer."""
    for file in WRITERS[header.kind](volume, header, **options):
        yield file.path, file.content if isinstance(file.content, bytes) else file.content()


def read_all(volume: SourceVolume, header: SeriesHeader, **options: Any) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(io.BytesIO(content)) for _, content in contents(volume, header, **options)]


def write_all(volume: SourceVolume, header: SeriesHeader, folder: Path, **options: Any) -> list[Path]:
    """Write the files; they lie in the folder ``header.folder`` of the given one."""
    paths = []
    for name, content in contents(volume, header, **options):
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(content)
    return paths
