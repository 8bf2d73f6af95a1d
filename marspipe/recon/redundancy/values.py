"""What a choice of redundancy weights is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.recon.redundancy.blending import Blend
from marspipe.scan.grid import VolumeGrid

FloatArray = NDArray[np.float64]


class IncompleteScanWarning(UserWarning):
    """The views of a scan do not cover every line through the sample; the volume will show it."""


@dataclass(frozen=True, eq=False)
class Redundancy:
    """The weights of a scan's rays.

    Attributes
    ----------
    name : str
        full, parallel-180, parker, wang, or limited-angle (what is left when the range is too small); with "helix" or
        "circles" before it if the source moves along the axis.
    description : str
        One sentence for people.
    view_weights_rad : ndarray, float64, shape (views,)
        Angle that each view stands for, halved where every line is measured twice.
    column_weights : ndarray, float64, shape (views or 1, columns)
        Weight of each detector column in each view; 1 row if it is the same in all views.
    pad_columns : (int, int)
        Columns of zeros to add at the low and the high end of the detector before the ramp filter, because voxels
        that an offset detector sees from one side only need the filtered values beside it.
    field_of_view_mm : float
        Radius about the axis within which the detector misses no voxel in any view (wang: in any other view).
    blend : HelixBlend, CirclesBlend or None
        Which views make a slice; None if all do.
    """

    name: str
    description: str
    view_weights_rad: FloatArray
    column_weights: FloatArray
    pad_columns: tuple[int, int]
    field_of_view_mm: float
    blend: Blend | None = None

    def slice_weights(self, grid: VolumeGrid) -> NDArray[np.float32] | None:
        """Return the factor of every view in every slice of a grid, float32, shape (views, nz); None if all are 1."""
        return None if self.blend is None else self.blend.weights(grid.axis_mm("z"))

    def columns(self, view: int) -> FloatArray:
        """Return the column weights of one view, shape (columns,)."""
        row: FloatArray = self.column_weights[view if len(self.column_weights) > 1 else 0]
        return row


def warn_incomplete(text: str) -> None:
    """Warn that lines are missing."""
    warnings.warn(text, IncompleteScanWarning, stacklevel=6)
