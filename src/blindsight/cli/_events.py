"""What a party's process says on standard error: one line an event, without a value of any record."""

from __future__ import annotations

import json
import logging
import sys
import time

from blindsight._text import printable

__all__ = ["events_to_stderr"]

EVENTS = ("blindsight.channels", "blindsight.federation._audit", "blindsight.party")
"""Loggers that never hold a value of a record: what crosses the channel, and what the audit log holds."""
MAX_LINE_CHARS = 500


class _OneLine(logging.Formatter):
    """Time and message; no traceback, which could show what a function was working on."""

    def __init__(self, name: str, *, as_json: bool) -> None:
        super().__init__()
        self._name, self._as_json = name, as_json

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage()[:MAX_LINE_CHARS])
        text = text.removeprefix(f"{self._name} ")
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        if self._as_json:
            return json.dumps({"time_utc": at, "party": self._name, "level": record.levelname.lower(), "event": text})
        return f"{at} {self._name}: {text}"


def events_to_stderr(name: str, *, as_json: bool) -> logging.Logger:
    """Show events from now on; returns the logger of the process's own.

    Parameters
    ----------
    name : str
        Of the party, on every line.
    as_json : bool
        One JSON value a line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(name, as_json=as_json))
    for logger in map(logging.getLogger, EVENTS):
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    return logging.getLogger("blindsight.party")
