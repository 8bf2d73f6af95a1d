"""Write a simulated scan: raw files, manifest, truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError, OutputExistsError
from marspipe.readers.manifest import FILE_NAME, ScanManifest
from marspipe.scan.spectra import material_label
from marspipe.simulate.acquisition import Acquisition, Stream
from marspipe.simulate.data_exchange import write_data_exchange
from marspipe.simulate.merlin_writer import write_merlin, write_merlin_header_file
from marspipe.simulate.settings import SimulationSettings
from marspipe.simulate.truth import truth

Progress = Callable[[int, int], None]

DATA_EXCHANGE_FILE = "scan.h5"
# Raw Merlin files in the order of their acquisition: name, frames, frame type, when.
MERLIN_FILES = (
    ("dark.mib", Stream.DARK, "dark", "before"),
    ("open_beam_before.mib", Stream.OPEN_BEAM_BEFORE, "open_beam", "before"),
    ("projections.mib", Stream.PROJECTION, "projection", None),
    ("open_beam_after.mib", Stream.OPEN_BEAM_AFTER, "open_beam", "after"),
)
_PAUSE_S = 10.0  # between one file and the next: the sample moves in or out


def simulate_scan(
    directory: Path | str,
    *,
    settings: SimulationSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate a scan and write it in a real raw format.

    Frames are written one by one; memory does not grow with the scan. The manifest comes last: a folder without it
    holds no scan.

    Parameters
    ----------
    directory : Path or str
        Where; made if missing. Receives the raw files, ``scan.yaml`` and ``truth/truth.json``.
    settings : SimulationSettings, optional
        The scan; by default 180 views of a single Medipix3 chip in color mode, four bins.
    overwrite : bool
        Replace a scan that is already there.
    progress : callable, optional
        Called with (frames done, frames in all) after every exposure.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    OutputExistsError
        If the folder already holds a scan and ``overwrite`` is off.
    InputError
        If the folder cannot be written.
    """
    settings = SimulationSettings() if settings is None else settings
    directory = Path(directory)
    manifest = directory / FILE_NAME
    acquisition = Acquisition(settings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if manifest.exists():
            if not overwrite:
                raise OutputExistsError(f"{manifest} is already there; remove the scan or ask to overwrite it")
            manifest.unlink()
        report = _Report(_frame_count(settings), progress)
        write = _write_data_exchange if settings.format == "data_exchange" else _write_merlin
        files = write(directory, acquisition, report)
        (directory / "truth").mkdir(exist_ok=True)
        text = json.dumps(truth(acquisition), indent=1, ensure_ascii=False)
        (directory / "truth" / "truth.json").write_text(text + "\n", encoding="utf-8")
        manifest.write_text(_manifest(settings, files).to_yaml(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the simulated scan to {directory}: {error}") from error
    return manifest


class _Report:
    """Counts exposures for the caller's progress display."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = total, 0, progress

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _frame_count(settings: SimulationSettings) -> int:
    return settings.darks + 2 * settings.open_beams + settings.views


def _count_of(stream: Stream, settings: SimulationSettings) -> int:
    if stream is Stream.PROJECTION:
        return settings.views
    return settings.darks if stream is Stream.DARK else settings.open_beams


def _write_merlin(directory: Path, acquisition: Acquisition, report: _Report) -> list[dict[str, Any]]:
    settings = acquisition.settings
    thresholds = [counter.threshold_kev for counter in settings.counters]
    start = settings.start_time
    files = []
    for name, stream, frame_type, time in MERLIN_FILES:
        count = _count_of(stream, settings)
        camera: dict[str, Any] = {
            "counter_depth_bits": settings.counter_depth_bits,
            "counters_per_exposure": len(thresholds),
            "color_mode": len(thresholds) > 2,  # fine-pitch pixels have two counters
            "thresholds_kev": thresholds,
            "exposure_s": acquisition.exposure_s,
            "start_time": start,
        }
        with (directory / name).open("wb") as file:
            write_merlin(file, _images(acquisition, stream, count, report), **camera)
        with (directory / name).with_suffix(".hdr").open("wb") as file:
            write_merlin_header_file(file, frames=count, charge_summing=True, **camera)
        start += timedelta(seconds=count * acquisition.exposure_s + _PAUSE_S)
        entry = {"path": name, "reader": "merlin", "frame_type": frame_type, "exposure_s": acquisition.exposure_s}
        if time is not None:
            entry["time"] = time
        else:
            entry["angles_rad"] = {"start": 0.0, "step": settings.angle_step_rad, "count": settings.views}
        files.append(entry)
    return files


def _images(
    acquisition: Acquisition, stream: Stream, count: int, report: _Report
) -> Iterator[NDArray[np.unsignedinteger]]:
    dtype = np.uint16 if acquisition.settings.counter_depth_bits <= 16 else np.uint32
    for counters in acquisition.frames(stream, count):
        yield from counters.astype(dtype, copy=False)
        report()


def _write_data_exchange(directory: Path, acquisition: Acquisition, report: _Report) -> list[dict[str, Any]]:
    write_data_exchange(directory / DATA_EXCHANGE_FILE, acquisition, report)
    common = {"path": DATA_EXCHANGE_FILE, "reader": "data_exchange", "exposure_s": acquisition.exposure_s}
    angles = {"dataset": "/exchange/theta", "unit": "deg"}
    return [
        {**common, "frame_type": "projection", "angles_rad": angles},
        {**common, "frame_type": "open_beam"},
        {**common, "frame_type": "dark"},
    ]


def _manifest(settings: SimulationSettings, files: list[dict[str, Any]]) -> ScanManifest:
    geometry = settings.geometry().to_dict()
    del geometry["angles_rad"]
    names = ", ".join(insert.label for insert in settings.phantom.inserts)
    body = material_label(settings.phantom.body_material)
    return ScanManifest.model_validate(
        {
            "marspipe_scan": 1,
            "scan_id": settings.scan_id,
            "description": f"Simulated: {body} cylinder with rods of {names}; the truth is in truth/truth.json.",
            "geometry": geometry,
            "tube": {
                "voltage_kvp": settings.voltage_kvp,
                "current_ua": settings.current_ua,
                "filters": dict(settings.filters_mm),
            },
            "counters": [
                {"counter": c.index, "mode": c.mode, "threshold_kev": c.threshold_kev} for c in settings.counters
            ],
            "files": files,
        }
    )
