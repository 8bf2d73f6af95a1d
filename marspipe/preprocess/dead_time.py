"""Counts that pile-up took, given back; for each counter, before counters are subtracted.

After every photon a pixel is dead for the time ``tau``. With the measured rate ``m`` and the true rate ``n``:

- non-paralyzable, photons in the dead time do nothing: ``m = n / (1 + n tau)``, so ``n = m / (1 - m tau)``
- paralyzable, each photon begins the dead time anew: ``m = n exp(-n tau)``, so ``n = -W(-m tau) / tau`` with the
  principal branch of Lambert's W. Two true rates give the same ``m``; this is the lower one. No rate gives
  ``m tau > 1/e``.

Both models: Knoll, Radiation Detection and Measurement, section 4.VII. Lambert's W: Corless et al., Adv. Comput.
Math. 5 (1996) 329, doi:10.1007/BF02124750. How far the models hold for Medipix: arXiv:1903.06147. ``tau`` is of the
order of 0.1 to 1 us in single-pixel mode and several times that with charge summing; it must be calibrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, positive

DeadTimeModel = Literal["paralyzable", "non-paralyzable"]

# A non-paralyzable pixel never gets to m tau = 1. At 0.9 it sees one photon in ten and its noise is tenfold: the end.
LARGEST_LOAD = {"paralyzable": math.exp(-1.0), "non-paralyzable": 0.9}


@dataclass(frozen=True, eq=False)
class DeadTimeCorrected:
    """Corrected counts and where the model had no answer.

    Attributes
    ----------
    counts : ndarray, shape (..., v, u), float32
        True counts in the exposure. Beyond the model's end, those at its end.
    beyond : ndarray, shape (..., v, u), bool
        True where ``m tau`` is beyond the model's end: a pixel to be masked.
    """

    counts: NDArray[np.float32]
    beyond: NDArray[np.bool_]


def correct_dead_time(
    counts: NDArray[Any], exposure_s: float, tau_s: ArrayLike, model: DeadTimeModel = "paralyzable"
) -> DeadTimeCorrected:
    """Return the counts that a pixel without dead time would have counted.

    Parameters
    ----------
    counts : ndarray, shape (..., v, u)
        Raw counts, before any subtraction. Negative counts stay as they are.
    exposure_s : float
        Exposure time, s.
    tau_s : float or ndarray, shape (v, u)
        Dead time, s; 0 changes nothing.
    model : {"paralyzable", "non-paralyzable"}
        See the module.

    Returns
    -------
    DeadTimeCorrected
        New arrays.

    Raises
    ------
    InputError
        If counts are not finite, times are out of range, shapes do not fit or the model is unknown.

    Notes
    -----
    In float64 inside, so that the result is right to float32 rounding of the counts given; at the end of the
    paralyzable branch ``dn/dm`` grows without bound, and their rounding and noise with it.
    """
    if model not in LARGEST_LOAD:
        raise InputError(f"dead-time model must be one of {', '.join(LARGEST_LOAD)}, got {model!r}")
    seen = finite_float32("counts", counts)
    shape = image_shape("counts", seen)
    exposure = positive("exposure_s", exposure_s, "s")
    tau = finite_float64("tau_s", tau_s)
    if tau.shape not in ((), shape):
        raise InputError(f"tau_s must be one number or an array of shape {shape}, got shape {tau.shape}")
    if tau.size and tau.min() < 0:
        raise InputError(f"tau_s must not be negative (s), got {tau.min():g}")
    stack = seen.reshape(-1, shape[0] * shape[1])
    result = np.empty_like(stack)
    beyond = np.empty(stack.shape, dtype=np.bool_)
    kernel = _paralyzable if model == "paralyzable" else _non_paralyzable
    kernel(stack, tau.reshape(-1) / exposure, LARGEST_LOAD[model], result, beyond)
    return DeadTimeCorrected(result.reshape(seen.shape), beyond.reshape(seen.shape))


@numba.njit(cache=True, nogil=True)
def _paralyzable(counts, tau_per_exposure, largest, result, beyond):  # type: ignore[no-untyped-def]
    one = tau_per_exposure.size == 1
    for frame in range(counts.shape[0]):
        for i in range(counts.shape[1]):
            tau = tau_per_exposure[0 if one else i]
            load = np.float64(counts[frame, i]) * tau
            beyond[frame, i] = load > largest
            if load <= 0.0:
                result[frame, i] = counts[frame, i]
            elif load >= largest:
                result[frame, i] = 1.0 / tau
            elif load < 0.03:
                # Most pixels of most scans: the series sum_k (k + 1)**(k - 1) / k! load**k is right to 2e-8 here.
                factor = 5.2083333333333333 + load * 10.8
                factor = 1.0 + load * (1.0 + load * (1.5 + load * (2.6666666666666667 + load * factor)))
                result[frame, i] = counts[frame, i] * factor
            else:
                # Solve w exp(w) = -load on -1 < w < 0: a series about one end or the other, then Halley's steps.
                if load < 0.2:
                    w = -load * (1.0 + load * (1.0 + load * 1.5))
                else:
                    p = math.sqrt(2.0 * (1.0 - math.e * load))
                    w = -1.0 + p * (1.0 - p * (1.0 / 3.0 - p * (11.0 / 72.0)))
                for _ in range(4):
                    power = math.exp(w)
                    f = w * power + load
                    w1 = w + 1.0
                    if f == 0.0 or w1 < 1e-7:
                        break
                    step = f / (power * w1 - 0.5 * (w + 2.0) * f / w1)
                    w -= step
                    # The order is 3: what is left is of the size of the relative step cubed.
                    if abs(step) < 1e-4 * min(-w, w1):
                        break
                result[frame, i] = -w / tau


@numba.njit(cache=True, nogil=True)
def _non_paralyzable(counts, tau_per_exposure, largest, result, beyond):  # type: ignore[no-untyped-def]
    one = tau_per_exposure.size == 1
    for frame in range(counts.shape[0]):
        for i in range(counts.shape[1]):
            tau = tau_per_exposure[0 if one else i]
            count = np.float64(counts[frame, i])
            load = count * tau
            beyond[frame, i] = load > largest
            if load <= 0.0:
                result[frame, i] = counts[frame, i]
            elif load > largest:
                result[frame, i] = largest / (1.0 - largest) / tau
            else:
                result[frame, i] = count / (1.0 - load)
