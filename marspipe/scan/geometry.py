"""The scan geometry as a value: where source and detector stood in every view.

See :mod:`marspipe.scan` for the conventions. The general form is ASTRA's ``cone_vec``: per view a source position,
a detector center, and the steps from one detector column (``u``) or row (``v``) to the next. A circular orbit with
detector columns parallel to the rotation axis is recognized and keeps its few parameters in
:class:`~marspipe.scan.orbit.CircularOrbit`, which the fast kernels use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import GeometryError
from marspipe.scan import astra_vectors
from marspipe.scan.checks import (
    detector_size,
    finite_angles,
    length_mm,
    number_pair,
    refuse_degrees,
    view_heights,
    view_vectors,
)
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.orbit import CircularOrbit, orbit_vectors, recognize_orbit, tilted_detector

FloatArray = NDArray[np.float64]

# A parallel beam is written as a cone from this many detector diagonals away: fan angle 1e-7 rad, while float64
# still resolves positions at the object to 1e-9 of its size.
PARALLEL_SOURCE_DISTANCE = 1.0e7


class ScanGeometry:
    """Source and detector of every view of a scan; immutable, comparable, sliceable.

    Use :meth:`circular` or :meth:`parallel` for the usual scans, this constructor for the general per-view form.

    Parameters
    ----------
    detector_shape : (int, int)
        Number of detector (rows, columns).
    source_mm : array_like, shape (n_views, 3), float64, mm
        Source position (x, y, z) of every view.
    detector_center_mm : array_like, shape (n_views, 3), float64, mm
        Position of the middle of the detector, pixel ((rows - 1) / 2, (cols - 1) / 2).
    u_mm, v_mm : array_like, shape (n_views, 3), float64, mm
        Step from one column to the next, and from one row to the next.
    angles_rad : array_like, shape (n_views,), float64, rad, optional
        Rotation angle of every view; by default taken from the source positions, unwrapped.

    Raises
    ------
    GeometryError
        If a shape is wrong, a number is not finite, or a view's source lies in its detector plane.

    Notes
    -----
    ``geometry[10:20]`` takes views, ``geometry[:, 5:40]`` detector rows; ``len(geometry)`` is the number of views.
    ``eval(repr(geometry)) == geometry``.
    """

    __slots__ = ("angles_rad", "detector_center_mm", "detector_shape", "orbit", "source_mm", "u_mm", "v_mm")

    detector_shape: tuple[int, int]
    source_mm: FloatArray
    detector_center_mm: FloatArray
    u_mm: FloatArray
    v_mm: FloatArray
    angles_rad: FloatArray
    orbit: CircularOrbit | None

    def __init__(
        self,
        *,
        detector_shape: Sequence[int],
        source_mm: ArrayLike,
        detector_center_mm: ArrayLike,
        u_mm: ArrayLike,
        v_mm: ArrayLike,
        angles_rad: ArrayLike | None = None,
    ) -> None:
        source = np.asarray(source_mm, dtype=np.float64)
        if source.ndim != 2 or source.shape[0] == 0:
            raise GeometryError(f"source_mm must have shape (n_views, 3), got {source.shape}")
        n = source.shape[0]
        if angles_rad is None:
            angles = finite_angles(np.unwrap(np.arctan2(source[:, 0], -source[:, 1])))
        else:
            angles = finite_angles(angles_rad)
            refuse_degrees(angles, helix=True)  # the source may climb
        if angles.size != n:
            raise GeometryError(f"angles_rad must have one angle per view: expected {n}, got {angles.size}")
        self._fill(
            detector_size(detector_shape),
            angles,
            view_vectors("source_mm", source, n),
            view_vectors("detector_center_mm", detector_center_mm, n),
            view_vectors("u_mm", u_mm, n),
            view_vectors("v_mm", v_mm, n),
            None,
        )
        flat = np.abs(np.einsum("ij,ij->i", np.cross(self.u_mm, self.v_mm), self.source_mm - self.detector_center_mm))
        bad = np.flatnonzero(flat <= 0)
        if bad.size:
            raise GeometryError(
                f"the source of view {bad[0]} lies in its detector plane, or u_mm and v_mm are parallel"
            )
        object.__setattr__(
            self,
            "orbit",
            recognize_orbit(
                angles, (self.source_mm, self.detector_center_mm, self.u_mm, self.v_mm), self.detector_shape
            ),
        )

    def _fill(
        self,
        detector_shape: tuple[int, int],
        angles: FloatArray,
        source: FloatArray,
        center: FloatArray,
        u: FloatArray,
        v: FloatArray,
        orbit: CircularOrbit | None,
    ) -> None:
        for name, value in (
            ("detector_shape", detector_shape),
            ("angles_rad", angles),
            ("source_mm", source),
            ("detector_center_mm", center),
            ("u_mm", u),
            ("v_mm", v),
            ("orbit", orbit),
        ):
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"ScanGeometry is immutable; cannot set {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return ScanGeometry.from_dict, (self.to_dict(),)

    @classmethod
    def circular(
        cls,
        *,
        source_to_isocenter_mm: float,
        source_to_detector_mm: float,
        detector_shape: Sequence[int],
        pixel_pitch_mm: Sequence[float],
        angles_rad: ArrayLike,
        principal_point_px: Sequence[float] | None = None,
        source_z_mm: ArrayLike | None = None,
    ) -> ScanGeometry:
        """Return a circular orbit around z, detector columns parallel to z; a helix, or several circles along z.

        Parameters
        ----------
        source_to_isocenter_mm, source_to_detector_mm : float
            SOD and SDD in mm; SDD >= SOD.
        detector_shape : (int, int)
            Number of detector (rows, columns).
        pixel_pitch_mm : (float, float)
            Pixel pitch (v, u) in mm.
        angles_rad : array_like, shape (n_views,), rad
            Rotation angle of every view, in the order of the frames.
        principal_point_px : (float, float), optional
            Detector position (row, column) of the ray through the isocenter; by default the middle
            ``((rows - 1) / 2, (cols - 1) / 2)``. A center-of-rotation column goes here. Where the source has a height,
            it is the ray through the rotation axis at that height.
        source_z_mm : float or array_like of shape (n_views,), mm, optional
            Height of source and detector, which move together, above the isocenter; by default 0. The angles of a
            helix go on counting from turn to turn.

        Raises
        ------
        GeometryError
            If a number is wrong, or the angles span more than 4 pi at one height (probably degrees).
        """
        rows, cols = detector_size(detector_shape)
        sod = length_mm("source_to_isocenter_mm", source_to_isocenter_mm)
        sdd = length_mm("source_to_detector_mm", source_to_detector_mm)
        if sdd < sod:
            raise GeometryError(
                f"source_to_detector_mm must be at least source_to_isocenter_mm = {sod} mm, got {sdd} mm"
            )
        pitch = number_pair("pixel_pitch_mm", pixel_pitch_mm, "mm")
        for p in pitch:
            length_mm("pixel_pitch_mm", p)
        if principal_point_px is None:
            principal_point_px = ((rows - 1) / 2, (cols - 1) / 2)
        point = number_pair("principal_point_px", principal_point_px, "px")
        angles = finite_angles(angles_rad)
        heights = view_heights(source_z_mm, angles.size)
        refuse_degrees(angles, helix=bool(np.ptp(heights) > 0))
        orbit = CircularOrbit(sod, sdd, pitch, point)
        geometry = cls.__new__(cls)
        geometry._fill((rows, cols), angles, *orbit_vectors(orbit, angles, heights, (rows, cols)), orbit)
        return geometry

    @classmethod
    def parallel(
        cls,
        *,
        detector_shape: Sequence[int],
        pixel_pitch_mm: Sequence[float],
        angles_rad: ArrayLike,
        principal_point_px: Sequence[float] | None = None,
        source_z_mm: ArrayLike | None = None,
    ) -> ScanGeometry:
        """Return a parallel-beam scan, written as a cone from very far away with the detector at the isocenter.

        Parameters are those of :meth:`circular`; ``principal_point_px[1]`` is the center-of-rotation column.
        """
        rows, cols = detector_size(detector_shape)
        pitch = number_pair("pixel_pitch_mm", pixel_pitch_mm, "mm")
        distance = PARALLEL_SOURCE_DISTANCE * math.hypot(rows * pitch[0], cols * pitch[1])
        return cls.circular(
            source_to_isocenter_mm=distance,
            source_to_detector_mm=distance,
            detector_shape=detector_shape,
            pixel_pitch_mm=pixel_pitch_mm,
            angles_rad=angles_rad,
            principal_point_px=principal_point_px,
            source_z_mm=source_z_mm,
        )

    def with_detector(
        self, detector_shape: Sequence[int], principal_point_px: Sequence[float] | None = None
    ) -> ScanGeometry:
        """Return this circular scan with a detector of another size or place; pitch, views and heights stay.

        Raises
        ------
        GeometryError
            If the scan has no circular orbit.
        """
        orbit = self.orbit
        if orbit is None:
            raise GeometryError("only a circular orbit can be given another detector; this geometry is a general one")
        return ScanGeometry.circular(
            source_to_isocenter_mm=orbit.source_to_isocenter_mm,
            source_to_detector_mm=orbit.source_to_detector_mm,
            detector_shape=detector_shape,
            pixel_pitch_mm=orbit.pixel_pitch_mm,
            angles_rad=self.angles_rad,
            principal_point_px=orbit.principal_point_px if principal_point_px is None else principal_point_px,
            source_z_mm=self.source_mm[:, 2],
        )

    def with_tilted_detector(
        self, *, in_plane_rad: float = 0.0, about_u_rad: float = 0.0, about_v_rad: float = 0.0
    ) -> ScanGeometry:
        """Return this circular scan with the detector turned about the principal point: a general geometry.

        Parameters
        ----------
        in_plane_rad : float, rad
            Turns the column axis ``u`` towards the row axis ``v``; done first.
        about_u_rad : float, rad
            Then turns about the untilted ``u``: the top of the detector moves towards the source.
        about_v_rad : float, rad
            Then turns about the untilted ``v``: the end of the columns moves away from the source.

        Raises
        ------
        GeometryError
            If the scan has no circular orbit, or an angle is not between -pi/2 and pi/2.
        """
        turns = {"in_plane_rad": in_plane_rad, "about_u_rad": about_u_rad, "about_v_rad": about_v_rad}
        for name, angle in turns.items():
            if not abs(angle) < math.pi / 2:
                raise GeometryError(f"{name} must be an angle between -pi/2 and pi/2 rad, got {angle!r}")
        orbit = self.orbit
        if orbit is None:
            raise GeometryError("only a circular orbit can have its detector tilted; this geometry is a general one")
        if not any(turns.values()):
            return self
        u, v, center = tilted_detector(
            orbit, self.angles_rad, self.detector_shape, in_plane_rad, about_u_rad, about_v_rad
        )
        return ScanGeometry(
            detector_shape=self.detector_shape,
            source_mm=self.source_mm,
            detector_center_mm=center + self.source_mm * (0.0, 0.0, 1.0),
            u_mm=u,
            v_mm=v,
            angles_rad=self.angles_rad,
        )

    # --- value semantics -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.angles_rad.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScanGeometry):
            return NotImplemented
        return (
            self.detector_shape == other.detector_shape
            and self.orbit == other.orbit
            and all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("angles_rad", "source_mm", "detector_center_mm", "u_mm", "v_mm")
            )
        )

    def __hash__(self) -> int:
        return hash((self.detector_shape, self.orbit, self.angles_rad.tobytes(), self.source_mm.tobytes()))

    def __repr__(self) -> str:
        if self.orbit is not None:
            o = self.orbit
            heights = f", source_z_mm={self.source_mm[:, 2].tolist()!r}" if self.source_mm[:, 2].any() else ""
            return (
                f"ScanGeometry.circular(source_to_isocenter_mm={o.source_to_isocenter_mm!r}, "
                f"source_to_detector_mm={o.source_to_detector_mm!r}, detector_shape={self.detector_shape!r}, "
                f"pixel_pitch_mm={o.pixel_pitch_mm!r}, angles_rad={self.angles_rad.tolist()!r}, "
                f"principal_point_px={o.principal_point_px!r}{heights})"
            )
        vectors = ", ".join(
            f"{name}={getattr(self, name).tolist()!r}"
            for name in ("source_mm", "detector_center_mm", "u_mm", "v_mm", "angles_rad")
        )
        return f"ScanGeometry(detector_shape={self.detector_shape!r}, {vectors})"

    def __getitem__(self, key: object) -> ScanGeometry:
        views, rows = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(views, (int, np.integer)):
            views = [views]
        if not isinstance(rows, slice):
            raise GeometryError(f"detector rows are taken by a slice, got {rows!r}")
        first, stop, step = rows.indices(self.detector_shape[0])
        if step != 1 or stop <= first:
            raise GeometryError(f"detector rows need a non-empty slice with step 1, got {rows}")
        angles = self.angles_rad[views]
        if angles.size == 0:
            raise GeometryError(f"no view is left by {views!r} of {len(self)} views")
        n_rows, cols = self.detector_shape
        shape = (stop - first, cols)
        if self.orbit is not None:
            o = self.orbit
            point = (o.principal_point_px[0] - first, o.principal_point_px[1])
            orbit = CircularOrbit(o.source_to_isocenter_mm, o.source_to_detector_mm, o.pixel_pitch_mm, point)
            cut = ScanGeometry.__new__(ScanGeometry)
            cut._fill(shape, angles.copy(), *orbit_vectors(orbit, angles, self.source_mm[views, 2], shape), orbit)
            return cut
        shift = 0.5 * (first + stop - n_rows)
        cut = ScanGeometry(
            detector_shape=shape,
            source_mm=self.source_mm[views],
            detector_center_mm=self.detector_center_mm[views] + shift * self.v_mm[views],
            u_mm=self.u_mm[views],
            v_mm=self.v_mm[views],
            angles_rad=angles,
        )
        # A few views may happen to lie on an orbit; they keep the kernel, and so the bits, of the whole.
        object.__setattr__(cut, "orbit", None)
        return cut

    # --- conversions ---------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; :meth:`from_dict` restores it exactly."""
        if self.orbit is not None:
            o = self.orbit
            return {
                "kind": "circular",
                "source_to_isocenter_mm": o.source_to_isocenter_mm,
                "source_to_detector_mm": o.source_to_detector_mm,
                "detector_shape": list(self.detector_shape),
                "pixel_pitch_mm": list(o.pixel_pitch_mm),
                "principal_point_px": list(o.principal_point_px),
                "angles_rad": self.angles_rad.tolist(),
                **({"source_z_mm": self.source_mm[:, 2].tolist()} if self.source_mm[:, 2].any() else {}),
            }
        names = ("source_mm", "detector_center_mm", "u_mm", "v_mm", "angles_rad")
        general: dict[str, Any] = {name: getattr(self, name).tolist() for name in names}
        return {"kind": "per_view", "detector_shape": list(self.detector_shape), **general}

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> ScanGeometry:
        """Restore a geometry from :meth:`to_dict`; ``kind`` is circular, parallel or per_view."""
        fields = dict(description)
        kind = str(fields.pop("kind", None))
        makers: dict[str, Callable[..., ScanGeometry]] = {
            "circular": cls.circular,
            "parallel": cls.parallel,
            "per_view": cls,
        }
        if kind not in makers:
            raise GeometryError(f"geometry kind must be one of {', '.join(makers)}, got {kind!r}")
        try:
            return makers[kind](**fields)
        except TypeError as error:
            raise GeometryError(f"geometry of kind {kind}: {error}") from error

    def to_astra(self) -> dict[str, Any]:
        """Return ASTRA's ``cone_vec`` projection geometry; ASTRA itself is not needed."""
        return astra_vectors.cone_vec(
            self.detector_shape, self.source_mm, self.detector_center_mm, self.u_mm, self.v_mm
        )

    @classmethod
    def from_astra(cls, projection_geometry: dict[str, Any]) -> ScanGeometry:
        """Return the geometry of an ASTRA ``cone`` or ``cone_vec`` projection geometry (lengths taken as mm)."""
        return cls.from_dict(astra_vectors.description(projection_geometry))

    # --- questions -----------------------------------------------------------------------------------------------

    @property
    def pixel_pitch_mm(self) -> tuple[float, float]:
        """Detector pixel pitch (v, u) of the first view, mm."""
        if self.orbit is not None:
            return self.orbit.pixel_pitch_mm
        return float(np.linalg.norm(self.v_mm[0])), float(np.linalg.norm(self.u_mm[0]))

    def projection_matrices(self) -> FloatArray:
        """Return the 3 x 4 matrix of every view, shape (n_views, 3, 4), float64.

        ``(column w, row w, w) = P (x, y, z, 1)`` with column and row in px and x, y, z in mm. ``w`` is the distance
        of the point from the source along the detector's normal, relative to that of the isocenter: FDK's distance
        weight is ``1 / w**2``, and ``w <= 0`` is behind the source.
        """
        rows, cols = self.detector_shape
        corner = self.detector_center_mm - 0.5 * (cols - 1) * self.u_mm - 0.5 * (rows - 1) * self.v_mm
        rays = np.stack([self.u_mm, self.v_mm, corner - self.source_mm], axis=2)
        inverse = np.linalg.inv(rays)
        matrices = np.concatenate([inverse, -inverse @ self.source_mm[:, :, None]], axis=2)
        isocenter = matrices[:, 2, 3]
        bad = np.flatnonzero(isocenter <= 0)
        if bad.size:
            raise GeometryError(f"the isocenter lies behind the source of view {bad[0]}")
        return np.ascontiguousarray(matrices / isocenter[:, None, None])

    def project(self, points_mm: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Project world points onto the detector in every view.

        Parameters
        ----------
        points_mm : array_like, shape (n, 3), mm
            Points (x, y, z).

        Returns
        -------
        row_px, column_px, w : ndarray, shape (n_views, n), float64
            Detector position in px, and the relative depth of :meth:`projection_matrices`.
        """
        points = np.atleast_2d(np.asarray(points_mm, dtype=np.float64))
        homogeneous = np.hstack([points, np.ones((len(points), 1))])
        image = self.projection_matrices() @ homogeneous.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return image[:, 1] / image[:, 2], image[:, 0] / image[:, 2], image[:, 2]

    def rows_for(self, grid: VolumeGrid) -> tuple[int, int]:
        """Return the detector rows ``[first, stop)`` that the backprojection of a grid window reads.

        The projection of a box is the hull of its projected corners, so the extremes over the eight corners and all
        views bound every voxel; one row is added for the linear interpolation and one to spare on each side.

        Raises
        ------
        GeometryError
            If the window reaches behind a source, or projects beside the detector in every view.
        """
        row, column, w = self.project(grid.corners_mm())
        if w.min() <= 0:
            view = int(np.argmin(w.min(axis=1)))
            raise GeometryError(
                f"the grid reaches the source: a corner voxel lies behind the source of view {view}; "
                f"the grid's radius is {grid.radius_mm():.6g} mm"
            )
        rows, cols = self.detector_shape
        seen = (
            (column.max(axis=1) > -1) & (column.min(axis=1) < cols) & (row.max(axis=1) > -1) & (row.min(axis=1) < rows)
        )
        if not seen.any():
            raise GeometryError(
                f"the cone misses the grid: it projects to rows {row.min():.1f}..{row.max():.1f} and columns "
                f"{column.min():.1f}..{column.max():.1f} of a detector with {rows} x {cols} pixels"
            )
        first = int(np.clip(math.floor(row.min()) - 1, 0, rows - 1))
        stop = int(np.clip(math.floor(row.max()) + 3, first + 1, rows))
        return first, stop
