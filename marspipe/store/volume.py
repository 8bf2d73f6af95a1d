"""Open a finished volume: slices and regions as NumPy arrays, without Spark."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RunError, ScanError
from marspipe.scan.energy import EnergyBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import AXES, VolumeGrid
from marspipe.store import storage
from marspipe.store.commit import require_committed
from marspipe.store.pixel_flags import PIXEL_FLAGS_FOLDER, read_pixel_flags
from marspipe.store.tile_file import TileFile
from marspipe.store.versions import data_folder

Float32Array = NDArray[np.float32]

_Range = slice | None  # the class below has a method named slice


class Volume:
    """A finished volume on disk or HDFS; pixels are read when asked for. Threads may share it, and forked processes.

    Attributes
    ----------
    uri : str
        The folder.
    data_uri : str
        The folder with the Parquet files: a version of the volume, see :mod:`marspipe.store.versions`.
    metadata : dict
        The content of ``_marspipe.json``: geometry, recipe, versions, provenance.
    bins : list of EnergyBin
        Energy bins, in the order of the first index.
    grid : VolumeGrid
        Voxel positions.
    units : str
        ``"1/mm"``.
    statistics : list of dict
        Per bin ``min``, ``max``, ``mean`` in 1/mm.

    Notes
    -----
    ``volume[bin][z]`` is a slice, float32 [y, x]; ``volume[bin][z0:z1]`` a stack, float32 [z, y, x].
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.metadata: dict[str, Any] = require_committed(uri, "volume")
        self.bins = [EnergyBin(b["low_kev"], b["high_kev"]) for b in self.metadata["bins"]]
        self.grid = VolumeGrid.from_dict(self.metadata["grid"])
        self.units = str(self.metadata["units"])
        self.statistics: list[dict[str, float]] = self.metadata["statistics"]
        self.data_uri = data_folder(uri, self.metadata)
        self._files: list[list[TileFile]] = [[] for _ in self.bins]
        for entry in self.metadata["files"]:
            uri = storage.join(self.data_uri, entry["path"])
            place = entry["bin"], entry["z_first"], entry["z_last"]
            self._files[entry["bin"]].append(TileFile(uri, *place, self.shape[1:]))

    def __repr__(self) -> str:
        labels = ", ".join(b.label for b in self.bins)
        return f"<Volume {self.uri!r}: bins [{labels}], shape (z, y, x) {self.shape}, {self.units}>"

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, bin: int) -> BinVolume:
        return BinVolume(self, self._bin(bin))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of one bin."""
        return self.grid.shape

    @property
    def geometry(self) -> ScanGeometry:
        """The geometry the volume was reconstructed with."""
        return ScanGeometry.from_dict(self.metadata["geometry"])

    def slice(self, axis: str, index: int, bin: int = 0) -> Float32Array:
        """Return one slice across an axis.

        Parameters
        ----------
        axis : {"z", "y", "x"}
            The axis that the slice is perpendicular to.
        index : int
            Voxel index along that axis; negative counts from the end.
        bin : int
            Energy bin.

        Returns
        -------
        ndarray, float32, 1/mm
            [y, x] for z, [z, x] for y, [z, y] for x. A z slice is one ranged read once the footer of its file is
            known; y reads one tile of every slice, x all of them, a few MiB at a time.
        """
        if axis not in AXES:
            raise ScanError(f"axis must be 'z', 'y' or 'x', got {axis!r}")
        index = self._index(axis, index)
        plane: Float32Array = self.roi(**{axis: slice(index, index + 1)}, bin=bin).squeeze(AXES.index(axis))
        return plane

    def roi(self, z: _Range = None, y: _Range = None, x: _Range = None, bin: int = 0) -> Float32Array:
        """Return a region of one bin, float32 [z, y, x], 1/mm; slices count voxels and have step 1."""
        window = self.grid.window(z=z, y=y, x=x)
        bin = self._bin(bin)
        z0, y0, x0 = (a - b for a, b in zip(window.start, self.grid.start, strict=True))
        nz, ny, nx = window.shape
        out = np.empty(window.shape, dtype=np.float32)
        filled = np.zeros(nz, dtype=np.int64)
        for file in self._files[bin]:
            first, stop = max(z0, file.z_first), min(z0 + nz, file.z_last + 1)
            for tile in file.tiles(first, stop, y0, y0 + ny) if first < stop else ():
                lo, hi = max(tile.y_first, y0), min(tile.y_first + len(tile.pixels), y0 + ny)
                rows = tile.pixels[lo - tile.y_first : hi - tile.y_first]
                out[tile.z - z0, lo - y0 : hi - y0] = rows[:, x0 : x0 + nx]
                filled[tile.z - z0] += hi - lo
        missing = np.flatnonzero(filled != ny)
        if missing.size:
            raise RunError(f"{self.uri}: bin {bin} has no complete slice z = {missing[0] + z0}; files are missing")
        return out

    def pixel_flags(self, bin: int = 0, tile: int = 0) -> NDArray[np.uint8]:
        """Return which detector pixels were not believed, and why.

        Parameters
        ----------
        bin : int
            Energy bin.
        tile : int
            Camera position.

        Returns
        -------
        ndarray, shape (v, u), uint8
            Bits of :class:`marspipe.preprocess.bad_pixels.PixelFlag`; 0 is a good pixel.
        """
        flags = read_pixel_flags(storage.join(self.data_uri, PIXEL_FLAGS_FOLDER), tile, len(self.bins))
        of_bin: NDArray[np.uint8] = flags[self._bin(bin)]
        return of_bin

    def _bin(self, bin: int) -> int:
        number = operator.index(bin)
        if not -len(self.bins) <= number < len(self.bins):
            raise IndexError(f"bin {number} of a volume with {len(self.bins)} bins")
        return number % len(self.bins)

    def _index(self, axis: str, index: int) -> int:
        n = self.shape[AXES.index(axis)]
        number = operator.index(index)
        if not -n <= number < n:
            raise IndexError(f"slice {number} along {axis} of a volume with {n}")
        return number % n


class BinVolume:
    """One energy bin of a volume: indexed by slice like an array [z, y, x]."""

    def __init__(self, volume: Volume, bin: int) -> None:
        self.volume = volume
        self.bin = bin
        self.energy = volume.bins[bin]
        self.shape = volume.shape
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int | slice) -> Float32Array:
        if isinstance(z, slice):
            return self.volume.roi(z=z, bin=self.bin)
        return self.volume.slice("z", z, bin=self.bin)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a volume on disk cannot become an array without a copy")
        return np.asarray(self.volume.roi(bin=self.bin), dtype=dtype)


def open_volume(uri: str) -> Volume:
    """Open a finished volume.

    Parameters
    ----------
    uri : str
        The volume's folder: a path or ``hdfs://``.

    Raises
    ------
    ScanError
        If no committed volume lies there.
    """
    return Volume(str(uri))
