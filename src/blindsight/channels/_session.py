"""TLS 1.3 over messages instead of a socket: for carriers that nobody need trust, a broker or a fleet's server."""

from __future__ import annotations

import ssl

from blindsight.errors import AuthenticationError

__all__ = ["TlsSession"]

READ_BYTES = 1 << 16


class TlsSession:
    """One side of a TLS connection whose records somebody else carries; no I/O of its own.

    Records must arrive whole, once and in order, as over TCP. Anything else, a byte changed, a record lost, repeated or
    out of turn, ends the session with an error: the two sides then begin another.

    Parameters
    ----------
    context : ssl.SSLContext
        Of :func:`mutual_context`; of :func:`pin_context` to hold the other side to one certificate.
    server : bool
        Which side of the handshake this is. The other one speaks first.

    Notes
    -----
    After construction and after each call, carry :meth:`outgoing` to the other side if it is not empty; also after an
    error, since it then says to the other side what was wrong.

    Security
    --------
    What is carried is confidential, authentic by both certificates, and cannot be replayed into another session
    (RFC 8446): every handshake makes keys of its own. Lengths and times of messages are seen by the carrier.
    """

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._waiting: list[bytes] = []
        self._established = False
        self._failed: AuthenticationError | None = None
        self._shake()

    @property
    def established(self) -> bool:
        """Whether the handshake is complete on this side."""
        return self._established

    @property
    def certificate(self) -> bytes:
        """The other side's certificate in DER; empty before the session is established."""
        return (self._tls.getpeercert(binary_form=True) or b"") if self._established else b""

    def send(self, data: bytes) -> None:
        """Have bytes sent; before the session is established they wait for it.

        Raises
        ------
        AuthenticationError
            The session has ended.
        """
        self._check()
        self._waiting.append(data)
        self._flush()

    def receive(self, carried: bytes) -> bytes:
        """Take what was carried here, in order; return the bytes that the other side sent, as far as they are whole.

        Raises
        ------
        AuthenticationError
            The handshake was refused, or a record is none of this session at this place. The session has ended.
        """
        self._check()
        self._incoming.write(carried)
        self._shake()
        plain = bytearray()
        while self._established:
            try:
                part = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                raise self._ended(error) from error
            if not part:  # an orderly end, after which nothing may come
                self._failed = _refused("the other side has ended it")
                break
            plain += part
        return bytes(plain)

    def outgoing(self) -> bytes:
        """What is to be carried to the other side, once."""
        return self._outgoing.read()

    def _shake(self) -> None:
        if self._established:
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLCertVerificationError) and not hasattr(error, "verify_code"):
                # refused by a pin, not by OpenSSL, which has laid out our own certificate by then
                self._outgoing.read()
            raise self._ended(error) from error
        self._established = True
        self._flush()

    def _flush(self) -> None:
        if not self._established:
            return
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            view = memoryview(data)
            while view:
                try:
                    view = view[self._tls.write(view) :]
                except ssl.SSLError as error:
                    raise self._ended(error) from error

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _ended(self, error: ssl.SSLError) -> AuthenticationError:
        told = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error) or "an error"
        self._failed = _refused(str(told)[:200])
        return self._failed


def _refused(got: str) -> AuthenticationError:
    return AuthenticationError(
        "A TLS session over messages has ended",
        got=got,
        rule="both certificates are accepted, and every record arrives once and in order",
        fix="begin another; if it goes on, compare certificates with the newest participant list",
    )
