"""Acquisitions of several files: the order of their numbers, and everything that does not fit."""

from __future__ import annotations

import io
import re
from datetime import timedelta
from itertools import permutations

import pytest

from marspipe.errors import RawFormatError, ScanError
from marspipe.readers import merlin
from marspipe.readers.merlin_files import MerlinSet, order_files, survey_files
from tests.readers.merlin_files import START, edited, mib


def part(first: int, exposures: int = 3, counters: int = 1, later_s: float = 0.0, depth: int = 12) -> bytes:
    """One file of a set whose records before ``first`` lie in other files."""
    start = START + timedelta(seconds=0.3 * (first - 1) / counters + later_s)
    return mib(exposures, counters, start_time=start, first_sequence=first, depth=depth)


def the_set(files: dict[str, bytes]) -> MerlinSet:
    return survey_files((name, io.BytesIO(content)) for name, content in files.items())


def faults_of(files: dict[str, bytes]) -> list[tuple[str, str]]:
    found = the_set(files)
    if found.faults:
        with pytest.raises(ScanError, match=re.escape(found.faults[0].message)):
            found.check()
    return [(fault.kind, fault.uri) for fault in found.faults]


def test_order_of_numbers_not_of_names() -> None:
    files = {f"scan{n + 1}.mib": part(1 + 3 * n) for n in range(11)}
    assert sorted(files) != list(files)
    found = the_set({name: files[name] for name in sorted(files)}).check()
    assert [file.uri for file in found.files] == list(files)
    assert found.exposures == 33


def test_order_of_the_arguments_does_not_matter() -> None:
    files = {"a": part(1), "b": part(4), "c": part(4), "d": part(9)}
    results = {
        tuple(fault.message for fault in the_set({name: files[name] for name in order}).faults)
        for order in permutations(files)
    }
    assert len(results) == 1


@pytest.mark.parametrize("counters", [1, 2, 8])
def test_counters_run_on_over_files(counters: int) -> None:
    files = {"b": part(1 + 3 * counters, counters=counters), "a": part(1, counters=counters)}
    assert [file.uri for file in the_set(files).check().files] == ["a", "b"]


def test_gaps() -> None:
    assert faults_of({"a": part(1), "b": part(5)}) == [("gap", "b")]
    assert the_set({"a": part(1), "b": part(5)}).faults[0].message == (
        "sequence numbers 4 are missing before it (a ends at 3)"
    )
    assert "4 to 6 are missing" in the_set({"a": part(1), "b": part(7)}).faults[0].message
    assert faults_of({"b": part(4)}) == [("gap", "b")]


def test_duplicates_and_restarts() -> None:
    assert faults_of({"a": part(1), "copy": part(1), "b": part(4)}) == [("duplicate", "copy")]
    assert faults_of({"a": part(1, exposures=6), "inside": part(4)}) == [("duplicate", "inside")]
    assert faults_of({"a": part(1), "again": part(1, later_s=60.0)}) == [("restart", "again")]
    # A later acquisition with more files than the first.
    files = {"a": part(1), "x": part(1, later_s=60.0), "y": part(4, later_s=60.0)}
    assert faults_of(files) == [("restart", "x")]


def test_files_of_another_kind_and_cut_files() -> None:
    assert faults_of({"a": part(1), "b": part(4, depth=24)}) == [("shape", "b")]
    assert faults_of({"a": part(1), "b": part(4, counters=2)}) == [("shape", "b")]
    assert faults_of({"a": part(1), "b": part(4)[:-1]}) == [("cut", "b")]
    assert faults_of({"a": part(1)[:-1], "b": part(4)}) == [("cut", "a"), ("gap", "b")]


def test_no_file_and_no_merlin_file() -> None:
    with pytest.raises(ScanError, match="at least one file"):
        order_files([])
    with pytest.raises(RawFormatError, match="b: record 0: not a Merlin record"):
        the_set({"a": part(1), "b": bytes(4096)})


def test_file_of_a_set_that_begins_with_the_second_counter() -> None:
    """Continuous read-write mode: the counters take turns over the ends of files."""
    first, second = part(1), part(4)
    for record in (1,):
        first = edited(first, {11: "1"}, record=record)
    for record in (0, 2):
        second = edited(second, {11: "1"}, record=record)
    the_set({"a": first, "b": second}).check()
    assert [e.counter for e in merlin.index(io.BytesIO(second), "b")] == [0, 0, 0]
