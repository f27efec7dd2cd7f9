"""A file in memory, because SEAL's Python binding reads and writes paths only."""

from __future__ import annotations

import os
import tempfile
import weakref

__all__ = ["Scratch"]


class Scratch:
    """One reusable file that never reaches a disk where the system allows it.

    Security
    --------
    Linux: an anonymous memory file (``memfd_create``), visible to this process alone. Elsewhere: a file of mode 0600
    in a private folder, in a RAM disk where there is one. The secret key passes through it, and the file is emptied
    after each read. A process that was forked off makes a file of its own: two that shared one could read each other's
    encryptions, and one encryption of zero under two records shows their difference.
    """

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("blindsight", os.MFD_CLOEXEC)
            self._path = f"/proc/self/fd/{self._descriptor}"
            weakref.finalize(self, os.close, self._descriptor)
        else:  # pragma: no cover - exercised on macOS only
            ram = "/dev/shm"  # noqa: S108 - a private folder is made inside
            folder = tempfile.TemporaryDirectory(prefix="blindsight-", dir=ram if os.path.isdir(ram) else None)
            self._path = os.path.join(folder.name, "scratch")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            weakref.finalize(self, _remove, folder, self._process)
            weakref.finalize(self, os.close, self._descriptor)

    @property
    def path(self) -> str:
        """Where SEAL reads and writes, in this process."""
        self._leave_parents()
        return self._path

    def _leave_parents(self) -> None:
        if self._process != os.getpid():
            self._open()

    def read(self) -> bytes:
        """Return what SEAL wrote to :attr:`path`, and empty the file."""
        size = os.fstat(self._descriptor).st_size
        data = os.pread(self._descriptor, size, 0)
        while len(data) < size:
            data += os.pread(self._descriptor, size - len(data), len(data))
        os.ftruncate(self._descriptor, 0)
        return data

    def write(self, data: bytes) -> None:
        """Replace the content, for SEAL to read."""
        self._leave_parents()
        os.ftruncate(self._descriptor, 0)
        view, offset = memoryview(data), 0
        while offset < len(view):
            offset += os.pwrite(self._descriptor, view[offset:], offset)

    def clear(self) -> None:
        """Empty the file."""
        os.ftruncate(self._descriptor, 0)


def _remove(folder: tempfile.TemporaryDirectory[str], process: int) -> None:  # pragma: no cover - macOS only
    if os.getpid() == process:  # not a fork's to remove
        folder.cleanup()
