"""One chain serves several threads at once: frames of different times and faults do not touch each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.pixel_statistics import PixelSums
from tests.preprocess.chain_scene import ONE

SIDE, FRAMES = 256, 48


def test_threads_share_a_chain(rng: np.random.Generator) -> None:
    groups = [PixelSums.of(rng.poisson(mean, (4, SIDE, SIDE))) for mean in (3000, 2000)]
    beams = tuple(OpenBeams((sums,), float(10 * k)) for k, sums in enumerate(groups))
    chain = Preprocessor(Calibration(beams, (PixelSums.empty((SIDE, SIDE)),), counter_bits=12), ONE)
    counts = rng.poisson(1000, (FRAMES, 1, SIDE, SIDE)).astype(np.uint16)
    for frame in range(0, FRAMES, 3):
        counts[frame, 0, frame : frame + 4, 7] = 4095  # full: these frames need a filler of their own

    def corrected(frame: int) -> np.ndarray:
        return chain(counts[frame], time=10 * frame / FRAMES)

    alone = [corrected(frame) for frame in range(FRAMES)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(corrected, range(FRAMES)))
    np.testing.assert_array_equal(together, alone)
