"""``marspipe publish``: DICOM series to a PACS."""

from __future__ import annotations

from typing import Any

import click

from marspipe.cli.options import catalog_option, catalog_to_record_in
from marspipe.cli.peer_options import patience_of, peer_named, peer_options
from marspipe.errors import InputError, RunError


@click.command()
@click.argument("folder", required=False, metavar="[DICOM_FOLDER]")
@click.option(
    "--to",
    "url",
    required=True,
    metavar="URL",
    help="dicom://AE@host:port, dicoms://AE@host:port (TLS), or the root of a DICOMweb service, https://host/dicom-web.",
)
@click.option("--echo", "only_echo", is_flag=True, help="Only ask whether the PACS is there and lets us in.")
@click.option("--no-verify", is_flag=True, help="Do not ask afterwards whether every instance has arrived.")
@click.option(
    "--commit",
    type=click.Choice(("offered", "required", "no")),
    default="offered",
    help="Ask for storage commitment: where it is offered, or else fail, or not at all.",
)
@click.option(
    "--commit-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Port of ours at which the PACS may answer to that.",
)
@click.option(
    "--commit-from",
    multiple=True,
    metavar="HOST",
    help="Host from which it may do so, if not that of the URL; may be given several times.",
)
@click.option(
    "--commit-wait", "commit_wait_s", type=click.FloatRange(min=0), default=30.0, metavar="S", help="Wait for it, s."
)
@click.option("--decompress", is_flag=True, help="Decompress for a PACS that does not take the transfer syntax.")
@click.option(
    "--volume",
    "volume_uri",
    metavar="URI",
    help="Volume that the folder was made from, for the catalog; by default the one beside it.",
)
@peer_options
@catalog_option
def publish(
    folder: str | None,
    url: str,
    only_echo: bool,
    no_verify: bool,
    commit: Any,
    commit_port: int | None,
    commit_from: tuple[str, ...],
    commit_wait_s: float,
    decompress: bool,
    volume_uri: str | None,
    catalog_url: str | None,
    associations: int,
    **options: Any,
) -> None:
    """Send the DICOM files of a folder, on disk or HDFS, to a PACS: those that it does not have.

    Files are sent as they are. Called again, it goes on where it ended. Exit code 0 if all instances have arrived, 3 if
    some have not.
    """
    from marspipe.pipeline.pacs.peers import echo

    peer = peer_named(url, options, commit_from)
    if only_echo:
        echo(peer)
        click.echo(f"answers    {peer.url}")
        return
    if folder is None:
        raise InputError("name the folder of DICOM files to publish, or give --echo")
    from marspipe.pipeline.pacs.publish import publish as publish_folder
    from marspipe.pipeline.pacs.record import recorded_publication, volume_of
    from marspipe.show.progress import Progress

    volume = volume_of(folder, volume_uri)
    catalog = None if volume is None else catalog_to_record_in(catalog_url)
    with recorded_publication(catalog, volume, peer.url, folder) as record:
        done = record.published = publish_folder(
            folder,
            peer,
            progress=Progress(),
            associations=associations,
            patience=patience_of(options),
            verify=not no_verify,
            commit=commit,
            commit_wait_s=commit_wait_s,
            commit_port=commit_port,
            decompress=decompress,
        )
        click.echo(
            f"published  {done.n_instances} instances of {done.n_series} series: {done.sent} sent, {done.kept} kept"
        )
        click.echo(f"to         {done.destination}")
        if done.found is not None:
            click.echo(f"verified   {done.found} instances are there")
        elif not no_verify and done.error is None:
            click.echo("verified   by the answers to C-STORE alone: the PACS cannot be asked what it holds")
        if done.commitment is not None and done.commitment.state == "answered":
            click.echo(f"committed  {len(done.commitment.sop_uids)} instances")
        elif done.commitment is not None:
            click.echo(f"committed  no: {done.commitment.state}")
        if done.error is not None:
            raise RunError(done.error)
