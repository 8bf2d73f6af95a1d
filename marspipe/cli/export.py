"""``marspipe export``: DICOM series of a finished volume."""

from __future__ import annotations

import click

from marspipe.cli.options import master_option


@click.command()
@click.argument("volume")
@click.option("--out", required=True, metavar="URI", help="Folder of the series.")
@click.option(
    "--kind",
    type=click.Choice(["ct-image", "enhanced-ct", "parametric-map"]),
    default="ct-image",
    help="A file per slice, multi-frame files, or multi-frame files of the volume's own float values.",
)
@click.option("--bin", "bins", type=int, multiple=True, help="Energy bin (repeat for several); by default all.")
@click.option(
    "--identity",
    "identity_uri",
    metavar="FILE",
    help="Patient and study: a YAML file, or a DICOM file such as a raw frame of the scan. By default nobody's.",
)
@click.option(
    "--water",
    multiple=True,
    metavar="BIN=VALUE",
    help="Attenuation of water in a bin, 1/mm: its series is written in Hounsfield units.",
)
@click.option(
    "--compression",
    type=click.Choice(["uncompressed", "jpeg-ls", "jpeg-2000", "rle"]),
    default="uncompressed",
    help="Lossless encoding of the pixels.",
)
@click.option("--deidentify", is_flag=True, help="Write pseudonyms, moved dates and no free text (PS3.15 annex E).")
@click.option("--key-file", metavar="FILE", help="Secret of the pseudonyms; by default $MARSPIPE_DEIDENTIFICATION_KEY.")
@click.option("--overwrite", is_flag=True, help="Replace series that marspipe wrote there before.")
@master_option
def export(
    volume: str,
    out: str,
    kind: str,
    bins: tuple[int, ...],
    identity_uri: str | None,
    water: tuple[str, ...],
    compression: str,
    deidentify: bool,
    key_file: str | None,
    overwrite: bool,
    master: str | None,
) -> None:
    """Write DICOM series of a finished VOLUME, in parallel; same options, same bytes."""
    from marspipe.pipeline.export.dicom import export_dicom, refuse_foreign
    from marspipe.pipeline.export.options import DicomOptions, read_identity, read_key
    from marspipe.pipeline.spark.session import command_session
    from marspipe.show.progress import Progress
    from marspipe.store.volume import open_volume

    if key_file is not None and not deidentify:
        raise click.UsageError("--key-file is for --deidentify: give both, or neither")
    options = DicomOptions(
        kind=kind,  # type: ignore[arg-type]
        bins=bins or None,
        identity=None if identity_uri is None else read_identity(identity_uri),
        water_attenuation_per_mm=_water(water),
        transfer_syntax=compression,  # type: ignore[arg-type]
        deidentification_key=read_key(key_file) if deidentify else None,
    )
    options.plan(open_volume(volume))  # refuses what cannot be, before Spark starts
    refuse_foreign(out, overwrite=overwrite)
    with command_session("marspipe export", master) as spark:
        done = export_dicom(spark, volume, out, options, progress=Progress())
    click.echo(f"dicom      {done.uri}    {done.n_instances} instances")
    for bin_, clipped in done.clipped_voxels.items():
        if clipped:
            click.echo(f"clipped    bin {bin_}: {clipped} voxels lie beyond the stored range")


def _water(values: tuple[str, ...]) -> dict[int, float]:
    found: dict[int, float] = {}
    for text in values:
        name, _, value = text.partition("=")
        try:
            found[int(name)] = float(value)
        except ValueError as error:
            raise click.UsageError(f"--water must be BIN=VALUE such as 0=0.0206, got {text!r}") from error
    return found
