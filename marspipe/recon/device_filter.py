"""Weights and ramp filter on a CUDA device: own kernels around the transforms of CuPy or torch, if one is there."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Protocol

import numpy as np
import scipy.fft
from numba import float32

from marspipe.recon.backprojection.cuda import LANES, TURN_LINES, _u32, _u64, cuda, jit_kernel
from marspipe.recon.backprojection.device_memory import device_empty, launch
from marspipe.recon.filtering import ViewFilter, ramp_response
from marspipe.recon.ray_weights import leveled, pixels_per_mm, ray_weights

THREADS = 256


class Transforms(Protocol):
    """Fourier transforms of a library, on a stream of that library's."""

    name: str
    stream: Any

    def filter_rows(self, rows: Any, response: Any) -> Any:
        """Return rows (device array [n, size]) times a response (device array) in the frequency domain, [n, size]."""

    def close(self) -> None:
        """Give the library's idle memory back to the device."""


class CupyTransforms:
    """cuFFT through CuPy."""

    name = "CuPy"

    def __init__(self, device: int) -> None:
        self._cupy: Any = importlib.import_module("cupy")
        self._device = self._cupy.cuda.Device(device)
        with self._device:
            self._own_stream = self._cupy.cuda.Stream(non_blocking=True)
        self.stream = cuda.external_stream(self._own_stream.ptr)

    def filter_rows(self, rows: Any, response: Any) -> Any:
        """As :meth:`Transforms.filter_rows`."""
        with self._device, self._own_stream:
            spectrum = self._cupy.fft.rfft(self._cupy.asarray(rows), axis=1)
            spectrum *= self._cupy.asarray(response)
            return cuda.as_cuda_array(self._cupy.fft.irfft(spectrum, n=rows.shape[1], axis=1), sync=False)

    def close(self) -> None:
        """As :meth:`Transforms.close`."""
        with self._device:
            self._cupy.fft.config.get_plan_cache().clear()
            self._cupy.get_default_memory_pool().free_all_blocks()


