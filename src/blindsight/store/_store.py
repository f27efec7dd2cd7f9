"""The store: one SQLite file in WAL mode with full synchronisation; other databases replace a few of its methods."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from blindsight.errors import BlindsightError, FormatError, ParameterError, ReleaseError, StoreError

from ._sealing import Sealing

__all__ = ["Log", "Store", "Table"]

APPLICATION_ID = 0x42534954  # "BSIT"
FORMAT_VERSION = 1
MAX_VALUE_BYTES = 1 << 28
MAX_KEY_CHARS = 512
CANARY = b"blindsight store"
CANARY_CONTEXT = b"blindsight store|sealed"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE log (stream TEXT NOT NULL, position INTEGER NOT NULL, payload BLOB NOT NULL,"
    " PRIMARY KEY (stream, position)) STRICT, WITHOUT ROWID",
    "CREATE TABLE cell (tab TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (tab, name)) STRICT, WITHOUT ROWID",
)


class Store:
    """Append-only logs and key-value tables in one file, or in memory.

    Parameters
    ----------
    path : path-like or None
        The database file, created with mode 0600 if absent. None is a private store in memory.
    sealer : Sealing, optional
        Seals every value at rest, bound to its place (table and key, or stream and position), so that values
        can be neither read nor moved. Names of streams, tables and keys stay readable. A store is sealed, or
        not, for its whole life.
    timeout_s : float
        How long a write waits for another process that holds the store.

    Raises
    ------
    StoreError
        The file cannot be opened, is locked, or the disk is full.
    FormatError
        The file is not a store, is of another version, or is sealed and no sealer is given (or the reverse).
    AuthenticationError
        The sealer's key is not the one the store was sealed with.

    Security
    --------
    Sealing keeps values secret and in place. It does not notice an *old copy* of the whole file put back: the
    ledger's countersigned head does.

    Notes
    -----
    Journal in WAL mode, ``synchronous=FULL``, every write in ``BEGIN IMMEDIATE``: a write that
    returned is on disk. One ``Store`` may be used from several threads; writes take turns. It must not be
    carried across a fork.
    """

    max_value_bytes: ClassVar[int] = MAX_VALUE_BYTES
    """Longest value, before it is sealed."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        sealer: Sealing | None = None,
        *,
        timeout_s: float = 10.0,
    ) -> None:
        self._path = None if path is None else Path(path)
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._depth = 0
        self._pid = os.getpid()
        self._db: Any  # sqlite3.Connection, or what looks like one
        with self._errors("opened", "nothing was written"):
            self._db = self._connect()
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    # -- the public face

    @property
    def path(self) -> Path | None:
        """The file, or None for a store in memory."""
        return self._path

    @property
    def sealed(self) -> bool:
        """Whether values are sealed at rest."""
        return self._sealer is not None

    @property
    def in_transaction(self) -> bool:
        """Whether the calling thread is inside :meth:`transaction`."""
        with self._lock:
            return self._depth > 0

    def log(self, stream: str) -> Log:
        """Return the append-only stream of that name (lower case letters, digits, ``._-``; at most 64)."""
        return Log(self, _checked_name("stream", stream))

    def table(self, name: str) -> Table:
        """Return the key-value table of that name (same alphabet)."""
        return Table(self, _checked_name("table", name))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all writes of the block together, or none of them.

        Blocks nest: the outermost commits. An exception that leaves any block undoes the whole of it.
        """
        with self._lock:
            self._alive()
            if self._depth == 0:
                with self._errors("written", "nothing was written"):
                    self._begin()
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                self._undo()
                raise
            self._depth -= 1
            if self._depth == 0:
                try:
                    with self._errors("written", "nothing of this step was kept; all earlier entries are intact"):
                        if not self._db.in_transaction:  # an inner block failed and its error was swallowed
                            raise StoreError(
                                "A transaction was continued after a step inside it had failed",
                                rule="all or nothing: nothing of it was kept",
                                fix="let the error leave the outermost transaction",
                            )
                        self._db.execute("COMMIT")
                except BaseException:
                    self._undo()
                    raise

    def close(self) -> None:
        """Close the file. Everything committed stays."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        db = getattr(self, "_db", None)
        if db is not None and os.getpid() == self._pid:  # a forked child must not touch its parent's file
            db.close()

    def __repr__(self) -> str:
        return f"Store({self._place()}, {'sealed' if self.sealed else 'not sealed'})"

    # -- used by Log and Table

    def _read(self, sql: str, *values: str | int) -> list[tuple[object, ...]]:
        with self._lock:
            self._alive()
            with self._errors("read", "nothing was changed"):
                rows: list[tuple[object, ...]] = self._db.execute(sql, values).fetchall()
                return rows

    def _write(self, sql: str, *values: str | int | bytes) -> None:
        with self._errors("written", "nothing of this step was kept; all earlier entries are intact"):
            if not self._db.in_transaction:
                raise StoreError("A write came outside a live transaction", rule="all or nothing")
            self._db.execute(sql, values)

    def _seal(self, plaintext: bytes, context: bytes) -> bytes:
        if len(plaintext) > MAX_VALUE_BYTES:
            raise ParameterError(
                "A value is too large for the store",
                got=f"{len(plaintext)} bytes",
                rule=f"at most {MAX_VALUE_BYTES}",
            )
        return bytes(plaintext) if self._sealer is None else self._sealer.seal(plaintext, context)

    def _open(self, value: object, context: bytes) -> bytes:
        assert isinstance(value, bytes)  # STRICT tables
        return value if self._sealer is None else self._sealer.open(value, context)

    # -- what another database replaces

    def _place(self) -> str:
        return "memory" if self._path is None else str(self._path)

    def _named(self) -> str:
        return "The store" if self._path is None else f"The store {self._path.name!r}"

    def _begin(self) -> None:
        """Start a transaction that no other writer's can run beside."""
        self._db.execute("BEGIN IMMEDIATE")

    def _connect(self) -> Any:
        if self._path is None:
            name = ":memory:"
        else:
            name = str(self._path)
            # Created here so that the file, and SQLite's side files after it, are never readable by others. One that is
            # there is not opened: to close it again would drop the locks of another Store of this process (POSIX), and
            # the next process to leave would take the write-ahead log away from under it.
            with contextlib.suppress(FileExistsError):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(os.path.realpath(name), flags, 0o600))
        db = sqlite3.connect(name, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA trusted_schema=OFF")
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self) -> None:
        with self.transaction():
            application = self._read("PRAGMA application_id")[0][0]
            version = self._read("PRAGMA user_version")[0][0]
            tables = self._read("SELECT count(*) FROM sqlite_schema")[0][0]
            if application == 0 and version == 0 and tables == 0:
                for statement in _TABLES:
                    self._write(statement)
                self._write(f"PRAGMA application_id={APPLICATION_ID}")
                self._write(f"PRAGMA user_version={FORMAT_VERSION}")
                self._mark_sealed()
                return
        where = "The store" if self._path is None else f"The file {self._path.name!r}"
        if application != APPLICATION_ID or version != FORMAT_VERSION:
            raise FormatError(
                f"{where} is not a store of this version",
                got=f"application {application}, version {version}",
                rule=f"application {APPLICATION_ID}, version {FORMAT_VERSION}",
            )
        self._check_sealed(where)

    # -- private

    def _mark_sealed(self) -> None:
        if self._sealer is not None:
            canary = self._sealer.seal(CANARY, CANARY_CONTEXT)
            self._write("INSERT INTO meta VALUES ('sealed', ?)", canary)

    def _check_sealed(self, where: str) -> None:
        rows = self._read("SELECT value FROM meta WHERE name = 'sealed'")
        if bool(rows) != self.sealed:
            raise FormatError(
                f"{where} is {'sealed' if rows else 'not sealed'}",
                got="a sealer" if self.sealed else "no sealer",
                fix="open it with its passphrase or key file" if rows else "open it without a sealer",
            )
        if rows:
            self._open(rows[0][0], CANARY_CONTEXT)

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _alive(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                "A store was carried into a forked process",
                rule="SQLite files must not cross a fork",
                fix="open the store in the new process",
            )

    @contextmanager
    def _errors(self, verb: str, safe: str) -> Iterator[None]:
        where = self._named()
        try:
            yield
        except BlindsightError:
            raise
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{where} could not be {verb}: it is closed", rule=safe) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "") or ""
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                what, fix = "another process holds it", "try again when the other process is done"
            elif code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                what, fix = "the disk is full or failing", "free some space and repeat the same step"
            elif code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                what, fix = (
                    "it is damaged or not a store",
                    "restore it from a copy; `ledger verify` checks the copy",
                )
            elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
                what, fix = "it may not be written here", "check the path and its permissions"
            else:
                what, fix = "the database refused", "see the cause below"
            raise StoreError(f"{where} could not be {verb}: {what}", got=str(error), rule=safe, fix=fix) from error
        except OSError as error:
            raise StoreError(
                f"{where} could not be {verb}",
                got=error.strerror or type(error).__name__,
                rule=safe,
                fix="check that the folder exists, may be written and has space",
            ) from error


