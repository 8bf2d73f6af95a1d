"""``marspipe receive``: what a scanner sends goes to the landing zone."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType

import click

from marspipe.pipeline.pacs.receive_settings import ReceiverSettings, receiver_settings
from marspipe.store.landing import DEFAULT_MIN_FREE_BYTES, LandingZone

GIB = 1 << 30


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=ReceiverSettings.port,
    help="Port to listen on; 0 for any free one.",
)
@click.option("--bind", default=ReceiverSettings.bind, metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--ae-title", default=ReceiverSettings.ae_title, metavar="AE", help="Our AE title; senders must call us by it."
)
@click.option(
    "--allow",
    multiple=True,
    metavar="AE[@HOST]",
    help="Who may send: an AE title, from an address or network if one follows, such as SCANNER@10.0.0.7 or "
    "*@10.0.0.0/24; may be repeated. Without it, every AE title of this machine and nobody else.",
)
@click.option(
    "--max-gib",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="What may lie in FOLDER, 2^30 bytes; by default only --min-free-gib bounds it.",
)
@click.option(
    "--min-free-gib",
    type=click.FloatRange(min=0),
    default=DEFAULT_MIN_FREE_BYTES / GIB,
    metavar="GIB",
    help="What stays free on the disk, 2^30 bytes.",
)
@click.option("--tls-cert", metavar="PEM", help="Take TLS connections only, with this certificate.")
@click.option("--tls-key", metavar="PEM", help="Its key, unencrypted, if it is in another file.")
@click.option("--tls-ca", metavar="PEM", help="Senders must show a certificate that one of these has signed.")
@click.option(
    "--max-associations",
    type=click.IntRange(min=1),
    default=ReceiverSettings.max_associations,
    metavar="N",
    help="Senders at once.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=1),
    default=ReceiverSettings.timeout_s,
    metavar="S",
    help="A sender that is silent for so long is dropped.",
)
@click.option("--log", "log_file", metavar="FILE", help="Add the log to this file, one JSON object a line.")
def receive(
    folder: str,
    port: int,
    bind: str,
    ae_title: str,
    allow: tuple[str, ...],
    max_gib: float | None,
    min_free_gib: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    max_associations: int,
    timeout_s: float,
    log_file: str | None,
) -> None:
    """Receive DICOM instances from a scanner into FOLDER, on disk or HDFS, until it is interrupted.

    An instance becomes FOLDER/<study UID>/<series UID>/<SOP instance UID>.dcm when it is whole, and is acknowledged
    then. The first one of a UID stays. Where there is no room, the sender is told so (0xA700).

    SIGTERM or Ctrl-C: open associations have 5 s to end, and are aborted; nothing half-written remains.
    """
    from marspipe.errors import OutputExistsError
    from marspipe.log import configure_json_log, remove_json_log
    from marspipe.pipeline.pacs.receive import receive as receive_into

    settings = receiver_settings(
        bind=bind,
        port=port,
        ae_title=ae_title,
        allow=allow,
        certificate=tls_cert,
        key=tls_key,
        ca=tls_ca,
        max_associations=max_associations,
        timeout_s=timeout_s,
    )
    stop = threading.Event()

    def told_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    max_bytes = None if max_gib is None else int(max_gib * GIB)
    with LandingZone(folder, max_bytes=max_bytes, min_free_bytes=int(min_free_gib * GIB)) as zone:
        try:
            handler = None if log_file is None else configure_json_log(log_file)
        except OSError as error:
            raise OutputExistsError(f"--log {log_file} cannot be written: {error}") from error
        before = {number: signal.signal(number, told_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            total = receive_into(zone, settings, stop, say=_say)
        finally:
            for number, action in before.items():
                signal.signal(number, action)
            if handler is not None:
                remove_json_log(handler)
    _say(
        f"stopped: {total.associations} associations, {total.stored} instances stored, {total.kept} there already, "
        f"{total.refused} refused"
    )


_saying = threading.Lock()


def _say(line: str) -> None:
    """Print a line at once, whole, from whatever thread; where nobody takes it any more, receiving goes on."""
    with _saying, suppress(OSError, ValueError):
        click.echo(line)
