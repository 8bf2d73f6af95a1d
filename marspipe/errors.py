"""The errors marspipe raises, and the exit code each one gives a command.

Messages name the value found, the value expected, and the file, key or view it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MarspipeError(Exception):
    """Base of all errors that marspipe raises on purpose."""

    exit_code = 3


class InputError(MarspipeError, ValueError):
    """What the user gave cannot be used; a command ends with exit code 2."""

    exit_code = 2


class GeometryError(InputError):
    """A scan geometry or volume grid that is wrong in itself, or the two do not fit together."""


class RawFormatError(InputError):
    """A raw file that is damaged, truncated or not of the format it claims."""


class ScanError(InputError):
    """A scan whose frames contradict each other or its manifest: views missing, doubled, or of another shape."""


class RecipeError(InputError):
    """A recipe with an unknown key, a wrong value, or one that does not fit the scan."""


class OutputExistsError(InputError):
    """The output already holds a committed result."""


class EnvironmentMissingError(InputError):
    """Something the machine must have is missing; the message is one sentence that says what to install."""


class RunError(MarspipeError, RuntimeError):
    """A run that failed on the way; a command ends with exit code 3."""


class BusyError(MarspipeError):
    """Another job holds what this one wants to change; a command ends with exit code 75: try again later."""

    exit_code = 75


@contextmanager
def panics_are_errors() -> Iterator[None]:
    """Let a panic in a library written in Rust, such as pylibjpeg-rle's on damaged run lengths, be a ValueError.

    PyO3 makes panics a BaseException, which passes every `except Exception`. Each library has a class of its own for
    them, so that they are known by their module only.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError(str(error)) from error
