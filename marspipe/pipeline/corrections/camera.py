"""The camera and its positions: from the frames of one position to the wide detector that a view is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from marspipe.errors import ScanError
from marspipe.preprocess.tiles import TileLayout, wide_detector
from marspipe.scan.geometry import ScanGeometry


@dataclass(frozen=True)
class Camera:
    """The camera of a scan.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of its frames.
    n_counters : int
        Counter images of an exposure.
    pixel_pitch_mm : (float, float)
        Pixel pitch along v and u, mm.
    principal_point_px : (float, float)
        Row and column, at the position (0, 0), that the ray through the isocenter meets.
    positions_mm : tuple of (float, float)
        How far the camera was moved along v and u in every position, mm.
    """

    shape: tuple[int, int]
    n_counters: int
    pixel_pitch_mm: tuple[float, float]
    principal_point_px: tuple[float, float]
    positions_mm: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, geometry: ScanGeometry, n_counters: int, positions_mm: Any) -> Camera:
        """Return the camera of a scan whose geometry is that of the camera at the position (0, 0).

        Raises
        ------
        ScanError
            If the camera moves although the geometry is no circular orbit.
        """
        positions = tuple((float(v), float(u)) for v, u in positions_mm)
        orbit = geometry.orbit
        if orbit is not None:
            pitch, point = orbit.pixel_pitch_mm, orbit.principal_point_px
        elif positions == ((0.0, 0.0),):
            pitch, point = geometry.pixel_pitch_mm, (0.0, 0.0)
        else:
            raise ScanError("several camera positions need a circular orbit, but this scan has a general geometry")
        return cls(geometry.detector_shape, n_counters, pitch, point, positions)

    @classmethod
    def of_table(cls, geometry: ScanGeometry, metadata: Mapping[str, Any]) -> Camera:
        """Return the camera of a frames table."""
        return cls.of(geometry, len(metadata["counters"]), metadata.get("camera_positions_mm", [(0.0, 0.0)]))

    @property
    def n_tiles(self) -> int:
        """Number of positions."""
        return len(self.positions_mm)

    @property
    def moves(self) -> bool:
        """Whether the frames of a view are not the wide detector itself."""
        return self.positions_mm != ((0.0, 0.0),)

    @cached_property
    def layout(self) -> TileLayout:
        """Where every position lies on the wide detector."""
        return wide_detector(self.shape, self.positions_mm, self.pixel_pitch_mm, self.principal_point_px)

    def wide(self, geometry: ScanGeometry) -> ScanGeometry:
        """Return the geometry of the wide detector, given that of the camera."""
        if not self.moves:
            return geometry
        return geometry.with_detector(self.layout.shape, self.layout.principal_point_px)
