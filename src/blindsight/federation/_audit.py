"""A party's audit log: ``audit.jsonl``, one canonical line of JSON an event, each bound to all before it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec

from blindsight._text import printable
from blindsight.errors import BlindsightError, FormatError, StoreError
from blindsight.privacy import HashChain
from blindsight.store import Store

from .kits._dates import now_utc

__all__ = ["AUDIT_FILE", "AuditLine", "AuditLog"]

log = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"
MAX_LINE_BYTES = 32_768
MAX_TEXT_CHARS = 1000
MAX_TOLD_CHARS = 400
"""Of an event's line in the process's own log."""
REFUSALS_A_MINUTE = 60
"""Refusals written in full; whoever is refused more often fills no disk: the others are counted."""

_chain = HashChain(b"blindsight audit log v1")


class AuditLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event.

    Parameters
    ----------
    sequence : int
    time_utc : str
        For the reader; nothing is decided by it.
    kind : str
        ``list``, ``policy``, ``began``, ``waits``, ``approved``, ``declined``, ``released``, ``signed``, ``model``,
        ``written-off``, ``forgot``, ``refused``, ``torn``.
    detail : dict
        Plain values. Never a value of a record.
    previous : str
        Hash of the line before.
    """

    sequence: int
    time_utc: str
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    detail: dict[str, Any]
    previous: str

    def to_json(self) -> bytes:
        """Canonical JSON: keys sorted, no spaces."""
        return msgspec.json.encode(self, order="sorted")


class _Head(msgspec.Struct, frozen=True):
    sequence: int
    link: str


class AuditLog:
    """Append-only; several processes of one party may write.

    Parameters
    ----------
    path : Path
        Made with mode 0600 if it is not there.
    store : Store
        Remembers the newest line, so that lines cut off the end are missed.

    Security
    --------
    A line that is changed, removed or inserted breaks the chain. Somebody with both file and store, and the key that
    seals the store, can put back an old copy of both: a head that was noted elsewhere shows it (:meth:`verify`).
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._table = store.table("audit")
        self._lock = threading.Lock()
        self._minute, self._refusals, self._suppressed = 0, 0, 0

    def write(self, kind: str, **detail: object) -> None:
        """Append an event; on disk when this returns.

        Raises
        ------
        StoreError
            It could not be written: what it is about must not go on.
        """
        plain = {key: _plain(value) for key, value in detail.items() if value is not None}
        try:
            with self._lock, self._open() as file:
                last, torn = _last_line(file)
                sequence, previous = self._position(last)
                lines = []
                if torn:
                    line = _line(sequence, "torn", {"bytes": torn}, previous)
                    lines.append(line)
                    sequence, previous = sequence + 1, _chain.link(line)
                lines.append(_line(sequence, kind, plain, previous))
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
                head = _Head(sequence, _chain.link(lines[-1]))
                self._table.put("head", msgspec.json.encode(head))
            log.info("%s %s", kind, msgspec.json.encode(plain).decode()[:MAX_TOLD_CHARS])
        except OSError as error:
            raise StoreError(
                "The audit log could not be written",
                got=error.strerror or type(error).__name__,
                rule="what is not logged does not happen",
                fix=f"see that {AUDIT_FILE} may be written and that the disk has space",
            ) from error

    def refused(self, **detail: object) -> None:
        """Write a refusal; never raises, since nothing happened. Beyond some a minute they are counted alone."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refusals = minute, 0
        self._refusals += 1
        if self._refusals > REFUSALS_A_MINUTE:
            self._suppressed += 1
            return
        try:
            self.write("refused", **detail, not_written_before=self._suppressed or None)
            self._suppressed = 0
        except BlindsightError as error:
            log.error("a refusal could not be written to the audit log: %s", error)

    @property
    def count(self) -> int:
        """Lines written so far, as the store remembers the newest."""
        stored = self._table.get("head")
        return 0 if stored is None else msgspec.json.decode(stored, type=_Head).sequence + 1

    def head(self) -> str:
        """Hash of the newest line; worth noting elsewhere."""
        stored = self._table.get("head")
        return _chain.genesis if stored is None else msgspec.json.decode(stored, type=_Head).link

    def lines(self) -> list[AuditLine]:
        """Return all lines, whose chain holds; errors as :meth:`verify`."""
        return _walk(self._read())[0]

    def verify(self, seen_head: str | None = None) -> int:
        """Check the whole chain; return the number of lines.

        Parameters
        ----------
        seen_head : str, optional
            A head noted earlier; it must still be in the chain.

        Raises
        ------
        FormatError
            A line was changed, removed or inserted; or the log is older than its head.
        """
        lines, links = _walk(self._read())
        for head, where in ((self.head(), "that the party's store remembers"), (seen_head, "that was seen before")):
            if head is not None and head not in {_chain.genesis, *links}:
                raise FormatError(
                    f"The audit log does not contain the head {where}",
                    got=f"{len(lines)} lines, without {head[:16]}...",
                    rule="the log only grows",
                    fix="lines were cut off, or an old copy was put back: restore the newest, and find out who did it",
                )
        return len(lines)

    # -- inside

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            yield file

    def _position(self, last: bytes | None) -> tuple[int, str]:
        """Number and ``previous`` of the next line: after the newest one that file or store know."""
        stored = self._table.get("head")
        head = None if stored is None else msgspec.json.decode(stored, type=_Head)
        if last is not None:
            try:
                sequence = msgspec.json.decode(last, type=AuditLine).sequence
            except (msgspec.MsgspecError, ValueError):
                sequence = -1  # damaged: go on after what the store knows, and let verify tell
            if head is None or sequence >= head.sequence:
                return sequence + 1, _chain.link(last)
        # nothing is there, or lines were cut off: the gap stays visible for good
        return (0, _chain.genesis) if head is None else (head.sequence + 1, head.link)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError("The audit log could not be read", got=error.strerror or type(error).__name__) from error


