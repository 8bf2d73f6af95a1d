"""The drawing of a scan: what is in it, and where."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.show.figure import Sheet
from marspipe.show.scan_drawing import draw_scan, write_scan_drawing
from marspipe.show.scan_scene import Scene

GRID = VolumeGrid((32, 40, 40), (0.25, 0.25, 0.25))
TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)


def cone(**changes: Any) -> ScanGeometry:
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": 200.0,
        "source_to_detector_mm": 250.0,
        "detector_shape": (64, 96),
        "pixel_pitch_mm": (0.15, 0.15),
        "angles_rad": TURN,
    }
    return ScanGeometry.circular(**(settings | changes))


SHORT = cone(angles_rad=np.linspace(0.5, 0.5 - 3.4, 50))
OFFSET = cone(principal_point_px=(31.5, 20.0))
PARALLEL = ScanGeometry.parallel(
    detector_shape=(64, 96), pixel_pitch_mm=(0.15, 0.15), angles_rad=np.linspace(0, np.pi, 60, endpoint=False)
)
HELIX = cone(angles_rad=np.linspace(0, 6 * np.pi, 180), source_z_mm=np.linspace(-4, 4, 180))
STEPS = cone(angles_rad=np.tile(TURN, 2), source_z_mm=np.repeat([-3.0, 3.0], 60))
UNORDERED = cone(angles_rad=np.random.default_rng(1).permutation(TURN))
TILTED = cone().with_tilted_detector(in_plane_rad=0.05, about_u_rad=0.02)
SCANS = {
    "cone": cone(),
    "short": SHORT,
    "offset": OFFSET,
    "parallel": PARALLEL,
    "helix": HELIX,
    "steps": STEPS,
    "unordered": UNORDERED,
    "tilted": TILTED,
}


def named(axes: Axes, gid: str) -> list[Artist]:
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def panels(sheet: Sheet) -> tuple[Axes, Axes, Axes]:
    orbit, close, side = sheet.figure.axes[:3]
    return orbit, close, side


def words(sheet: Sheet) -> str:
    texts = [t.get_text() for t in sheet.figure.texts]
    for axes in sheet.figure.axes:
        texts += [axes.get_title(), *(t.get_text() for t in axes.texts)]
    return "\n".join(texts)


@pytest.mark.parametrize("name", SCANS)
def test_everything_is_drawn_inside_the_page(name: str) -> None:
    sheet = draw_scan(SCANS[name], title=name, grid=GRID)
    orbit, close, side = panels(sheet)
    for gid in ("orbit", "source", "detector", "fan", "field", "grid", "scale"):
        assert named(orbit, gid), gid
    for gid in ("detector", "fan", "field", "grid", "scale"):
        assert named(close, gid), gid
    for gid in ("detector", "cone", "axis", "slabs", "slab", "rows"):
        assert named(side, gid), gid
    assert len(named(side, "slabs")) + len(named(side, "slab")) == 8
    sheet.figure.canvas.draw()
    box = sheet.figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= sheet.width_in
    assert box.y1 <= sheet.height_in
    for axes in (orbit, close):
        assert axes.get_aspect() == 1.0


def test_positions_are_those_of_the_geometry() -> None:
    sheet = draw_scan(cone(angles_rad=TURN + 0.3), title="cone", grid=GRID)
    orbit, close, side = panels(sheet)
    source = named(orbit, "source")[0]
    expected = 200 * np.array([math.sin(0.3), -math.cos(0.3)])
    np.testing.assert_allclose(source.get_xydata()[0], expected)  # type: ignore[attr-defined]
    ends = named(orbit, "detector")[0].get_xydata()  # type: ignore[attr-defined]
    np.testing.assert_allclose(ends.mean(axis=0), 50 * np.array([-math.sin(0.3), math.cos(0.3)]), atol=1e-9)
    assert np.hypot(*(ends[1] - ends[0])) == pytest.approx(96 * 0.15)
    circle = named(close, "field")[0]
    assert circle.get_radius() == pytest.approx(200 * math.sin(math.atan(48 * 0.15 / 250)))  # type: ignore[attr-defined]
    outline = named(close, "grid")[0].get_bbox()  # type: ignore[attr-defined]
    np.testing.assert_allclose(outline.extents, [-5, -5, 5, 5])
    assert named(side, "source")[0].get_xydata()[0].tolist() == pytest.approx([-200, 0])  # type: ignore[attr-defined]
    text = words(sheet)
    for piece in ("SOD 200 mm", "SDD 250 mm", "60 views", "counterclockwise seen from +z", "64 × 96 px"):
        assert piece in text
    assert "rotation axis on column 47.5, plane of the orbit on row 31.5" in text


def test_rows_drawn_are_those_that_the_slab_reads() -> None:
    geometry = cone()
    scene = Scene(geometry, GRID)
    assert scene.slab is not None
    assert scene.rows == geometry.rows_for(scene.slab.grid)
    sheet = draw_scan(geometry, title="cone", grid=GRID)
    heights = named(panels(sheet)[2], "rows")[0].get_ydata()  # type: ignore[attr-defined]
    np.testing.assert_allclose(heights, [(row - 32) * 0.15 for row in scene.rows])
    first, stop = scene.rows
    z = scene.slab.grid.start[0]
    assert f"rows {first}–{stop - 1}\nof 64, for\nslices {z}–{z + 3}" in words(sheet)


@pytest.mark.parametrize(
    ("geometry", "sense", "arrows"),
    [(cone(), "counterclockwise", 1), (SHORT, "source goes clockwise", 1), (UNORDERED, "in no order", 0)],
)
def test_sense_of_rotation(geometry: ScanGeometry, sense: str, arrows: int) -> None:
    sheet = draw_scan(geometry, title="scan", grid=GRID)
    assert sense in words(sheet)
    arrow = named(panels(sheet)[0], "direction")
    assert len(arrow) == arrows
    if arrow and "counter" not in sense:
        start, end = arrow[0].get_path().vertices[[0, -1]]  # type: ignore[attr-defined]
        assert start[0] * end[1] - start[1] * end[0] < 0


def test_short_scan_shows_where_it_starts_and_ends() -> None:
    sheet = draw_scan(SHORT, title="short", grid=GRID)
    orbit = panels(sheet)[0]
    last = named(orbit, "last view")[0].get_xydata()[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(last, SHORT.source_mm[-1, :2])
    path = named(orbit, "orbit")[0].get_xydata()  # type: ignore[attr-defined]
    ends = {tuple(np.round(p, 6)) for p in path[[0, -1]]}
    assert ends == {tuple(np.round(SHORT.source_mm[k, :2], 6)) for k in (0, -1)}
    assert not named(panels(draw_scan(cone(), title="full", grid=GRID))[0], "last view")


def test_offset_detector_has_two_fields_of_view() -> None:
    close = panels(draw_scan(OFFSET, title="offset", grid=GRID))[1]
    near, far = (named(close, gid)[0].get_radius() for gid in ("field", "far"))  # type: ignore[attr-defined]
    assert near == pytest.approx(200 * math.sin(math.atan(20.5 * 0.15 / 250)))
    assert far == pytest.approx(200 * math.sin(math.atan(75.5 * 0.15 / 250)))
    beside = draw_scan(cone(principal_point_px=(31.5, -4.0)), title="beside", grid=GRID)
    assert "the detector does not see the axis" in words(beside)


def test_parallel_beam_has_no_distances() -> None:
    sheet = draw_scan(PARALLEL, title="parallel", grid=GRID)
    text = words(sheet)
    assert "SOD" not in text
    assert "parallel beam" in text
    assert "distances of source and detector are not" in text
    orbit, close, _ = panels(sheet)
    assert orbit.get_xlim()[1] < 100  # mm: the sample can be seen
    assert named(close, "field")[0].get_radius() == pytest.approx(48 * 0.15, rel=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("geometry", [HELIX, STEPS])
def test_moving_source_shows_its_heights(geometry: ScanGeometry) -> None:
    sheet = draw_scan(geometry, title="moving", grid=GRID)
    assert len(sheet.figure.axes) == 4
    line = named(sheet.figure.axes[3], "heights")[0]
    np.testing.assert_allclose(line.get_ydata(), geometry.source_mm[:, 2])  # type: ignore[attr-defined]
    scene = Scene(geometry, GRID)
    assert scene.slab is not None
    height = geometry.source_mm[scene.view, 2]
    assert abs(height - scene.slab.grid.axis_mm("z").mean()) <= np.abs(geometry.source_mm[:, 2]).max()
    assert scene.rows == geometry[[scene.view]].rows_for(scene.slab.grid)
    assert len(draw_scan(cone(), title="still", grid=GRID).figure.axes) == 3


def test_without_a_grid_only_the_scan_is_drawn() -> None:
    for geometry in (cone(), PARALLEL, TILTED):
        sheet = draw_scan(geometry, title="scan")
        for axes in sheet.figure.axes:
            assert not named(axes, "grid")
            assert not named(axes, "slabs")
            assert not named(axes, "rows")
        assert named(panels(sheet)[0], "fan")


def test_a_grid_that_no_ray_reaches_has_no_rows() -> None:
    above = VolumeGrid((8, 10, 10), (0.25, 0.25, 0.25), center_mm=(90.0, 0.0, 0.0))
    side = panels(draw_scan(cone(), title="scan", grid=above))[2]
    assert named(side, "slabs")
    assert not named(side, "rows")


def test_odd_scans_are_drawn() -> None:
    for geometry in (cone(angles_rad=[0.2]), cone(detector_shape=(1, 1)), cone(detector_shape=(1, 96))):
        draw_scan(geometry, title="odd", grid=VolumeGrid((1, 1, 1), (0.1, 0.1, 0.1)))


def test_file_is_a_png_of_the_same_bytes(tmp_path: Path) -> None:
    write_scan_drawing(cone(), tmp_path / "scan.png", title="cone", grid=GRID)
    again = io.BytesIO()
    write_scan_drawing(cone(), again, title="cone", grid=GRID)
    assert (tmp_path / "scan.png").read_bytes() == again.getvalue()
    assert again.getvalue().startswith(b"\x89PNG")
