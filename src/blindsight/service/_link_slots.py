"""Room for comparison links: so many on a machine, over all workers, and so many of one account.

Each slot is a file that is locked while it is taken. The kernel gives the lock back when a worker dies, however it
dies, so that no count can be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blindsight.errors import StoreError, UnavailableError

from ._problems import RequestError

__all__ = ["Slot", "Slots"]

MAX_NOTE_BYTES = 256


class Slot:
    """One that is taken: a port, and a folder that nobody else uses meanwhile.

    Parameters
    ----------
    lock : int
        Descriptor of the locked file.
    port : int
    folder : Path
        Empty, mode 0700.
    """

    def __init__(self, lock: int, port: int, folder: Path) -> None:
        self._lock = lock
        self.port, self.folder = port, folder

    def release(self) -> None:
        """Give it back, and delete the folder; again: nothing happens."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(lock)


class Slots:
    """All slots of a machine's service.

    Parameters
    ----------
    folder : Path
        The same in all workers; made if absent.
    most, most_of_one : int
        In all, and of one account.
    host : str
        Address that ports are to be free on.
    ports : (int, int), optional
        First and last of those that may be used. Default: any free one.
    """

    def __init__(
        self, folder: Path, *, most: int, most_of_one: int, host: str, ports: tuple[int, int] | None = None
    ) -> None:
        self._folder, self._most, self._most_of_one = folder, most, most_of_one
        self._host, self._ports = host, ports

    def take(self, account: str) -> Slot:
        """Take a free slot.

        Raises
        ------
        RequestError
            429: the account has as many as it may. 503: there is none, or no port.
        StoreError
            The folder cannot be used.
        """
        free: int | None = None
        used: set[int] = set()
        own = 0
        try:
            with self._alone(), contextlib.ExitStack() as stack:
                for number in range(self._most):
                    lock = os.open(self._folder / f"slot-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    stack.callback(os.close, lock)
                    if _locked(lock):
                        free = number if free is None else free
                    else:
                        port, _, holder = os.pread(lock, MAX_NOTE_BYTES, 0).decode().partition(" ")
                        used.add(int(port or 0))
                        own += holder == account
                if own >= self._most_of_one:
                    raise _full(429, "This account has as many comparison links open as it may", self._most_of_one)
                if free is None:
                    raise _full(503, "As many comparison links are open as there may be", self._most)
                port_number = self._free_port(used)
                folder = self._folder / f"slot-{free}"
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
                folder.mkdir(mode=0o700)
                lock = os.open(self._folder / f"slot-{free}.lock", os.O_RDWR | os.O_CLOEXEC)
                stack.close()  # gives back every lock that was only tried
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{port_number} {account}".encode(), 0)
        except OSError as error:
            raise StoreError("The folder for comparison links cannot be used", got=error.strerror) from error
        return Slot(lock, port_number, folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this one looks, no other worker does."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _free_port(self, used: set[int]) -> int:
        first, last = self._ports or (0, 0)
        for port in range(first, last + 1):
            if port in used:
                continue
            with contextlib.suppress(UnavailableError):
                return free_port(self._host, port)
        raise _full(503, "No port for another comparison link is free", last - first + 1)


def free_port(host: str, port: int = 0) -> int:
    """A port that can be listened on now: this one, or any.

    Raises
    ------
    UnavailableError
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the link's own library will
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                "The port of a comparison link cannot be listened on",
                got=f"{host}:{port}: {error.strerror}",
                fix="choose another, or end what uses it",
            ) from error
        return int(probe.getsockname()[1])


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _full(status: int, what: str, most: int) -> RequestError:
    return RequestError(
        status, "too-many-links", what, rule=f"at most {most}", fix="close one first", headers={"Retry-After": "2"}
    )
