"""The drawing of the conventions: where source, detector and volume are, and which way every index grows.

``python -m marspipe.show.axes axes.png`` writes it. Positions come from :class:`~marspipe.scan.geometry.ScanGeometry`
itself, so the drawing shows what the code does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Arc, Circle, FancyArrowPatch, Polygon, Rectangle
from numpy.typing import NDArray

from marspipe.scan.geometry import ScanGeometry
from marspipe.show.figure import INK, Sheet

ANGLE_RAD = math.radians(35.0)
ROWS, COLS, PITCH_MM = 8, 11, 17.0
CUBE_MM = 29.0  # half a side of the volume
SOURCE_COLOR, DETECTOR_COLOR, VOLUME_COLOR, SOFT = "#c2560c", "#1f5fa8", "#2c7a4b", "#8a8f98"
TEXT, SMALL = 10.5, 9.0

Point = NDArray[np.float64]


def example_geometry() -> ScanGeometry:
    """Return the scan that the drawing shows: view 0 at angle 0, view 1 at the drawn angle."""
    return ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=415.0,
        detector_shape=(ROWS, COLS),
        pixel_pitch_mm=(PITCH_MM, PITCH_MM),
        angles_rad=[0.0, ANGLE_RAD],
    )


class Camera:
    """A parallel view of the world onto paper, z upwards.

    Parameters
    ----------
    azimuth_rad, elevation_rad : float
        Direction in which the viewer stands, from the x axis and above the x-y plane.
    """

    def __init__(self, azimuth_rad: float, elevation_rad: float) -> None:
        sin_a, cos_a = math.sin(azimuth_rad), math.cos(azimuth_rad)
        sin_e, cos_e = math.sin(elevation_rad), math.cos(elevation_rad)
        self.right = np.array([-sin_a, cos_a, 0.0])
        self.up = np.array([-sin_e * cos_a, -sin_e * sin_a, cos_e])

    def __call__(self, points: Point | Sequence[float]) -> Point:
        """Project world points, shape (..., 3), onto paper, shape (..., 2)."""
        paper: Point = np.asarray(points, dtype=np.float64) @ np.stack([self.right, self.up], axis=1)
        return paper


def write_axes_figure(target: str | Path | BinaryIO) -> None:
    """Write the drawing of the axes as PNG."""
    sheet = Sheet(11.0, 6.3)
    geometry = example_geometry()
    _scene(_blank(sheet, 0.15, 0.3, 7.5, 5.85), geometry)
    _from_above(_blank(sheet, 7.8, 0.4, 3.0, 2.5), geometry)
    _frame(_blank(sheet, 7.8, 3.24, 3.0, 1.3))
    _volume(_blank(sheet, 7.8, 4.85, 3.0, 1.4))
    sheet.text(0.2, 0.14, "One view, at angle t", size=TEXT + 1, weight="bold")
    for top, heading in ((0.14, "Seen from +z"), (2.94, "frame[v, u]"), (4.68, "volume[z, y, x]")):
        sheet.text(7.7, top, heading, size=TEXT + 1, weight="bold")
    sheet.save(target)


def _blank(sheet: Sheet, left_in: float, top_in: float, width_in: float, height_in: float) -> Axes:
    axes = sheet.axes(left_in, top_in, width_in, height_in)
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    return axes


def _fit(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Show a region of the drawing in the middle of its place."""
    axes.set_aspect("equal", adjustable="box")
    axes.set(xlim=x, ylim=y)


def _arrow(axes: Axes, start: Point, end: Point, color: str = INK, width: float = 1.6, bend: float = 0.0) -> None:
    axes.add_patch(
        FancyArrowPatch(
            (float(start[0]), float(start[1])),
            (float(end[0]), float(end[1])),
            arrowstyle="-|>,head_length=6,head_width=3",
            connectionstyle=f"arc3,rad={bend}",
            color=color,
            lw=width,
            shrinkA=0,
            shrinkB=0,
            zorder=6,
        )
    )


def _label(axes: Axes, at: Point, text: str, dx: float = 0.0, dy: float = 0.0, **style: object) -> None:
    """Write text beside a point, moved by points of type."""
    options: dict[str, object] = {"color": INK, "fontsize": TEXT, "ha": "center", "va": "center", **style}
    axes.annotate(
        text,
        (float(at[0]), float(at[1])),
        xytext=(dx, dy),
        textcoords="offset points",
        zorder=8,
        **options,  # type: ignore[arg-type]
    )


