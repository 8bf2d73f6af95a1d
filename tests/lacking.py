"""What to do where the machine lacks what a test needs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest


def lacking(what: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where MARSPIPE_REQUIRE_<what>=1 says that the machine must have it.

    EXTRAS are the optional packages (astra, bench, cuda), GPU a CUDA device, PACS the DICOM validators, DCMTK, openssl
    and Orthanc with DICOMweb, HDFS and YARN the servers of conf/hdfs, POSTGRES a PostgreSQL server, SYSTEMD the tool
    that checks units, CASES the folder shared/cases beside the checkout.
    """
    variable = f"MARSPIPE_REQUIRE_{what}"
    if os.environ.get(variable) == "1":
        pytest.fail(f"{variable}=1, but {reason}")
    pytest.skip(reason)


def require_package(name: str, extra: str) -> None:
    """Skip, or fail with MARSPIPE_REQUIRE_EXTRAS=1, if an optional package cannot be imported."""
    if find_spec(name) is None:
        lacking("EXTRAS", f"{name} is not installed (extra {extra!r})")


def require_cases(name: str) -> Path:
    """Return a file or folder of shared/cases; skip, or fail with MARSPIPE_REQUIRE_CASES=1, if it is not there."""
    from tests.conftest import CASES  # which needs this module while it is imported

    if not (CASES / name).exists():
        lacking("CASES", f"{name} is not in {CASES}")
    return CASES / name
