from __future__ import annotations

import io
import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marspipe.log import configure_json_log, log_event, remove_json_log


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_an_object_with_its_time_and_ids() -> None:
    stream = io.StringIO()
    handler = configure_json_log(stream)
    log_event("scan_finished", scan_id="höhe 7", run_id="ab", seconds=1.5, slabs=3, share=float("nan"), kinds=("a",))
    log_event("night_ended", level=logging.ERROR)
    remove_json_log(handler)
    log_event("unheard")
    first, second = lines(stream.getvalue())
    assert list(first) == ["time", "level", "event", "scan_id", "run_id", "seconds", "slabs", "share", "kinds"]
    assert datetime.fromisoformat(first.pop("time")).utcoffset() == timedelta(0)
    assert first == {
        "level": "info", "event": "scan_finished", "scan_id": "höhe 7", "run_id": "ab", "seconds": 1.5, "slabs": 3,
        "share": None, "kinds": ["a"],
    }  # fmt: skip
    assert (second["level"], second["scan_id"], second["run_id"]) == ("error", None, None)


def test_free_text_stays_out() -> None:
    stream = io.StringIO()
    handler = configure_json_log(stream)
    logging.getLogger("marspipe").error("/raw/DOE^JANE is damaged")
    logging.getLogger("marspipe.anything").error("/raw/DOE^JANE is damaged")
    remove_json_log(handler)
    assert stream.getvalue() == ""


def test_a_field_that_is_not_plain_or_takes_another_name_is_an_error() -> None:
    with pytest.raises(TypeError, match="plain"):
        log_event("event", where=Path("x"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time"):
        log_event("event", time="now")


def test_a_file_is_added_to_and_may_be_rotated(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "marspipe.jsonl"
    for number in range(2):
        handler = configure_json_log(path)
        log_event("event", number=number)
        if number == 1:
            path.rename(tmp_path / "logs" / "old.jsonl")
            log_event("event", number=2)
        remove_json_log(handler)
    assert [line["number"] for line in lines((tmp_path / "logs" / "old.jsonl").read_text())] == [0, 1]
    assert [line["number"] for line in lines(path.read_text())] == [2]


def test_without_a_log_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    log_event("event", level=logging.ERROR)
    assert capfd.readouterr() == ("", "")