class Log:
    """An append-only stream of byte strings; made by :meth:`Store.log`."""

    def __init__(self, store: Store, stream: str) -> None:
        self._store, self._stream = store, stream

    def append(self, payload: bytes) -> int:
        """Append and return the position, counted from 0. On disk when it returns (outside a transaction)."""
        store = self._store
        with store.transaction():
            position = len(self)
            value = store._seal(payload, self._context(position))
            store._write("INSERT INTO log VALUES (?, ?, ?)", self._stream, position, value)
        return position

    def read(self, start: int = 0) -> list[bytes]:
        """Return the payloads from position ``start`` on, in order.

        Raises
        ------
        StoreError
            A position is missing: the file was altered.
        """
        rows = self._store._read(
            "SELECT position, payload FROM log WHERE stream = ? AND position >= ? ORDER BY position",
            self._stream,
            start,
        )
        for expected, (position, _) in enumerate(rows, start):
            if position != expected:
                raise StoreError(f"Stream {self._stream!r} lacks position {expected}", rule="positions are consecutive")
        return [self._store._open(value, self._context(start + i)) for i, (_, value) in enumerate(rows)]

    def __len__(self) -> int:
        rows = self._store._read("SELECT coalesce(max(position) + 1, 0) FROM log WHERE stream = ?", self._stream)
        count = rows[0][0]
        assert isinstance(count, int)
        return count

    def _context(self, position: int) -> bytes:
        return f"blindsight store|log|{self._stream}|{position}".encode()


