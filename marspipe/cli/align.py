"""``marspipe align``: the center of rotation, with a quality figure and the sweep sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from marspipe.cli.options import load_recipe, master_option, recipe_options

if TYPE_CHECKING:
    from marspipe.pipeline.align import Alignment


@click.command()
@click.argument("raw", metavar="RAW_OR_FRAMES")
@recipe_options
@click.option("--bin", "bin_", default=0, metavar="N", help="Energy bin.")
@click.option(
    "--slice", "slice_", type=int, metavar="Z", help="Slice of the sweep; by default that in the plane of the orbit."
)
@click.option(
    "--method", default="auto", help="conjugate (rays measured twice), vo (parallel beam, 180 degrees), or auto."
)
@click.option("--step-px", default=1.0, help="Distance of the sweep's columns, px.")
@click.option("--steps", default=4, help="Columns of the sweep on each side of the one found.")
@click.option("--picture", metavar="PNG", help="Write the sweep sheet: the slice at every column.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@master_option
def align(
    raw: str,
    recipe_uri: str | None,
    overrides: tuple[str, ...],
    bin_: int,
    slice_: int | None,
    method: str,
    step_px: float,
    steps: int,
    picture: str | None,
    as_json: bool,
    master: str | None,
) -> None:
    """Find the detector column of the rotation axis; show one slice for it and for columns around it."""
    import json

    from marspipe.pipeline import align as job
    from marspipe.pipeline.source import open_source
    from marspipe.pipeline.spark.session import command_session
    from marspipe.show.progress import Progress

    recipe = load_recipe(recipe_uri, overrides)
    prepared = job.prepare_alignment(
        open_source(raw), recipe, bin=bin_, slice=slice_, method=method, step_px=step_px, steps=steps
    )
    progress = Progress()
    with command_session("marspipe align", master) as spark:
        found = job.align(spark, prepared, progress=progress)
    if picture:
        _draw(found, picture)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2))
        return
    estimate = found.estimate
    click.echo(f"scan       {found.scan_id}, {found.bin_label}")
    click.echo(
        f"center     column {estimate.column_px:.2f} px, uncertain by {estimate.uncertainty_px:.2g} px "
        f"(given: {found.given_px:.6g})"
    )
    click.echo(f"quality    {estimate.quality:.2f} of 1, method {estimate.method}")
    offset = found.sharpest.column_px - estimate.column_px
    click.echo(f"sharpest   {found.sharpest.column_px:.2f} px ({offset:+.3g} px) of {len(found.slices)} slices")
    if picture:
        click.echo(f"picture    {picture}")
    if found.trusted:
        click.echo(f"recipe     geometry: {{center_of_rotation_px: {estimate.column_px:.2f}}}")
    else:
        click.echo("recipe     none, since the quality is too low; choose a column from the sweep (--picture)")


def _draw(found: Alignment, picture: str) -> None:
    import io

    from marspipe.show.sweep import write_sweep_sheet
    from marspipe.store import storage

    page = io.BytesIO()
    write_sweep_sheet(found, page)
    storage.write_bytes(picture, page.getvalue(), overwrite=True)


def _as_json(found: Alignment) -> dict[str, Any]:
    import math

    estimate = found.estimate
    uncertainty = estimate.uncertainty_px
    return {
        "scan_id": found.scan_id,
        "bin": found.bin_label,
        "center_of_rotation_px": estimate.column_px,
        "method": estimate.method,
        "quality": estimate.quality,
        "uncertainty_px": uncertainty if math.isfinite(uncertainty) else None,
        "given_px": found.given_px,
        "slice": found.grid.start[0],
        "sweep": [{"column_px": s.column_px, "sharpness": s.sharpness} for s in found.slices],
    }
