"""Options of the commands that talk to a PACS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from marspipe.pipeline.pacs.patience import Patience
    from marspipe.pipeline.pacs.peers import Peer

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--ae-title", default="MARSPIPE", metavar="AE", help="Our AE title, as the PACS knows us."),
    click.option(
        "--credentials",
        "credentials_path",
        metavar="FILE",
        help="YAML file with user and password, or token, that nobody else may read; else $MARSPIPE_PACS_USER and "
        "$MARSPIPE_PACS_PASSWORD, or $MARSPIPE_PACS_TOKEN.",
    ),
    click.option(
        "--plain-credentials", is_flag=True, help="Let credentials go over plain HTTP to another machine, in the clear."
    ),
    click.option(
        "--tls-ca",
        "ca_path",
        metavar="PEM",
        help="Certificates that the PACS's must be signed by; by default $MARSPIPE_PACS_CA, or those of the system.",
    ),
    click.option(
        "--tls-certificate",
        "certificate_path",
        metavar="PEM",
        help="Our own certificate, where the PACS asks for it; by default $MARSPIPE_PACS_CERTIFICATE.",
    ),
    click.option("--tls-key", "key_path", metavar="PEM", help="Its key; by default $MARSPIPE_PACS_KEY."),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=1),
        default=120.0,
        metavar="S",
        help="Wait for an answer, s.",
    ),
    click.option(
        "--associations",
        type=click.IntRange(1, 32),
        default=4,
        metavar="N",
        help="Associations, or HTTP connections, at a time.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=6,
        metavar="N",
        help="Retries in a row that bring nothing new; each waits twice as long as the one before, at most a minute.",
    ),
)


def peer_options(command: Command) -> Command:
    """Add the options that say how to talk to a PACS."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def peer_named(url: str, options: dict[str, Any], other_hosts: tuple[str, ...] = ()) -> Peer:
    """Return the peer of a command's options; it may connect to us from other hosts too."""
    from marspipe.pipeline.pacs.peers import named_peer

    kept = ("ae_title", "credentials_path", "plain_credentials", "ca_path", "certificate_path", "key_path", "timeout_s")
    return replace(named_peer(url, **{name: options[name] for name in kept}), other_hosts=other_hosts)


def patience_of(options: dict[str, Any]) -> Patience:
    """Return the back-off of a command's options."""
    from marspipe.pipeline.pacs.patience import Patience

    return Patience(retries=options["retries"])
