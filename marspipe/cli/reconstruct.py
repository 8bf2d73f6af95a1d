"""``marspipe reconstruct`` and ``marspipe preview``."""

from __future__ import annotations

import click

from marspipe.cli.options import (
    catalog_option,
    catalog_to_record_in,
    load_recipe,
    local_slots,
    master_option,
    recipe_options,
)


@click.command()
@click.option("--raw", required=True, metavar="URI", help="Scan manifest, folder with scan.yaml, or frames table.")
@click.option("--out", required=True, metavar="URI", help="Folder of the results.")
@recipe_options
@click.option("--check", is_flag=True, help="Validate recipe and scan against each other; run nothing.")
@click.option("--dry-run", is_flag=True, help="Print slabs, bytes, tasks and memory per task; run nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a committed volume, once the new one is finished.")
@click.option("--resume", is_flag=True, help="Keep results that were made from the same input by the same recipe.")
@click.option("--keep-versions", type=click.IntRange(min=1), default=1, help="Versions of the volume that stay.")
@catalog_option
@master_option
def reconstruct(
    raw: str,
    out: str,
    recipe_uri: str | None,
    overrides: tuple[str, ...],
    check: bool,
    dry_run: bool,
    overwrite: bool,
    resume: bool,
    keep_versions: int,
    catalog_url: str | None,
    master: str | None,
) -> None:
    """Reconstruct a scan: raw files or a frames table in, volume, DICOM series and preview out."""
    from marspipe.pipeline import run as job
    from marspipe.pipeline.recording import record_results, recorded, remembered
    from marspipe.pipeline.source import is_table, open_source, scan_id_of
    from marspipe.pipeline.spark.session import command_session
    from marspipe.show.progress import Progress

    recipe = load_recipe(recipe_uri, overrides)
    source = open_source(raw)
    plan = job.plan(source, recipe, local_slots(master))
    if check or dry_run:
        click.echo(plan.describe() if dry_run else f"recipe {recipe.name} ({recipe.content_hash()}) fits {raw}")
        return
    catalog = catalog_to_record_in(catalog_url)
    known = {
        "recipe_uri": remembered(recipe, recipe_uri, changed=bool(overrides)),
        "out_uri": out,
        "frames_uri" if is_table(source) else "raw_uri": raw,
    }
    with (
        command_session("marspipe reconstruct", master) as spark,
        recorded(catalog, "reconstruct", scan_id_of(source), out, recipe=recipe, **known) as record,
    ):
        results = job.run(
            spark,
            source,
            out,
            recipe,
            progress=Progress(),
            overwrite=overwrite,
            resume=resume,
            keep_versions=keep_versions,
            run_id=record.run_id,
        )
        record_results(record, out, results.reconstructed, known["recipe_uri"])
    click.echo(f"volume     {results.volume_uri}")
    made = results.reconstructed
    if made.slabs_kept or made.stages_kept:
        stages = "".join(f", {stage}" for stage in made.stages_kept)
        click.echo(f"kept       {made.slabs_kept} of {made.slabs} slabs{stages}: they were there already")
    if results.dicom_uri:
        click.echo(f"dicom      {results.dicom_uri}")
    if results.preview_uri:
        click.echo(f"preview    {results.preview_uri}")


@click.command()
@click.argument("volume")
@click.option("--out", "-o", default="preview.png", metavar="URI", help="The picture.")
def preview(volume: str, out: str) -> None:
    """Draw three mid slices per energy bin of a finished VOLUME."""
    draw_preview(volume, out)


def draw_preview(volume_uri: str, picture_uri: str) -> None:
    """Draw the preview of a volume into a file and say so."""
    import io

    from marspipe.show.preview import write_preview
    from marspipe.store import storage
    from marspipe.store.volume import open_volume

    picture = io.BytesIO()
    write_preview(open_volume(volume_uri), picture)
    storage.write_bytes(picture_uri, picture.getvalue(), overwrite=True)
    click.echo(f"preview    {picture_uri}")
