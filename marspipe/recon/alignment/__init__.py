"""Find the center of rotation: the detector column on which the rotation axis projects.

Every line through the sample that is measured twice, from its one end and from its other, gives the same integral
both times - if the assumed column is right. In the conventions of :mod:`marspipe.scan` the ray of view ``t`` at fan
angle ``g`` (positive towards the column axis ``u``) is met again in view ``t + pi - 2 g`` at ``-g``, which is the
column mirrored at the axis. The disagreement of these conjugate rays, as a function of the assumed column, has its
minimum at the axis. That serves parallel beams, fans and the mid-plane of cones, full circles and short scans, and
offset and truncated detectors: whatever is measured twice is compared.

A parallel beam over 180 degrees without the end point measures nothing twice. There the double wedge of Vo et al.
serves: a sinogram continued by its own mirror image has a Fourier transform inside a double wedge if the mirror stands
at the axis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from marspipe.errors import GeometryError, InputError
from marspipe.recon.alignment.conjugate_rays import ConjugateRays
from marspipe.recon.alignment.double_wedge import DoubleWedge
from marspipe.scan.geometry import ScanGeometry

FloatArray = NDArray[np.float64]
METHODS = ("auto", "conjugate", "vo")

# Below this quality an estimate is not to be used unseen.
LOW_QUALITY = 0.3
# The search starts on a detector of about this many columns, and looks at it in steps of half a column.
_COARSE_COLUMNS = 256
_FEWEST_COLUMNS = 16
# Half width of the narrowest strip around the axis that is compared, as a share of the detector and in px.
_NARROWEST_STRIP = 0.03
_NARROWEST_STRIP_PX = 4.0
# A second minimum counts if it is farther from the first than this, in px and as a share of what was searched.
_RIVAL_PX, _RIVAL_SHARE = 4.0, 0.05
# Heights of the views that differ by less than this share of a detector row are one circle.
_SAME_HEIGHT = 0.1


class UncertainCenterWarning(UserWarning):
    """The data hardly tell where the rotation axis is; the number found is not to be trusted."""


@dataclass(frozen=True, eq=False)
class CenterEstimate:
    """The column of the rotation axis, and how sure it is.

    Attributes
    ----------
    column_px : float
        Detector column of the rotation axis, px; 0 is the center of the first pixel.
    method : str
        conjugate or vo.
    quality : float
        0 to 1: how far the column stands out, over ``1 + (uncertainty_px / 0.5)**2``. Let ``least`` be the disagreement
        there, ``next`` that of the next best minimum elsewhere, ``typical`` the median (and ``next`` if there is
        no other minimum). Standing out is ``1 - least / next`` (conjugate) or ``(next - least) / (typical - least)``
        (vo, whose disagreement never comes near zero). 1: all rays agree there and nowhere else, to much less than half
        a pixel. 0: the data do not tell, such as empty air.
    uncertainty_px : float
        Standard error of the column, px: from leaving out an eighth of the lines at a time (conjugate), or half the
        distance between what the even and the odd views say (vo). It knows the noise, not what all views have in
        common, such as a bent axis.
    disagreement : float
        Least disagreement. conjugate: squared difference of conjugate rays over the sum of their variances: 0 for equal
        rays, 1 for unrelated ones. vo: mean amplitude outside of the double wedge.
    columns_px, disagreements : ndarray, float64, shape (n,)
        The disagreement at every column of the first search; not a number where nothing is measured twice.
    """

    column_px: float
    method: str
    quality: float
    uncertainty_px: float
    disagreement: float
    columns_px: FloatArray = field(repr=False)
    disagreements: FloatArray = field(repr=False)


def find_center(
    sinogram: ArrayLike, geometry: ScanGeometry, *, method: str = "auto", search_px: float | None = None
) -> CenterEstimate:
    """Find the detector column of the rotation axis from the line integrals of one detector row.

    Parameters
    ----------
    sinogram : array_like, shape (views, columns) or (views, rows, columns)
        Line integrals of the row in the plane of the orbit (any row of a parallel beam); of neighboring rows the mean
        is taken.
    geometry : ScanGeometry
        A circular orbit of the same views and columns. Angles may be irregular, in any order and either direction.
        Its own principal point only matters for ``search_px``.
    method : str
        ``"conjugate"``, ``"vo"`` (parallel beams over 180 degrees), or ``"auto"``: conjugate if any line is measured
        twice, else vo.
    search_px : float, optional
        Search this far to both sides of the geometry's own column, px; by default everywhere (vo: the middle half of
        the detector).

    Raises
    ------
    InputError
        If an array or option is wrong, or a value is not finite.
    GeometryError
        If the scan cannot tell: a general geometry, a helix, one view, too small a range of angles.

    Warns
    -----
    UncertainCenterWarning
        If the quality is below :data:`LOW_QUALITY`, or the rays agree much better when the scan turns the other way.

    Notes
    -----
    Vo et al., Opt. Express 22 (2014) 19078, doi:10.1364/OE.22.019078, in algotom's implementation.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    data = _checked(sinogram, geometry)
    if search_px is not None and not (math.isfinite(search_px) and search_px > 0):
        raise InputError(f"search_px must be positive (px), got {search_px}")
    orbit = geometry.orbit
    assert orbit is not None
    columns = data.shape[1]
    tangent_per_px = orbit.pixel_pitch_mm[1] / orbit.source_to_detector_mm
    parallel = tangent_per_px * columns < 1e-3
    angles = geometry.angles_rad

    # The axis may fall on a pixel's edge, but a strip around it must be there to compare.
    strip = max(_NARROWEST_STRIP_PX, _NARROWEST_STRIP * columns)
    low, high = strip, columns - 1 - strip
    if search_px is not None:
        nominal = orbit.principal_point_px[1]
        low, high = max(low, nominal - search_px), min(high, nominal + search_px)
        if low >= high:
            raise GeometryError(
                f"search_px = {search_px:g} around column {nominal:g} leaves nothing to search on a detector of "
                f"{columns} columns"
            )
    rays = ConjugateRays(data, angles, tangent_per_px)
    if method == "auto":
        method = "vo" if parallel and not rays.exist(0.5 * (low + high)) else "conjugate"
    if method == "vo":
        return _find_by_wedge(data, geometry, parallel, search_px, (low, high))
    if not (rays.exist(0.5 * (low + high)) or rays.exist(low) or rays.exist(high)):
        raise GeometryError(
            f"no line is measured twice: the views cover {math.degrees(rays.range_rad):.4g} degrees, and "
            + ("parallel rays meet again after 180" if parallel else "the two ends of this fan meet within 180 at best")
        )
    coarse = ConjugateRays(data, angles, tangent_per_px, binning=_binning(columns), most_views=180)
    curve = _Curve.sample(coarse, low, high, 0.5 * _binning(columns))
    column = _refined(rays.mean_square, curve, (low, high))
    least = rays(column)
    following, _ = curve.rivals(column)
    depth = 1 - least / following if following > 0 else 0.0
    estimate = _estimate("conjugate", column, least, depth, rays.standard_error_px(column), curve)
    if not parallel:
        _check_direction(coarse, estimate)
    return estimate


