"""The drawing of a scan: where source, detector and volume stand, seen along the axis and from the side, in mm.

Two panels look along the rotation axis: the whole orbit, and what is around the axis, both to scale. A third looks
from the side; its heights are drawn larger, by a factor that it states. Sources that move along the axis get a
fourth, their height in every view. A parallel beam comes from infinitely far away in the drawing; its detector, which
the geometry puts on the axis, is drawn behind the sample.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Polygon, Rectangle

from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.show.figure import FONT, INK, Sheet, round_length, set_ticks
from marspipe.show.scan_scene import SLABS, Point, Scene, edges_mm

SOURCE_COLOR, DETECTOR_COLOR, VOLUME_COLOR, VIEW_COLOR, SOFT = "#c2560c", "#1f5fa8", "#2c7a4b", "#7a3fa0", "#8a8f98"
SMALL = FONT - 1

WIDTH_IN, TOP_IN = 8.6, 1.2
ORBIT_IN, CLOSE_IN, SIDE_HEIGHT_IN = 3.7, 3.05, 2.7


def write_scan_drawing(
    geometry: ScanGeometry, target: str | Path | BinaryIO, *, title: str, grid: VolumeGrid | None = None
) -> None:
    """Write the drawing of a scan as PNG.

    Parameters
    ----------
    geometry : ScanGeometry
        The scan.
    target : path or binary file
        Where the PNG goes.
    title : str
        What the scan is.
    grid : VolumeGrid, optional
        The volume; without it, only the scan is drawn.
    """
    draw_scan(geometry, title=title, grid=grid).save(target)


def draw_scan(geometry: ScanGeometry, *, title: str, grid: VolumeGrid | None = None) -> Sheet:
    """Return the page that :func:`write_scan_drawing` writes."""
    scene = Scene(geometry, grid)
    sheet = Sheet(WIDTH_IN, TOP_IN + ORBIT_IN + 0.75 + SIDE_HEIGHT_IN + 0.6)
    sheet.title(title, "", size=FONT + 4)
    for number, line in enumerate(scene.facts()):
        sheet.text(0.2, 0.44 + 0.17 * number, line, size=SMALL, color="#555555")
    _orbit(sheet, scene, 0.75, TOP_IN)
    _close_up(sheet, scene, 0.75 + ORBIT_IN + 0.85, TOP_IN)
    side_width = 7.4 if not scene.moves else 4.6
    top = TOP_IN + ORBIT_IN + 0.75
    _side(sheet, scene, 0.75, top, side_width)
    if scene.moves:
        _heights(sheet, scene, 0.75 + side_width + 0.75, top, 7.4 - side_width - 0.75)
    return sheet


def _orbit(sheet: Sheet, scene: Scene, left: float, top: float) -> None:
    """Draw the whole orbit, seen along z."""
    source, detector = scene.drawn_source(0), scene.drawn_detector(0)
    radius = float(np.hypot(*source))
    extent = 1.22 * max(radius * 1.08, float(np.hypot(*detector.T).max()))
    axes = _plane(sheet, left, top, ORBIT_IN, extent)
    polar = scene.polar_rad
    step = float(np.median(np.abs(np.diff(polar)))) if polar.size > 1 else 0.0
    whole = float(np.ptp(polar)) + 1.5 * step >= 2 * math.pi
    arc = np.linspace(polar.min(), polar.min() + 2 * math.pi if whole else polar.max(), 361)
    circle = np.stack([np.cos(arc), np.sin(arc)])
    axes.plot(*(radius * circle), color=SOURCE_COLOR, lw=1.6, zorder=3, gid="orbit")
    if not whole:
        rest = np.linspace(polar.max(), polar.min() + 2 * math.pi, 181)
        axes.plot(radius * np.cos(rest), radius * np.sin(rest), color=SOFT, lw=0.7, ls=(0, (4, 4)), zorder=2)
    _beam(axes, scene, source, detector)
    _around_axis(axes, scene)
    if scene.turns:
        sweep = scene.turns * math.radians(28)
        start = polar[0] + 0.35 * sweep
        ends = [1.09 * radius * np.array([math.cos(a), math.sin(a)]) for a in (start, start + sweep)]
        arrow = FancyArrowPatch(
            (float(ends[0][0]), float(ends[0][1])),
            (float(ends[1][0]), float(ends[1][1])),
            arrowstyle="-|>,head_length=6,head_width=3",
            connectionstyle=f"arc3,rad={0.25 * scene.turns * math.radians(28):.4f}",
            color=SOURCE_COLOR,
            lw=1.4,
            zorder=6,
            gid="direction",
        )
        axes.add_patch(arrow)
    last = -2.2 * scene.reach_mm * scene.inward(-1) if scene.parallel else scene.geometry.source_mm[-1, :2]
    axes.plot(*source, "o", ms=8, color=SOURCE_COLOR, zorder=7, gid="source")
    degrees = np.rad2deg(scene.geometry.angles_rad) + 0.0
    name = "beam from here" if scene.parallel else "source"
    _outside(axes, source, f"{name},\nfirst view {degrees[0]:.4g}°", SOURCE_COLOR, extent)
    if np.hypot(*(last - source)) > 0.35 * radius:
        axes.plot(*last, "o", ms=6, mfc="white", mec=SOURCE_COLOR, mew=1.4, zorder=6, gid="last view")
        _outside(axes, last, f"last view\n{degrees[-1]:.4g}°", SOURCE_COLOR, extent)
    _outside(axes, detector.mean(axis=0), "detector", DETECTOR_COLOR, extent)
    note = ", distances of source and detector are not" if scene.parallel else ""
    axes.set_title(f"along the axis, seen from +z: to scale{note}", size=SMALL if note else FONT, color=INK, pad=5)


def _close_up(sheet: Sheet, scene: Scene, left: float, top: float) -> None:
    """Draw what is around the axis, seen along z."""
    axes = _plane(sheet, left, top, CLOSE_IN, 1.2 * scene.reach_mm)
    limits = axes.get_xlim(), axes.get_ylim()
    _beam(axes, scene, scene.drawn_source(0), scene.drawn_detector(0))
    _around_axis(axes, scene, named=True)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set_title("around the axis: to scale", size=FONT, color=INK, pad=5)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.05, -0.14), fontsize=SMALL, frameon=False, handlelength=1.6,
        borderaxespad=0.0, labelspacing=0.3,
    )  # fmt: skip


def _plane(sheet: Sheet, left: float, top: float, side_in: float, extent_mm: float) -> Axes:
    """Add square axes of the x-y plane, to scale, with a bar of a round length."""
    axes = sheet.axes(left, top, side_in, side_in)
    axes.set(xlim=(-extent_mm, extent_mm), ylim=(-extent_mm, extent_mm), aspect="equal")
    axes.set_xlabel("x [mm]", size=FONT, color=INK, labelpad=2)
    axes.set_ylabel("y [mm]", size=FONT, color=INK, labelpad=2)
    set_ticks(axes, side_in, side_in)
    length = round_length(0.5 * extent_mm)
    start, foot = -0.93 * extent_mm, -0.93 * extent_mm
    axes.plot([start, start + length], [foot, foot], color=INK, lw=2.2, solid_capstyle="butt", gid="scale")
    axes.text(start, foot + 0.03 * extent_mm, f"{length:g} mm", fontsize=SMALL, color=INK, va="bottom")
    return axes


def _beam(axes: Axes, scene: Scene, source: Point, detector: Point) -> None:
    """Draw the fan of the first view and its detector."""
    if scene.parallel:
        start = detector - (1.7 + 2.2) * scene.reach_mm * scene.inward(0)
        outline = np.array([start[0], start[1], detector[1], detector[0]])
        rays = [(start[0], detector[0]), (start[1], detector[1])]
    else:
        outline = np.array([source, detector[1], detector[0]])
        rays = [(source, detector[0]), (source, detector[1])]
    axes.add_patch(Polygon(outline, fc=SOURCE_COLOR, alpha=0.10, ec="none", zorder=1, gid="fan"))
    for ray in rays:
        axes.plot(*np.array(ray).T, color=SOURCE_COLOR, lw=0.8, alpha=0.8, zorder=2)
    axes.plot(*detector.T, color=DETECTOR_COLOR, lw=3.4, solid_capstyle="butt", zorder=5, gid="detector")


def _around_axis(axes: Axes, scene: Scene, *, named: bool = False) -> None:
    """Draw the axis, the field of view and the grid's outline."""
    near, far = scene.fields_mm
    axes.plot(0, 0, "+", ms=8, mew=1.2, color=INK, zorder=8, label="rotation axis" if named else None)
    if near > 0:
        label = f"field of view, radius {near:.4g} mm" if named else None
        axes.add_patch(Circle((0, 0), near, fill=False, ec=VIEW_COLOR, lw=1.2, zorder=4, label=label, gid="field"))
    if far > 1.02 * near and far <= 3 * scene.reach_mm:
        label = f"seen in some views, {far:.4g} mm" if named else None
        axes.add_patch(
            Circle((0, 0), far, fill=False, ec=VIEW_COLOR, lw=1.0, ls=(0, (4, 3)), zorder=4, label=label, gid="far")
        )
    if scene.grid is not None:
        low, high = edges_mm(scene.grid, "x"), edges_mm(scene.grid, "y")
        label = f"grid, {high[1] - high[0]:.4g} × {low[1] - low[0]:.4g} mm (y, x)" if named else None
        axes.add_patch(
            Rectangle(
                (low[0], high[0]), low[1] - low[0], high[1] - high[0], fc=VOLUME_COLOR + "22", ec=VOLUME_COLOR, lw=1.2,
                zorder=3, label=label, gid="grid",
            )
        )  # fmt: skip