def _corners(geometry: ScanGeometry, view: int) -> Point:
    """Return the outer corners of the detector, from pixel (0, 0) along u and around, shape (4, 3)."""
    center, u, v = geometry.detector_center_mm[view], geometry.u_mm[view], geometry.v_mm[view]
    return np.array([center + 0.5 * (a * COLS * u + b * ROWS * v) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])


def _scene(axes: Axes, geometry: ScanGeometry) -> None:
    view = Camera(math.radians(-12.0), math.radians(20.0))
    source, detector = geometry.source_mm[1], geometry.detector_center_mm[1]
    start = geometry.source_mm[0]
    u, v = geometry.u_mm[1], geometry.v_mm[1]
    corners = _corners(geometry, 1)
    origin = np.zeros(3)

    turn = np.linspace(0, 2 * np.pi, 181)
    orbit = view(np.linalg.norm(source) * np.stack([np.sin(turn), -np.cos(turn), 0 * turn], axis=1))
    axes.plot(*orbit.T, color=SOFT, lw=0.9, ls=(0, (5, 4)), zorder=1)

    # detector with its pixels, seen from the side of the source
    axes.add_patch(Polygon(view(corners), facecolor="#dbe8f6", edgecolor=DETECTOR_COLOR, lw=1.5, zorder=2))
    for column in range(1, COLS):
        foot = corners[0] + column * u
        axes.plot(*view(np.array([foot, foot + ROWS * v])).T, color=DETECTOR_COLOR, lw=0.35, alpha=0.6, zorder=2)
    for row in range(1, ROWS):
        foot = corners[0] + row * v
        axes.plot(*view(np.array([foot, foot + COLS * u])).T, color=DETECTOR_COLOR, lw=0.35, alpha=0.6, zorder=2)
    first = corners[0] + np.array([0 * u, u, u + v, v])
    axes.add_patch(Polygon(view(first), facecolor=DETECTOR_COLOR, edgecolor="none", zorder=3))

    for corner in corners:
        axes.plot(*view(np.array([source, corner])).T, color=SOURCE_COLOR, lw=0.7, alpha=0.55, zorder=4)
    axes.plot(*view(np.array([source, detector])).T, color=SOURCE_COLOR, lw=1.3, zorder=4)

    _cube(axes, view)

    # world axes and rotation axis
    axes.plot(*view(np.array([[0, 0, -100.0], [0, 0, 140.0]])).T, color=INK, lw=0.9, ls=(0, (8, 3, 1.5, 3)), zorder=5)
    for point, name, dx, dy in (((84, 0, 0), "x", 9, 2), ((0, 62, 0), "y", -1, 9), ((0, 0, 84), "z", 9, 2)):
        tip = view(point)
        _arrow(axes, view(origin), tip, width=1.9)
        _label(axes, tip, name, dx, dy, fontsize=TEXT + 3, fontstyle="italic")
    _label(axes, view([0, 0, 140.0]), "rotation axis", 0, 8, fontsize=SMALL)

    # the angle, from where the source stood at t = 0
    axes.plot(*view(np.array([origin, start])).T, color=SOFT, lw=0.9, zorder=3)
    axes.plot(*view(start), "o", ms=7, mfc="white", mec=SOFT, mew=1.2, zorder=6)
    _label(axes, view(start), "t = 0", 26, 11, color="#5c6169", fontsize=SMALL)
    arc = np.linspace(0, ANGLE_RAD, 60)
    path = view(135.0 * np.stack([np.sin(arc), -np.cos(arc), 0 * arc], axis=1))
    axes.plot(*path[:-4].T, color=INK, lw=1.3, zorder=5)
    _arrow(axes, path[-6], path[-1], width=1.3)
    _label(axes, path[30], "t", -9, -4, fontsize=TEXT + 3, fontstyle="italic")

    axes.plot(*view(source), "o", ms=11, color=SOURCE_COLOR, zorder=7)
    _label(axes, view(source), "source", 0, -15, color=SOURCE_COLOR, weight="bold")
    _label(axes, view(source), "SOD · (sin t, −cos t, 0)", 0, -28, color=SOURCE_COLOR, fontsize=SMALL)
    _label(axes, view(0.6 * source), "SOD", 10, -9, color=SOURCE_COLOR, fontsize=SMALL)
    _label(axes, view(0.72 * detector), "SDD − SOD", 26, -6, color=SOURCE_COLOR, fontsize=SMALL)

    below, beside = corners[0] - 0.9 * v + 0.6 * u, corners[0] - 0.9 * u
    _arrow(axes, view(below), view(below + 4.5 * u), DETECTOR_COLOR)
    _label(axes, view(below + 4.5 * u), "u = (cos t, sin t, 0)", -28, -12, color=DETECTOR_COLOR)
    _arrow(axes, view(beside), view(beside + 4.5 * v), DETECTOR_COLOR)
    _label(axes, view(beside + 2.4 * v), "v = (0, 0, 1)", -6, 0, color=DETECTOR_COLOR, ha="right")
    _label(axes, view(0.5 * (corners[2] + corners[3])), "detector", 0, 16, color=DETECTOR_COLOR, weight="bold")
    _label(axes, view(corners[0]), "pixel [0, 0]", -28, -26, color=DETECTOR_COLOR, fontsize=SMALL)
    _label(axes, view([0, -CUBE_MM, CUBE_MM]), "volume", -32, 10, color=VOLUME_COLOR, weight="bold")
    axes.margins(0.02)


