"""Both ends' sockets. Needs the standard library alone, and knows nothing of Flower.

Formats: docs/channels.md, 'Flower'. A frame is a u64 length (little endian) and that many bytes. At a party the bytes
are a parcel, and its answer is one. At the coordinator they begin with a head that says of which node and message the
parcel behind it is.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Protocol

__all__ = ["ANSWER", "CARRY", "END", "HEAD", "LENGTH", "LOST", "MAX_FRAME_BYTES", "NODES", "Fleet", "ask", "serve"]

LENGTH = struct.Struct("<Q")
HEAD = struct.Struct("<BQQd")
"""What a frame at the coordinator is, node, number of the message, seconds for which a message is worth carrying."""
MAX_FRAME_BYTES = 1 << 31

CARRY, END = 1, 2
"""From the coordinator: a parcel for a node; it has ended."""
NODES, ANSWER, LOST = 3, 4, 5
"""To the coordinator: the nodes that there are; an answer; why there is none."""

AGENT_SECONDS = 120.0
PAUSE_SECONDS = 0.2
LOOK_SECONDS = 2.0
RETRY_SECONDS = 0.5


class Fleet(Protocol):
    """What of Flower's grid is needed."""

    def nodes(self) -> Sequence[int]:
        """Ids of the nodes that are there."""

    def push(self, node: int, number: int, parcel: bytes, seconds: float) -> None:
        """Have a message carried."""

    def pull(self) -> Sequence[tuple[int, int, bytes | None, str]]:
        """Node, number, answer of every message that is over, or None and why there is none."""

    def forget(self) -> None:
        """Nobody waits for any answer."""


def read(connection: socket.socket) -> bytes | None:
    """One frame; None where the other side has ended."""
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is too long")
    return _exactly(connection, length)


def write(connection: socket.socket, *parts: bytes) -> None:
    """Send one frame."""
    connection.sendall(LENGTH.pack(sum(map(len, parts))) + b"".join(parts))


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def ask(path: str, parcel: bytes) -> bytes:
    """Hand a parcel to the party's own process, and return its answer.

    Raises
    ------
    RuntimeError
        Nobody answers there. Says nothing of this machine: the other end of Flower gets to read it.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(AGENT_SECONDS)
            connection.connect(path)
            write(connection, parcel)
            answer = read(connection)
    except OSError:
        answer = None
    if answer is None:
        raise RuntimeError("the party's process does not answer at its socket")
    return answer


def serve(
    path: str, fleet: Fleet, wait_s: float, *, pause_s: float = PAUSE_SECONDS, look_s: float = LOOK_SECONDS
) -> None:
    """Carry for the coordinator until it says that it has ended; one that vanishes is waited for.

    Raises
    ------
    RuntimeError
        Nobody was there for ``wait_s`` seconds.
    """
    last = time.monotonic()
    while time.monotonic() - last < wait_s:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(path)
                over = _carry(connection, fleet, pause_s, look_s)
                last = time.monotonic()
            except OSError:  # nobody listens yet, or the connection broke
                over = False
        fleet.forget()
        if over:
            return
        time.sleep(RETRY_SECONDS)
    raise RuntimeError(f"no coordinator at the socket for {wait_s:g} s")


def _carry(connection: socket.socket, fleet: Fleet, pause_s: float, look_s: float) -> bool:
    """Until the coordinator ends (True), or is gone (False); looks for answers and nodes every so often."""
    known: list[int] | None = None
    look = 0.0
    while True:
        if select.select([connection], [], [], pause_s)[0]:
            frame = read(connection)
            if frame is None:
                return False
            kind, node, number, seconds = HEAD.unpack_from(frame)
            if kind == END:
                return True
            with contextlib.suppress(LookupError):
                fleet.push(node, number, frame[HEAD.size :], seconds)
            continue  # what else lies ready goes out first
        if time.monotonic() >= look:
            nodes, look = sorted(fleet.nodes()), time.monotonic() + look_s
            if nodes != known:
                known = nodes
                write(connection, HEAD.pack(NODES, 0, 0, 0.0), *map(LENGTH.pack, nodes))
        for node, number, answer, reason in fleet.pull():
            if answer is None:
                write(connection, HEAD.pack(LOST, node, number, 0.0), reason.encode()[:1000])
            else:
                write(connection, HEAD.pack(ANSWER, node, number, 0.0), answer)
