"""A party's end over MQTT: dials a broker, and talks to its coordinator in a session that the broker cannot read."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from blindsight.errors import AuthenticationError, BlindsightError, ParameterError, UnavailableError, WireError

from ._backoff import Backoff
from ._broker import BrokerLink, check_paho, first_of
from ._carried import Carried, Line
from ._channel import MAX_MESSAGE_BYTES
from ._contact import Contact
from ._desk import Letter
from ._frames import Assembler, Frame, Kind, parts_of
from ._https_party import FAREWELL_SECONDS, MAX_BACKOFF_SECONDS
from ._leaving import leaving
from ._mqtt import KEEPALIVE_SECONDS
from ._mqtt_wire import BOOT_BYTES, PART_BYTES, SESSION_BYTES, Envelope, MqttTopics, Sort, Why
from ._outbox import Outbox
from ._pin import Expected, expected_now, pin_context, still_expected
from ._tls import Pathlike, mutual_context

__all__ = ["serve_mqtt"]

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""Before it is said that the coordinator is not there."""


def serve_mqtt(
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
        ``mqtts://HOST:PORT`` of the broker.
    name : str
        Of this party, as the coordinator's list has it.
    certificate, private_key : path
        The party's own, in PEM.
    authority : path
        Certificates, in PEM, that may sign the coordinator's, and the broker's, which must hold ``HOST``.
    coordinator : str or callable () -> str
        SHA-256 of the one certificate that the coordinator may have, in hexadecimal; a callable is asked before every
        session and every request. Required: at a broker a coordinator has no host name to be known by.
    stop : threading.Event, optional
        Ends the loop; set when it has ended for another reason. In the main thread SIGTERM and SIGINT do the same.
    max_message_bytes : int
        Longest request that is read.
    max_backoff_s : float
        Longest wait before trying again after failures.
    keepalive_s : float
        How often a quiet connection is tried, and a quiet session.
    contact : Contact, optional
        Is told of the coordinator, for whoever watches this party.

    Raises
    ------
    ParameterError, StoreError, MissingExtraError
        The URL, the name, a file or the coordinator's fingerprint cannot be used; the extra ``net`` is not installed.
        Nothing else: what fails later is in the log, and tried again.

    Notes
    -----
    Told to stop, it finishes the request at hand, tries for a few seconds to deliver the answer, and ends.

    Security
    --------
    The broker is not trusted: see :class:`MqttChannel`. Its own TLS, with this party's certificate, keeps others away
    from it and is not what protects a message.
    """
    check_paho()
    parts = urlsplit(url)
    if parts.scheme != "mqtts" or not parts.hostname or not parts.port or parts.path not in ("", "/") or parts.username:
        raise ParameterError("The coordinator's address cannot be used", got=url[:200], rule="mqtts://HOST:PORT")
    MqttTopics.check_name(name)
    files = {"certificate": certificate, "private_key": private_key, "trusted": [authority]}
    mutual_context(**files, server=False, check_name=True)  # type: ignore[arg-type]  # says at once what cannot be used
    if expected_now(coordinator) is None:
        raise ParameterError(
            "A party at a broker has to know its coordinator's certificate",
            rule="any server of the authority, the broker too, could pass for the coordinator otherwise",
            fix="give coordinator: the SHA-256 of its certificate, in hexadecimal",
        )

    def to_coordinator(pinned: str) -> ssl.SSLContext:
        return pin_context(mutual_context(**files, server=False, check_name=False), pinned)  # type: ignore[arg-type]

    def dial(take: Callable[[str, bytes], None], will: tuple[str, bytes, bool]) -> BrokerLink:
        context = mutual_context(**files, server=False, check_name=True)  # type: ignore[arg-type]
        return BrokerLink(parts.hostname or "", parts.port or 0, context, take=take, will=will, keepalive_s=keepalive_s)

    outbox = Outbox(name, contact)

    async def serve() -> None:
        backoff = Backoff(max_backoff_s)
        async with leaving(stop or threading.Event()) as left:
            leave = asyncio.ensure_future(left.wait())
            while not left.is_set():
                visit = _Visit(handler, outbox, coordinator, name, max_message_bytes)
                running = asyncio.ensure_future(visit.run(dial, to_coordinator, backoff, keepalive_s))
                await first_of(running, leave)
                if not running.done():
                    await visit.leave(running)
                if running.cancelled():
                    continue
                error = running.exception()
                if isinstance(error, BlindsightError):
                    if not left.is_set():
                        outbox.failed(error, backoff.failures)
                        await asyncio.wait({leave}, timeout=backoff.failed())
                elif error is not None:
                    raise error
            leave.cancel()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # the one that watches sockets of others
        runner.run(serve())


class _Visit:
    """One connection to the broker, with at most one session over it."""

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        outbox: Outbox,
        expected: Expected,
        name: str,
        max_bytes: int,
    ) -> None:
        self._handler, self._outbox, self._expected = handler, outbox, expected
        self._name, self._max_bytes = name, max_bytes
        self._session = secrets.token_bytes(SESSION_BYTES)
        self._pinned = ""
        self._topics = MqttTopics("")
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._present, self._let_in = asyncio.Event(), asyncio.Event()
        self._boot = b""
        self._line: Line | None = None
        self._assembler = Assembler()
        self._sending: Iterator[Frame] = iter(())
        self._next: tuple[str, bytes | None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._left = False

    async def leave(self, running: asyncio.Future[None]) -> None:
        """End: at once if we wait for work, otherwise when the answer at hand is delivered."""
        self._left = True
        if self._work is not None:
            await asyncio.wait({self._work})
        if self._outbox.waiting:
            await asyncio.wait({running}, timeout=FAREWELL_SECONDS)
        running.cancel()
        await asyncio.wait({running})

    async def run(
        self,
        dial: Callable[[Callable[[str, bytes], None], tuple[str, bytes, bool]], BrokerLink],
        to_coordinator: Callable[[str], ssl.SSLContext],
        backoff: Backoff,
        keepalive_s: float,
    ) -> None:
        """Stay until connection or session ends.

        Raises
        ------
        UnavailableError, AuthenticationError, WireError
            Why it ended; nothing if we were told to leave.
        """
        self._pinned = expected_now(self._expected) or ""
        self._topics = MqttTopics(self._pinned)
        up = self._topics.up(self._name)
        link = dial(self._take, (up, Envelope(Sort.END, self._session, Why.GONE).encode(), False))
        try:
            await link.open()
            await link.subscribe(self._topics.presence, self._topics.down(self._name))
            await self._wait(self._present, link, min(PATIENCE_SECONDS, keepalive_s))
            if not self._present.is_set():
                log.info("%s is at the broker and waits for its coordinator", self._name)
            while not self._present.is_set():
                await self._wait(self._present, link, keepalive_s)
            carried = Carried(to_coordinator(self._pinned), server=False, session=self._session)
            self._line = Line(carried, lambda payload, done: link.publish(up, payload, done=done), self._more)
            self._line.pump()
            await self._wait(self._let_in, link, HANDSHAKE_SECONDS)
            if not self._let_in.is_set():
                raise UnavailableError(
                    "The coordinator does not answer through the broker", got=f"nothing within {HANDSHAKE_SECONDS:g} s"
                )
            self._outbox.reached(backoff.failures)
            backoff.worked()
            if self._outbox.waiting and self._work is None:  # else another request has come meanwhile
                self._answer()
            never = asyncio.Event()
            while not self._ended.done():
                await self._wait(never, link, keepalive_s)
                link.publish(up, carried.sign_of_life())  # finds out whether the coordinator still knows us
        finally:
            if self._line is not None:
                self._line.over = True
            if self._work is not None:
                await asyncio.wait({self._work})
            await link.close()
            if self._ended.done():
                self._ended.exception()  # nobody else may ask for it

    async def _wait(self, event: asyncio.Event, link: BrokerLink, timeout_s: float) -> None:
        """Wait for something, or for the end of session, connection or time.

        Raises
        ------
        UnavailableError, AuthenticationError, WireError
            Session or connection has ended, or another coordinator is expected now: its topics are others.
        """
        waiting = asyncio.ensure_future(event.wait())
        try:
            await first_of(waiting, self._ended, link.over, timeout_s=timeout_s)
        finally:
            waiting.cancel()
        if self._ended.done():
            self._ended.result()
        elif link.over.done():
            raise link.over.result()
        still_expected(self._pinned, self._expected)

    # -- what comes ---------------------------------------------------------------------------------------------------

    def _take(self, topic: str, payload: bytes) -> None:
        if self._ended.done():
            return
        try:
            if topic == self._topics.presence:
                self._see(payload)
            elif topic == self._topics.down(self._name):
                self._deal(Envelope.decode(payload))
        except BlindsightError as error:
            self._end(error)

    def _see(self, boot: bytes) -> None:
        """The coordinator has come, gone, or come back, says the broker; in the latter cases a session is over.

        It may be forged: that costs another session, and no more.
        """
        before, self._boot = self._boot, boot
        if len(boot) == BOOT_BYTES and not before:
            self._present.set()
        elif before and boot != before:
            raise UnavailableError("The coordinator has left the broker, or has come back to it")

    def _deal(self, envelope: Envelope) -> None:
        if self._line is None or envelope.session != self._session:
            return
        if envelope.sort is Sort.END:
            raise _reason(envelope.number)
        try:
            frames = self._line.carried.take(envelope)
        except BlindsightError:
            self._line.flush()  # TLS tells the coordinator what was wrong
            raise
        for frame in frames:
            still_expected(self._pinned, self._expected)
            self._outbox.heard()
            if frame:
                self._deal_with(Frame.decode(frame))
            else:
                self._let_in.set()
        self._line.pump()

    def _deal_with(self, frame: Frame) -> None:
        if frame.kind is Kind.DONE:
            self._outbox.done(frame.id)
            if self._left and not self._outbox.waiting:
                self._end(None)
        elif frame.kind is Kind.PART and not self._left:
            short = frame.total <= self._max_bytes
            complete, request = self._assembler.add(frame, keep=short)
            if complete:
                if request is None:
                    log.error("a request of %d bytes is too long, and not answered", frame.total)
                self._next = frame.id, request
                if self._work is None or self._work.done():
                    self._work = asyncio.ensure_future(self._answer_requests())

    async def _answer_requests(self) -> None:
        """Have what came answered, one after the other; of those that come meanwhile only the last is still wanted."""
        while self._next is not None:
            (letter_id, request), self._next = self._next, None
            if request is None:
                self._outbox.refuse(letter_id)
            else:
                await asyncio.to_thread(self._outbox.fill, Letter(letter_id, request), self._handler)
            self._answer()

    # -- what goes ----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        letter_id, body = self._outbox.next()
        self._sending = iter([Frame(Kind.FAILED, letter_id)]) if body is None else parts_of(letter_id, body, PART_BYTES)
        if self._line is not None:
            self._line.pump()

    def _more(self) -> bytes | None:
        frame = next(self._sending, None)
        return None if frame is None else frame.encode()

    def _end(self, error: BlindsightError | None) -> None:
        if self._ended.done():
            return
        if self._line is not None:
            self._line.over = True
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


def _reason(why: int) -> BlindsightError:
    """Why a session is over; not authenticated, hence only a hint."""
    if why == Why.REFUSED:
        return AuthenticationError(
            "The coordinator refuses this certificate, or so the broker says",
            fix="have its fingerprint put on the coordinator's list, or renew it",
        )
    if why == Why.REPLACED:
        return UnavailableError("Another process asks with this party's certificate", fix="run one process a party")
    if why == Why.MALFORMED:
        return WireError("The coordinator could not read what we sent: something was lost or changed on the way")
    return UnavailableError("The coordinator has ended the session")
