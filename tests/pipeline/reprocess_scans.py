"""Very small scans in a catalog of their own, for the tests of reprocessing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from marspipe.pipeline.reprocessing.queue import Queue, chosen, make_queue, recipe_named
from marspipe.pipeline.reprocessing.reprocess import Limits, reprocess
from marspipe.pipeline.reprocessing.summary import Summary
from marspipe.recipe import Recipe, parse_recipe
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store.catalog import Catalog, open_catalog

# Nothing but the volume.
LEAN = "output: {dicom: false, preview: false}\n"
# A name such as stands in descriptions and in names of folders.
PATIENT = "Zacharias Querkopf 1907"


def write_raw(folder: Path, scan_id: str, **changes: Any) -> Path:
    """Simulate a scan of 24 views of 16 x 16 pixels and two counters."""
    settings: dict[str, Any] = {
        "scan_id": scan_id,
        "views": 24,
        "detector_shape": (16, 16),
        "pixel_pitch_mm": (0.88, 0.88),
        "phantom": mars_phantom(1.0),
        "thresholds_kev": (20.0, 50.0),
        "noise": False,
        **changes,
    }
    simulate_scan(folder, settings=SimulationSettings(**settings))
    return folder


@dataclass
class Desk:
    """A catalog, and what the nightly job would be called with."""

    folder: Path
    recipe: str = LEAN

    @property
    def catalog_file(self) -> Path:
        return self.folder / "catalog.sqlite"

    @property
    def catalog(self) -> Catalog:
        return open_catalog(f"sqlite:///{self.catalog_file}")

    def recipe_of(self, uri: str | None) -> Recipe:
        def load(path: str | None) -> Recipe:
            return parse_recipe(self.recipe if path is None else Path(path).read_text(), path or "test")

        return recipe_named(self.catalog, uri, load)

    def queue(self, *scan_ids: str) -> Queue:
        catalog = self.catalog
        return make_queue(catalog, chosen(catalog, scan_ids), self.recipe_of)

    def reasons(self, scan_id: str = "one") -> list[str]:
        """Return the kinds of reasons to reprocess a scan; none if it is up to date."""
        queue = self.queue(scan_id)
        assert not queue.homeless
        return [reason.kind for due in queue.due for reason in due.reasons]

    def night(self, *scan_ids: str, dry_run: bool = False, **limits: Any) -> Summary:
        return reprocess(
            self.catalog,
            self.recipe_of,
            lock_uri=str(self.folder / "lock"),
            progress=Progress(Console(quiet=True)),
            scan_ids=scan_ids,
            limits=Limits(**limits),
            dry_run=dry_run,
        )

    def results(self, summary: Summary) -> list[tuple[str, str]]:
        return [(outcome.scan_id, outcome.result) for outcome in summary.outcomes]


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
