"""``marspipe fetch``: series from a PACS into a landing zone."""

from __future__ import annotations

from typing import Any

import click

from marspipe.cli.peer_options import patience_of, peer_named, peer_options
from marspipe.errors import InputError


@click.command()
@click.option(
    "--from",
    "url",
    required=True,
    metavar="URL",
    help="dicom://AE@host:port, dicoms://AE@host:port (TLS), or the root of a DICOMweb service, https://host/dicom-web.",
)
@click.option("--out", "out_uri", required=True, metavar="FOLDER", help="Landing zone, on disk or HDFS.")
@click.option("--study", "study_uid", metavar="UID", help="Study Instance UID.")
@click.option("--series", "series_uid", metavar="UID", help="Series Instance UID.")
@click.option("--modality", metavar="CODE", help="Only series of this modality, such as CT.")
@click.option(
    "--patient-id",
    envvar="MARSPIPE_PACS_PATIENT_ID",
    metavar="ID",
    help="Or $MARSPIPE_PACS_PATIENT_ID, which no list of processes shows.",
)
@click.option(
    "--accession",
    "accession_number",
    envvar="MARSPIPE_PACS_ACCESSION",
    metavar="NUMBER",
    help="Accession number; or $MARSPIPE_PACS_ACCESSION.",
)
@click.option(
    "--move-to",
    metavar="AE:PORT",
    help="Let the PACS send by C-MOVE to this AE title, which it knows with this machine and port; by default C-GET.",
)
@click.option(
    "--move-from",
    multiple=True,
    metavar="HOST",
    help="Host from which it may do so, if not that of the URL; may be given several times.",
)
@click.option(
    "--max-gib", type=click.FloatRange(min=0, min_open=True), metavar="GIB", help="Bound of the landing zone."
)
@peer_options
def fetch(
    url: str,
    out_uri: str,
    study_uid: str | None,
    series_uid: str | None,
    modality: str | None,
    patient_id: str | None,
    accession_number: str | None,
    move_to: str | None,
    move_from: tuple[str, ...],
    max_gib: float | None,
    associations: int,
    **options: Any,
) -> None:
    """Fetch series from a PACS: raw frames for ingest, or reference images.

    What lies in the folder already is not fetched again. Each complete series gets a series.yaml, which a scan manifest
    can name.
    """
    from marspipe.pipeline.pacs.fetch import Query
    from marspipe.pipeline.pacs.fetch import fetch as fetch_series
    from marspipe.show.progress import Progress

    peer = peer_named(url, options, move_from)
    done = fetch_series(
        peer,
        Query(study_uid, series_uid, modality, patient_id, accession_number),
        out_uri,
        progress=Progress(),
        associations=associations,
        patience=patience_of(options),
        move_to=None if move_to is None else _destination(move_to),
        max_bytes=None if max_gib is None else int(max_gib * 2**30),
    )
    for one in done:
        click.echo(
            f"series     {one.n_instances} instances, {one.n_fetched} of them new: {one.series_file_uri or one.uri}"
        )
        for problem in one.problems or ():
            click.echo(f"geometry   {problem}")
    click.echo(f"from       {peer.url}")


def _destination(text: str) -> tuple[str, int]:
    name, _, port = text.rpartition(":")
    if not name or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--move-to must be AE:PORT, such as MARSPIPE:11113, got {text!r}")
    return name, int(port)