def with_axis_column(geometry: ScanGeometry, column_px: float) -> ScanGeometry:
    """Return a circular geometry whose rotation axis projects to another detector column (px)."""
    if geometry.orbit is None:
        raise GeometryError("a center of rotation needs a circular orbit, but this scan has a general geometry")
    return geometry.with_detector(geometry.detector_shape, (geometry.orbit.principal_point_px[0], column_px))


def _checked(sinogram: ArrayLike, geometry: ScanGeometry) -> FloatArray:
    """Return the sinogram as float64 [view, column] after checking that it can tell something."""
    data = np.asarray(sinogram, dtype=np.float64)
    if data.ndim == 3 and data.shape[1] > 0:
        data = data.mean(axis=1)
    expected = (len(geometry), geometry.detector_shape[1])
    if data.shape != expected:
        raise InputError(
            f"the sinogram must have the geometry's shape {expected} (views, columns), got {np.shape(sinogram)}"
        )
    bad = np.flatnonzero(~np.isfinite(data).all(axis=1))
    if bad.size:
        raise InputError(f"the sinogram must be finite, but view {bad[0]} is not ({bad.size} such views)")
    if geometry.orbit is None:
        raise GeometryError("a center of rotation needs a circular orbit, but this scan has a general geometry")
    heights = geometry.source_mm[:, 2]
    row_mm = geometry.orbit.pixel_pitch_mm[0] / geometry.orbit.magnification
    if np.ptp(heights) > _SAME_HEIGHT * row_mm:
        raise GeometryError(
            f"the views stand at heights {heights.min():g} to {heights.max():g} mm: opposite views must see the same "
            "plane, so take those of one circle"
        )
    if data.shape[1] < _FEWEST_COLUMNS:
        raise GeometryError(
            f"a center of rotation needs {_FEWEST_COLUMNS} detector columns or more, got {data.shape[1]}"
        )
    if np.unique(np.round(np.mod(geometry.angles_rad, 2 * math.pi), 9)).size < 2:
        raise GeometryError("a center of rotation needs views at two angles or more, got 1")
    return data


