"""Silence of the libraries: what they would log are data sets, identifiers of queries, and URLs with their values."""

from __future__ import annotations

import logging

from pynetdicom import _config

_SILENT = ("pynetdicom", "dicomweb_client")


def silence() -> None:
    """Let pynetdicom, dicomweb-client and what it connects with log nothing, whatever levels are set.

    Errors reach marspipe as statuses and exceptions; the text of the log is not needed for them.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    # A filter of a logger is not asked by those below it.
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in _SILENT:
            _add(logging.getLogger(name), _NOTHING)
    # Of a header that it cannot parse it warns with the URL, which may hold a patient ID.
    # What dicomweb-client tries again with tells of every failure, with a traceback.
    for name in ("urllib3.connection", "urllib3.connectionpool", "retrying"):
        _add(logging.getLogger(name), _NOTHING)


def _add(logger: logging.Logger, the_filter: logging.Filter) -> None:
    if the_filter not in logger.filters:
        logger.addFilter(the_filter)


class _Nothing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return False


_NOTHING = _Nothing()
