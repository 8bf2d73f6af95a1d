from __future__ import annotations

import pytest

from tests.dicom.foreign.slices import DATA


@pytest.fixture
def small() -> bytes:
    return (DATA / "CT_small.dcm").read_bytes()
