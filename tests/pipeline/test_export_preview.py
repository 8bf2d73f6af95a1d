"""What is made from a finished volume by tasks: the same as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.export import slices
from marspipe.pipeline.export.preview import export_preview
from marspipe.show.preview import write_preview
from marspipe.store.volume import open_volume
from tests.pipeline.scans import quiet
from tests.store.stored_volumes import write_volume


@pytest.mark.parametrize("shape", [(8, 10, 12), (1, 10, 12), (9, 1, 12), (200, 12, 10)])
def test_the_preview_drawn_from_pieces_is_that_of_the_volume(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(slices, "SLICES_PER_TASK", 3)
    uri = str(tmp_path / "volume")
    write_volume(uri, shape, slabs=1, bins=3)
    export_preview(spark, uri, str(tmp_path / "pieces.png"), progress=quiet())
    write_preview(open_volume(uri), tmp_path / "whole.png")
    assert (tmp_path / "pieces.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
