"""Signal to thickness: per pixel, which thickness of a known material gives this ``-ln T``.

Open beams through plates of known thickness calibrate every pixel by itself, with its own threshold, spectrum and
depth: ``d = sum_i a_i (-ln T)**i``, i = 1 to 3. The result replaces flat field, logarithm and beam hardening in one,
and takes most of the rings with them. Jakubek, Nucl. Instrum. Methods A 576 (2007) 223, doi:10.1016/j.nima.2007.01.157.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, mask_of
from marspipe.preprocess.polynomial import evaluate

FloatArray = NDArray[np.float64]

# Of the normal equations in units of the largest signal. Equally spaced plates give 1e2 (order 2) to 1e4 (order 3).
LARGEST_CONDITION = 1e7


@dataclass(frozen=True, eq=False)
class ThicknessCalibration:
    """Thickness as a polynomial of the signal, per pixel.

    Attributes
    ----------
    coefficients : ndarray, shape (order, v, u), float32, mm
        a_1 to a_order; 0 where flagged.
    largest_signal : ndarray, shape (v, u), float32
        End of the calibrated range of ``-ln T``; beyond it the polynomial continues as its tangent.
    residual_mm : ndarray, shape (v, u), float32, mm
        Root mean square of the fit's deviations; NaN where flagged.
    flagged : ndarray, shape (v, u), bool
        Pixels without a calibration: masked, ill-conditioned, or with a thickness that does not grow with the signal.
    """

    coefficients: NDArray[np.float32]
    largest_signal: NDArray[np.float32]
    residual_mm: NDArray[np.float32]
    flagged: NDArray[np.bool_]


def fit_thickness(
    signals: NDArray[Any], thicknesses_mm: ArrayLike, order: int = 3, mask: NDArray[np.bool_] | None = None
) -> ThicknessCalibration:
    """Fit thickness against signal in every pixel by least squares.

    Parameters
    ----------
    signals : ndarray, shape (plates, v, u)
        ``-ln T`` of the mean counts behind each plate against the open beam, of one counter or energy bin.
    thicknesses_mm : array_like, shape (plates,), mm
        Thickness of each plate; not negative. The open beam itself, thickness 0, adds nothing: the fit goes through
        the origin.
    order : {1, 2, 3}
        Degree of the polynomial.
    mask : ndarray, shape (v, u), bool, optional
        True where a pixel is bad.

    Returns
    -------
    ThicknessCalibration

    Raises
    ------
    InputError
        If there are fewer different plates than coefficients, shapes do not fit, or a signal is not finite.
    """
    if order not in (1, 2, 3):
        raise InputError(f"order of the thickness polynomial must be 1, 2 or 3, got {order!r}")
    found = finite_float32("signals", signals, mask)
    shape = image_shape("signals", found, least_ndim=3)
    d = finite_float64("thicknesses_mm", thicknesses_mm)
    if d.shape != found.shape[:1] or found.ndim != 3:
        raise InputError(
            f"signals must have shape (plates, v, u) with one thickness per plate, "
            f"got {found.shape} and thicknesses of shape {d.shape}"
        )
    if d.min() < 0:
        raise InputError(f"thicknesses_mm must not be negative (mm), got {d.min():g}")
    if np.unique(d[d > 0]).size < order:
        raise InputError(
            f"a polynomial of order {order} needs {order} different thicknesses above 0, got {d.tolist()} mm"
        )
    good = np.ones(shape, dtype=np.bool_) if mask is None else ~mask_of("mask", mask, shape)
    s = np.where(good, found, 0).reshape(len(d), -1).T.astype(np.float64)  # (pixels, plates)
    scale = s.max(axis=1)
    usable = good.ravel() & (scale > 0)
    # In units of the largest signal the powers are of one size, and the condition says something about the plates.
    s /= np.where(usable, scale, 1)[:, None]
    powers = np.stack([s ** (i + 1) for i in range(order)], axis=2)  # (pixels, plates, order)
    normal = np.einsum("pmi,pmj->pij", powers, powers)
    values = np.linalg.eigvalsh(normal)
    usable &= (values[:, 0] > 0) & (values[:, -1] < LARGEST_CONDITION * values[:, 0])
    normal[~usable] = np.eye(order)
    a = np.linalg.solve(normal, np.einsum("pmi,m->pi", powers, d)[..., None])[..., 0]
    residual = np.sqrt(np.mean((np.einsum("pmi,pi->pm", powers, a) - d) ** 2, axis=1))
    usable &= _grows(a)
    a = np.where(usable[:, None], a / np.where(usable, scale, 1)[:, None] ** np.arange(1, order + 1), 0)
    return ThicknessCalibration(
        np.ascontiguousarray(a.T.reshape(order, *shape), dtype=np.float32),
        np.where(usable, scale, 0).reshape(shape).astype(np.float32),
        np.where(usable, residual, np.nan).reshape(shape).astype(np.float32),
        ~usable.reshape(shape),
    )


def _grows(a: FloatArray) -> NDArray[np.bool_]:
    """Return which polynomials, shape (pixels, order), have a positive slope all over 0 <= x <= 1."""
    order = a.shape[1]
    slope = a * np.arange(1, order + 1)
    grows = (slope[:, 0] > 0) & (slope.sum(axis=1) > 0)
    if order == 3:  # a parabola can dip below zero between ends that are above
        with np.errstate(divide="ignore", invalid="ignore"):
            lowest = -0.5 * slope[:, 1] / slope[:, 2]
            dip = slope[:, 0] + 0.5 * slope[:, 1] * lowest
        grows &= ~((slope[:, 2] > 0) & (lowest > 0) & (lowest < 1) & (dip <= 0))
    return np.asarray(grows)


def thickness_mm(signals: NDArray[Any], calibration: ThicknessCalibration) -> NDArray[np.float32]:
    """Return the equivalent thickness of frames.

    Parameters
    ----------
    signals : ndarray, shape (..., v, u)
        ``-ln T`` of frames.
    calibration : ThicknessCalibration
        See :func:`fit_thickness`.

    Returns
    -------
    ndarray, shape (..., v, u), float32, mm
        0 in flagged pixels, which are to be filled.
    """
    found = finite_float32("signals", signals, calibration.flagged)
    shape = image_shape("signals", found)
    if shape != calibration.flagged.shape:
        raise InputError(f"signals have frames of {shape}, the calibration has {calibration.flagged.shape} pixels")
    pixels = shape[0] * shape[1]
    values = np.where(calibration.flagged, np.float32(0), found).reshape(-1, pixels)
    coefficients = calibration.coefficients.reshape(-1, pixels)
    return evaluate(values, coefficients, calibration.largest_signal.reshape(-1)).reshape(found.shape)