def _cube(axes: Axes, view: Camera) -> None:
    """Draw the volume; the faces towards the viewer are +x, -y and +z for every camera used here."""
    h = CUBE_MM
    corner = {(i, j, k): np.array([i, j, k]) * h for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)}
    for face, shade in (
        ([(1, -1, -1), (1, 1, -1), (1, 1, 1), (1, -1, 1)], "#bfe0cb"),
        ([(-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)], "#a9d3b8"),
        ([(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)], "#d8eddf"),
    ):
        outline = view(np.array([corner[c] for c in face]))
        axes.add_patch(Polygon(outline, fc=shade, ec=VOLUME_COLOR, lw=1.1, alpha=0.72, zorder=5))


def _from_above(axes: Axes, geometry: ScanGeometry) -> None:
    radius = float(np.linalg.norm(geometry.source_mm[0]))
    axes.add_patch(Circle((0, 0), radius, fill=False, ec=SOFT, lw=0.9, ls=(0, (5, 4))))
    axes.add_patch(Rectangle((-CUBE_MM, -CUBE_MM), 2 * CUBE_MM, 2 * CUBE_MM, fc="#d8eddf", ec=VOLUME_COLOR, lw=1.0))
    for tip, name, dx, dy in ((np.array([110.0, 0.0]), "x", 8, 0), (np.array([0.0, 110.0]), "y", 8, 3)):
        _arrow(axes, np.zeros(2), tip, width=1.4)
        _label(axes, tip, name, dx, dy, fontstyle="italic", fontsize=TEXT + 1)
    axes.plot(0, 0, "o", ms=6, mfc="white", mec=INK, mew=1.1, zorder=7)
    axes.plot(0, 0, "o", ms=1.8, color=INK, zorder=8)
    _label(axes, np.zeros(2), "z", -17, -13, fontstyle="italic", fontsize=TEXT + 1)
    for number, strength in ((0, 0.35), (1, 1.0)):
        source, detector = geometry.source_mm[number, :2], geometry.detector_center_mm[number, :2]
        half = 0.5 * COLS * geometry.u_mm[number, :2]
        axes.plot(*np.array([source, detector]).T, color=SOURCE_COLOR, lw=0.9, alpha=strength, zorder=4)
        axes.plot(*source, "o", ms=8, color=SOURCE_COLOR, alpha=strength, zorder=6, mec="none")
        axes.plot(*np.array([detector - half, detector + half]).T, color=DETECTOR_COLOR, lw=3.2, alpha=strength)
    u = geometry.u_mm[1, :2]
    outward = np.array([-math.sin(ANGLE_RAD), math.cos(ANGLE_RAD)])
    foot = geometry.detector_center_mm[1, :2] - 0.5 * COLS * u + 24.0 * outward
    _arrow(axes, foot, foot + 5 * u, DETECTOR_COLOR, 1.4)
    _label(axes, foot + 5 * u, "u", 5, 8, color=DETECTOR_COLOR, fontstyle="italic", fontsize=TEXT + 1)
    axes.add_patch(Arc((0, 0), 250, 250, theta1=270, theta2=270 + math.degrees(ANGLE_RAD) - 5, color=INK, lw=1.2))
    near_end, end, half_way = (
        radius * np.array([math.sin(angle), -math.cos(angle)])
        for radius, angle in ((125.0, ANGLE_RAD - 0.09), (125.0, ANGLE_RAD), (148.0, 0.5 * ANGLE_RAD))
    )
    _arrow(axes, near_end, end, width=1.2)
    _label(axes, half_way, "t", fontstyle="italic", fontsize=TEXT + 1)
    _label(axes, geometry.source_mm[0, :2], "t = 0", -24, -6, color="#5c6169", fontsize=SMALL)
    _fit(axes, (-250, 250), (-225, 285))


