"""Decoding of raw frames, from bytes in memory to pixels: what a reader itself costs, without disk and Spark."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import BinaryIO, cast

import numpy as np

from marspipe.bench.measure import Result, best_of
from marspipe.readers import merlin
from marspipe.simulate.merlin_writer import write_merlin

SIDE_PX = 256


def bench_merlin(frames: int = 512, repeat: int = 5) -> list[Result]:
    """Measure the index and the pixels of Merlin files of every depth, raw ones too, on one thread."""
    results = []
    for depth, raw in ((6, False), (12, False), (24, False), (1, True), (12, True)):
        content = _file(frames, depth, raw)
        stored = f"R64 {depth} bit" if raw else f"U{8 if depth < 12 else 16 if depth == 12 else 32:02d}"

        def read(content: bytes = content) -> None:
            file = cast(BinaryIO, io.BytesIO(content))
            for _ in merlin.read_many(file, merlin.index(file, "bench.mib")):
                pass

        read()
        seconds, cpu = best_of(repeat, read)
        result = Result(
            f"Merlin {stored}, 1 thread",
            f"{frames} frames of {SIDE_PX}^2",
            seconds,
            cpu,
            {"mb_per_cpu_s": len(content) / 1e6 / cpu, "frames_per_cpu_s": frames / cpu},
        )
        if stored == "U16":
            result.bars["mb_per_cpu_s"] = ">= 500"
        results.append(result)
    return results


def _file(frames: int, depth: int, raw: bool) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(depth)
    write_merlin(
        file,
        (noise.integers(0, 2**depth, (SIDE_PX, SIDE_PX), dtype=np.uint32) for _ in range(frames)),
        counter_depth_bits=depth,
        counters_per_exposure=1,
        color_mode=False,
        thresholds_kev=(20.0,),
        exposure_s=0.1,
        start_time=datetime(2024, 1, 1, tzinfo=UTC),
        raw=raw,
    )
    return file.getvalue()
