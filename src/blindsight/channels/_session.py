"""TLS 1.3 over messages instead of a socket: for carriers that nobody need trust, a broker or a fleet's server."""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blindsight.errors import AuthenticationError, ParameterError

from ._pin import AnotherCertificate, PinnedObject

__all__ = ["TlsSession"]

PIECE_BYTES = 1 << 16
"""Handed to TLS at a time: what a stranger sends is refused at its first record, however long it is."""


class TlsSession:
    """One side of a TLS connection whose records somebody else carries; no I/O of its own.

    Records must arrive whole, once and in order, as over TCP. Anything else, a byte changed, a record repeated or out
    of turn, ends the session with an error, a lost one as soon as another comes after it: the two sides then begin
    another.

    Parameters
    ----------
    context : ssl.SSLContext
        Of :func:`mutual_context`; for a side that speaks first, of :func:`pin_context` too.
    server : bool
        Which side of the handshake this is. The other one speaks first.
    accept : callable (bytes), optional
        Asked with the other side's certificate, in DER, when the handshake is complete, before anything behind it is
        decrypted. What it raises ends the session.

    Raises
    ------
    ParameterError
        This side speaks first, and its context would take anybody's certificate for the other side's.

    Notes
    -----
    After construction and after each call, carry :meth:`outgoing` to the other side if it is not empty; also after an
    error, since it then says to the other side what was wrong. Threads may call this at the same time; but what two of
    them got from :meth:`outgoing` has to be carried in the order in which they got it, which is the caller's to see to.

    Security
    --------
    What is carried is confidential, authentic by both certificates, and cannot be replayed into another session
    (RFC 8446): every handshake makes keys of its own. Lengths and times of messages are seen by the carrier.

    Not covered: that the *last* records were cut off, since nothing comes after them; messages say by themselves where
    they end and are acknowledged. A server side knows that somebody has a certificate of its authority: ``accept``
    compares it with a list, or the caller does with :attr:`certificate` before it acts on anything received; and again
    while the session lasts, as certificates expire and are revoked. More than 2**24 records one way under one key are
    too many for AES-GCM (RFC 8446, section 5.5): 256 GiB, or as many short messages.
    """

    def __init__(
        self, context: ssl.SSLContext, *, server: bool, accept: Callable[[bytes], object] | None = None
    ) -> None:
        if not server and not issubclass(context.sslobject_class, PinnedObject):
            raise ParameterError(
                "A TLS session over messages does not know whom it talks to",
                rule="without a host name, whoever speaks first knows the other side by its very certificate",
                fix="give the SHA-256 of the coordinator's certificate",
            )
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._accept = accept
        self._waiting: deque[memoryview] = deque()
        self._established = False
        self._failed = ""
        self._lock = (
            threading.Lock()
        )  # OpenSSL's objects are not for two threads at once, and Python does not see to it
        with self._turn():
            self._shake()

    @property
    def established(self) -> bool:
        """Whether the handshake is complete on this side; the other one may still refuse our certificate."""
        return self._established

    @property
    def certificate(self) -> bytes:
        """The other side's certificate in DER; empty before the session is established."""
        with self._lock:
            return (self._tls.getpeercert(binary_form=True) or b"") if self._established else b""

    def send(self, data: bytes) -> None:
        """Have bytes sent; before the session is established they wait for it.

        Raises
        ------
        AuthenticationError
            The session has ended.
        """
        with self._turn():
            if data:
                self._waiting.append(memoryview(data))
            self._flush()

    def receive(self, carried: bytes | memoryview) -> bytes:
        """Take what was carried here, in order; return the bytes that the other side sent, as far as they are whole.

        Raises
        ------
        AuthenticationError
            The handshake was refused, or a record is none of this session at this place. The session has ended.
        """
        plain = bytearray()
        with self._turn():
            view = memoryview(carried)
            while view and not self._failed:
                self._incoming.write(view[:PIECE_BYTES])
                view = view[PIECE_BYTES:]
                self._shake()
                self._read_into(plain)
            self._flush()
        return bytes(plain)

    def outgoing(self) -> bytes:
        """What is to be carried to the other side, once."""
        with self._lock:
            return self._outgoing.read()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One call of one thread. Whatever breaks it off ends the session: a hole in the stream would not show."""
        with self._lock:
            if self._failed:
                raise _refused(self._failed)
            try:
                yield
            except ssl.SSLError as error:
                if isinstance(error, AnotherCertificate):
                    self._outgoing.read()  # our certificate, and a word that all is well: not for a stranger
                self._failed = _told(error)
                raise _refused(self._failed) from error
            except BaseException as error:
                self._failed = f"{type(error).__name__} in the middle of a call"
                raise

    def _shake(self) -> None:
        if self._established:
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        if self._accept is not None:
            self._accept(self._tls.getpeercert(binary_form=True) or b"")
        self._established = True
        self._flush()

    def _read_into(self, plain: bytearray) -> None:
        while self._established:
            try:
                part = self._tls.read(PIECE_BYTES)
            except ssl.SSLWantReadError:
                return
            if not part:  # an orderly end, after which nothing may come
                self._failed = "the other side has ended it"
                return
            plain += part

    def _flush(self) -> None:
        while self._established and self._waiting and not self._failed:
            try:
                written = self._tls.write(self._waiting[0])
            except ssl.SSLWantReadError:  # a message of TLS itself is here in part; the rest comes first
                return
            rest = self._waiting.popleft()[written:]
            if rest:
                self._waiting.appendleft(rest)


def _told(error: ssl.SSLError) -> str:
    told = getattr(error, "verify_message", "") or getattr(error, "reason", "") or ("an error", *error.args)[-1]
    return str(told)[:200]


def _refused(got: str) -> AuthenticationError:
    return AuthenticationError(
        "A TLS session over messages has ended",
        got=got,
        rule="both certificates are accepted, and every record arrives once and in order",
        fix="begin another; if it goes on, compare certificates with the newest participant list",
    )
