"""What a reconstruction of the simulated scan should show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from marspipe.scan.energy import counter_bins
from marspipe.scan.spectra import Material, Solution, effective_attenuation, linear_attenuation, material_label
from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.truth_files import EXPOSURES, GAIN_DRIFT, RING_GAIN, ZINGERS

DEFINITION = (
    "attenuation_per_mm is the material's linear attenuation coefficient averaged over the photons that a bin counts "
    "behind {path:.3f} mm of {body}, the mean chord (pi/4 of the diameter) of the body: tube spectrum, filters, "
    "sensor absorption and energy resolution included. A reconstruction without beam-hardening correction comes close "
    "to it, not exactly to it."
)


def reference_path_mm(acquisition: Acquisition) -> float:
    """Return the mean chord of the body's cross-section, mm: the hardening that the truth assumes."""
    return math.pi / 4 * 2 * acquisition.settings.phantom.body_radius_mm


def bin_attenuation(acquisition: Acquisition, material: Material) -> list[float]:
    """Return a material's attenuation in every bin behind the body's mean chord, 1/mm."""
    energies = acquisition.energies_kev
    body = linear_attenuation(acquisition.settings.phantom.body_material, energies)
    behind = acquisition.weights * np.exp(-reference_path_mm(acquisition) * body)
    return [float(value) for value in effective_attenuation(behind, energies, material)]


def truth(acquisition: Acquisition) -> dict[str, Any]:
    """Return the truth of a scan, ready for JSON.

    Returns
    -------
    dict
        ``bins`` (label, low_kev, high_kev, open_beam_counts), ``body`` and ``inserts`` (material,
        concentration_mg_per_ml or None, center_mm (x, y, z), radius_mm, height_mm, attenuation_per_mm: one number per
        bin), ``dead_pixels`` and ``noisy_pixels`` (row, column), ``definition``; where they are not the usual
        ones ``modes``, ``camera_positions_mm`` (v, u), ``sample_z_mm`` or ``helix_pitch_mm``; ``defects``.
    """
    settings = acquisition.settings
    phantom = settings.phantom
    open_beam = acquisition.weights.sum(axis=1)
    return {
        "marspipe_truth": 1,
        "scan_id": settings.scan_id,
        "definition": DEFINITION.format(
            path=reference_path_mm(acquisition), body=material_label(phantom.body_material)
        ),
        "bins": [
            {
                "label": counter_bin.energy.label,
                "low_kev": counter_bin.energy.low_kev,
                "high_kev": counter_bin.energy.high_kev,
                "open_beam_counts": float(counts),
            }
            for counter_bin, counts in zip(counter_bins(settings.counters), open_beam, strict=True)
        ],
        "body": {
            "material": material_label(phantom.body_material),
            "center_mm": [0.0, 0.0, 0.0],
            "radius_mm": phantom.body_radius_mm,
            "height_mm": phantom.body_height_mm,
            "attenuation_per_mm": bin_attenuation(acquisition, phantom.body_material),
        },
        "inserts": [
            {
                "name": insert.label,
                "material": insert.material.solute if isinstance(insert.material, Solution) else insert.material,
                "concentration_mg_per_ml": (
                    insert.material.concentration_mg_per_ml if isinstance(insert.material, Solution) else None
                ),
                "center_mm": list(insert.center_mm),
                "radius_mm": insert.radius_mm,
                "height_mm": insert.height_mm,
                "attenuation_per_mm": bin_attenuation(acquisition, insert.material),
            }
            for insert in phantom.inserts
        ],
        "dead_pixels": sorted(map(list, acquisition.dead.tolist())),
        "noisy_pixels": sorted(map(list, acquisition.noisy.tolist())),
        **_scan(acquisition),
        **_defects(acquisition),
    }


def _scan(acquisition: Acquisition) -> dict[str, Any]:
    """Return modes, camera positions (v, u) and heights of the sample, where they are not the usual ones."""
    settings = acquisition.settings
    found: dict[str, Any] = {}
    if settings.modes is not None:
        found["modes"] = [counter.mode for counter in settings.counters]
        found["shared_charge_fraction"] = settings.shared_charge_fraction
    if settings.camera_positions_mm != ((0.0, 0.0),):
        found["camera_positions_mm"] = [list(position) for position in settings.camera_positions_mm]
    if settings.helix_pitch_mm is not None:
        found["helix_pitch_mm"] = settings.helix_pitch_mm
    elif settings.sample_z_mm != (0.0,):
        found["sample_z_mm"] = list(settings.sample_z_mm)
    return found


def _defects(acquisition: Acquisition) -> dict[str, Any]:
    """Return the settings of the defects that are on, and what they come to."""
    settings, defects = acquisition.settings, acquisition.settings.defects
    if not defects.any:
        return {}
    found: dict[str, Any] = {"exposures": EXPOSURES, "open_beam_exposure_s": acquisition.exposure_s}
    if defects.gain_drift_spread:
        found |= {"gain_drift_spread": defects.gain_drift_spread, "gain_drift": GAIN_DRIFT}
    if any(settings.dead_times_s):
        found |= {"dead_time_s": list(settings.dead_times_s), "dead_time_model": defects.dead_time_model}
    if defects.flux_spread:
        found["flux_spread"] = defects.flux_spread
    if defects.projection_exposure_ratio != 1.0:
        found["projection_exposure_ratio"] = defects.projection_exposure_ratio
    if defects.scatter_fraction:
        counts = defects.scatter_fraction * defects.projection_exposure_ratio * acquisition.weights.sum(axis=1)
        found |= {"scatter_fraction": defects.scatter_fraction, "scatter_counts": counts.tolist()}
    if defects.zingers_per_frame:
        found |= {"zingers_per_frame": defects.zingers_per_frame, "zingers": ZINGERS}
    if defects.ring_fraction:
        found |= {
            "ring_fraction": defects.ring_fraction,
            "ring_spread": defects.ring_spread,
            "ring_gain": RING_GAIN,
        }
    if defects.absorbers_mm:
        found["absorbers"] = [
            {
                "material": material_label(defects.absorber_material),
                "thickness_mm": thickness,
                "open_beam_counts": acquisition.behind_plate(thickness).tolist(),
            }
            for thickness in defects.absorbers_mm
        ]
    if defects.monitor_counts:
        found["monitor_counts"] = defects.monitor_counts
    return {"defects": found}
