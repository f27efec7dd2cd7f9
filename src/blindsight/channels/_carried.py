"""One end of a session whose TLS records travel as numbered messages through a broker; no I/O of its own."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable

from blindsight.errors import WireError

from ._mqtt_wire import MAX_FRAME_BYTES, MAX_RECORDS_BYTES, Envelope, Sort
from ._session import TlsSession

__all__ = ["WINDOW", "Carried", "Line"]

WINDOW = 8
"""Messages that one side may have on the way to the other, at most: 2 MiB."""
LENGTH = struct.Struct("<I")


class Carried:
    """TLS, cut into messages that are numbered, and put together again.

    A message that comes again is dropped by its number. One that is missing, or anything that TLS does not accept, ends
    the session with an error: the party then begins another. Neither side sends more than the other has allowed, so
    that what waits at the broker is bounded whatever the other side does.

    Parameters
    ----------
    context : ssl.SSLContext
        Of :func:`mutual_context`, for this side.
    server : bool
        The coordinator's side. The party speaks first.
    session : bytes
        Its name, of 16 random bytes.
    window : int
        How many messages the other side may have on the way.

    Security
    --------
    As :class:`TlsSession`: what :meth:`take` returns was sent by whoever holds the key of ``certificate``, in this
    order and whole. The numbers are not authenticated; TLS is what finds a broker that changes the order.
    """

    def __init__(self, context: ssl.SSLContext, *, server: bool, session: bytes, window: int = WINDOW) -> None:
        self.session = session
        self._tls = TlsSession(context, server=server)
        self._window = window
        self._waiting = bytearray()  # records without credit yet
        self._plain = bytearray()  # a frame that is not whole yet
        self._sent = self._got = self._told = 0
        self._allowed = 1  # the first message says how many may follow the other way

    @property
    def established(self) -> bool:
        """Whether the handshake is complete on this side."""
        return self._tls.established

    @property
    def certificate(self) -> bytes:
        """The other side's, in DER; empty before the session is established."""
        return self._tls.certificate

    @property
    def free(self) -> bool:
        """Whether another frame could be sent at once; ask after :meth:`messages`."""
        return self.established and not self._waiting and self._sent < self._allowed

    def put(self, frame: bytes) -> None:
        """Have a frame sent; an empty one tells a party that it has been let in.

        Raises
        ------
        AuthenticationError
            The session has ended.
        """
        self._tls.send(LENGTH.pack(len(frame)) + frame)

    def take(self, envelope: Envelope) -> list[bytes]:
        """Take a message of this session; return the frames that are whole now.

        Raises
        ------
        WireError, AuthenticationError
            Something is missing, changed, or longer than allowed. The session has ended; :meth:`messages` may hold what
            tells the other side.
        """
        self._allowed = max(self._allowed, envelope.credit)
        if envelope.sort is not Sort.DATA or envelope.number < self._got:
            return []
        if envelope.number > self._got:
            raise WireError(
                "Messages were lost on the way",
                got=f"number {envelope.number}",
                rule=f"number {self._got} comes next",
                fix="none needed: another session begins; if it goes on, look at the broker's limits and its log",
            )
        if self._got >= max(1, self._told):
            raise WireError("The other side sends more than it may", got=f"number {self._got}", rule=f"{self._told}")
        self._got += 1
        self._plain += self._tls.receive(envelope.records)
        return self._frames()

    def messages(self) -> list[bytes]:
        """What is to be published now, in order."""
        self._waiting += self._tls.outgoing()
        out = []
        while self._waiting and self._sent < self._allowed:
            records = bytes(self._waiting[:MAX_RECORDS_BYTES])
            del self._waiting[:MAX_RECORDS_BYTES]
            out.append(Envelope(Sort.DATA, self.session, self._sent, self._grant(), records).encode())
            self._sent += 1
        if not out and self._got and self._got + self._window - self._told >= max(1, self._window // 2):
            out.append(self.sign_of_life())
        return out

    def sign_of_life(self) -> bytes:
        """A message that says how much the other side may send, and that we are here."""
        return Envelope(Sort.CREDIT, self.session, 0, self._grant()).encode()

    def _grant(self) -> int:
        self._told = self._got + self._window
        return self._told

    def _frames(self) -> list[bytes]:
        frames = []
        while len(self._plain) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._plain)
            if length > MAX_FRAME_BYTES:
                raise WireError("A frame is too long", got=f"{length} bytes", rule=f"at most {MAX_FRAME_BYTES}")
            if len(self._plain) < LENGTH.size + length:
                break
            frames.append(bytes(self._plain[LENGTH.size : LENGTH.size + length]))
            del self._plain[: LENGTH.size + length]
        return frames


class Line:
    """Sends frames as fast as the other side and the broker take them.

    Parameters
    ----------
    carried : Carried
    publish : callable (payload, done)
        Has a message published; calls ``done()`` later, when the broker has it.
    more : callable () -> bytes or None
        The next frame to send; None if there is none now: then :meth:`pump` is to be called when there is.

    Security
    --------
    A broker may claim any credit. No more than ``WINDOW`` messages that it has not taken are held here all the same.
    """

    def __init__(
        self,
        carried: Carried,
        publish: Callable[[bytes, Callable[[], None]], None],
        more: Callable[[], bytes | None],
    ) -> None:
        self.carried = carried
        self.over = False
        self._publish, self._more = publish, more
        self._flying = 0

    def pump(self) -> None:
        """Send what may be sent now."""
        while not self.over:
            self.flush()
            if self._flying >= WINDOW or not self.carried.free:
                return
            frame = self._more()
            if frame is None:
                return
            self.carried.put(frame)

    def flush(self) -> None:
        """Send what is in the making, a word of TLS about an error included, and no further frame."""
        for message in self.carried.messages():
            self._flying += 1
            self._publish(message, self._flown)

    def _flown(self) -> None:
        self._flying -= 1
        self.pump()
