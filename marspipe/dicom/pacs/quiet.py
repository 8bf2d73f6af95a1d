"""Silence of the libraries: what they would log are data sets, identifiers of queries, and URLs with their values."""

from __future__ import annotations

import logging

from pynetdicom import _config

_SILENT = ("pynetdicom", "dicomweb_client")


def silence() -> None:
    """Let pynetdicom, dicomweb-client and urllib3 log nothing, whatever handlers and levels are set.

    Errors reach marspipe as statuses and exceptions; the text of the log is not needed for them.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    # A filter of a logger is not asked by those below it.
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in _SILENT:
            _add(logging.getLogger(name), _NOTHING)
    # Others in this process may use it, for which warnings are kept; it warns of nothing that we ask of it.
    _add(logging.getLogger("urllib3.connectionpool"), _WARNINGS)


def _add(logger: logging.Logger, the_filter: logging.Filter) -> None:
    if the_filter not in logger.filters:
        logger.addFilter(the_filter)


class _AtLeast(logging.Filter):
    def __init__(self, level: float) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._level


_NOTHING = _AtLeast(float("inf"))
_WARNINGS = _AtLeast(logging.WARNING)
