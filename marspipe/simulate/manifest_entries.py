"""Angles and heights of a simulated scan as its manifest writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from marspipe.simulate.settings import SimulationSettings


def listed_angles(settings: SimulationSettings) -> dict[str, Any]:
    """Return the ``angles_rad`` of all views as a range."""
    angles: dict[str, Any] = {"start": 0.0, "step": settings.angle_step_rad, "count": settings.n_views}
    if settings.n_views > settings.views:
        angles["begin_again_after"] = settings.views
    return angles


def manifest_heights(settings: SimulationSettings) -> dict[str, Any]:
    """Return the ``sample_z_mm`` of all views as a number, a range, or a list; nothing if the sample stays at 0."""
    heights = settings.sample_z_mm
    if settings.helix_pitch_mm is not None:
        start, step = settings.helix_start_and_step_mm
        return {"sample_z_mm": {"start": start, "step": step}}
    if len(heights) == 1:
        return {"sample_z_mm": heights[0]} if heights[0] else {}
    step = heights[1] - heights[0]
    if np.array_equal(heights[0] + step * np.arange(len(heights)), heights):
        return {"sample_z_mm": {"start": heights[0], "step": step, "hold": settings.views}}
    return {"sample_z_mm": settings.heights_mm().tolist()}
