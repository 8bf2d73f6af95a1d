"""Images of several chips: which layouts are read, and where their chips begin and end."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from marspipe.readers import merlin
from marspipe.readers.merlin_header import MerlinHeader, parse_header
from tests.readers.merlin_files import edited, frames, mib, same


def header_of(**kind: Any) -> MerlinHeader:
    return parse_header(mib(exposures=1, **kind)[:4096], "x.mib")


@pytest.mark.parametrize(
    ("layout", "shape", "rows", "columns"),
    [
        ("1x1", (64, 256), [(0, 64)], [(0, 256)]),
        ("2x2", (512, 512), [(0, 256), (256, 512)], [(0, 256), (256, 512)]),
        ("2x2G", (514, 514), [(0, 256), (258, 514)], [(0, 256), (258, 514)]),
        ("2x2G", (515, 515), [(0, 256), (259, 515)], [(0, 256), (259, 515)]),
        ("2x2G", (130, 514), [(0, 64), (66, 130)], [(0, 256), (258, 514)]),
        ("2x2G", (512, 512), [(0, 256), (256, 512)], [(0, 256), (256, 512)]),
        ("4x1", (128, 1024), [(0, 128)], [(0, 256), (256, 512), (512, 768), (768, 1024)]),
        ("3x1G", (256, 774), [(0, 256)], [(0, 256), (259, 515), (518, 774)]),
    ],
)
def test_chip_edges(
    layout: str, shape: tuple[int, int], rows: list[tuple[int, int]], columns: list[tuple[int, int]]
) -> None:
    edges = merlin.chip_edges(header_of(layout=layout, shape=shape))
    assert (list(edges.row_spans), list(edges.column_spans), edges.shape) == (rows, columns, shape)
    gap, seam, rim = edges.gap_mask(), edges.edge_mask(2), edges.edge_mask(outer=True)
    covered = np.zeros(shape, bool)
    near, outline = np.zeros(shape, bool), np.zeros(shape, bool)
    for a, b in rows:
        for c, d in columns:
            covered[a:b, c:d] = True
            outline[[a, b - 1], c:d] = True
            outline[a:b, [c, d - 1]] = True
            if a > 0:
                near[a : a + 2, c:d] = True
            if b < shape[0]:
                near[b - 2 : b, c:d] = True
            if c > 0:
                near[a:b, c : c + 2] = True
            if d < shape[1]:
                near[a:b, d - 2 : d] = True
    assert np.array_equal(gap, ~covered)
    assert np.array_equal(seam, near)
    assert np.array_equal(rim, outline)
    assert not edges.edge_mask(0).any()


def test_the_letter_n_means_as_many_chips_as_counted() -> None:
    content = mib(exposures=1, layout="4x1", shape=(2, 1024))
    lettered = content.replace(b"   4x1", b"   Nx1")
    assert parse_header(lettered, "x").assembly == parse_header(content, "x").assembly


def test_four_chips_as_one_image() -> None:
    """What is stored unpacked comes out as stored, gaps included; row 0 stays row 0."""
    content = mib(exposures=2, layout="2x2G", shape=(514, 514))
    file = io.BytesIO(content)
    entries = merlin.index(file, "x.mib")
    assert [e.offset for e in entries] == [768, 2 * 768 + 514 * 514 * 2]
    for entry, expected in zip(entries, frames(2, (514, 514), 12), strict=True):
        image = merlin.read(file, entry)
        assert same(image, expected)
        assert image[0, 1] == int.from_bytes(content[entry.offset + 2 : entry.offset + 4], "big")


def test_color_mode_has_chips_of_half_the_side() -> None:
    header = header_of(layout="2x2", shape=(256, 256), counters=8)
    assert (header.assembly.chip_cols, header.assembly.chip_rows, header.color_mode) == (128, 128, True)


def test_one_chip_of_a_read_out_for_four() -> None:
    """Software 0.65 in color mode: the layout says 2x2, but one chip is counted."""
    content = edited(mib(exposures=1, counters=4, shape=(128, 128)), {7: "   2x2"}, length=384 + 32768)
    header = parse_header(content, "x.mib")
    assert (header.rows, header.cols, header.assembly.chips) == (128, 128, 1)