def _frame(axes: Axes) -> None:
    for row in range(ROWS):
        for column in range(COLS):
            first = row == column == 0
            axes.add_patch(
                Rectangle(
                    (column - 0.5, row - 0.5), 1, 1, fc=DETECTOR_COLOR if first else "#dbe8f6", ec="white", lw=0.8
                )
            )
    _label(axes, np.zeros(2), "[0, 0]", -24, 0, color=DETECTOR_COLOR, fontsize=SMALL)
    _arrow(axes, np.array([-0.5, -1.2]), np.array([4.5, -1.2]), DETECTOR_COLOR)
    _label(axes, np.array([4.5, -1.2]), "column u", 30, 0, color=DETECTOR_COLOR, fontsize=SMALL)
    _arrow(axes, np.array([-1.1, 1.5]), np.array([-1.1, 6.0]), DETECTOR_COLOR)
    _label(axes, np.array([-1.1, 6.0]), "row v", -20, -4, color=DETECTOR_COLOR, fontsize=SMALL)
    middle = np.array([(COLS - 1) / 2, (ROWS - 1) / 2])
    axes.plot(*middle, "+", ms=11, mew=1.8, color=SOURCE_COLOR, zorder=7)
    _label(axes, middle, "principal point", 0, 13, color=SOURCE_COLOR, fontsize=SMALL)
    _fit(axes, (-4, COLS + 3), (-2, ROWS - 0.4))


def _volume(axes: Axes) -> None:
    view = Camera(math.radians(-62.0), math.radians(24.0))
    _cube(axes, view)
    h = CUBE_MM
    low = np.array([-h, -h, -h])
    gap = 7.0
    for direction, offset, name, dx, dy, ha in (
        ((1, 0, 0), (0, -gap, -gap), "x", 7, -4, "left"),
        ((0, 0, 1), (-gap, -gap, 0), "z", -8, 3, "right"),
    ):
        start = low + np.array(offset, dtype=np.float64)
        tip = start + 1.35 * h * np.array(direction, dtype=np.float64)
        _arrow(axes, view(start), view(tip), VOLUME_COLOR)
        _label(axes, view(tip), name, dx, dy, color=VOLUME_COLOR, fontstyle="italic", fontsize=TEXT + 1, ha=ha)
    start = np.array([h + gap, -h, -h - 0.3 * gap])
    tip = start + np.array([0, 1.35 * h, 0])
    _arrow(axes, view(start), view(tip), VOLUME_COLOR)
    _label(axes, view(tip), "y", 8, -3, color=VOLUME_COLOR, fontstyle="italic", fontsize=TEXT + 1)
    axes.plot(*view(low), "o", ms=6, color=VOLUME_COLOR, zorder=7)
    _label(axes, view(low), "[0, 0, 0]", -32, -4, color=VOLUME_COLOR, fontsize=SMALL)
    axes.margins(0.14)


def main() -> None:
    """Write the figure to the path given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m marspipe.show.axes", description="Draw marspipe's axes.")
    parser.add_argument("target", type=Path, help="PNG file to write")
    write_axes_figure(parser.parse_args().target)


if __name__ == "__main__":
    main()
