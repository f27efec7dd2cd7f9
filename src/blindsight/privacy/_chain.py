"""Hash chains over canonical lines, and the lines of the ledger."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Literal

import msgspec

from blindsight.errors import FormatError

from ._event import MAX_EVENT_BYTES, Event

__all__ = ["GENESIS", "HashChain", "Line", "line_from_json", "line_hash", "walk"]


class HashChain:
    """Hashes that bind each line of a log to all lines before it.

    Parameters
    ----------
    label : bytes
        What log it is, so that a line of one is none of another.
    """

    def __init__(self, label: bytes) -> None:
        self._label = label
        self.genesis = hashlib.sha256(label + b"|genesis").hexdigest()

    def link(self, line: bytes) -> str:
        """Hexadecimal SHA-256 of a line, which holds the one before it; the next line's ``previous``."""
        return hashlib.sha256(self._label + b"|line|" + line).hexdigest()


_ledger = HashChain(b"blindsight ledger v1")
GENESIS = _ledger.genesis
MAX_LINE_BYTES = MAX_EVENT_BYTES + 2048


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line: a charge (``event`` is set), or that an output was stored (``output_sha256`` is set)."""

    sequence: int
    kind: Literal["charge", "output"]
    release_id: str
    event: Event | None
    output_sha256: str | None
    time_utc: str
    previous: str

    def to_json(self) -> bytes:
        """Canonical JSON: keys sorted, no spaces, floats in their shortest exact form."""
        return msgspec.json.encode(self, order="sorted")


def line_from_json(data: bytes) -> Line:
    """Read one line strictly; FormatError where it is not exactly what :meth:`Line.to_json` writes."""
    if len(data) > MAX_LINE_BYTES:
        raise FormatError("A ledger line is too long", got=f"{len(data)} bytes", rule=f"at most {MAX_LINE_BYTES}")
    try:
        line = msgspec.json.decode(data, type=Line)
    except (msgspec.MsgspecError, ValueError) as error:  # ParameterError is a ValueError
        raise FormatError("A ledger line is malformed", got=str(error)) from error
    if line.to_json() != data:
        raise FormatError("A ledger line is not in canonical form", rule="sorted keys, no spaces, each key once")
    fields = (line.event is not None, line.output_sha256 is not None)
    if fields != (line.kind == "charge", line.kind == "output"):
        raise FormatError("A ledger line contradicts its kind", got=line.kind)
    return line


def line_hash(data: bytes) -> str:
    """Hexadecimal SHA-256 of a line in its canonical form; through ``previous``, of all lines before it."""
    return _ledger.link(data)


def walk(payloads: list[bytes]) -> list[Line]:
    """Read all lines and check that they form one chain.

    Raises
    ------
    FormatError
        A line is malformed, out of sequence, or does not continue the line before it.
    """
    lines, previous = [], GENESIS
    for sequence, payload in enumerate(payloads):
        line = line_from_json(payload)
        if line.sequence != sequence or line.previous != previous:
            raise FormatError(
                f"The ledger's hash chain is broken at line {sequence}",
                got=f"sequence {line.sequence}",
                rule="each line holds the hash of the one before it",
                fix="release nothing on this ledger; restore a copy whose head was countersigned",
            )
        lines.append(line)
        previous = line_hash(payload)
    return lines


def now_utc() -> str:
    """The time, for the reader alone: nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
