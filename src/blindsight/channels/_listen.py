"""A listening socket, or an error that says why there is none."""

from __future__ import annotations

import socket
import weakref
from typing import Any, TypeVar, overload

from blindsight.errors import StoreError, UnavailableError

__all__ = ["BACKLOG", "Listener", "listen"]

S = TypeVar("S", bound=socket.socket)

BACKLOG = 1024
AT_A_COORDINATOR = (
    "listen elsewhere, with --listen HOST:PORT, and have connections to the kit's address forwarded there"
)


@overload
def listen(host: str, port: int, *, elsewhere: str = ...) -> socket.socket: ...


@overload
def listen(host: str, port: int, kind: type[S], *, elsewhere: str = ...) -> S: ...


def listen(
    host: str, port: int, kind: type[socket.socket] = socket.socket, *, elsewhere: str = AT_A_COORDINATOR
) -> socket.socket:
    """Listen on an address; ``port`` 0 is any free one, ``kind`` the class of socket.

    ``elsewhere`` says how the caller is told to use another address, for the error's fix.

    Raises
    ------
    StoreError
        This user may not use the port.
    UnavailableError
        The address is taken, or not ours.
    """
    # asyncio sends at once (TCP_NODELAY) only on sockets that say they are TCP; else an answer in two parts waits
    # for the other side's delayed acknowledgement, 40 ms
    listener = kind(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise StoreError("The port may not be used by this user", got=str(port)) from error
        raise UnavailableError(
            "The address cannot be listened on",
            got=f"{host}:{port}: {error.strerror}",
            fix=f"end what uses it, or {elsewhere}",
        ) from error
    return listener


class Listener(socket.socket):
    """A listening socket that can end the connections it accepted, those in the middle of a handshake included."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._taken: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket's."""
        connection, address = super().accept()
        self._taken.add(connection)
        return connection, address

    def end_accepted(self) -> None:
        """End both directions of what was accepted and is open still; whoever reads or writes there sees the end."""
        for connection in list(self._taken):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed, or never connected
                continue
