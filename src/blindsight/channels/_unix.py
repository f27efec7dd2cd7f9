"""A listening socket in the file system, for another process on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from blindsight.errors import StoreError, UnavailableError

from ._tls import Pathlike

__all__ = ["listen_unix"]

MAX_PATH_BYTES = 100
"""Kernels allow 104 to 108, with the zero at the end."""


def listen_unix(path: Pathlike, *, mode: int = 0o600) -> socket.socket:
    """Listen at a path; one that a process left behind is taken over, one that is in use is not.

    Parameters
    ----------
    path : path-like
    mode : int
        Permission bits of the socket: who may write may connect.

    Raises
    ------
    StoreError
        The path is too long, or is something else than a socket; its folder is missing or may not be written.
    UnavailableError
        Another process listens there.
    """
    where = Path(path)
    if len(os.fsencode(where)) > MAX_PATH_BYTES:
        raise StoreError(
            "The path of a socket is too long", got=f"{len(os.fsencode(where))} bytes",
            rule=f"at most {MAX_PATH_BYTES}", fix="name the folder by a relative path or a symbolic link",
        )  # fmt: skip
    _make_way(where)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):  # on Linux bind takes the mode from here: it is never open to others
            os.fchmod(listener.fileno(), mode)
        listener.bind(str(where))
        os.chmod(where, mode)
        listener.listen()
    except OSError as error:
        listener.close()
        raise StoreError("A socket cannot be made", got=f"{where.name}: {error.strerror}") from error
    return listener


def _make_way(where: Path) -> None:
    """Take away what a process that was killed has left."""
    if not where.exists():
        return
    if not where.is_socket():
        raise StoreError("The path of a socket is taken", got=f"{where.name} is no socket", fix="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(str(where))
        except ConnectionRefusedError:
            where.unlink()
            return
        except OSError as error:
            raise StoreError("A socket cannot be used", got=f"{where.name}: {error.strerror}") from error
    raise UnavailableError("Another process listens at this socket", got=where.name, fix="end it; run one at a time")