def _outside(axes: Axes, at: Point, text: str, color: str, extent: float) -> None:
    """Write text beside a point, away from the axis and inside the panel."""
    away = np.asarray(at) / max(float(np.hypot(*at)), 1e-12)
    horizontal = "left" if away[0] > 0.5 else "right" if away[0] < -0.5 else "center"
    vertical = "bottom" if away[1] > 0.5 else "top" if away[1] < -0.5 else "center"
    # Where the panel ends, write towards its middle.
    room = abs(at[0]) < 0.6 * extent
    axes.annotate(
        text,
        (float(at[0]), float(at[1])),
        xytext=(9 * away[0], 9 * away[1]) if room else (0, -14 if at[1] <= 0 else 14),
        textcoords="offset points",
        ha=horizontal if room else ("right" if at[0] > 0 else "left"),
        va=vertical if room else ("top" if at[1] <= 0 else "bottom"),
        fontsize=SMALL,
        color=color,
        zorder=9,
    )


def _side(sheet: Sheet, scene: Scene, left: float, top: float, width_in: float) -> None:
    """Draw one view from the side: along the beam to the right, heights upwards."""
    geometry, view = scene.geometry, scene.view
    reach, inward = scene.reach_mm, scene.inward(view)
    rows = geometry.detector_shape[0]
    center, v = geometry.detector_center_mm[view], geometry.v_mm[view]

    def row_edge(edge: float) -> Point:
        """Return along-beam position and height of a row's lower edge."""
        point = center + (edge - 0.5 * rows) * v
        along = 1.7 * reach if scene.parallel else float(point[:2] @ inward)
        return np.array([along, point[2]])

    low, high = row_edge(0), row_edge(rows)
    source_z = float(geometry.source_mm[view, 2])
    source_along = -2.2 * reach if scene.parallel else -float(np.hypot(*geometry.source_mm[view, :2]))

    def ray(edge: Point) -> Point:
        start = [source_along, edge[1]] if scene.parallel else [source_along, source_z]
        return np.array([start, edge])

    heights = [low[1], high[1], source_z, *(edges_mm(scene.grid, "z") if scene.grid is not None else ())]
    if scene.moves:
        travel = geometry.source_mm[:, 2]
        shift = travel - source_z
        heights += [travel.min(), travel.max(), low[1] + shift.min(), high[1] + shift.max()]
    span = max(max(heights) - min(heights), 1e-9)
    length = float(high[0]) - source_along
    z_limits = (min(heights) - 0.32 * span, max(heights) + 0.12 * span)
    along_limits = (source_along - 0.06 * length, float(high[0]) + length * 1.05 / (width_in - 1.3))
    axes = sheet.axes(left, top, width_in, SIDE_HEIGHT_IN)
    axes.set(xlim=along_limits, ylim=z_limits)
    stretch = (SIDE_HEIGHT_IN / (z_limits[1] - z_limits[0])) / (width_in / (along_limits[1] - along_limits[0]))

    outline = np.array([ray(low)[0], low, high, ray(high)[0]])
    axes.add_patch(Polygon(outline, fc=SOURCE_COLOR, alpha=0.10, ec="none", zorder=1, gid="cone"))
    for edge in (low, high):
        axes.plot(*ray(edge).T, color=SOURCE_COLOR, lw=0.8, alpha=0.8, zorder=2)
    axes.plot(*np.array([low, high]).T, color=DETECTOR_COLOR, lw=3.4, solid_capstyle="butt", zorder=5, gid="detector")
    axes.axvline(0.0, color=INK, lw=0.9, ls=(0, (8, 3, 1.5, 3)), zorder=3, gid="axis")
    if scene.moves:
        for position, marks in ((source_along, travel), (float(low[0]), travel + 0.5 * (low[1] + high[1]) - source_z)):
            axes.plot([position] * 2, [marks.min(), marks.max()], color=SOFT, lw=0.8, zorder=1)
            axes.plot([position] * marks.size, marks, "_", color=SOFT, ms=5, zorder=1)
    if scene.parallel:
        for height in np.linspace(low[1], high[1], 5)[1:-1]:
            axes.annotate(
                "", (0.62 * source_along, height), (source_along, height),
                arrowprops={"arrowstyle": "-|>", "color": SOURCE_COLOR, "lw": 0.9},
            )  # fmt: skip
    else:
        axes.plot(source_along, source_z, "o", ms=8, color=SOURCE_COLOR, zorder=7, gid="source")
    _slabs(axes, scene, inward)
    if scene.rows is not None and scene.slab is not None:
        first, stop = row_edge(scene.rows[0]), row_edge(scene.rows[1])
        band = np.array([ray(first)[0], first, stop, ray(stop)[0]])
        axes.add_patch(Polygon(band, fc=VIEW_COLOR, alpha=0.16, ec="none", zorder=2))
        axes.plot(*np.array([first, stop]).T, color=VIEW_COLOR, lw=6, solid_capstyle="butt", zorder=6, gid="rows")
        z, count = scene.slab.grid.start[0], scene.slab.n_slices
        slices = f"slices {z}–{z + count - 1}" if count > 1 else f"slice {z}"
        axes.annotate(
            f"rows {scene.rows[0]}–{scene.rows[1] - 1}\nof {rows}, for\n{slices}",
            (float(first[0]), float(0.5 * (first[1] + stop[1]))),
            xytext=(9, 0), textcoords="offset points", va="center", fontsize=SMALL, color=VIEW_COLOR, zorder=9,
        )  # fmt: skip
    _distances(axes, scene, source_along, float(high[0]), z_limits)
    which = f"view {view} from the side" if scene.moves else "first view from the side"
    if 0.8 < stretch < 1.25:
        scale = "nearly to scale"
    else:
        change = "larger" if stretch > 1 else "smaller"
        scale = f"heights drawn {max(stretch, 1 / stretch):.3g} times {change}"
    if scene.parallel:
        scale += ", source and detector not at their distance"
    axes.set_title(f"{which}: {scale}", size=FONT, color=INK, pad=5)
    axes.set_xlabel("along the beam, from the axis [mm]", size=FONT, color=INK, labelpad=2)
    axes.set_ylabel("z [mm]", size=FONT, color=INK, labelpad=2)
    set_ticks(axes, width_in, SIDE_HEIGHT_IN)


