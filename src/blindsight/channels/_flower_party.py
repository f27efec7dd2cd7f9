"""A party's end over Flower: answers parcels that a courier brings to its socket, whoever that is.

Wire format: docs/channels.md, 'Flower'. Nothing of Flower is imported: the courier is an app that runs inside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from blindsight.errors import BlindsightError, ParameterError, WireError

from ._backoff import Backoff
from ._channel import MAX_MESSAGE_BYTES
from ._contact import Contact
from ._desk import ID_BYTES, Letter
from ._flower_app.blindsight_courier.courier import LENGTH
from ._frames import Assembler, Frame, FrameReader, Kind, parts_of
from ._https import HOLD_SECONDS
from ._intake import read_parcel
from ._leaving import leaving
from ._outbox import Outbox
from ._parcels import STRANGER_BYTES, Parcel, ParcelSession, new_session
from ._pin import Expected, expected_now, pin_context, still_expected
from ._tls import Pathlike, mutual_context
from ._unix import listen_unix

__all__ = ["GREETING_ID", "SOCKET_NAME", "longest_parcel", "serve_flower", "socket_of"]

log = logging.getLogger(__name__)

SOCKET_NAME = "flower.sock"
GREETING_ID = "00" * ID_BYTES
"""Under which a party says its name."""
FAREWELL_SECONDS = 15.0
PIECE_SECONDS = 60.0
MAX_COURIERS = 16
READ_BYTES = 1 << 20


def socket_of(certificate: Pathlike, socket: Pathlike | None) -> tuple[Path, int]:
    """Where a process listens for its courier, and with which mode.

    Beside its certificate, for its own account alone; or where it was told, where also the group may connect: the
    folder says who gets there.
    """
    return (Path(certificate).parent / SOCKET_NAME, 0o600) if socket is None else (Path(socket), 0o660)


def longest_parcel(max_message_bytes: int) -> int:
    """The longest parcel that is read: two messages (one whose receipt was not heard of, and the next) and TLS."""
    return 2 * (max_message_bytes + max_message_bytes // 64) + (1 << 20)


def serve_flower(
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
    max_backoff_s: float = 0.0,
    hold_s: float = HOLD_SECONDS,
    socket: Pathlike | None = None,
    contact: Contact | None = None,
) -> None:
    """Answer a coordinator's requests until told to stop; blocks, and never gives up by itself.

    Parameters
    ----------
    handler : callable bytes -> bytes
        Called in another thread, one request at a time. Must stand being asked the same again: a process that is
        killed between answering and sending gets its request once more. One that raises is a dropout.
    url : str
        ``flower://HOST:PORT`` of the SuperLink: for people. The SuperNode dials it, not this process.
    name : str
        Of this party, as the coordinator's list has it.
    certificate, private_key : path
        The party's own, in PEM.
    authority : path
        Certificates, in PEM, that may sign the coordinator's.
    coordinator : str or callable () -> str
        SHA-256 of the one certificate that the coordinator may have, in hexadecimal; a callable is asked before every
        session and every request. Required: no host name is dialled by which a coordinator could be known.
    stop : threading.Event, optional
        Ends the loop; set when it has ended for another reason. In the main thread SIGTERM and SIGINT do the same.
    max_message_bytes : int
        Longest request that is read.
    max_backoff_s : float
        Not used: nothing is dialled.
    hold_s : float
        How long a courier is kept waiting for an answer before it is sent back without one.
    socket : path, optional
        Where the courier connects: ``flower.sock`` beside ``certificate``, of mode 0600, otherwise. A path given here
        gets mode 0660, for a SuperNode under another account; its folder says who gets there.
    contact : Contact, optional
        Is told of the coordinator, for whoever watches this party.

    Raises
    ------
    ParameterError, StoreError, UnavailableError
        The URL or a file cannot be used; another process listens at the socket. Nothing else: what fails later is in
        the log.

    Notes
    -----
    Told to stop, it finishes the request at hand, gives a courier some seconds to fetch the answer, and ends.

    Security
    --------
    No port is open; the socket is a file. Whoever connects there is a carrier and nothing more: what it brings and gets
    is TLS 1.3 between this process and the coordinator, whose certificate must be signed by ``authority`` for servers
    and be ``coordinator``: compared in the handshake, before anything is sent, and again before a
    request is handed to ``handler``. A carrier can delay and drop, see lengths and times, and have one
    parcel of the greatest length held at a time: it reads in every header what the next may say.
    """
    del max_backoff_s
    if url.partition("://")[0].lower() != "flower":
        raise ParameterError("The coordinator's address cannot be used", got=url[:200], rule="flower://HOST:PORT")
    path, mode = socket_of(certificate, socket)

    if expected_now(coordinator) is None:
        raise ParameterError(
            "A party behind a SuperNode has to know its coordinator's certificate",
            rule="any server of the authority could pass for the coordinator otherwise",
            fix="give coordinator: the SHA-256 of its certificate, in hexadecimal",
        )

    def context(pinned: str | None) -> ssl.SSLContext:
        made = mutual_context(
            certificate=certificate, private_key=private_key, trusted=[authority], server=False, check_name=False
        )
        return pin_context(made, pinned)

    context(expected_now(coordinator))  # says at once what cannot be used
    listener = listen_unix(path, mode=mode)

    async def serve() -> None:
        agent = _Agent(handler, context, coordinator, name, max_message_bytes, hold_s, contact)
        couriers: set[asyncio.Task[None]] = set()
        longest = longest_parcel(max_message_bytes)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(couriers) >= MAX_COURIERS:
                writer.transport.abort()
                return
            task = asyncio.ensure_future(_courier(agent, reader, writer, longest))
            couriers.add(task)
            task.add_done_callback(couriers.discard)
            task.add_done_callback(lambda _: writer.close())  # one that is cancelled before it begins closes nothing

        async with leaving(stop or threading.Event()) as left:
            server = await asyncio.start_unix_server(connected, sock=listener, limit=READ_BYTES)
            work = asyncio.ensure_future(agent.work())
            leave = asyncio.ensure_future(left.wait())
            log.info("%s waits for Flower's courier at %s", name, path.name)
            await asyncio.wait({work, leave}, return_when=asyncio.FIRST_COMPLETED)
            await agent.leave()
            server.close()
            for task in (work, leave, *couriers):
                task.cancel()
            await asyncio.gather(work, leave, *couriers, return_exceptions=True)
            await server.wait_closed()
            if work.done() and not work.cancelled():
                work.result()

    try:
        asyncio.run(serve())
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(path)


async def _courier(agent: _Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
    """One parcel in, one out."""
    try:
        async with asyncio.timeout(PIECE_SECONDS):
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > max_bytes:
            log.warning("a parcel of %d bytes is too long, and not read", length)
            return
        async with contextlib.nullcontext() if length <= STRANGER_BYTES else agent.room:
            parcel, _ = await read_parcel(
                reader, length, lambda head: max_bytes if agent.knows(head) else STRANGER_BYTES, piece_s=PIECE_SECONDS
            )
            session = agent.take(parcel)
            del parcel
        await agent.ready(session)
        async with agent.room:
            answer = session.carried.parcel().encode()
            writer.writelines([LENGTH.pack(len(answer)), answer])
            async with asyncio.timeout(PIECE_SECONDS):
                await writer.drain()
            del answer
        agent.fetched()
    except (asyncio.IncompleteReadError, TimeoutError, OSError):
        writer.transport.abort()  # what it does not read is not kept for it
    except BlindsightError as error:  # a file of ours cannot be used just now
        log.error("a courier got no answer: %s", error)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Session:
    """One session with a coordinator, from its first byte on."""

    def __init__(self, context: ssl.SSLContext, pinned: str | None, name: str) -> None:
        self.pinned = pinned
        self.carried = ParcelSession(context, server=False, session=new_session())
        self.reader, self.assembler = FrameReader(), Assembler()
        told = name.encode()
        self.carried.send(Frame(Kind.PART, GREETING_ID, len(told), 0, told).encode())


class _Agent:
    """Sessions, of which one is established, one may be on the way to it, and every other parcel begins one."""

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        context: Callable[[str | None], ssl.SSLContext],
        expected: Expected,
        name: str,
        max_bytes: int,
        hold_s: float,
        contact: Contact | None,
    ) -> None:
        self._handler, self._context, self._expected = handler, context, expected
        self._name, self._max_bytes, self._hold_s = name, max_bytes, hold_s
        self._outbox, self._failures = Outbox(name, contact), Backoff(0.0)
        self._current: _Session | None = None
        self._young: _Session | None = None
        self._asked: tuple[Letter, _Session] | None = None  # what is to be answered next
        self._working: _Session | None = None  # for whom a request is being answered
        self._ready, self._changed = asyncio.Event(), asyncio.Event()
        self.room = asyncio.Lock()
        """For one long parcel at a time, either way: a carrier has 16 connections, and can write headers that fit."""
        self._leaving = False

    def take(self, data: bytearray) -> _Session:
        """Take a parcel; return the session that has something to say to it, which may be over or a new one."""
        try:
            parcel = Parcel.decode(data)
        except WireError as error:
            self._outbox.failed(error, self._failures.failures)
            return self._begin()
        session = self._session_of(parcel)
        if session is None:
            return self._begin()
        try:
            still_expected(session.pinned, self._expected)
            plain = session.carried.take(parcel)
            if session is self._young and session.carried.established:
                self._current, self._young = session, None
                self._outbox.reached(self._failures.failures)
                self._failures.worked()
            if plain and session is self._current:
                self._outbox.heard()
            for frame in session.reader.feed(plain):
                self._read(session, frame)
        except BlindsightError as error:
            self._outbox.failed(error, self._failures.failures)
            self._failures.failed()
            self._end(session)
            said = session.carried.parcel().records  # tells the other side what was wrong
            return session if said else self._begin()
        return session

    async def ready(self, session: _Session) -> None:
        """Come back as soon as there is something to say in a session, or nothing on the way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._hold_s):
                while self._on_the_way(session):
                    self._changed.clear()
                    await self._changed.wait()

    def knows(self, header: bytes) -> bool:
        """Whether a parcel that begins so may be of the session with the coordinator, whose certificate was seen."""
        try:
            return self._current is not None and self._current.carried.fits(Parcel.decode(header))
        except WireError:
            return False

    def fetched(self) -> None:
        """A courier has left with whatever there was."""
        self._outbox.waiting = self._outbox.waiting and self._working is not None
        self._changed.set()

    async def work(self) -> None:
        """Have requests answered, one at a time; for ever."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._asked is None or self._leaving:
                continue
            letter, session = self._asked
            self._asked, self._working = None, session
            try:
                still_expected(session.pinned, self._expected)
                await asyncio.to_thread(self._outbox.fill, letter, self._handler)
                self._reply(session)
            except BlindsightError as error:  # the coordinator was replaced meanwhile
                self._outbox.failed(error, 0)
                self._end(session)
            finally:
                self._working = None
                self._changed.set()

    async def leave(self) -> None:
        """Take nothing more on; come back when what was taken on is done, and fetched if somebody does in time."""
        self._leaving = True
        self._asked = None
        self._changed.set()
        with contextlib.suppress(TimeoutError):
            while self._working is not None:
                await self._turn()
            async with asyncio.timeout(FAREWELL_SECONDS):
                while self._outbox.waiting:
                    await self._turn()
            await asyncio.sleep(0)

    async def _turn(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _on_the_way(self, session: _Session) -> bool:
        """Whether an answer may come for whom a courier should wait."""
        asked = self._asked is not None and self._asked[1] is session
        return session is self._current and (asked or self._working is session)

    def _session_of(self, parcel: Parcel) -> _Session | None:
        for session in (self._current, self._young):
            if session is not None and session.carried.session == parcel.session:
                return session
        return None

    def _begin(self) -> _Session:
        """Another session; the established one goes on until this one is."""
        pinned = expected_now(self._expected)
        self._young = _Session(self._context(pinned), pinned, self._name)
        return self._young

    def _end(self, session: _Session) -> None:
        if session is self._current:
            self._current = None
        if session is self._young:
            self._young = None

    def _read(self, session: _Session, frame: Frame) -> None:
        if frame.kind is not Kind.PART:
            raise WireError("A coordinator sends requests alone", got=frame.kind.name)
        short = frame.total <= self._max_bytes
        complete, request = session.assembler.add(frame, keep=short)
        if not complete or self._leaving:
            return
        if request is None:
            log.error("a request of %d bytes is too long, and not answered", frame.total)
            session.carried.send(Frame(Kind.FAILED, frame.id).encode())
            return
        self._asked = Letter(frame.id, request), session
        self._ready.set()

    def _reply(self, session: _Session) -> None:
        """Put the answer into its session, unless that is over or has gone on to another request."""
        if session is not self._current or (self._asked is not None and self._asked[1] is session):
            self._outbox.waiting = False
            return
        letter_id, body = self._outbox.next()
        if body is None:
            session.carried.send(Frame(Kind.FAILED, letter_id).encode())
            return
        for part in parts_of(letter_id, body):
            session.carried.send(part.encode())
