"""Rings in the sinogram: the published methods that algotom keeps, behind one registry with typed settings.

A sinogram is ``[view, u]``: one detector row in all views. Every method is an immutable object of its settings that
turns a sinogram into a corrected one; it knows nothing of other rows, so that the cut into bands changes no bit.

Windows that are not given follow the detector's width. The published values, 51 px for wide stripes and 21 px for the
others, are meant for detectors of a thousand columns and more; on a narrow one they would reach over the object.

Sources: Vo, Atwood, Drakopoulos, Opt. Express 26, 28396-28412, 2018 (doi:10.1364/OE.26.028396), whose numbers of
algorithms are meant below; Münch, Trtik, Marone, Stampanoni, Opt. Express 17, 8567-8591, 2009
(doi:10.1364/OE.17.008567); Boin, Haibel, Opt. Express 14, 12071-12075, 2006 (doi:10.1364/OE.14.012071).
"""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError, ScanError

Float = NDArray[np.floating[Any]]
SMALLEST_SINOGRAM = 16
# Windows as a part of the width, with their bounds in pixels.
_WIDE, _NARROW, _SIGMA = (1 / 16, 9, 51), (1 / 48, 5, 21), (1 / 100, 2, 15)


@dataclass(frozen=True)
class SinogramMethod(ABC):
    """A method and its settings; windows are in pixels, and None follows the width of the sinogram.

    Raises
    ------
    InputError
        If a setting is not of its type or range, naming it.
    """

    least: ClassVar[Mapping[str, float]] = MappingProxyType({})  # smallest value of each numeric setting
    most: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            kind: Any = kinds[field.name]
            what = f"{type(self).__name__}.{field.name}"
            if value is None and kind == int | None:
                continue
            if kind == int | None:
                kind = int
            if kind is bool:
                valid, expected = isinstance(value, bool), "true or false"
            elif kind in (int, float):
                low, high = self.least[field.name], self.most.get(field.name, float("inf"))
                numeric = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
                valid = numeric and low <= value <= high and value < float("inf")
                expected = f"{'an integer' if kind is int else 'a number'} from {low:g} on"
                expected += f" to {high:g}" if high < float("inf") else ""
            else:
                valid, expected = value in kind.__args__, "one of " + ", ".join(kind.__args__)
            if not valid:
                raise InputError(f"{what} must be {expected}, got {value!r}")

    def __call__(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the corrected sinogram.

        Parameters
        ----------
        sinogram : ndarray, shape (views, u), float32
            Line integrals of one detector row; left as it is.

        Raises
        ------
        InputError
            If it has fewer than 16 views or columns, or a window is wider than it.
        ScanError
            If a value is not finite, or the method made one so.
        """
        if sinogram.ndim != 2 or min(sinogram.shape) < SMALLEST_SINOGRAM:
            raise InputError(
                f"a sinogram must have at least {SMALLEST_SINOGRAM} views and columns, got shape {sinogram.shape}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_px") and value is not None and value > sinogram.shape[1]:
                raise InputError(
                    f"{type(self).__name__}.{field.name} is {value} px, but a row has {sinogram.shape[1]} px only"
                )
        if not np.isfinite(sinogram).all():
            view, column = np.argwhere(~np.isfinite(sinogram))[0]
            raise ScanError(f"view {view}, column {column} of the sinogram is {sinogram[view, column]}, not finite")
        if not np.ptp(sinogram, axis=0).any():
            return sinogram.copy()  # nothing was measured that turns; the methods would divide zero by zero
        corrected = np.ascontiguousarray(self._correct(sinogram), dtype=np.float32)
        if corrected.shape != sinogram.shape or not np.isfinite(corrected).all():
            raise ScanError(f"the stripe method {type(self).__name__} gave values that are not finite: {self}")
        return corrected

    @abstractmethod
    def _correct(self, sinogram: Float) -> Float:
        """Return the sinogram without stripes."""


@dataclass(frozen=True)
class Sorting(SinogramMethod):
    """Algorithm 3 of Vo 2018: a median across columns of equal rank. Partial and faint stripes; few side effects."""

    window_px: int | None = None
    least = MappingProxyType({"window_px": 3})

    def _correct(self, sinogram: Float) -> Float:
        window = _by_width(self.window_px, sinogram, *_NARROW)
        return _removal().remove_stripe_based_sorting(sinogram, window)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Filtering(SinogramMethod):
    """Algorithm 2 of Vo 2018: sorting of the slow part along the views only. Keeps what is sharp along them."""

    sigma: int = 3
    window_px: int | None = None
    least = MappingProxyType({"sigma": 1, "window_px": 3})

    def _correct(self, sinogram: Float) -> Float:
        window = _by_width(self.window_px, sinogram, *_NARROW)
        return _removal().remove_stripe_based_filtering(sinogram, self.sigma, window)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LargeStripe(SinogramMethod):
    """Algorithm 5 of Vo 2018: columns whose sorted profile stands out are replaced. Wide stripes.

    It divides by factors, and a gain is a factor of the transmission: it works on ``exp(-p)``, as air has a line
    integral of zero, by whose noise a column must not be divided.
    """

    snr: float = 3.0
    window_px: int | None = None
    drop_fraction: float = 0.1
    least = MappingProxyType({"snr": 1.0, "window_px": 3, "drop_fraction": 0.0})
    most = MappingProxyType({"drop_fraction": 0.8})

    def _correct(self, sinogram: Float) -> Float:
        transmission = np.exp(-sinogram.astype(np.float64))
        window = _by_width(self.window_px, sinogram, *_WIDE)
        corrected = _where_noisy(
            lambda t: _removal().remove_large_stripe(t, self.snr, window, self.drop_fraction), transmission
        )
        if corrected is transmission:
            return sinogram
        with np.errstate(all="ignore"):  # refused by the caller
            return -np.log(corrected)


@dataclass(frozen=True)
class DeadStripe(SinogramMethod):
    """Algorithm 6 of Vo 2018: columns that do not follow the object, or flicker, are interpolated.

    The columns beside them, which it cannot judge, stay as they are.
    """

    snr: float = 3.0
    window_px: int | None = None
    least = MappingProxyType({"snr": 1.0, "window_px": 3})

    def _correct(self, sinogram: Float) -> Float:
        window = _by_width(self.window_px, sinogram, *_WIDE)
        return _where_noisy(lambda s: _removal().remove_dead_stripe(s, self.snr, window, residual=False), sinogram)


@dataclass(frozen=True)
class AllStripes(SinogramMethod):
    """Algorithms 6, 5, 4 and 3 of Vo 2018 one after the other: dead, large, then all the rest."""

    snr: float = 3.0
    large_window_px: int | None = None
    small_window_px: int | None = None
    drop_fraction: float = 0.1
    least = MappingProxyType({"snr": 1.0, "large_window_px": 3, "small_window_px": 3, "drop_fraction": 0.0})
    most = MappingProxyType({"drop_fraction": 0.8})

    def _correct(self, sinogram: Float) -> Float:
        alive = DeadStripe(self.snr, self.large_window_px)._correct(sinogram)
        narrow = LargeStripe(self.snr, self.large_window_px, self.drop_fraction)._correct(alive)
        return Sorting(self.small_window_px)._correct(narrow)


@dataclass(frozen=True)
class WaveletFourier(SinogramMethod):
    """Münch 2009: the slow part along the views of every vertical wavelet band is damped.

    Parameters
    ----------
    level : int
        Most levels of the wavelet transform; the coarsest band keeps 16 px at least.
    damping : int
        Width of the damped frequencies; larger is stronger.
    wavelet : str
        Name of the wavelet.
    """

    level: int = 5
    damping: int = 1
    wavelet: Literal["db5", "db9", "db15", "db25"] = "db9"
    least = MappingProxyType({"level": 1, "damping": 1})

    def _correct(self, sinogram: Float) -> Float:
        rows, cols = sinogram.shape
        # Wavelets need even sizes to come back at the size they left.
        even = np.pad(sinogram, ((0, rows % 2), (0, cols % 2)), mode="edge")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # long wavelets reach over the edge of small sinograms
            corrected: Float = _removal().remove_stripe_based_wavelet_fft(even, self.level, self.damping, self.wavelet)
        return corrected[:rows, :cols]


@dataclass(frozen=True)
class Normalization(SinogramMethod):
    """Boin and Haibel 2006, additive, by ranks: every sorted column is shifted to the smooth part of their means."""

    sigma_px: int | None = None
    least = MappingProxyType({"sigma_px": 1})

    def _correct(self, sinogram: Float) -> Float:
        sigma = _by_width(self.sigma_px, sinogram, *_SIGMA)
        return _removal().remove_stripe_based_normalization(sinogram, sigma)  # type: ignore[no-any-return]


METHODS: dict[str, type[SinogramMethod]] = {
    "sorting": Sorting,
    "filtering": Filtering,
    "large-stripe": LargeStripe,
    "dead-stripe": DeadStripe,
    "all": AllStripes,
    "wavelet-fft": WaveletFourier,
    "normalization": Normalization,
}


def sinogram_method(name: str, settings: Mapping[str, Any] | None = None) -> SinogramMethod:
    """Return a method by its name in :data:`METHODS`, with its settings.

    Raises
    ------
    InputError
        If there is no such method or setting, naming the nearest one, or a value does not fit.
    """
    if name not in METHODS:
        raise InputError(f"no stripe method is called {name!r}{_nearest(name, list(METHODS))}")
    method = METHODS[name]
    names = [field.name for field in fields(method)]
    for key in settings or {}:
        if key not in names:
            raise InputError(f"the stripe method {name} has no setting {key!r}{_nearest(str(key), names)}")
    return method(**(settings or {}))


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; valid are {', '.join(valid)}"


def _by_width(given: int | None, sinogram: Float, part: float, least: int, most: int) -> int:
    """Return the window given, or that part of the width within its bounds, px."""
    return given if given is not None else min(max(round(part * sinogram.shape[1]), least), most)


def _removal() -> Any:
    """Return algotom's module; it takes a second to import."""
    from algotom.prep import removal

    return removal


def _where_noisy(correct: Callable[[Float], Float], sinogram: Float) -> Float:
    """Apply a method that looks for outliers; return the very sinogram if its columns have no spread to judge by."""
    try:
        return correct(sinogram)
    except ValueError as error:
        if "noise-free" in str(error):
            return sinogram
        raise