class TorchTransforms:
    """cuFFT through torch."""

    name = "torch"

    def __init__(self, device: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._device = self._torch.device("cuda", device)
        self._own_stream = self._torch.cuda.Stream(self._device)
        self.stream = cuda.external_stream(self._own_stream.cuda_stream)

    def filter_rows(self, rows: Any, response: Any) -> Any:
        """As :meth:`Transforms.filter_rows`."""
        with self._torch.cuda.stream(self._own_stream), self._torch.no_grad():
            spectrum = self._torch.fft.rfft(self._torch.as_tensor(rows, device=self._device), dim=1)
            spectrum.mul_(self._torch.as_tensor(response, device=self._device))
            return cuda.as_cuda_array(self._torch.fft.irfft(spectrum, n=rows.shape[1], dim=1), sync=False)

    def close(self) -> None:
        """As :meth:`Transforms.close`."""
        self._torch.cuda.empty_cache()


def find_transforms(device: int) -> Transforms | None:
    """Return the first library whose transforms work on the device, or None."""
    for library in (CupyTransforms, TorchTransforms):
        try:
            with cuda.gpus[device]:
                transforms: Transforms = library(device)
                rows = cuda.to_device(np.ones((2, 8), np.float32), stream=transforms.stream)
                response = cuda.to_device(np.ones(5, np.float32), stream=transforms.stream)
                found = transforms.filter_rows(rows, response)
                transforms.stream.synchronize()
                if np.allclose(found.copy_to_host(), 1.0):
                    return transforms
        except Exception:  # not installed, built for another CUDA, or without its cuFFT: the host's filter serves
            continue
    return None


def filters_on_device(view_filter: ViewFilter) -> bool:
    """Return whether :class:`DeviceFilter` can stand for a filter: nothing extrapolated, circular orbits."""
    geometry = view_filter.geometry
    return view_filter.truncation == "none" and geometry.orbit is not None and leveled(geometry)[1] is None


class DeviceFilter:
    """A :class:`~marspipe.recon.filtering.ViewFilter` for a band of rows, on the device.

    Parameters
    ----------
    view_filter : ViewFilter
        One for which :func:`filters_on_device` holds.
    transforms : Transforms
        Whose stream everything runs on.
    rows : (int, int)
        Detector rows ``[first, stop)``.
    most_views : int
        Most views of a call.
    """

    def __init__(self, view_filter: ViewFilter, transforms: Transforms, rows: tuple[int, int], most_views: int) -> None:
        geometry, redundancy = view_filter.geometry, view_filter.redundancy
        self._transforms = transforms
        self._n_rows, self._n_cols = rows[1] - rows[0], geometry.detector_shape[1]
        self._pad = redundancy.pad_columns[0]
        self._columns = view_filter.filtered_geometry.detector_shape[1]
        self._size = transform_size(view_filter)
        response = ramp_response(self._size, view_filter.window, view_filter.cutoff)
        scale = redundancy.view_weights_rad * pixels_per_mm(geometry)
        columns = [scale[view] * redundancy.columns(view) for view in range(len(geometry))]
        rays = np.ascontiguousarray(ray_weights(geometry, 0)[rows[0] : rows[1]])
        # On the stream that reads them: it need not wait for the default stream.
        stream = transforms.stream
        self._rays = cuda.to_device(rays, stream=stream)
        self._columns_weights = cuda.to_device(np.asarray(columns, np.float32), stream=stream)
        self._response = cuda.to_device(response.astype(np.float32), stream=stream)
        self._padded = device_empty(
            (most_views * self._n_rows, self._size), np.float32, f"the filter of {most_views} views"
        )

    def add_to(self, filtered: Any, at: int, pitch: int, raw: Any, first_view: int, n_views: int) -> None:
        """Filter views and leave them as ``[view, u, v]`` in a device array.

        Parameters
        ----------
        filtered : device array, float32, flat
            Where to write, ``pitch`` floats from column to column.
        at : int
            Number of the first of the views in ``filtered``.
        pitch : int
            Room of a column, at least the band's rows.
        raw : device array, float32, flat
            Line integrals of the band, ``[view, v, u]``.
        first_view, n_views : int
            Which views of the scan these are.
        """
        n_lines = n_views * self._n_rows
        stream = self._transforms.stream
        padded = self._padded[:n_lines]
        sizes = map(np.int32, (first_view, self._n_rows, self._n_cols, self._pad, self._size))
        launch(
            weighing_kernel(),
            (n_lines, -(-self._size // THREADS)),
            (THREADS,),
            stream,
            raw,
            self._rays,
            self._columns_weights,
            padded,
            *sizes,
        )
        rows = self._transforms.filter_rows(padded, self._response)
        blocks = (-(-self._columns // LANES), -(-self._n_rows // LANES), n_views)
        sizes = map(np.int32, (at, self._n_rows, self._columns, pitch))
        launch(column_kernel(), blocks, (LANES, TURN_LINES), stream, rows, filtered, *sizes)


def transform_size(view_filter: ViewFilter) -> int:
    """Return the length of the transforms: twice the columns, so that the circular convolution is the linear one."""
    return int(scipy.fft.next_fast_len(2 * view_filter.filtered_geometry.detector_shape[1], real=True))


def bytes_per_view(view_filter: ViewFilter, n_rows: int) -> int:
    """Return the device memory that filtering a view takes on its way: rows padded, spectrum, rows, work space."""
    return 4 * 4 * n_rows * (transform_size(view_filter) + 2)


@cache
def weighing_kernel() -> Any:
    """Return the kernel that weighs line integrals and pads their rows with zeros."""

    @jit_kernel(THREADS, 4)
    def kernel(raw, rays, columns, padded, first_view, n_rows, n_cols, pad, size):  # type: ignore[no-untyped-def]
        at = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        line = cuda.blockIdx.x
        if at >= size:
            return
        view, row, column = line // n_rows, line % n_rows, at - pad
        value = np.float32(0)
        if column >= 0 and column < n_cols:
            value = raw[_u64(line) * _u64(n_cols) + _u64(column)] * rays[row, column]
            value = value * columns[first_view + view, column]
        padded[_u32(line), _u32(at)] = value

    return kernel


@cache
def column_kernel() -> Any:
    """Return the kernel that turns filtered rows ``[view, v, u]`` into ``[view, u, v]``, through shared memory."""
    tile_shape = (LANES, LANES + 1)

    @jit_kernel(LANES * TURN_LINES, 4)
    def kernel(rows, filtered, first, n_rows, n_cols, pitch):  # type: ignore[no-untyped-def]
        tile = cuda.shared.array(tile_shape, float32)
        lane, line = cuda.threadIdx.x, cuda.threadIdx.y
        u_first, v_first, view = cuda.blockIdx.x * LANES, cuda.blockIdx.y * LANES, cuda.blockIdx.z
        for i in range(line, LANES, TURN_LINES):
            u, v = u_first + lane, v_first + i
            if u < n_cols and v < n_rows:
                tile[i, lane] = rows[_u32(view * n_rows + v), _u32(u)]
        cuda.syncthreads()
        for i in range(line, LANES, TURN_LINES):
            u, v = u_first + i, v_first + lane
            if u < n_cols and v < n_rows:
                filtered[_u64((first + view) * n_cols + u) * _u64(pitch) + _u64(v)] = tile[lane, i]

    return kernel
