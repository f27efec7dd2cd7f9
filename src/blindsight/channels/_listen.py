"""A listening socket, or an error that says why there is none."""

from __future__ import annotations

import socket

from blindsight.errors import StoreError, UnavailableError

__all__ = ["BACKLOG", "listen"]

BACKLOG = 1024


def listen(host: str, port: int, kind: type[socket.socket] = socket.socket) -> socket.socket:
    """Listen on an address; ``port`` 0 is any free one, ``kind`` the class of socket.

    Raises
    ------
    StoreError
        This user may not use the port.
    UnavailableError
        The address is taken, or not ours.
    """
    listener = kind(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise StoreError("The port may not be used by this user", got=str(port)) from error
        raise UnavailableError(
            "The address cannot be listened on",
            got=f"{host}:{port}: {error.strerror}",
            fix="choose another --port, or end what uses it",
        ) from error
    return listener