class Table:
    """A key-value table; made by :meth:`Store.table`."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        rows = self._store._read("SELECT value FROM cell WHERE tab = ? AND name = ?", self._name, _checked_key(key))
        return self._store._open(rows[0][0], self._context(key)) if rows else None

    def put(self, key: str, value: bytes) -> None:
        """Set the value, replacing any other."""
        store = self._store
        sealed = store._seal(value, self._context(_checked_key(key)))
        with store.transaction():
            store._write(
                "INSERT INTO cell VALUES (?, ?, ?) ON CONFLICT (tab, name) DO UPDATE SET value = excluded.value",
                self._name,
                key,
                sealed,
            )

    def put_once(self, key: str, value: bytes) -> None:
        """Set the value for good.

        Raises
        ------
        ReleaseError
            Another value is already there. (The same value is a no-op, so that a retry is safe.)
        """
        with self._store.transaction():
            present = self.get(key)
            if present is None:
                self.put(key, value)
            elif present != value:
                raise ReleaseError(
                    f"Entry {key!r} of {self._name!r} is already bound to another value",
                    rule="an entry of this kind is written once",
                    fix="use a new id for a new request",
                )

    def delete(self, key: str) -> None:
        """Remove the value, if there is one."""
        with self._store.transaction():
            self._store._write("DELETE FROM cell WHERE tab = ? AND name = ?", self._name, _checked_key(key))

    def keys(self, prefix: str = "", *, most: int | None = None) -> list[str]:
        """Return the keys that start with ``prefix``, sorted by code point; at most ``most`` of them."""
        sql, values = "SELECT name FROM cell WHERE tab = ?", [self._name]
        if prefix:
            sql += " AND name >= ? AND name < ?"
            values += [prefix, prefix + "\U0010ffff"]
        sql += " ORDER BY name"
        rows = self._store._read(sql if most is None else f"{sql} LIMIT {int(most)}", *values)
        return [str(row[0]) for row in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all writes of the block together; what it reads, no other process changes meanwhile."""
        with self._store.transaction():
            yield

    def _context(self, key: str) -> bytes:
        # Table names hold no "|", so that (table, key) reads in one way only.
        return f"blindsight store|table|{self._name}|{key}".encode()


def _checked_name(kind: str, name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParameterError(
            f"A {kind} has an unusable name", got=repr(name)[:80], rule="1 to 64 of a-z, 0-9, '.', '_', '-'"
        )
    return name


def _checked_key(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS or "\0" in key:
        raise ParameterError(
            "A key of the store is unusable",
            got=repr(key)[:80],
            rule=f"1 to {MAX_KEY_CHARS} characters, no NUL",
        )
    return key