def _binning(columns: int) -> int:
    return max(1, columns // _COARSE_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Curve:
    """The objective at the columns of the first search."""

    columns_px: FloatArray
    values: FloatArray

    @classmethod
    def sample(cls, objective: Callable[[float], float], low: float, high: float, step: float) -> _Curve:
        columns = np.linspace(low, high, max(3, math.ceil((high - low) / step) + 1))
        values = np.array([objective(column) for column in columns])
        if np.isnan(values).all():
            raise GeometryError(f"no line is measured twice with an axis between columns {low:g} and {high:g}")
        return cls(columns, values)

    @property
    def best_px(self) -> float:
        return float(self.columns_px[np.nanargmin(self.values)])

    def rivals(self, column_px: float) -> tuple[float, float]:
        """Return the objective of the best other minimum and of the typical column."""
        distance = max(_RIVAL_PX, _RIVAL_SHARE * float(np.ptp(self.columns_px)))
        values = np.where(np.isnan(self.values), np.inf, self.values)
        inner = (values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])
        minima = np.concatenate([[values[0] <= values[1]], inner, [values[-1] <= values[-2]]])
        others = values[minima & (np.abs(self.columns_px - column_px) > distance)]
        typical = float(np.nanmedian(self.values))
        return min(typical, float(others.min(initial=typical))), typical


def _refined(objective: Callable[[float], float], curve: _Curve, bounds: tuple[float, float]) -> float:
    """Return the minimum near the best column of the first search, to 0.001 px."""
    reach = 1.5 * max(1.0, float(curve.columns_px[1] - curve.columns_px[0]) * 2)
    low, high = max(bounds[0], curve.best_px - reach), min(bounds[1], curve.best_px + reach)
    found = minimize_scalar(
        lambda column: np.nan_to_num(objective(float(column)), nan=2.0),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(found.x)


def _estimate(
    method: str, column: float, least: float, standing_out: float, error_px: float, curve: _Curve
) -> CenterEstimate:
    quality = float(np.clip(np.nan_to_num(standing_out), 0.0, 1.0)) / (1.0 + (error_px / 0.5) ** 2)
    reason = f"uncertain by {error_px:.2g} px"
    first, second, last = curve.columns_px[0], curve.columns_px[1], curve.columns_px[-1]
    if min(column - first, last - column) < 0.5 * (second - first):
        quality, reason = 0.0, f"it is the end of what was searched, columns {first:.6g} to {last:.6g}"
    if quality < LOW_QUALITY:
        warnings.warn(
            f"the data hardly tell where the rotation axis is: column {column:.2f} has a quality of {quality:.2f} of 1 "
            f"({reason})",
            UncertainCenterWarning,
            stacklevel=4,
        )
    return CenterEstimate(column, method, quality, error_px, least, curve.columns_px, curve.values)


def _check_direction(rays: ConjugateRays, estimate: CenterEstimate) -> None:
    """Warn if the conjugate rays of a scan that turns the other way agree much better."""
    near = estimate.column_px + 0.5 * rays.binning * np.arange(-8, 9)
    least = np.nanmin([rays(column) for column in near])
    other = np.nanmin([rays(column, direction=-1) for column in near])
    if other < 0.5 * least:
        warnings.warn(
            f"opposite rays agree much better ({other:.2g} against {least:.2g}) if the scan turns the other way: "
            "check the sign of the angles, or whether the frames are mirrored",
            UncertainCenterWarning,
            stacklevel=3,
        )


def _find_by_wedge(
    data: FloatArray, geometry: ScanGeometry, parallel: bool, search_px: float | None, bounds: tuple[float, float]
) -> CenterEstimate:
    if not parallel:
        raise GeometryError("method vo needs parallel rays; take conjugate for a fan or cone")
    order = np.argsort(geometry.angles_rad, kind="stable")
    data, angles = data[order], geometry.angles_rad[order]
    if search_px is None:
        columns = data.shape[1]
        bounds = (0.25 * (columns - 1), 0.75 * (columns - 1))
    binning = _binning(data.shape[1])

    def search(part: slice) -> tuple[DoubleWedge, _Curve, float]:
        fine = DoubleWedge(data[part], angles[part])
        coarse = DoubleWedge(data[part], angles[part], binning=binning, most_views=180)
        curve = _Curve.sample(coarse, *bounds, binning)
        return fine, curve, _refined(fine, curve, bounds)

    wedge, curve, column = search(slice(None))
    even, odd = (search(slice(first, None, 2))[2] for first in (0, 1))
    following, typical = curve.rivals(column)
    least = float(np.nanmin(curve.values))
    depth = (following - least) / (typical - least) if typical > least else 0.0
    return _estimate("vo", column, wedge(column), depth, 0.5 * abs(even - odd), curve)
