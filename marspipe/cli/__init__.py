"""The command line: one module per group of commands.

Exit codes: 0 done; 1 some of several scans failed; 2 bad input, recipe or environment; 3 the run failed; 75 another job
holds what this one wants to change.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO

import click

import marspipe
from marspipe.errors import MarspipeError

EXIT_BAD_INPUT = 2
EXIT_FAILED = 3

# Commands load when they are called, so that help and errors come at once.
COMMANDS = {
    "align": "marspipe.cli.align:align",
    "bench": "marspipe.cli.bench:bench",
    "catalog": "marspipe.cli.catalog:catalog",
    "demo": "marspipe.cli.demo:demo",
    "export": "marspipe.cli.export:export",
    "fetch": "marspipe.cli.fetch:fetch",
    "ingest": "marspipe.cli.ingest:ingest",
    "inspect": "marspipe.cli.inspect:inspect",
    "plan": "marspipe.cli.plan:plan",
    "preview": "marspipe.cli.reconstruct:preview",
    "publish": "marspipe.cli.publish:publish",
    "receive": "marspipe.cli.receive:receive",
    "reconstruct": "marspipe.cli.reconstruct:reconstruct",
    "reprocess": "marspipe.cli.reprocess:reprocess",
    "simulate": "marspipe.cli.simulate:simulate",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(marspipe.__version__, prog_name="marspipe")
@click.option("--debug", is_flag=True, help="Show the whole stack trace of an error.")
def cli(debug: bool) -> None:
    """Spectral cone-beam CT on Spark: raw Medipix frames in, Parquet and DICOM volumes out."""
    del debug  # read by run_command from the arguments, so that it also covers errors while a command loads


def run_command(command: click.Command, arguments: Sequence[str], name: str) -> int:
    """Run a command and return its exit code; errors become one sentence on standard error."""
    debug = "--debug" in arguments
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _say_warning
            result = command.main(args=list(arguments), prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_BAD_INPUT
    except click.Abort:
        click.echo("marspipe: stopped", err=True)
        return EXIT_FAILED
    except MarspipeError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"marspipe: {error}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        click.echo("marspipe: stopped", err=True)
        return EXIT_FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        hint = "" if debug else " (marspipe --debug shows where)"
        click.echo(f"marspipe: failed: {type(error).__name__}: {error}{hint}", err=True)
        return EXIT_FAILED


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show marspipe's own warnings as sentences; those of libraries are for developers."""
    del filename, lineno, file, line
    if category.__module__.startswith("marspipe."):
        click.echo(f"marspipe: warning: {message}", err=True)


def main() -> None:
    """Run the ``marspipe`` command."""
    sys.exit(run_command(cli, sys.argv[1:], "marspipe"))


def job(command: click.Command, name: str) -> int:
    """Run one command as a Spark job, with the arguments of ``spark-submit``."""
    return run_command(command, sys.argv[1:], name)
