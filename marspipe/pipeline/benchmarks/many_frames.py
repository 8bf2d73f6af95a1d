"""A raw scan of very many small frames, the shape that ingest is measured on: real headers, noise for pixels."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from marspipe.readers.manifest import (
    CircularGeometry,
    CounterEntry,
    FileEntry,
    ScanManifest,
)
from marspipe.simulate.merlin_writer import write_merlin

SIDE_PX = 256
COUNTERS = 4
ANGLES = 360
_THRESHOLDS_KEV = (20.0, 33.0, 50.0, 80.0)
_DISTINCT_FRAMES = 64


def write_many_frames(folder: Path, n_bytes: int, seed: int = 0) -> tuple[Path, int]:
    """Write a scan of 256 x 256 frames of uint16 (128 KiB), 4 counters and 360 angles, one file per angle.

    At every angle the sample is exposed at as many heights as the size allows, as for a long sample and one chip.

    Parameters
    ----------
    folder : Path
        Where to write; made if it is missing.
    n_bytes : int
        Pixels in all, rounded to whole heights.
    seed : int
        Of the noise.

    Returns
    -------
    manifest : Path
        The ``scan.yaml``.
    frames : int
        Frames written.
    """
    heights = max(1, round(n_bytes / (2 * SIDE_PX**2 * COUNTERS * ANGLES)))
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    noise = random.poisson(500, (_DISTINCT_FRAMES, SIDE_PX, SIDE_PX)).astype(np.uint16)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    files = []
    for angle in range(ANGLES):
        name = f"angle_{angle:03d}.mib"
        picked = random.integers(_DISTINCT_FRAMES, size=heights * COUNTERS)
        with (folder / name).open("wb") as file:
            write_merlin(
                file,
                (noise[i] for i in picked),
                counter_depth_bits=12,
                counters_per_exposure=COUNTERS,
                color_mode=True,
                thresholds_kev=_THRESHOLDS_KEV,
                exposure_s=0.1,
                start_time=start + timedelta(seconds=angle * heights * 0.1),
            )
        files.append(
            FileEntry(
                path=name,
                reader="merlin",
                frame_type="projection",
                angles_rad=(angle * 2 * math.pi / ANGLES,) * heights,
                sample_z_mm=tuple(10.0 * height for height in range(heights)),
                first_view=angle * heights,
            )
        )
    manifest = ScanManifest(
        marspipe_scan=1,
        scan_id="many-frames",
        geometry=CircularGeometry(
            kind="circular",
            source_to_isocenter_mm=200.0,
            source_to_detector_mm=250.0,
            detector_shape=(SIDE_PX, SIDE_PX),
            pixel_pitch_mm=(0.055, 0.055),
        ),
        counters=tuple(CounterEntry(counter=i, threshold_kev=kev) for i, kev in enumerate(_THRESHOLDS_KEV)),
        files=tuple(files),
    )
    target = folder / "scan.yaml"
    target.write_text(manifest.to_yaml(), encoding="utf-8")
    return target, ANGLES * heights * COUNTERS
