"""What the counters of both modes count: charge summing puts shared charge together, single pixels do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.scan.energy import Counter
from marspipe.scan.spectra import CounterResponse, Spectrum, bin_weights

_SHARES = 32  # steps of the integral over the shares


@dataclass(frozen=True)
class SharedChargeResponse(CounterResponse):
    """A camera in single-pixel mode: the charge of some photons is shared by two pixels.

    A simple model, and no more than that: a fraction ``f`` of the photons leaves a share ``x`` of its energy in one
    pixel and ``1 - x`` in another, all shares equally likely, so that the mean counts of a pixel above threshold T are
    ``(1 - f) P(E > T) + 2 f int_0^1 P(x E > T) dx`` per photon. A photon may so be counted twice. That its two counts
    lie in neighboring pixels is left out: pixels count independently. Fluorescence is left out too.

    Attributes
    ----------
    shared_fraction : float
        Photons whose charge is shared.
    """

    shared_fraction: float = 0.0

    def above(self, energies_kev: ArrayLike, threshold_kev: float) -> NDArray[np.float64]:
        """Return how often an absorbed photon counts above a threshold, float64; may exceed 1."""
        energies = np.asarray(energies_kev, dtype=np.float64)
        whole = super().above(energies, threshold_kev)
        if self.shared_fraction == 0:
            return whole
        shares = (np.arange(_SHARES) + 0.5) / _SHARES
        shared = np.zeros_like(energies)
        for share in shares:
            shared += 2 / _SHARES * super().above(share * energies, threshold_kev)
        mixed: NDArray[np.float64] = (1 - self.shared_fraction) * whole + self.shared_fraction * shared
        return mixed


def ladders(counters: Sequence[Counter]) -> list[list[int]]:
    """Return the numbers of the counters of each mode, in the order in which the modes appear."""
    found: dict[str, list[int]] = {}
    for counter in counters:
        found.setdefault(counter.mode, []).append(counter.index)
    return list(found.values())


def camera_weights(
    spectrum: Spectrum, counters: Sequence[Counter], response: CounterResponse, shared_fraction: float
) -> NDArray[np.float64]:
    """Return how many photons of every energy each bin counts, shape (counters, energies): as ``bin_weights``.

    Bin ``k`` begins at the threshold of counter ``k``. SPM counters share charge, CSM counters do not.
    """
    sharing = SharedChargeResponse(
        response.sensor, response.sensor_thickness_mm, response.fwhm_kev, shared_fraction=shared_fraction
    )
    weights = np.empty((len(counters), spectrum.energies_kev.size))
    for members in ladders(counters):
        ladder = [counters[k] for k in members]
        weights[members] = bin_weights(spectrum, ladder, sharing if ladder[0].mode == "SPM" else response)
    return weights
