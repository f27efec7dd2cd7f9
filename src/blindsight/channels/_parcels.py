"""A TLS session whose records travel in parcels, of which some are lost, repeated, late or out of turn.

Format: docs/channels.md, 'Flower'. Each parcel says where in its sender's stream its records begin, and how far the
other side's stream has been received; whatever has not been received is sent again with the next parcel. So the session
outlives everything but a restart of one of its ends, or a carrier that lies.
"""

from __future__ import annotations

import secrets
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass

from blindsight.errors import WireError

from ._session import TlsSession

__all__ = ["HEADER_BYTES", "KNOCK", "STRANGER_BYTES", "Parcel", "ParcelSession", "new_session"]

HEADER = struct.Struct("<B16sQQ")
HEADER_BYTES = HEADER.size
VERSION = 1
STRANGER_BYTES = 1 << 16
"""Longest parcel of a session whose other side is not known yet: a handshake is a few thousand bytes."""
MAX_STREAM_BYTES = 1 << 62


@dataclass(frozen=True)
class Parcel:
    """What is carried at once.

    Parameters
    ----------
    session : bytes
        16 bytes, chosen by the party; zeros where the coordinator knows of none.
    offset : int
        Of ``records`` in their sender's stream.
    received : int
        Bytes of the other side's stream that have arrived.
    records : bytes or memoryview
    """

    session: bytes
    offset: int = 0
    received: int = 0
    records: bytes | memoryview = b""

    def encode(self) -> bytes:
        """The parcel's bytes."""
        return HEADER.pack(VERSION, self.session, self.offset, self.received) + self.records

    @classmethod
    def decode(cls, data: bytes | bytearray) -> Parcel:
        """Parse what a carrier brought; ``records`` is a view of it.

        Raises
        ------
        WireError
            Another length, version or place than the format allows.
        """
        if len(data) < HEADER.size:
            raise _malformed(f"{len(data)} bytes")
        version, session, offset, received = HEADER.unpack_from(data)
        if version != VERSION:
            raise _malformed(f"version {version}")
        if max(offset, received) > MAX_STREAM_BYTES:
            raise _malformed(f"{offset} and {received} bytes so far")
        return cls(session, offset, received, memoryview(data)[HEADER.size :])


KNOCK = Parcel(bytes(16))
"""Asks a party to begin a session."""


def new_session() -> bytes:
    """A session's id."""
    return secrets.token_bytes(16)


class ParcelSession:
    """One side of a session; no I/O of its own.

    Parameters
    ----------
    context : ssl.SSLContext
        As for :class:`TlsSession`.
    server : bool
    session : bytes
        Id.
    accept : callable (bytes), optional
        As for :class:`TlsSession`.

    Security
    --------
    As :class:`TlsSession`. The parcels' own fields are the carrier's word: a wrong one ends the session, or has what
    was sent before sent again, which is skipped by its place.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server: bool,
        session: bytes,
        accept: Callable[[bytes], object] | None = None,
    ) -> None:
        self.session = session
        self._tls = TlsSession(context, server=server, accept=accept)
        self._unreceived = bytearray()
        self._acknowledged = self._received = 0

    @property
    def established(self) -> bool:
        """Whether the handshake is complete on this side."""
        return self._tls.established

    @property
    def certificate(self) -> bytes:
        """The other side's certificate in DER; empty before the session is established."""
        return self._tls.certificate

    def send(self, data: bytes) -> None:
        """Have bytes sent with the next parcel.

        Raises
        ------
        AuthenticationError
            The session has ended.
        """
        self._tls.send(data)

    def fits(self, parcel: Parcel) -> bool:
        """Whether a parcel may be of this session, as far as its header says: its id and its place."""
        self._collect()
        sent = self._acknowledged + len(self._unreceived)
        return parcel.session == self.session and parcel.offset <= self._received and parcel.received <= sent

    def take(self, parcel: Parcel) -> bytes:
        """Take a parcel; return what the other side sent, as far as it is whole and was not returned before.

        Raises
        ------
        AuthenticationError
            The handshake was refused, or records are not those of this session. It has ended.
        WireError
            Records are missing before these, or what was never sent was received. The session cannot go on.
        """
        self._collect()
        known = parcel.received - self._acknowledged
        if known > len(self._unreceived):
            raise _lost("what was never sent was received")
        if known > 0:
            del self._unreceived[:known]
            self._acknowledged = parcel.received
        if parcel.offset > self._received:
            raise _lost(f"{parcel.offset - self._received} bytes are missing")
        fresh = parcel.records[self._received - parcel.offset :]
        if not fresh:
            return b""
        self._received += len(fresh)
        return self._tls.receive(fresh)

    def parcel(self) -> Parcel:
        """What is to be carried now: all that has not been received."""
        self._collect()
        return Parcel(self.session, self._acknowledged, self._received, bytes(self._unreceived))

    def _collect(self) -> None:
        self._unreceived += self._tls.outgoing()


def _malformed(got: str) -> WireError:
    return WireError("A parcel is malformed", got=got, rule="docs/channels.md, 'Flower'", fix="check versions")


def _lost(got: str) -> WireError:
    return WireError("A session over parcels cannot go on", got=got, rule="every byte arrives", fix="begin another")
