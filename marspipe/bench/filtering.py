"""Weights and ramp filter beside the bare transforms of the same lengths."""

from __future__ import annotations

import scipy.fft

from marspipe.bench.measure import Result, best_of_each
from marspipe.bench.scans import cone_scan, noise
from marspipe.recon.filtering import ViewFilter


def bench_filter(detector: int, views: int = 24, repeat: int = 5) -> list[Result]:
    """Measure weights and ramp filter on one thread, in turns with the transforms alone."""
    geometry, _ = cone_scan(views, detector, detector)
    ramp = ViewFilter(geometry)
    frames = noise((views, detector, detector))
    length = scipy.fft.next_fast_len(2 * detector, real=True)

    def filtered() -> None:
        for view, frame in enumerate(frames):
            ramp.filter(frame, view)

    def bare() -> None:
        for frame in frames:
            scipy.fft.irfft(scipy.fft.rfft(frame, n=length, axis=1, workers=1), n=length, axis=1, workers=1)

    filtered()
    bare()
    times = best_of_each(repeat, [filtered, bare])
    size = f"{views} views of {detector}^2"
    results = [
        # in and out: 8 bytes per pixel
        Result(
            name,
            size,
            seconds,
            cpu,
            {"mpixel_per_s": frames.size / 1e6 / seconds, "gb_per_s": frames.size * 8e-9 / seconds},
        )
        for name, (seconds, cpu) in zip(
            ("weights and ramp filter, 1 thread", "its bare transforms, 1 thread"), times, strict=True
        )
    ]
    # By processor time: both use one thread, and other programs do not count.
    results[0].figures["times_bare"] = times[0][1] / times[1][1]
    results[0].bars["times_bare"] = "<= 1.3"
    return results
