"""A small drawing sheet: axes placed in inches, so that nothing overlaps whatever the shapes of the images.

Matplotlib's Agg canvas is used directly: no pyplot, no global state, usable in any thread or worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from marspipe import __version__

DPI = 150
FONT = 9.0
INK = "#222222"
TICK_GAP_IN = 0.42  # between two tick labels


class Sheet:
    """A white page of a size in inches; positions are measured from its upper left corner."""

    def __init__(self, width_in: float, height_in: float) -> None:
        self.width_in = width_in
        self.height_in = height_in
        self.figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left_in: float, top_in: float, width_in: float, height_in: float) -> Axes:
        """Add axes whose frame has this place and size, inches."""
        axes = self.figure.add_axes(
            (
                left_in / self.width_in,
                1 - (top_in + height_in) / self.height_in,
                width_in / self.width_in,
                height_in / self.height_in,
            )
        )
        axes.tick_params(labelsize=FONT - 1, length=3, width=0.6, color=INK, labelcolor=INK)
        for spine in axes.spines.values():
            spine.set(linewidth=0.6, color=INK)
        return axes

    def text(self, left_in: float, top_in: float, text: str, *, size: float = FONT, **style: object) -> None:
        """Write text at a place, inches; by default its upper left corner."""
        options: dict[str, object] = {"ha": "left", "va": "top", "color": INK, **style}
        self.figure.text(left_in / self.width_in, 1 - top_in / self.height_in, text, fontsize=size, **options)  # type: ignore[arg-type]

    def title(self, title: str, subtitle: str, *, size: float) -> None:
        """Write the headings into the upper left corner; a title too long for the page loses its middle."""
        room = int((self.width_in - 0.4) * 72 / (0.68 * size))
        if len(title) > room:
            title = f"{title[: room // 2]}…{title[len(title) - room // 2 + 1 :]}"
        self.text(0.2, 0.14, title, size=size, weight="bold")
        self.text(0.2, 0.2 + size / 50, subtitle, size=FONT - 1, color="#555555")

    def save(self, target: str | Path | BinaryIO) -> None:
        """Write the page as PNG; the same drawing gives the same bytes."""
        self.figure.savefig(target, format="png", dpi=DPI, metadata={"Software": f"marspipe {__version__}"})


def value_range(images: Sequence[NDArray[np.floating]], low_percent: float, high_percent: float) -> tuple[float, float]:
    """Return a display range that leaves out the few extreme values, over all images together."""
    low, high = np.percentile(np.concatenate([image.ravel() for image in images]), [low_percent, high_percent])
    if not high > low:
        # A constant image: mid gray, whatever its value.
        margin = 0.5 * abs(float(low)) or 0.5
        return float(low) - margin, float(high) + margin
    return float(low), float(high)


def set_ticks(axes: Axes, width_in: float, height_in: float) -> None:
    """Give axes as many ticks as have room; an axis too short for two has one in its middle."""
    for axis, length, limits in ((axes.xaxis, width_in, axes.get_xlim()), (axes.yaxis, height_in, axes.get_ylim())):
        room = int(length / TICK_GAP_IN)
        if room >= 2:
            axis.set_major_locator(MaxNLocator(nbins=min(room, 6), steps=[1, 2, 2.5, 5, 10]))
        else:
            middle = 0.5 * (limits[0] + limits[1])
            axis.set_ticks([middle])
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 6):.4g}"))


def add_color_bar(
    sheet: Sheet, image: AxesImage, label: str, *, left_in: float, top_in: float, height_in: float
) -> None:
    """Add a gray scale bar; its pointed ends say that values beyond it exist."""
    axes = sheet.axes(left_in, top_in, 0.13, height_in)
    bar = sheet.figure.colorbar(image, cax=axes, extend="both", extendfrac=0.1 / height_in)
    bar.outline.set_linewidth(0.6)
    bar.locator = MaxNLocator(nbins=max(2, min(6, int(height_in / TICK_GAP_IN))), steps=[1, 2, 2.5, 5, 10])
    bar.formatter = FuncFormatter(lambda value, _: f"{value:.6g}")
    bar.update_ticks()
    bar.set_label(label, size=FONT, color=INK)


def add_scale_bar(axes: Axes, width_in: float, height_in: float) -> None:
    """Draw a bar of a round length in mm into the lower left corner of an image, if there is room for it."""
    if width_in < 0.8 or height_in < 0.45:
        return
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    length = round_length(0.35 * (x1 - x0))
    per_in_x, per_in_y = (x1 - x0) / width_in, (y1 - y0) / height_in
    left, bottom = x0 + 0.12 * per_in_x, y0 + 0.12 * per_in_y
    outline = [withStroke(linewidth=3.2, foreground="black")]
    axes.plot([left, left + length], [bottom, bottom], color="white", lw=2, solid_capstyle="butt", path_effects=outline)
    axes.text(
        left,
        bottom + 0.06 * per_in_y,
        f"{length:g} mm",
        color="white",
        fontsize=FONT - 1,
        va="bottom",
        ha="left",
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )
    axes.set(xlim=(x0, x1), ylim=(y0, y1))


def round_length(most: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20 ... (or 0.5, 0.2 ...) that is not above a length."""
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1.0, 2.0, 5.0) if step * power <= most * (1 + 1e-12)))
