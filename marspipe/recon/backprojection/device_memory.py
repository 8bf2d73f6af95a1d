"""Memory and streams of a CUDA device: pinned buffers in turn, allocations that say what they lack."""

from __future__ import annotations

import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba.core.errors import NumbaPerformanceWarning
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection.cuda import cuda

_COPY_THREADS = 4  # one core copies to pinned memory more slowly than the bus takes it away

_configuring = threading.Lock()


def launch(kernel: Any, blocks: tuple[int, ...], threads: tuple[int, ...], stream: Any, *arguments: Any) -> None:
    """Launch a kernel; small grids are no reason for numba to warn."""
    with _configuring, warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        configured = kernel[blocks, threads, stream]
    configured(*arguments)


class StagingBuffers:
    """Two pairs of a pinned host buffer and a device buffer, used in turn, and the stream of their copies.

    Parameters
    ----------
    compute : numba stream
        Where the kernels run that read or write the device buffers.
    """

    def __init__(self, compute: Any) -> None:
        self.compute, self.copies = compute, cuda.stream()
        self._size = 0
        self._turn = 0
        self._pinned: list[NDArray[np.float32]] = []
        self._device: list[Any] = []
        self._copied = [cuda.event(), cuda.event()]
        self._used = [cuda.event(), cuda.event()]

    @property
    def nbytes(self) -> int:
        """Size of one buffer."""
        return 4 * self._size

    def reserve(self, size: int) -> None:
        """Make room for ``size`` float32 in each buffer."""
        if size <= self._size:
            return
        self.compute.synchronize()
        self.copies.synchronize()
        self._size, self._pinned, self._device = 0, [], []
        free_deferred()
        self._pinned = [cuda.pinned_array(size, np.float32) for _ in range(2)]
        self._device = [device_empty(size, np.float32, "a batch of views beside the volume") for _ in range(2)]
        self._size = size

    def next(self, shape: tuple[int, ...]) -> tuple[int, NDArray[np.float32], Any]:
        """Return the number of the next pair, its pinned array, free to be written, and its device array."""
        turn = self._turn
        self._turn = 1 - turn
        size = math.prod(shape)
        self._copied[turn].synchronize()
        return turn, self._pinned[turn][:size].reshape(shape), self._device[turn][:size]

    def upload(self, turn: int, pinned: NDArray[np.float32], device: Any) -> None:
        """Copy to the device once its last user there is done; kernels launched later wait for the copy."""
        self._used[turn].wait(self.copies)
        device.copy_to_device(pinned.reshape(-1), stream=self.copies)
        self._copied[turn].record(self.copies)
        self._copied[turn].wait(self.compute)

    def used(self, turn: int) -> None:
        """Note that the kernels launched so far are the last users of the device array."""
        self._used[turn].record(self.compute)

    def download(self, turn: int, pinned: NDArray[np.float32], device: Any) -> None:
        """Copy from the device what the kernels launched so far wrote; :meth:`wait` before reading it."""
        self._used[turn].record(self.compute)
        self._used[turn].wait(self.copies)
        device.copy_to_host(pinned.reshape(-1), stream=self.copies)
        self._copied[turn].record(self.copies)
        # The next kernel that writes this buffer must not overtake the copy.
        self._copied[turn].wait(self.compute)

    def wait(self, turn: int) -> None:
        """Wait until the last copy of a pair is done."""
        self._copied[turn].synchronize()


def free_deferred() -> None:
    """Give back device memory that numba holds on to after its last user is gone."""
    pending = getattr(cuda.current_context(), "deallocations", None)
    if pending is not None:
        pending.clear()


def free_bytes() -> int:
    """Return the free memory of the current device."""
    return cuda.current_context().get_memory_info().free  # type: ignore[no-any-return]


def device_empty(shape: Any, dtype: Any, what: str) -> Any:
    """Return a device array, not filled; InputError with figures if the device lacks the memory."""
    need = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    if need > free_bytes():
        free_deferred()
    free = free_bytes()
    if need <= free:
        try:
            return cuda.device_array(shape, dtype)
        except Exception as error:
            if "MEMORY" not in str(error).upper():
                raise
    raise InputError(f"{what} takes {need / 2**30:.3g} GiB, but the CUDA device has {free / 2**30:.3g} GiB free")


def copy_in_threads(target: NDArray[np.float32], source: NDArray[np.float32]) -> None:
    """Copy ``source`` to ``target``, large arrays in several threads."""
    if target.nbytes < 1 << 24:
        np.copyto(target, source)
        return
    cuts = np.linspace(0, len(target), min(len(target), _COPY_THREADS) + 1).astype(int).tolist()
    with ThreadPoolExecutor(_COPY_THREADS) as pool:
        list(pool.map(lambda a, b: np.copyto(target[a:b], source[a:b]), cuts[:-1], cuts[1:]))
