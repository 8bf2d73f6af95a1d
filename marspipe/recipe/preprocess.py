"""The recipe's section on corrections: raw counts to line integrals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from marspipe.strict import StrictModel

Share = Annotated[float, Field(ge=0)]


def _number_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, (list, tuple)) else "<number>"


# One number for all, or one for each.
NumberOrList = Annotated[
    Annotated[Share, Tag("<number>")] | Annotated[tuple[Share, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_number_or_list),
]
# First row, row after the last one, first column, column after the last one.
RegionPx = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]
]


def _require_pixels(region: RegionPx | None) -> RegionPx | None:
    if region is not None and not (region[0] < region[1] and region[2] < region[3]):
        raise ValueError(f"must be [first row, row after the last, first column, column after the last], got {region}")
    return region


class BadPixels(StrictModel):
    """Which pixels are not believed, per counter, from the open beams and dark frames."""

    dead_fraction: float = Field(0.1, ge=0, le=1, description="Dead: open beam at most this fraction of the median.")
    hot_fraction: float = Field(5.0, gt=1, description="Hot: open beam above this multiple of the median.")
    noisy_dark_fraction: float = Field(
        0.01, ge=0, description="Noisy: dark counts above this fraction of the median open beam."
    )
    fano_low: float = Field(
        0.5, ge=0, lt=1, description="Unstable: variance over mean of the open beams below this; Poisson's is 1."
    )
    fano_high: float = Field(2.0, gt=1, description="Unstable: variance over mean of the open beams above this.")
    drift_sigmas: float = Field(
        5.0,
        gt=0,
        description="Drifting: open beams before and after differ by more than this many standard deviations, beyond "
        "what all pixels share, and by more than drift_fraction.",
    )
    drift_fraction: float = Field(0.02, ge=0, description="Drifting: and by more than this fraction.")
    chip_edges: bool = Field(True, description="Whether pixels at the borders of chips are bad, where these are known.")


class DeadTime(StrictModel):
    """Counts that pile-up took, given back, per counter before these are subtracted."""

    tau_s: NumberOrList = Field(
        0.0, description="Dead time of a pixel, s: one number, or one per counter; must be calibrated. 0 is off."
    )
    model: Literal["paralyzable", "non-paralyzable"] = Field(
        "paralyzable", description="Whether photons in the dead time prolong it."
    )


class Zingers(StrictModel):
    """Counts that appear in a pixel of a single frame."""

    mode: Literal["none", "frame"] = Field(
        "none", description="frame: what stands out of its surroundings is replaced."
    )
    sigmas: float = Field(8.0, gt=0, description="By how many standard deviations a zinger stands out.")
    size_px: int = Field(5, ge=3, le=31, description="Odd width of the surroundings, px.")

    @field_validator("size_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be an odd number of pixels, got {value}")
        return value


class OpenBeam(StrictModel):
    """The open beam that a frame is compared with."""

    time: Literal["interpolate", "mean"] = Field(
        "interpolate", description="Between groups of open beams at the time of the frame, or the mean of all of them."
    )


class Flux(StrictModel):
    """How much beam a frame got."""

    by: Literal["exposure", "monitor", "air", "none"] = Field(
        "exposure",
        description="Exposure times, where frames and open beams have them; the beam monitor; a strip of air in the "
        "frame; or not at all.",
    )
    air_region_px: RegionPx | None = Field(
        None,
        description="Pixels of the camera that never see the sample: first row, row after the last, first column, "
        "column after the last. Needed by: air.",
    )

    _region = field_validator("air_region_px")(_require_pixels)

    @model_validator(mode="after")
    def _air_has_a_region(self) -> Flux:
        if self.by == "air" and self.air_region_px is None:
            raise ValueError("by: air needs air_region_px")
        if self.by != "air" and self.air_region_px is not None:
            raise ValueError(f"air_region_px is for by: air, got by: {self.by}")
        return self


class Scatter(StrictModel):
    """Scattered photons, the same number all over a projection."""

    counts_per_pixel: NumberOrList = Field(
        0.0, description="Scattered counts of a pixel in a projection: one number, or one per energy bin."
    )
    shadow_region_px: RegionPx | None = Field(
        None,
        description="Measure them in every projection instead, in these pixels of the camera behind a beam stop: first "
        "row, row after the last, first column, column after the last.",
    )

    _region = field_validator("shadow_region_px")(_require_pixels)

    @model_validator(mode="after")
    def _one_of_both(self) -> Scatter:
        if self.shadow_region_px is not None and self.counts_per_pixel != 0:
            raise ValueError("either counts_per_pixel or shadow_region_px, got both")
        return self


class Thickness(StrictModel):
    """Signal to thickness, calibrated per pixel by open beams through plates."""

    order: int = Field(
        0,
        ge=0,
        le=3,
        description="Order of the polynomial; 0 is off. Line integrals then mean what thin layers of the plates' "
        "material attenuate.",
    )


class BeamHardening(StrictModel):
    """A polynomial per energy bin that makes line integrals of one material proportional to its length."""

    material: str | None = Field(
        None,
        description="What the sample is mostly made of, such as water: polynomials are computed from the spectrum.",
    )
    max_length_mm: float | None = Field(
        None, gt=0, description="Longest way through the material, mm. Needed by material."
    )
    order: int = Field(4, ge=1, le=8, description="Order of the polynomials that are computed.")
    coefficients: tuple[tuple[float, ...], ...] | None = Field(
        None,
        description="Or the polynomials themselves: per energy bin a_1, a_2, ... of p' = a_1 p + a_2 p^2 + ...",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> BeamHardening:
        if self.material is not None and self.coefficients is not None:
            raise ValueError("either material or coefficients, got both")
        if (self.material is None) != (self.max_length_mm is None):
            raise ValueError("material and max_length_mm belong together, got only one of them")
        if self.coefficients is not None:
            orders = {len(row) for row in self.coefficients}
            if len(orders) != 1 or 0 in orders or max(orders) > 8:
                raise ValueError(f"coefficients must be 1 to 8 numbers, as many for every bin, got {sorted(orders)}")
        return self


class Tiles(StrictModel):
    """How the frames of several camera positions are put together."""

    interpolation: Literal["bilinear", "cubic"] = Field("bilinear", description="Resampling to the wide detector.")
    feather_px: float = Field(16.0, gt=0, description="Distance from its edge over which a position fades, px.")
    equalize: Literal["none", "offset"] = Field(
        "none", description="offset brings positions to one level of line integrals by their overlaps."
    )


class Stripes(StrictModel):
    """Stripes in sinograms, which become rings."""

    mode: Literal["none", "by-angle", "sinogram"] = Field(
        "none", description="by-angle: from the mean of all views; sinogram: a published method, row by row."
    )
    columns_px: int = Field(7, ge=5, description="by-angle: odd window along columns of the detector, px.")
    rows_px: int = Field(
        51, ge=1, description="by-angle: odd window along rows of the detector, px; 1 takes every row by itself."
    )
    method: str = Field(
        "sorting",
        description="sinogram: sorting, filtering, large-stripe, dead-stripe, all, wavelet-fft or normalization.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="sinogram: settings of the method; what is left out is its default."
    )

    @field_validator("settings")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, setting in value.items():
            if not isinstance(setting, bool | int | float | str):
                raise ValueError(f"{key} must be a number, a text, true or false, got {setting!r}")
        return value

    @field_validator("columns_px", "rows_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be an odd number of pixels, got {value}")
        return value


class Preprocess(StrictModel):
    """Raw counts to line integrals, in this order."""

    bad_pixels: BadPixels = BadPixels()
    dead_time: DeadTime = DeadTime()
    zingers: Zingers = Zingers()
    scatter: Scatter = Scatter()
    open_beam: OpenBeam = OpenBeam()
    flux: Flux = Flux()
    thickness: Thickness = Thickness()
    beam_hardening: BeamHardening = BeamHardening()
    inpaint_radius_px: int = Field(8, ge=1, le=64, description="Widest neighborhood that fills a bad pixel, px.")
    gap_px: int = Field(
        3, ge=1, le=64, description="Bad regions wider than this along rows and columns are gaps, bridged straight, px."
    )
    tiles: Tiles = Tiles()
    stripes: Stripes = Stripes()

    @model_validator(mode="after")
    def _hardening_once(self) -> Preprocess:
        hardening = self.beam_hardening
        if self.thickness.order and (hardening.material is not None or hardening.coefficients is not None):
            raise ValueError("thickness undoes beam hardening itself: leave out thickness or beam_hardening")
        return self
