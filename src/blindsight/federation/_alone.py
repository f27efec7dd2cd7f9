"""One process a folder: a lock that the operating system holds for as long as the process lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from blindsight.errors import StoreError

__all__ = ["alone_in"]

LOCK_FILE = "serving.lock"
MAX_HOLDER_BYTES = 20


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Be the one process that serves a folder; death of any kind lets go of it.

    Two would answer in turns, each with its own idea of which sums are under way.

    Parameters
    ----------
    folder : path-like
        A party's, or a coordinator's kit. The lock is ``serving.lock`` in it, and stays there.

    Raises
    ------
    StoreError
        Another process serves the folder, or the lock cannot be made.
    """
    folder = Path(folder)
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            "The folder cannot be locked",
            got=f"{folder / LOCK_FILE}: {error.strerror}"[:300],
            fix="make the folder writable; blindsight preflight says more",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, MAX_HOLDER_BYTES, 0).decode("ascii", "replace")
            raise StoreError(
                "Another process serves this folder",
                got=f"process {holder}" if holder.isdecimal() else str(folder)[:200],
                rule="one process a folder, and one folder a party",
                fix="end it first, or leave it running: it has the folder to itself until it ends",
            ) from error
        with contextlib.suppress(OSError):  # for whoever comes second; a full disk is no reason not to serve
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)