def _slabs(axes: Axes, scene: Scene, inward: Point) -> None:
    """Draw the grid cut into slabs, the one whose rows are shown filled."""
    if scene.grid is None:
        return
    corners = scene.grid.corners_mm()[:, :2] @ inward
    low, high = float(corners.min()), float(corners.max())
    for slab in scene.grid.slabs(math.ceil(scene.grid.shape[0] / SLABS)):
        bottom, top = edges_mm(slab.grid, "z")
        chosen = scene.slab is not None and slab.index == scene.slab.index
        axes.add_patch(
            Rectangle(
                (low, bottom), high - low, top - bottom, fc=VIEW_COLOR + "66" if chosen else VOLUME_COLOR + "22",
                ec=VOLUME_COLOR, lw=0.8, zorder=4, gid="slab" if chosen else "slabs",
            )
        )  # fmt: skip


def _distances(axes: Axes, scene: Scene, source: float, detector: float, z_limits: tuple[float, float]) -> None:
    """Draw the distances from the source to the axis and to the detector below the view."""
    if scene.parallel:
        return
    height = z_limits[1] - z_limits[0]
    for level, end, name in ((0.17, 0.0, f"SOD {scene.sod_mm:.6g} mm"), (0.07, detector, f"SDD {scene.sdd_mm:.6g} mm")):
        z = z_limits[0] + level * height
        axes.annotate("", (end, z), (source, z), arrowprops={"arrowstyle": "<->", "color": INK, "lw": 0.8})
        axes.text(
            source + 0.5 * (end - source), z, name, fontsize=SMALL, color=INK, ha="center", va="center",
            bbox={"fc": "white", "ec": "none", "pad": 1.0},
        )  # fmt: skip


def _heights(sheet: Sheet, scene: Scene, left: float, top: float, width_in: float) -> None:
    """Draw the height of the source in every view."""
    axes = sheet.axes(left, top, width_in, SIDE_HEIGHT_IN)
    degrees = np.rad2deg(scene.geometry.angles_rad)
    axes.plot(degrees, scene.geometry.source_mm[:, 2], ".", ms=3, color=SOURCE_COLOR, gid="heights")
    axes.set_title("height of the source", size=FONT, color=INK, pad=5)
    axes.set_xlabel("view angle [deg]", size=FONT, color=INK, labelpad=2)
    set_ticks(axes, width_in, SIDE_HEIGHT_IN)
