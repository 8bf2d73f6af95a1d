"""``marspipe simulate``: a virtual scan in raw files."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from marspipe.simulate import Defects

FORMATS = ("merlin", "data_exchange", "nxtomo", "tiff", "dicom")


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--scan-id", default="demo", help="Name of the scan.")
@click.option("--seed", default=0, help="Same seed, same bytes.")
@click.option("--views", default=180, help="Views, at every height as many.")
@click.option("--turns", default=1.0, help="Turns of the gantry while the views are taken.")
@click.option("--detector", nargs=2, type=int, default=(128, 128), metavar="ROWS COLS", help="Pixels of the camera.")
@click.option("--pixel-pitch-mm", default=0.11, help="Pixel pitch, mm.")
@click.option(
    "--camera-positions",
    default="0,0",
    metavar="V,U;...",
    help='How far the camera is moved along v and u, mm, such as "0,-5;0,5".',
)
@click.option(
    "--heights", default="0", metavar="MM,...", help="How far the sample is moved along the axis, mm; a scan at each."
)
@click.option("--helix-pitch-mm", type=float, help="How far the sample moves in a turn, mm: a helix.")
@click.option("--thresholds", default="20,33,50,80", metavar="KEV,...", help="Counter thresholds, keV, at most 8.")
@click.option("--modes", metavar="MODE,...", help="SPM or CSM for each threshold; by default all are CSM.")
@click.option("--photons", default=100_000.0, help="Open-beam counts of the lowest counter per pixel and frame.")
@click.option("--counter-depth", type=click.Choice(["12", "24"]), default="24", help="Bits of a counter.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="merlin", help="Format of the raw files.")
@click.option(
    "--chips", default="1x1", help="Chips of a Merlin camera: 1x1, 2x2 or Nx1; with a G, the gaps are filled."
)
@click.option("--read-out-stream", is_flag=True, help="Merlin files hold the raw stream (R64), at most two counters.")
@click.option("--noise/--no-noise", default=True, help="Poisson noise.")
@click.option(
    "--defect",
    "defects",
    multiple=True,
    metavar="NAME=VALUE",
    help="A defect of known size, such as gain_drift_spread=0.02 or absorbers_mm=1,2,5; --defect help lists them.",
)
@click.option("--overwrite", is_flag=True, help="Replace a scan that is already there.")
def simulate(
    directory: Path,
    scan_id: str,
    seed: int,
    views: int,
    turns: float,
    detector: tuple[int, int],
    pixel_pitch_mm: float,
    camera_positions: str,
    heights: str,
    helix_pitch_mm: float | None,
    thresholds: str,
    modes: str | None,
    photons: float,
    counter_depth: str,
    format_: Any,
    chips: str,
    read_out_stream: bool,
    noise: bool,
    defects: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write a virtual MARS scan into DIRECTORY: raw frames, scan.yaml, and the truth beside them."""
    from marspipe.show.progress import Progress
    from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan

    if "help" in defects:
        click.echo(_list_of_defects())
        return
    positions = [_numbers("--camera-positions", part, "mm") for part in camera_positions.split(";")]
    default = SimulationSettings()
    # The sample keeps its place in the field of view, whatever the detector.
    offsets = [position[-1] for position in positions]
    width = detector[1] * pixel_pitch_mm + max(offsets) - min(offsets)
    width /= default.detector_shape[1] * default.pixel_pitch_mm[1]
    settings = replace(
        default,
        scan_id=scan_id,
        seed=seed,
        format=format_,
        merlin_layout=chips,
        merlin_raw=read_out_stream,
        views=views,
        angle_range_rad=turns * default.angle_range_rad,
        sample_z_mm=_numbers("--heights", heights, "mm"),
        helix_pitch_mm=helix_pitch_mm,
        detector_shape=detector,
        camera_positions_mm=tuple(positions),  # type: ignore[arg-type]  # the settings refuse what is no pair
        pixel_pitch_mm=(pixel_pitch_mm, pixel_pitch_mm),
        phantom=mars_phantom(width),
        thresholds_kev=_numbers("--thresholds", thresholds, "keV"),
        modes=None if modes is None else tuple(part.strip().upper() for part in modes.split(",")),  # type: ignore[misc]
        open_beam_photons=photons,
        counter_depth_bits=int(counter_depth),
        noise=noise,
        defects=_defects(defects),
    )
    progress = Progress()
    with progress.stage("simulate", unit="frames") as stage:
        manifest = simulate_scan(directory, settings=settings, overwrite=overwrite, progress=stage.update)
    click.echo(f"scan       {manifest}")
    click.echo(f"truth      {directory / 'truth' / 'truth.json'}")


def _numbers(option: str, text: str, unit: str) -> tuple[float, ...]:
    from marspipe.errors import InputError

    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} must be numbers in {unit} separated by commas, got {text!r}") from error


def _defects(given: Sequence[str]) -> Defects:
    """Return the defects of NAME=VALUE options."""
    from marspipe.errors import InputError
    from marspipe.simulate import Defects

    default = Defects()
    names = [field.name for field in fields(Defects)]
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in names or not equals:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}=...?" if near else f"known are {', '.join(names)}"
            raise InputError(f"--defect must be NAME=VALUE, got {text!r}; {hint}")
        kind = type(getattr(default, name))
        if kind is str:
            values[name] = value
        elif kind is tuple:
            values[name] = _numbers(f"--defect {name}", value, "s" if name.endswith("_s") else "mm")
        else:
            try:
                values[name] = kind(value)
            except ValueError as error:
                raise InputError(f"--defect {name} must be a number such as {kind(1)!r}, got {value!r}") from error
    return replace(default, **values)


def _list_of_defects() -> str:
    """Return names, defaults and meanings, from the description of the settings."""
    from inspect import cleandoc

    from marspipe.simulate import Defects

    described = cleandoc(Defects.__doc__ or "").partition("Attributes\n----------\n")[2].partition("\n\nRaises")[0]
    default = Defects()
    lines = described.splitlines()
    defaults = ", ".join(f"{field.name}={getattr(default, field.name)}" for field in fields(Defects))
    return "\n".join([*lines, "", f"By default: {defaults}"])
