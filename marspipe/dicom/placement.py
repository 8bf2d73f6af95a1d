"""Where the slices of a series lie, in decimal numbers that a DICOM file can hold exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from marspipe.dicom.decimals import DS_LENGTH, plain
from marspipe.errors import GeometryError
from marspipe.scan.grid import VolumeGrid

IMAGE_ORIENTATION = ("1", "0", "0", "0", "1", "0")


@dataclass(frozen=True)
class SlicePlacement:
    """Positions and spacings of a series; see :mod:`marspipe.dicom` for the axes.

    All numbers are multiples of one decimal fraction of a millimeter, and positions are computed in decimal
    arithmetic: neighboring slices are exactly one spacing apart in what the files say.

    Attributes
    ----------
    origin_mm : (Decimal, Decimal, Decimal)
        Position (z, y, x) of voxel (0, 0, 0) of the volume.
    voxel_mm : (Decimal, Decimal, Decimal)
        Spacing (z, y, x).
    """

    origin_mm: tuple[Decimal, Decimal, Decimal]
    voxel_mm: tuple[Decimal, Decimal, Decimal]

    def pixel_spacing(self) -> list[str]:
        """Return Pixel Spacing: between rows (y), between columns (x), mm."""
        return [plain(self.voxel_mm[1]), plain(self.voxel_mm[2])]

    def slice_thickness(self) -> str:
        """Return Slice Thickness, mm: the voxel size along z, for slices that touch."""
        return plain(self.voxel_mm[0])

    def position(self, z_index: int) -> list[str]:
        """Return Image Position (Patient) of a slice: the center of voxel [z_index, 0, 0] as x, y, z in mm."""
        z, y, x = self.origin_mm
        return [plain(x), plain(y), plain(z + z_index * self.voxel_mm[0])]


def slice_placement(grid: VolumeGrid) -> SlicePlacement:
    """Return the placement of a volume's slices.

    Windows of one lattice agree with each other: a slice has the same position in a region of interest as in the
    whole.

    Raises
    ------
    GeometryError
        If the grid is too large or too fine for decimal strings.
    """
    lattice = grid.lattice_shape
    assert lattice is not None
    reach = max(abs(c) + n * d for c, n, d in zip(grid.center_mm, lattice, grid.voxel_mm, strict=True))
    # Sign and point take two of the 16 characters, the integer part as many as the farthest coordinate needs.
    places = DS_LENGTH - 2 - len(str(int(reach)))
    if places < 1:
        raise GeometryError(f"the volume reaches {reach:.6g} mm from the isocenter: too far for DICOM positions")
    step = Decimal(1).scaleb(-places)

    def rounded(value: float) -> Decimal:
        return Decimal(value).quantize(step, rounding=ROUND_HALF_EVEN)

    voxel = tuple(rounded(d) for d in grid.voxel_mm)
    if min(voxel) < 1000 * step:
        raise GeometryError(f"voxels of {grid.voxel_mm} mm are too small for DICOM positions with {places} decimals")
    origin = tuple(
        rounded(first) + start * d for first, start, d in zip(grid.origin_mm(), grid.start, voxel, strict=True)
    )
    return SlicePlacement((origin[0], origin[1], origin[2]), (voxel[0], voxel[1], voxel[2]))
