"""Files of real scanners: what lies in tests/data always, what may not be copied where it lies beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, cast

import h5py
import numpy as np
import pytest

from marspipe.errors import RawFormatError
from marspipe.readers import READERS, merlin, nxtomo, tiff
from marspipe.readers.merlin_sidecar import parse_sidecar
from tests.readers.merlin_files import REAL, needs_real
from tests.readers.test_nxtomo import IMAGING

DATA = Path(__file__).resolve().parents[1] / "data"
K11 = DATA / "k11" / "k11-18014.nxs"
SAVU = DATA / "savu"

# Name: frames, bits of the counter, type as delivered, type as stored.
MERLIN = {
    "001_4x2_6bit": (8, 6, "uint8", "U08"),
    "test": (1, 12, "uint16", "U16"),
    "test_multi": (9, 6, "uint8", "U08"),
    **{
        f"Single_{frames}_Frame_CounterDepth_{bits}_Rows_256": (frames, bits, dtype, stored)
        for frames in (1, 9)
        for bits, dtype, stored in (
            (1, "uint8", "U08"),
            (6, "uint8", "U08"),
            (12, "uint16", "U16"),
            (24, "uint32", "U32"),
        )
    },
    **{f"Single_{frames}_Frame_CounterDepth_1_Rows_256RAW": (frames, 1, "uint8", "R64") for frames in (1, 9)},
}


@needs_real
def test_no_merlin_file_is_left_out() -> None:
    assert {path.stem for path in REAL.glob("*.mib")} == set(MERLIN)


@needs_real
@pytest.mark.parametrize("name", sorted(MERLIN))
def test_merlin_single_chip(name: str) -> None:
    """Every file: R64 is decoded like the others, and no pixel exceeds its counter."""
    n, bits, dtype, stored = MERLIN[name]
    path = REAL / f"{name}.mib"
    with path.open("rb") as file:
        raw = cast(BinaryIO, file)
        found = merlin.survey(raw, str(path))
        entries = merlin.index(raw, str(path))
        frames = np.stack(list(READERS["merlin"].read_many(raw, entries)))
    assert (found.records, found.cut, found.header.pixel_type) == (n, None, stored)
    assert (frames.shape, frames.dtype.name) == ((n, 256, 256), dtype)
    assert {(e.counter, e.counter_depth_bits) for e in entries} == {(0, bits)}
    assert all(e.acquired_at is not None and (e.exposure_s or 0.0) > 0.0 for e in entries)
    assert 0 < frames.max() <= 2**bits - 1
    sidecar = path.with_suffix(".hdr")
    if sidecar.exists():
        assert parse_sidecar(sidecar.read_bytes(), str(sidecar)).counter_depth_bits == bits
    else:
        assert name.startswith("test")


def test_k11_through_its_links() -> None:
    uri = str(K11)
    with K11.open("rb") as file:
        raw = cast(BinaryIO, file)
        index = {
            kind: nxtomo.index(raw, uri, dataset=IMAGING, frame_type=kind)
            for kind in ("projection", "open_beam", "dark")
        }
        means = {kind: np.mean(list(nxtomo.read_many(raw, entries[:100]))) for kind, entries in index.items()}
        last = nxtomo.read(raw, index["projection"][-1])
        angles, _ = nxtomo.read_angles(raw, uri, "/entry/imaging/gts_theta_value", IMAGING)
        with pytest.raises(RawFormatError, match=r"links to 'k11-18014/k11-18014-EtherCAT.h5', but there is no file"):
            nxtomo.count(raw, uri, dataset="/entry/instrument/EtherCAT")
    assert [len(entries) for entries in index.values()] == [3001, 100, 100]
    assert means["dark"] < means["projection"] < means["open_beam"]
    np.testing.assert_allclose(angles, np.linspace(90.0, 270.0, 3001)[: angles.size], atol=0.1)
    with h5py.File(K11.parent / "k11-18014" / "k11-18014-imaging.h5") as h5:
        assert np.array_equal(last, h5["entry/detector/detector"][index["projection"][-1].offset])


def test_savu_scan() -> None:
    """The last view is the first one mirrored, about an axis 6.36 px beside the middle of the detector."""
    stacks = {}
    for name in ("projections", "flat", "dark"):
        with (SAVU / f"{name}.tif").open("rb") as file:
            raw = cast(BinaryIO, file)
            stacks[name] = np.stack(list(tiff.read_many(raw, tiff.index(raw, f"{name}.tif"))))
    angles = np.loadtxt(SAVU / "angles.txt")
    views = stacks["projections"]
    assert (views.shape, views.dtype.name, stacks["flat"].dtype.name) == ((91, 8, 160), "uint16", "float32")
    assert (angles.size, *angles[[10, 100]]) == pytest.approx((111, -88.2, 91.8), abs=1e-3)
    flat, dark = stacks["flat"][0].astype(float), stacks["dark"][0].astype(float)
    first, last = ((views[k] - dark) / (flat - dark) for k in (0, 90))
    columns = np.arange(20, 150)
    for axis, least, most in ((85.86, 0.98, 1.0), (79.5, -1.0, 0.9)):
        mirrored = np.stack([np.interp(2 * axis - columns, np.arange(160), row) for row in last])
        assert least < np.corrcoef(first[:, columns].ravel(), mirrored.ravel())[0, 1] < most
