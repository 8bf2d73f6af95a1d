"""Measurements in a process of their own: their memory is theirs, and so is their death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from marspipe.errors import EnvironmentMissingError, RunError

_MISSING = 2


def in_fresh_process(module: str, arguments: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run a module that ends with :func:`answer` in a new interpreter, and return what it answered.

    Parameters
    ----------
    module : str
        Name of the module.
    arguments : dict
        What it works on, JSON-ready.
    **environment : str
        Environment variables to add.

    Raises
    ------
    EnvironmentMissingError
        If it raised one itself.
    RunError
        If the process died or failed; the message has its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
    if done.returncode == _MISSING:
        raise EnvironmentMissingError(said)
    if done.returncode < 0:
        raise RunError(f"{module} was ended by {signal.Signals(-done.returncode).name}: {said}")
    if done.returncode:
        raise RunError(f"{module} failed: {said}")
    answered: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answered


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Work on the arguments of this process and print the result as its last line."""
    try:
        result = work(json.loads(sys.argv[1]))
    except EnvironmentMissingError as error:
        print(error, file=sys.stderr)
        sys.exit(_MISSING)
    print(json.dumps(result))
