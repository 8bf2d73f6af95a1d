from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from marspipe.show.axes import ANGLE_RAD, Camera, example_geometry


def test_the_drawing_is_made_by_the_command(tmp_path: Path) -> None:
    target = tmp_path / "axes.png"
    subprocess.run([sys.executable, "-W", "error", "-m", "marspipe.show.axes", str(target)], check=True)
    picture = imread(target)
    assert picture.shape[1] > 1200
    assert (picture[..., :3].min(axis=2) < 0.5).sum() > 5000  # it is not an empty page


def test_the_drawn_scan_follows_the_formulas_on_it() -> None:
    geometry = example_geometry()
    t = ANGLE_RAD
    np.testing.assert_allclose(geometry.source_mm[1], 200.0 * np.array([math.sin(t), -math.cos(t), 0]), atol=1e-12)
    u, v = geometry.u_mm[1], geometry.v_mm[1]
    np.testing.assert_allclose(u / np.linalg.norm(u), [math.cos(t), math.sin(t), 0], atol=1e-12)
    np.testing.assert_allclose(v / np.linalg.norm(v), [0, 0, 1], atol=1e-12)


def test_the_camera_draws_a_right_handed_world() -> None:
    for azimuth in (-1.2, -0.2, 0.7, 2.0):
        camera = Camera(azimuth, 0.35)
        towards_viewer = np.cross(camera.right, camera.up)
        expected = [math.cos(0.35) * math.cos(azimuth), math.cos(0.35) * math.sin(azimuth), math.sin(0.35)]
        np.testing.assert_allclose(towards_viewer, expected, atol=1e-12)
        np.testing.assert_allclose(camera([0.0, 0.0, 2.0]), [0.0, 2.0 * math.cos(0.35)], atol=1e-12)
    # Seen from straight above with x to the right, y goes up.
    above = Camera(-math.pi / 2, math.pi / 2)
    np.testing.assert_allclose(above([[1.0, 0, 0], [0, 1.0, 0]]), [[1, 0], [0, 1]], atol=1e-12)