def _line(sequence: int, kind: str, detail: dict[str, Any], previous: str) -> bytes:
    line = AuditLine(sequence=sequence, time_utc=now_utc(), kind=kind, detail=detail, previous=previous)
    return line.to_json()


def _last_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """The last whole line, and how many bytes a writer that was killed left after it; those are taken away."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - 2 * MAX_LINE_BYTES)
    file.seek(start)
    tail = file.read()
    whole = tail.rfind(b"\n") + 1
    torn = len(tail) - whole
    if torn:
        file.truncate(end - torn)
    file.seek(0, os.SEEK_END)
    lines = tail[:whole].splitlines()
    return (lines[-1] if lines else None), torn


def _walk(data: bytes) -> tuple[list[AuditLine], list[str]]:
    lines, links, previous = [], [], _chain.genesis
    for sequence, raw in enumerate(data.split(b"\n")[:-1]):
        try:
            line = msgspec.json.decode(raw, type=AuditLine)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise FormatError(f"Line {sequence} of the audit log is malformed", got=str(error)[:200]) from error
        if line.sequence != sequence or line.previous != previous or line.to_json() != raw:
            raise FormatError(
                f"The audit log's hash chain is broken at line {sequence}",
                got=f"sequence {line.sequence}",
                rule="each line holds the hash of the one before it",
                fix="lines were changed, removed or inserted: restore a copy, and find out who did it",
            )
        lines.append(line)
        previous = _chain.link(raw)
        links.append(previous)
    if not data.endswith(b"\n") and data:
        raise FormatError(
            "The audit log ends in the middle of a line",
            got=f"{len(data.splitlines()[-1])} bytes",
            fix="a writer was killed: the party's next event takes them away and says so; or the file was cut",
        )
    return lines, links


def _plain(value: object) -> Any:
    """Short and printable, however long what the coordinator sent is."""
    if isinstance(value, str):
        return printable(value[:MAX_TEXT_CHARS])
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:300]]
    if isinstance(value, dict):
        return {printable(str(key)[:64]): _plain(item) for key, item in list(value.items())[:64]}
    return value if isinstance(value, bool | int | float) or value is None else printable(str(value)[:MAX_TEXT_CHARS])
