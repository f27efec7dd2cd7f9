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
    after each read.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("blindsight", os.MFD_CLOEXEC)
            self.path = f"/proc/self/fd/{self._descriptor}"
            weakref.finalize(self, os.close, self._descriptor)
        else:  # pragma: no cover - exercised on macOS only
            ram = "/dev/shm"  # noqa: S108 - a private folder is made inside
            folder = tempfile.TemporaryDirectory(prefix="blindsight-", dir=ram if os.path.isdir(ram) else None)
            self.path = os.path.join(folder.name, "scratch")
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            weakref.finalize(self, folder.cleanup)
            weakref.finalize(self, os.close, self._descriptor)

    def read(self) -> bytes:
        """Return what SEAL wrote, and empty the file."""
        size = os.fstat(self._descriptor).st_size
        data = os.pread(self._descriptor, size, 0)
        while len(data) < size:
            data += os.pread(self._descriptor, size - len(data), len(data))
        os.ftruncate(self._descriptor, 0)
        return data

    def write(self, data: bytes) -> None:
        """Replace the content, for SEAL to read."""
        os.ftruncate(self._descriptor, 0)
        view, offset = memoryview(data), 0
        while offset < len(view):
            offset += os.pwrite(self._descriptor, view[offset:], offset)

    def clear(self) -> None:
        """Empty the file."""
        os.ftruncate(self._descriptor, 0)
