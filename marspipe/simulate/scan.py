"""Write a simulated scan: raw files, manifest, truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marspipe.errors import InputError, OutputExistsError
from marspipe.readers.manifest import FILE_NAME, ScanManifest
from marspipe.scan.spectra import material_label
from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.data_exchange import write_data_exchange
from marspipe.simulate.dicom_frames import write_dicom
from marspipe.simulate.merlin_scan import write_merlin_scan
from marspipe.simulate.nxtomo import write_nxtomo
from marspipe.simulate.parts import exposures_of
from marspipe.simulate.settings import Format, SimulationSettings
from marspipe.simulate.tiff import write_tiff
from marspipe.simulate.truth import truth
from marspipe.simulate.truth_files import write_truth_files

Progress = Callable[[int, int], None]
# Writes what is taken at one camera position, and returns its files for the manifest.
Writer = Callable[[Path, Acquisition, Callable[[], None]], list[dict[str, Any]]]

WRITERS: dict[Format, Writer] = {
    "merlin": write_merlin_scan,
    "data_exchange": write_data_exchange,
    "nxtomo": write_nxtomo,
    "tiff": write_tiff,
    "dicom": write_dicom,
}


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
        Where; made if missing. Receives the raw files, ``scan.yaml`` and ``truth/truth.json``; with defects, further
        files of truth, see :mod:`marspipe.simulate.truth_files`.
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
        report = _Report(exposures_of(settings), progress)
        files = []
        for tile in range(len(settings.camera_positions_mm)):
            for file in WRITERS[settings.format](directory, acquisition.at(tile), report):
                files.append({**file, "tile": tile})
        (directory / "truth").mkdir(exist_ok=True)
        write_truth_files(directory / "truth", acquisition)
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


def _manifest(settings: SimulationSettings, files: list[dict[str, Any]]) -> ScanManifest:
    geometry = settings.geometry().to_dict()
    for of_views in ("angles_rad", "source_z_mm"):
        geometry.pop(of_views, None)
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
            "camera_positions_mm": settings.camera_positions_mm,
            "files": files,
        }
    )
