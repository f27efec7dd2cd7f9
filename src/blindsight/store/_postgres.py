"""The same store in a PostgreSQL database, for several machines at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from blindsight.errors import BlindsightError, FormatError, MissingExtraError, StoreError

from ._sealing import Sealing
from ._store import APPLICATION_ID, FORMAT_VERSION, Store

__all__ = ["PostgresStore"]

SCHEMA = "blindsight"

_TABLES = (
    'CREATE TABLE meta (name TEXT COLLATE "C" PRIMARY KEY, value BYTEA NOT NULL)',
    'CREATE TABLE log (stream TEXT COLLATE "C" NOT NULL, position BIGINT NOT NULL, payload BYTEA NOT NULL,'
    " PRIMARY KEY (stream, position))",
    'CREATE TABLE cell (tab TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL, value BYTEA NOT NULL,'
    " PRIMARY KEY (tab, name))",
)


class PostgresStore(Store):
    """Append-only logs and key-value tables in one PostgreSQL database.

    Parameters
    ----------
    url : str
        ``postgresql://user:password@host:port/database``, as libpq reads it. The tables lie in the schema
        ``blindsight``, made if absent.
    sealer : Sealing, optional
        As for :class:`Store`. Every machine that shares the database needs the same key.
    timeout_s : float
        How long a write waits for another writer, and a statement for the server.

    Raises
    ------
    MissingExtraError
        psycopg is not installed.
    StoreError
        The server cannot be reached, refuses, or another writer holds the store.
    FormatError, AuthenticationError
        As for :class:`Store`.

    Notes
    -----
    A writing transaction takes one advisory lock first, so that writers of all processes take turns, as SQLite's
    do: what a transaction has read is still true when it commits. A commit is on the server's disk
    (``synchronous_commit``). A connection that was lost is made again at the next transaction or read; a transaction
    that was under way is lost as a whole. Where the connection breaks *during* COMMIT nobody can tell whether it was
    kept: the caller gets a StoreError and must ask again by a key of its own.
    """

    def __init__(self, url: str, sealer: Sealing | None = None, *, timeout_s: float = 10.0) -> None:
        self._url = url
        super().__init__(None, sealer, timeout_s=timeout_s)

    def _place(self) -> str:
        parts = urlsplit(self._url)
        return f"postgresql {parts.hostname or 'local'}{parts.path}"  # never the password

    def _named(self) -> str:
        return f"The store at {self._place()}"

    def _connect(self) -> Any:
        return _Connection(self._url, self._timeout_s)

    def _begin(self) -> None:
        self._db.begin()

    def _prepare(self) -> None:
        with self.transaction():
            self._write(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            present = self._read(f"SELECT to_regclass('{SCHEMA}.meta')::text")[0][0]
            if present is None:
                for statement in _TABLES:
                    self._write(statement)
                self._write("INSERT INTO meta VALUES ('version', ?)", _version())
                self._mark_sealed()
                return
        rows = self._read("SELECT value FROM meta WHERE name = 'version'")
        if not rows or rows[0][0] != _version():
            raise FormatError(
                f"{self._named()} is not a store of this version",
                got=repr(rows[0][0])[:60] if rows else "no version",
                rule=f"version {FORMAT_VERSION}",
            )
        self._check_sealed(self._named())

    @contextmanager
    def _errors(self, verb: str, safe: str) -> Iterator[None]:
        psycopg = _psycopg()
        try:
            yield
        except BlindsightError:
            raise
        except psycopg.errors.LockNotAvailable as error:
            what, fix, cause = "another process holds it", "try again when the other process is done", error
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
            what, fix, cause = "the disk is full or failing", "free some space and repeat the same step", error
        except psycopg.errors.InsufficientPrivilege as error:
            what, fix, cause = "it may not be written here", "grant this user CREATE on the database", error
        except psycopg.Error as error:
            if self._closed_by_us():
                raise StoreError(f"{self._named()} could not be {verb}: it is closed", rule=safe) from error
            what, fix, cause = "the database refused or cannot be reached", "see that the server runs", error
        else:
            return
        raise StoreError(
            f"{self._named()} could not be {verb}: {what}", got=str(cause).strip()[:200], rule=safe, fix=fix
        ) from cause

    def _closed_by_us(self) -> bool:
        db = getattr(self, "_db", None)
        return db is not None and db.ended


class _Connection:
    """As much of ``sqlite3.Connection`` as the store asks for; connects again when the server was gone."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self.ended = False
        self._raw = self._open()

    def _open(self) -> Any:
        milliseconds = int(1000 * self._timeout_s)
        raw = _psycopg().connect(self._url, autocommit=True, connect_timeout=max(2, round(self._timeout_s)))
        try:
            raw.execute(f"SET search_path TO {SCHEMA}")
            raw.execute("SET synchronous_commit TO on")
            raw.execute(f"SET lock_timeout TO {milliseconds}")
            raw.execute(f"SET statement_timeout TO {3 * milliseconds + 1000}")
            raw.execute(f"SET idle_in_transaction_session_timeout TO {6 * milliseconds + 1000}")
            raw.execute("SET client_min_messages TO warning")
        except BaseException:
            raw.close()
            raise
        return raw

    @property
    def in_transaction(self) -> bool:
        idle = _psycopg().pq.TransactionStatus.IDLE
        return not self._raw.closed and self._raw.info.transaction_status != idle

    def begin(self) -> None:
        # A stricter level, set as a default of server or user, would read as of before the lock was waited for.
        self._again(lambda: self._raw.execute("BEGIN ISOLATION LEVEL READ COMMITTED"))
        try:
            self._raw.execute("SELECT pg_advisory_xact_lock(%s)", (APPLICATION_ID,))
        except BaseException:
            if self.in_transaction:
                self._raw.execute("ROLLBACK")
            raise

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        def run() -> Any:
            return self._raw.execute(sql.replace("?", "%s"), values)

        return run() if self.in_transaction else self._again(run)

    def _again(self, action: Any) -> Any:
        """Run the first statement of something; where only the connection was stale, on a new one."""
        try:
            return action()
        except _psycopg().OperationalError:
            if self.ended or not self._raw.closed:
                raise
            self._raw = self._open()
            return action()

    def close(self) -> None:
        self.ended = True
        self._raw.close()


def _version() -> bytes:
    return f"blindsight store {FORMAT_VERSION}".encode()


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtraError("A store in PostgreSQL needs psycopg", fix="pip install 'blindsight[serve]'") from error
    return psycopg
