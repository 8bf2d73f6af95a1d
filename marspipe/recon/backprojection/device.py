"""Whether this process can compute on a CUDA device; cheap where it cannot, and never an error to ask."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache

from marspipe.errors import EnvironmentMissingError

_INSTALL = "pip install 'marspipe[cuda]'"


def cuda_available() -> bool:
    """Return whether numba-cuda, an NVIDIA driver and a CUDA device are there."""
    return missing_for_cuda() is None


def require_cuda() -> None:
    """Raise EnvironmentMissingError, with one sentence that says what is missing, unless a device can be used."""
    missing = missing_for_cuda()
    if missing is not None:
        raise EnvironmentMissingError(f"backend 'cuda' is not possible here: {missing}")


@lru_cache(maxsize=1)
def missing_for_cuda() -> str | None:
    """Return what is missing for computing on a CUDA device, or None; asked once per process."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is missing ({_INSTALL})"
    try:
        cuda = importlib.import_module("numba.cuda")
        if cuda.is_available():
            return None if len(cuda.gpus) else "there is no CUDA device"
        error = cuda.cuda_error()
    except Exception as problem:  # a broken driver or package must not break those who only ask
        return f"numba-cuda does not work ({type(problem).__name__}: {' '.join(str(problem).split())[:200]})"
    if error is None:
        return f"the CUDA compiler libraries of numba-cuda are missing ({_INSTALL})"
    return f"no NVIDIA driver with a CUDA device was found ({' '.join(str(error).split())[:200]})"
