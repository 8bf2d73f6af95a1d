"""Properties that hold for every scan, searched for exceptions by Hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.recon.backprojection import backproject
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import Redundancy, choose_redundancy
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import circle, columns_of, random_stack, without_orbit
from tests.recon.tilts import tilted

pytestmark = pytest.mark.filterwarnings("ignore:the grid is larger than the field of view")
quick = settings(deadline=None, max_examples=25)

# --- bits: windows, bands, batches -------------------------------------------------------------------------------


@st.composite
def scans(draw: st.DrawFn, kinds: tuple[str, ...] = ("orbit", "general", "tilted")) -> ScanGeometry:
    """Return a small scan of any kind, 2 to 12 views all around."""
    rows, cols = draw(st.integers(1, 40)), draw(st.integers(3, 36))
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=draw(st.floats(30, 80)),
        source_to_detector_mm=draw(st.floats(80, 200)),
        detector_shape=(rows, cols),
        pixel_pitch_mm=(draw(st.floats(0.2, 0.8)), draw(st.floats(0.2, 0.8))),
        angles_rad=circle(draw(st.integers(2, 12)), first=draw(st.floats(-4, 4))),
        principal_point_px=(draw(st.floats(0, max(rows - 1, 0.1))), (cols - 1) * draw(st.floats(0.05, 0.95))),
    )
    kind = draw(st.sampled_from(kinds))
    if kind == "general":
        return without_orbit(geometry)
    return tilted(geometry, 0.05, -0.1, 0.1) if kind == "tilted" else geometry


@st.composite
def grids(draw: st.DrawFn) -> VolumeGrid:
    """Return a small grid about the isocenter."""
    shape = tuple(draw(st.integers(1, n)) for n in (40, 20, 20))
    voxel = tuple(draw(st.floats(0.05, 0.4)) for _ in range(3))
    center = tuple(draw(st.floats(-0.5, 0.5)) for _ in range(3))
    return VolumeGrid(shape, voxel, center)  # type: ignore[arg-type]


@st.composite
def cuts(draw: st.DrawFn, grid: VolumeGrid) -> tuple[slice, slice, slice]:
    """Return a non-empty window of a grid."""
    window = []
    for n in grid.shape:
        first = draw(st.integers(0, n - 1))
        window.append(slice(first, draw(st.integers(first + 1, n))))
    return window[0], window[1], window[2]


def reconstruct(geometry: ScanGeometry, grid: VolumeGrid, truncation: str = "none") -> NDArray[np.float32]:
    """Reconstruct noise; examples whose grid lies beside what the detector sees are refused, and left out."""
    try:
        return fdk(random_stack(geometry), geometry, grid, truncation=truncation)
    except GeometryError as error:
        assert "the cone misses the grid" in str(error)
        reject()


@quick
@given(st.data(), scans(), grids(), st.sampled_from(["none", "extrapolate"]))
def test_a_window_is_a_crop_of_the_whole(
    data: st.DataObject, geometry: ScanGeometry, grid: VolumeGrid, truncation: str
) -> None:
    cut = data.draw(cuts(grid))
    whole = reconstruct(geometry, grid, truncation)
    assert np.array_equal(reconstruct(geometry, grid.window(*cut), truncation), whole[cut])


@quick
@given(scans(), grids(), st.integers(1, 45))
def test_slabs_are_the_whole(geometry: ScanGeometry, grid: VolumeGrid, thickness: int) -> None:
    parts = [reconstruct(geometry, slab.grid) for slab in grid.slabs(thickness)]
    assert np.array_equal(np.concatenate(parts), reconstruct(geometry, grid))


@quick
@given(st.data(), scans(), st.sampled_from(["none", "extrapolate"]))
def test_a_band_of_rows_is_a_crop_of_the_view(data: st.DataObject, geometry: ScanGeometry, truncation: str) -> None:
    rows = geometry.detector_shape[0]
    first = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(first + 1, rows))
    view = data.draw(st.integers(0, len(geometry) - 1))
    frame = random_stack(geometry)[view]
    ramp = ViewFilter(geometry, truncation=truncation)
    whole = ramp.filter(frame, view)
    assert np.array_equal(ramp.filter_to_columns(frame, view, (first, stop)), whole[first:stop].T)


@quick
@given(st.data(), scans(), grids())
def test_batches_and_bands_do_not_change_the_backprojection(
    data: st.DataObject, geometry: ScanGeometry, grid: VolumeGrid
) -> None:
    try:
        needed = geometry.rows_for(grid)
    except GeometryError:
        reject()
    filtered = columns_of(random_stack(geometry))
    whole, parts = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    backproject(filtered, geometry, grid, whole)
    first = data.draw(st.integers(0, needed[0]))
    stop = data.draw(st.integers(needed[1], geometry.detector_shape[0]))
    start = 0
    while start < len(geometry):
        end = start + data.draw(st.integers(1, len(geometry)))
        band = np.ascontiguousarray(filtered[start:end, :, first:stop])
        backproject(band, geometry[start:end], grid, parts, row_first=first)
        start = end
    assert np.array_equal(parts, whole)


# --- conjugate rays ----------------------------------------------------------------------------------------------

VIEWS = 720


@dataclass(frozen=True)
class Fan:
    """A scan with one detector row in the plane of the orbit, written down by hand after the convention.

    At angle t the source is at ``sod (sin t, -cos t)``; column ``c`` is ``(c - middle) pitch (cos t, sin t)`` beside
    the point ``(sdd - sod) (-sin t, cos t)``.
    """

    sod: float
    sdd: float
    columns: int
    pitch: float
    middle: float
    first: float
    step: float
    views: int

    def geometry(self) -> ScanGeometry:
        return ScanGeometry.circular(
            source_to_isocenter_mm=self.sod,
            source_to_detector_mm=self.sdd,
            detector_shape=(1, self.columns),
            pixel_pitch_mm=(self.pitch, self.pitch),
            angles_rad=self.first + self.step * np.arange(self.views),
            principal_point_px=(0.0, self.middle),
        )

    def source(self, angle: float) -> NDArray[np.float64]:
        return self.sod * np.array([math.sin(angle), -math.cos(angle)])

    def pixel(self, angle: float, column: float) -> NDArray[np.float64]:
        across = (column - self.middle) * self.pitch * np.array([math.cos(angle), math.sin(angle)])
        behind = (self.sdd - self.sod) * np.array([-math.sin(angle), math.cos(angle)])
        return np.asarray(behind + across)

    def conjugate(self, angle: float, column: float) -> tuple[float, float]:
        """Return angle and column at which the same line is measured from its other end.

        The line leaves the circle of the sources a second time; there the other source stands, and the column is
        where the line meets that view's detector.
        """
        source = self.source(angle)
        along = self.pixel(angle, column) - source
        other = source - 2 * (source @ along) / (along @ along) * along
        turned = math.atan2(other[0], -other[1])
        center, beside = (
            self.pixel(turned, self.middle),
            self.pixel(turned, self.middle + 1) - self.pixel(turned, self.middle),
        )
        # center + c beside = other + s (-along)
        solution = np.linalg.solve(np.stack([beside, along], axis=1), other - center)
        return turned, self.middle + float(solution[0])

    def weight(self, redundancy: Redundancy, angle: float, column: float) -> float:
        """Return the sum of the weights at which the scan measures the ray, between views and columns interpolated."""
        if not 0 <= column <= self.columns - 1:
            return 0.0
        total = 0.0
        turn = 2 * math.pi * (1 if self.step > 0 else -1)
        views = redundancy.view_weights_rad / abs(self.step)
        place = math.fmod((angle - self.first), turn) / self.step
        while place < 0:
            place += abs(turn / self.step)
        last = self.views if self._closes() else self.views - 1
        while place <= last:
            view, col = int(place), min(int(column), self.columns - 2)
            a, b = place - view, column - col
            for k, share in ((view, 1 - a), (view + 1, a)):
                if share > 0:
                    row = redundancy.columns(k % self.views)
                    total += share * views[k % self.views] * ((1 - b) * row[col] + b * row[col + 1])
            place += abs(turn / self.step)
            if self._closes():
                break
        return total

    def _closes(self) -> bool:
        return math.isclose(self.views * abs(self.step), 2 * math.pi)


@st.composite
def fans(draw: st.DrawFn, range_rad: float | None = None, offset: float | None = None) -> Fan:
    """Return a fan scan; the short ones cover their least range, or up to 40 degrees more."""
    sod = draw(st.floats(40, 200))
    columns = draw(st.integers(100, 400))
    half = draw(st.floats(0.1, 0.3))  # tangent of the half fan angle
    sdd = sod * draw(st.floats(1.0, 4.0))
    pitch = 2 * sdd * half / (columns - 1)
    direction = draw(st.sampled_from([-1, 1]))
    middle = (columns - 1) / 2 * (1 + (offset or 0) * 2 * draw(st.sampled_from([-1, 1])))
    if range_rad is None:
        reach = math.atan(half * (1 + 0.04))
        middle *= 1 + draw(st.floats(-0.03, 0.03))
        covered = math.pi + 2 * reach + draw(st.floats(0.0, 0.7))
        return Fan(sod, sdd, columns, pitch, middle, draw(st.floats(-7, 7)), direction * covered / VIEWS, VIEWS + 1)
    return Fan(sod, sdd, columns, pitch, middle, draw(st.floats(-7, 7)), direction * range_rad / VIEWS, VIEWS)


def both(fan: Fan, redundancy: Redundancy, view: int, column: float) -> float:
    """Return the weights of a ray and of its conjugate in sum."""
    angle = fan.first + fan.step * view
    return fan.weight(redundancy, angle, column) + fan.weight(redundancy, *fan.conjugate(angle, column))


def test_the_conjugate_of_a_ray_is_the_same_line() -> None:
    fan = Fan(60.0, 90.0, 101, 0.3, 48.2, 0.4, 0.01, 600)
    angle, column = fan.conjugate(1.3, 80.0)
    back = fan.conjugate(angle, column)
    assert math.remainder(back[0] - 1.3, 2 * math.pi) == pytest.approx(0, abs=1e-12)
    assert back[1] == pytest.approx(80.0)
    line = fan.pixel(1.3, 80.0) - fan.source(1.3)
    for point in (fan.source(angle), fan.pixel(angle, column)):
        away = point - fan.source(1.3)
        assert abs(line[0] * away[1] - line[1] * away[0]) < 1e-9
    # Well known: it is pi and twice the fan angle further, and on the other side.
    assert column - 48.2 == pytest.approx(48.2 - 80.0)
    assert abs(math.remainder(angle - 1.3 - math.pi, 2 * math.pi)) == pytest.approx(2 * math.atan(31.8 * 0.3 / 90))


@settings(deadline=None, max_examples=60)
@given(fans(), st.floats(0, 1), st.floats(0, 1))
@example(Fan(60.0, 90.0, 101, 0.3, 48.2, 0.4, -(math.pi + 0.6) / VIEWS, VIEWS + 1), 0.03, 0.9)
def test_parker_counts_every_line_once(fan: Fan, where: float, across: float) -> None:
    redundancy = choose_redundancy(fan.geometry())
    assert redundancy.name == "parker"
    # The weights of the outermost rays may rise within one view, which no interpolation follows: they stay aside.
    side = 0.8 * min(fan.middle, fan.columns - 1 - fan.middle)
    view, column = round(where * (fan.views - 1)), fan.middle + (2 * across - 1) * side
    assert both(fan, redundancy, view, column) == pytest.approx(1, abs=0.02)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.floats(0.06, 0.45), st.floats(0, 1), st.floats(0, 1))
def test_wang_counts_every_line_once(data: st.DataObject, offset: float, where: float, across: float) -> None:
    fan = data.draw(fans(range_rad=2 * math.pi, offset=offset))
    redundancy = choose_redundancy(fan.geometry())
    assert redundancy.name == "wang"
    assert redundancy.view_weights_rad.sum() == pytest.approx(2 * math.pi)
    view, column = round(where * (fan.views - 1)), across * (fan.columns - 1)
    # Beside the last column of the short side the weight has a kink that the interpolation cuts off.
    other = fan.conjugate(fan.first + fan.step * view, column)[1]
    assume(min(abs(other), abs(other - (fan.columns - 1))) > 1)
    overlap = 2 * min(fan.middle, fan.columns - 1 - fan.middle)
    assert both(fan, redundancy, view, column) == pytest.approx(1, abs=2 / overlap**2 + 1e-6)


@settings(deadline=None, max_examples=30)
@given(st.data(), st.floats(0, 0.04), st.floats(0, 1), st.floats(0.1, 0.9))
def test_a_full_circle_counts_every_line_once(data: st.DataObject, offset: float, where: float, across: float) -> None:
    fan = data.draw(fans(range_rad=2 * math.pi, offset=offset))
    redundancy = choose_redundancy(fan.geometry())
    assert redundancy.name == "full"
    assert redundancy.view_weights_rad.sum() == pytest.approx(math.pi)
    assert both(fan, redundancy, round(where * (fan.views - 1)), across * (fan.columns - 1)) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(st.floats(1.0, 1.95), st.sampled_from([-1, 1]), st.floats(-7, 7), st.floats(0, 1), st.floats(0.1, 0.9))
def test_half_a_circle_of_parallel_rays_counts_every_line_once(
    half_turns: float, direction: int, first: float, where: float, across: float
) -> None:
    """The line of (angle, column) is measured again from the other side, half a turn on, mirrored about the axis."""
    step = math.pi / 360  # so that the views of both sides coincide
    views = int(360 * half_turns)
    geometry = ScanGeometry.parallel(
        detector_shape=(1, 61), pixel_pitch_mm=(0.2, 0.2), angles_rad=first + direction * step * np.arange(views)
    )
    redundancy = choose_redundancy(geometry)
    assert redundancy.name == "parallel-180"
    assert redundancy.view_weights_rad.sum() == pytest.approx(math.pi)
    view, column = round(where * (views - 1)), round(across * 60)
    total = redundancy.view_weights_rad[view] * redundancy.columns(view)[column]
    for other in (view - 360, view + 360):
        if 0 <= other < views:
            total += redundancy.view_weights_rad[other] * redundancy.columns(other)[60 - column]
    assert total == pytest.approx(step)


@quick
@given(
    st.lists(st.floats(0, 6.2), min_size=30, max_size=80, unique=True),
    st.floats(-3, 3),
    st.sampled_from([1.0, -1.0]),
)
def test_the_weights_of_irregular_views_sum_to_the_whole(angles: list[float], first: float, direction: float) -> None:
    views = first + direction * np.array([*np.linspace(0, 6.2, 40), *angles])
    for middle, total in ((20.0, math.pi), (8.0, 2 * math.pi)):
        fan = ScanGeometry.circular(
            source_to_isocenter_mm=50.0,
            source_to_detector_mm=80.0,
            detector_shape=(1, 41),
            pixel_pitch_mm=(0.3, 0.3),
            angles_rad=views,
            principal_point_px=(0.0, middle),
        )
        weights = choose_redundancy(fan).view_weights_rad
        assert weights.sum() == pytest.approx(total)
        assert (weights >= 0).all()
