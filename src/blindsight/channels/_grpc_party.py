"""A party's end over gRPC: dials out, keeps one stream, and comes back whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    MissingExtraError,
    ParameterError,
    UnavailableError,
    WireError,
)

from ._backoff import Backoff
from ._channel import MAX_MESSAGE_BYTES
from ._contact import Contact
from ._desk import Letter
from ._frames import MAX_FRAME_BYTES, Assembler, Frame, Kind, parts_of
from ._grpc import KEEPALIVE_SECONDS, METHOD, PARTY_KEY, SERVICE
from ._https_party import FAREWELL_SECONDS, MAX_BACKOFF_SECONDS
from ._leaving import leaving
from ._outbox import Outbox
from ._pin import Expected, expected_now, fetch_pinned, still_expected
from ._tls import Pathlike, mutual_context, read_pem

__all__ = ["serve_grpc"]

log = logging.getLogger(__name__)

CONNECT_MS = 5000


def serve_grpc(
    handler: Callable[[bytes], bytes],
    url: str,
    *,
    name: str,
    certificate: Pathlike,
    private_key: Pathlike,
    authority: Pathlike,
    coordinator: Expected = None,
    stop: threading.Event | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    max_backoff_s: float = MAX_BACKOFF_SECONDS,
    keepalive_s: float = KEEPALIVE_SECONDS,
    contact: Contact | None = None,
) -> None:
    """Answer a coordinator's requests until told to stop; blocks, and never gives up by itself.

    Parameters
    ----------
    handler : callable bytes -> bytes
        Called in another thread, one request at a time. Must stand being asked the same again: a process that is
        killed between answering and sending gets its request once more. One that raises is a dropout.
    url : str
        ``grpcs://HOST:PORT`` of the coordinator.
    name : str
        Of this party, as the coordinator's list has it.
    certificate, private_key : path
        The party's own, in PEM.
    authority : path
        Certificates, in PEM, that may sign the coordinator's; the latter must hold ``HOST``.
    coordinator : str or callable () -> str, optional
        SHA-256 of the one certificate that the coordinator may have, in hexadecimal; a callable is asked before every
        stream and every request. Any that ``authority`` signed for ``HOST`` otherwise.
    stop : threading.Event, optional
        Ends the loop; set when it has ended for another reason. In the main thread SIGTERM and SIGINT do the same.
    max_message_bytes : int
        Longest request that is read.
    max_backoff_s : float
        Longest wait before trying again after failures.
    keepalive_s : float
        How often a quiet connection is tried; not more often than the coordinator allows.
    contact : Contact, optional
        Is told of the coordinator, for whoever watches this party.

    Raises
    ------
    ParameterError, StoreError, MissingExtraError
        The URL or a file cannot be used; the extra ``net`` is not installed. Nothing else: what fails later is in the
        log, and tried again.

    Notes
    -----
    Told to stop, it finishes the request at hand, tries for a few seconds to deliver the answer, and ends.

    Security
    --------
    As for :func:`serve_https`; of TLS, gRPC also accepts 1.2 from a server that has no 1.3. gRPC does not tell a client
    whose certificate it has seen. So the ``coordinator``'s is fetched by a handshake of its own, compared, and given to
    gRPC as the only one to trust.
    """
    try:
        import grpc
    except ImportError as error:
        raise MissingExtraError("A party over gRPC needs grpcio", fix="pip install 'blindsight[net]'") from error
    parts = urlsplit(url)
    if parts.scheme != "grpcs" or not parts.hostname or not parts.port or parts.path not in ("", "/") or parts.username:
        raise ParameterError("The coordinator's address cannot be used", got=url[:200], rule="grpcs://HOST:PORT")
    context = mutual_context(  # gRPC reads the files without complaint, and fails later without a word
        certificate=certificate, private_key=private_key, trusted=[authority], server=False, check_name=True
    )
    context.set_alpn_protocols(["h2"])
    expected_now(coordinator)  # says at once what cannot be used
    host, port = parts.hostname, parts.port
    options = [
        ("grpc.use_local_subchannel_pool", 1),  # a new channel starts anew, without waiting for an older one's turn
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive_s * 500)),
        ("grpc.http2.max_pings_without_data", 0),
    ]

    def connect() -> tuple[Any, str | None]:
        pinned = expected_now(coordinator)
        trusted = (
            read_pem(authority)
            if pinned is None
            else fetch_pinned(context, host, port, pinned, timeout_s=CONNECT_MS / 1000)
        )
        credentials = grpc.ssl_channel_credentials(trusted, read_pem(private_key), read_pem(certificate))
        return grpc.secure_channel(parts.netloc, credentials, options), pinned

    courier = _Courier(handler, connect, coordinator, Outbox(name, contact), name, max_message_bytes)

    async def serve() -> None:
        backoff = Backoff(max_backoff_s)
        async with leaving(stop or threading.Event()) as left:
            leave = asyncio.ensure_future(left.wait())
            while not left.is_set():
                session = asyncio.ensure_future(asyncio.to_thread(courier.session, backoff))
                await asyncio.wait({session, leave}, return_when=asyncio.FIRST_COMPLETED)
                if not session.done():
                    courier.leave()
                    await asyncio.wait({session})
                try:
                    session.result()
                except BlindsightError as error:
                    if not left.is_set():
                        courier.outbox.failed(error, backoff.failures)
                        await asyncio.wait({leave}, timeout=backoff.failed())
            leave.cancel()

    asyncio.run(serve())


class _Courier:
    """One stream after another to the same coordinator; a session blocks the thread that runs it."""

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        connect: Callable[[], tuple[Any, str | None]],
        expected: Expected,
        outbox: Outbox,
        name: str,
        max_bytes: int,
    ) -> None:
        self.outbox = outbox
        self._handler, self._connect, self._name, self._max_bytes = handler, connect, name, max_bytes
        self._expected = expected
        self._lock = threading.Lock()
        self._left = self._busy = False
        self._call: Any = None

    def leave(self) -> None:
        """End the session: at once if it waits for work, otherwise when the answer at hand is delivered."""
        with self._lock:
            self._left = True
            if self._call is not None and not self._busy:
                self._call.cancel()

    def session(self, backoff: Backoff) -> None:
        """Keep one stream until it ends.

        Raises
        ------
        UnavailableError, AuthenticationError, WireError
            Why it ended; nothing if we were told to leave.
        """
        import grpc

        outgoing: SimpleQueue[tuple[str, bytes | None] | None] = SimpleQueue()
        channel, pinned = self._connect()
        farewell: threading.Timer | None = None
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(_frames(outgoing), metadata=((PARTY_KEY, self._name),))
        try:
            with self._lock:
                self._call, self._busy = call, self.outbox.waiting
                if self._left:
                    return
            call.initial_metadata()  # we have been let in, or the stream has ended
            if not call.is_active():
                raise grpc.RpcError
            self.outbox.reached(backoff.failures)
            backoff.worked()
            if self.outbox.waiting:
                outgoing.put(self.outbox.next())
            assembler = Assembler()
            for data in call:
                frame = Frame.decode(data)
                still_expected(pinned, self._expected)
                self.outbox.heard()
                if frame.kind is Kind.DONE:
                    self.outbox.done(frame.id)
                    with self._lock:
                        self._busy = self.outbox.waiting
                        if self._left and not self._busy:
                            return
                elif frame.kind is Kind.PART and self._work(frame, assembler):
                    outgoing.put(self.outbox.next())
                    if self._left and farewell is None:
                        farewell = threading.Timer(FAREWELL_SECONDS, call.cancel)
                        farewell.start()
            raise UnavailableError("The coordinator has ended the stream")
        except grpc.RpcError as error:
            if not self._left:
                raise _reason(call) from error
        finally:
            with self._lock:
                self._call = None
            if farewell is not None:
                farewell.cancel()
                farewell.join()
            outgoing.put(None)
            call.cancel()
            channel.close()

    def _work(self, frame: Frame, assembler: Assembler) -> bool:
        """Take a part of a request; once it is complete, have it answered. Whether there is something to send."""
        short = frame.total <= self._max_bytes
        complete, request = assembler.add(frame, keep=short)
        if not complete:
            return False
        with self._lock:
            if self._left:
                return False
            self._busy = True
        if request is None:
            log.error("a request of %d bytes is too long, and not answered", frame.total)
            self.outbox.refuse(frame.id)
        else:
            self.outbox.fill(Letter(frame.id, request), self._handler)
        return True


def _frames(outgoing: SimpleQueue[tuple[str, bytes | None] | None]) -> Iterator[bytes]:
    while (item := outgoing.get()) is not None:
        letter_id, body = item
        if body is None:
            yield Frame(Kind.FAILED, letter_id).encode()
        else:
            for part in parts_of(letter_id, body):
                yield part.encode()


def _reason(call: Any) -> BlindsightError:
    """Why a stream ended, from its status; the other side's words are cut short."""
    status, details = call.code(), str(call.details() or "")[:300]
    name = status.name if status is not None else "UNKNOWN"
    if name == "PERMISSION_DENIED":
        return AuthenticationError(
            "The coordinator refuses this certificate",
            got=details,
            fix="have its fingerprint put on the coordinator's list, or renew it",
        )
    if name == "ABORTED":
        return UnavailableError("Another process asks with this party's certificate", fix="run one process a party")
    if name == "INVALID_ARGUMENT":
        return WireError("The coordinator could not read what we sent", got=details, fix="check versions")
    return UnavailableError("The stream to the coordinator has ended", got=f"{name}: {details}")
