"""The coordinator's end over MQTT: dials a broker, at which parties begin sessions that the broker cannot read.

Wire format: docs/channels.md, 'MQTT'.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from blindsight.errors import AuthenticationError, BlindsightError, UnavailableError, WireError

from ._backoff import Backoff
from ._broker import BrokerLink, check_paho, first_of
from ._carried import WINDOW, Carried, Line
from ._channel import MAX_MESSAGE_BYTES
from ._dialled import DialledChannel
from ._frames import Frame, Kind, parts_of
from ._https_party import MAX_BACKOFF_SECONDS
from ._mqtt_wire import BOOT_BYTES, PART_BYTES, Envelope, MqttTopics, Sort, Why
from ._reception import Reception
from ._tls import Pathlike, certificate_fingerprint, mutual_context

__all__ = ["KEEPALIVE_SECONDS", "MqttChannel"]

log = logging.getLogger(__name__)

PORT = 8883
KEEPALIVE_SECONDS = 20.0
QUEUE_MESSAGES = 512
"""Of all parties together on their way to the coordinator: brokers begin to drop at 1,000, unless told otherwise."""


class _Session:
    """What one party has begun; ``who`` is empty until its certificate is known to be its own."""

    def __init__(self, name: str, line: Line) -> None:
        self.name, self.line = name, line
        self.who = ""
        self.reception: Reception | None = None
        self.done: deque[str] = deque()
        self.handed = ""
        self.parts: Iterator[Frame] = iter(())


class MqttChannel(DialledChannel):
    """Meets parties at an MQTT broker; a party is whoever shows its certificate, end to end.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of each party's certificate (of its DER bytes), in hexadecimal. Names are parts of topics.
    certificate, private_key : path
        The coordinator's own, in PEM; for a server, to the parties, and for a client, to a broker that asks for one.
    authority : path
        Certificates, in PEM, that may sign those of parties and of the broker.
    host, port : str, int
        Of the broker, whose certificate must name ``host``.
    max_message_bytes : int
        Longest answer that is kept, from 1 to 2^30.
    keepalive_s : float
        How often a quiet connection to the broker is tried.
    max_backoff_s : float
        Longest wait before dialling the broker again.

    Raises
    ------
    MissingExtraError
        The extra ``net`` is not installed.
    ParameterError, StoreError
        A name cannot stand in a topic; a file cannot be used.
    UnavailableError, AuthenticationError
        The broker cannot be reached now, or does not let us in. Later it is dialled again and again.

    Security
    --------
    The broker is not trusted. TLS 1.3 between party and coordinator runs inside its messages, with certificates on both
    sides: the broker sees who talks when and how much. It can drop, delay, repeat and forge, which ends sessions or
    holds them up, and nothing else. Of each party at most one request, one answer, two sessions and their messages on
    the way are held.
    """

    def __init__(
        self,
        parties: Mapping[str, str],
        *,
        certificate: Pathlike,
        private_key: Pathlike,
        authority: Pathlike,
        host: str = "127.0.0.1",
        port: int = PORT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_SECONDS,
        max_backoff_s: float = MAX_BACKOFF_SECONDS,
    ) -> None:
        super().__init__(parties)
        check_paho()
        for name in parties:
            MqttTopics.check_name(name)
        files = {"certificate": certificate, "private_key": private_key, "trusted": [authority]}
        self._to_parties = mutual_context(**files, server=True, check_name=False)  # type: ignore[arg-type]
        self._to_broker = mutual_context(**files, server=False, check_name=True)  # type: ignore[arg-type]
        self._topics = MqttTopics(_own_fingerprint(certificate))
        self._where, self._max_bytes, self._keepalive_s = (host, port), max_message_bytes, keepalive_s
        self._backoff = Backoff(max_backoff_s)
        self._window = max(1, min(WINDOW, QUEUE_MESSAGES // max(1, len(parties))))
        self._sessions: dict[str, _Session] = {}
        self._shaking: dict[str, _Session] = {}
        self._link: BrokerLink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None
        self._started = threading.Event()
        self._failed: BlindsightError | None = None
        name = f"[{host}]" if ":" in host else host
        self.url = f"mqtts://{name}:{port}"
        self._thread = threading.Thread(target=self._run, name="blindsight-mqtt", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed

    def close(self) -> None:
        """Tell every party, and wait for the end; the broker takes our presence back."""
        self._desk.close()
        self._call(lambda: self._leaving.set() if self._leaving is not None else None)
        self._thread.join()

    def _wake(self, party: str) -> None:
        self._call(lambda: self._pump(party))

    def _drop(self, party: str) -> None:
        self._call(lambda: self._end(self._sessions.get(party), Why.REFUSED))

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(function)
            except RuntimeError:  # the loop has ended
                return

    # -- everything below runs in the channel's own thread ------------------------------------------------------------

    def _run(self) -> None:
        try:
            # the loop that watches sockets of others: paho's
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        except Exception as error:
            log.exception("the channel over MQTT has failed")
            self._failed = UnavailableError("The channel over MQTT has failed", got=str(error)[:200])
        finally:
            self._desk.close()
            self._started.set()

    async def _serve(self) -> None:
        """Keep a connection to the broker until told to leave."""
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        leaving = asyncio.ensure_future(self._leaving.wait())
        while not leaving.done():
            link = BrokerLink(
                *self._where,
                self._to_broker,
                take=self._take,
                will=(self._topics.presence, b"", True),
                keepalive_s=self._keepalive_s,
            )
            try:
                await self._meet(link, leaving)
            except BlindsightError as error:
                if not self._started.is_set():
                    self._failed = error
                    leaving.cancel()
                    return
                level = logging.WARNING if self._backoff.failures % 100 == 0 else logging.DEBUG
                log.log(level, "the coordinator is not at the broker, and dials again: %s", error)
                await asyncio.wait({leaving}, timeout=self._backoff.failed())

    async def _meet(self, link: BrokerLink, leaving: asyncio.Future[Literal[True]]) -> None:
        """Be at the broker until either side ends it; no session outlives that: what was on the way may be lost."""
        try:
            await link.open()
            await link.subscribe(self._topics.every_up)
            self._link = link
            link.publish(self._topics.presence, secrets.token_bytes(BOOT_BYTES), retain=True)
            if self._backoff.failures:
                log.warning("the coordinator is at the broker again after %d failures", self._backoff.failures)
            self._backoff.worked()
            self._started.set()
            await first_of(link.over, leaving)
            if link.over.done():
                raise link.over.result()
            for session in [*self._sessions.values(), *self._shaking.values()]:
                self._end(session, Why.LEAVING)
        finally:
            self._link = None
            for session in [*self._sessions.values(), *self._shaking.values()]:
                session.line.over = True
            self._sessions.clear()
            self._shaking.clear()
            await link.close()

    def _take(self, topic: str, payload: bytes) -> None:
        """Deal with one message that is said to be a party's."""
        name = self._topics.party_of(topic)
        if name not in self._roll.names:
            log.debug("a message under a name that is nobody's is dropped")
            return
        try:
            envelope = Envelope.decode(payload)
        except WireError as error:
            log.warning("a message that is said to be of %s is dropped: %s", name, error)
            return
        session = self._found(name, envelope)
        if envelope.sort is Sort.END:
            self._forget(session)
        elif session is None:
            self._tell_end(name, envelope.session, Why.UNKNOWN)
        else:
            try:
                self._deal(session, envelope)
            except AuthenticationError as error:
                log.info("the session of %s is ended: %s", name, error)
                self._end(session, Why.REFUSED)
            except WireError as error:
                log.warning("the session of %s is ended: %s", name, error)
                self._end(session, Why.MALFORMED)

    def _found(self, name: str, envelope: Envelope) -> _Session | None:
        """The session that a message is of; a new one where the message begins it.

        A new one takes an older one's place only once it has proved whose it is. Until then the next new one takes its
        place: a broker that plays old beginnings again cannot end what runs, nor fill memory.
        """
        for one in (self._sessions.get(name), self._shaking.get(name)):
            if one is not None and one.line.carried.session == envelope.session:
                return one
        if envelope.sort is not Sort.DATA or envelope.number != 0:
            return None
        carried = Carried(self._to_parties, server=True, session=envelope.session, window=self._window)
        session = _Session(
            name, Line(carried, lambda payload, done: self._publish(name, payload, done), lambda: self._more(session))
        )
        before = self._shaking.get(name)
        if before is not None:
            before.line.over = True
        self._shaking[name] = session
        return session

    def _deal(self, session: _Session, envelope: Envelope) -> None:
        carried = session.line.carried
        frames = carried.take(envelope)
        if carried.established and session.reception is None:
            self._admit(session)
        for frame in frames:
            assert session.reception is not None  # there are no frames before the handshake is complete
            letter_id = session.reception.take(Frame.decode(frame))
            if letter_id is not None:
                session.done.append(letter_id)
        session.line.pump()

    def _admit(self, session: _Session) -> None:
        """Let a party in whose handshake is complete.

        Raises
        ------
        AuthenticationError
            It is somebody else.
        """
        who, why = self._roll.who(session.line.carried.certificate)
        if who is None:
            log.warning("a stranger was refused: %s", why)
            raise AuthenticationError("A stranger was refused", got=why)
        if who != session.name:
            log.warning("%s was refused: it calls itself %r", who, session.name)
            raise AuthenticationError("A party calls itself by another name", got=f"{who}, not {session.name}")
        self._end(self._sessions.get(who), Why.REPLACED)
        del self._shaking[who]
        self._sessions[who] = session
        session.who, session.reception = who, Reception(self._desk, who, self._max_bytes)
        session.line.carried.put(b"")  # tells the party that it has been let in

    def _more(self, session: _Session) -> bytes | None:
        """What a party is sent next, if there is anything."""
        if not session.who:
            return None
        if session.done:
            return Frame(Kind.DONE, session.done.popleft()).encode()
        letter = self._desk.letter(session.who)
        if letter is None:
            return None
        if letter.id != session.handed:
            if self._roll.who(session.line.carried.certificate)[0] != session.who:
                log.warning("%s is let in no longer: its certificate has expired, or is on no list", session.name)
                self._end(session, Why.REFUSED)
                return None
            session.handed, session.parts = letter.id, parts_of(letter.id, letter.body, PART_BYTES)
        part = next(session.parts, None)
        return None if part is None else part.encode()

    def _pump(self, party: str) -> None:
        session = self._sessions.get(party)
        if session is not None:
            session.line.pump()

    def _publish(self, name: str, payload: bytes, done: Callable[[], None]) -> None:
        if self._link is not None:
            self._link.publish(self._topics.down(name), payload, done=done)

    def _tell_end(self, name: str, session: bytes, why: Why) -> None:
        if self._link is not None:
            self._link.publish(self._topics.down(name), Envelope(Sort.END, session, why).encode())

    def _end(self, session: _Session | None, why: Why) -> None:
        """End a session, and tell the party; first what TLS itself has to say."""
        if session is None or session.line.over:
            return
        session.line.flush()
        self._tell_end(session.name, session.line.carried.session, why)
        self._forget(session)

    def _forget(self, session: _Session | None) -> None:
        if session is None:
            return
        session.line.over = True
        for sessions in (self._sessions, self._shaking):
            if sessions.get(session.name) is session:
                del sessions[session.name]


def _own_fingerprint(certificate: Pathlike) -> str:
    """Of the first certificate in a PEM file, which has been read before."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = Path(certificate).read_text(encoding="ascii", errors="replace")
    body = text.partition(begin)[2].partition(end)[0]
    return certificate_fingerprint(ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}"))
