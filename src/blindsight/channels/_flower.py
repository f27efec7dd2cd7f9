"""The coordinator's end over Flower: a socket for the app inside Flower that carries, and sessions with every party.

Wire format: docs/channels.md, 'Flower'. Nothing of Flower is imported. What is said to whom is the business of
:class:`Nodes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from blindsight.errors import UnavailableError, WireError

from ._channel import MAX_MESSAGE_BYTES
from ._dialled import DialledChannel
from ._flower_app.blindsight_courier.courier import ANSWER, CARRY, END, HEAD, LENGTH, LOST, NODES
from ._flower_nodes import MAX_NODES, Nodes
from ._flower_party import longest_parcel, socket_of
from ._intake import read_parcel
from ._parcels import STRANGER_BYTES
from ._tls import Pathlike, mutual_context
from ._unix import listen_unix

__all__ = ["FlowerChannel"]

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
READ_BYTES = 1 << 22
"""Read ahead; asyncio's own 64 KiB are slow for long parcels."""
FAREWELL_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


class FlowerChannel(DialledChannel):
    """Parties behind the SuperNodes of a Flower federation; a party is whoever has its certificate.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of each party's certificate (of its DER bytes), in hexadecimal.
    certificate, private_key : path
        The coordinator's own, in PEM.
    authority : path
        Certificates, in PEM, that may sign those of parties.
    url : str
        ``flower://HOST:PORT`` of the SuperLink, for people.
    socket : path, optional
        Where the app inside Flower connects: ``flower.sock`` beside ``certificate``, of mode 0600, otherwise. A path
        given here gets mode 0660, for a SuperLink under another account; its folder says who gets there.
    max_message_bytes : int
        Longest answer that is read, from 1 to 2^30.

    Raises
    ------
    StoreError, UnavailableError
        A file cannot be used; another process listens at the socket.

    Notes
    -----
    An exchange costs seconds: a SuperNode looks for work every 3 s, and starts a process for each message. A session
    with a party costs two exchanges when it begins, and lasts until one of the two processes ends.

    Security
    --------
    SuperLink, SuperNodes and the app between are carriers: what they carry is TLS 1.3 between this process and the
    party's, both by certificate, without resumption. A certificate of another authority, or one that has expired, ends
    the handshake; one that is on no list ends the session before anything is said. They see which node talks when, and
    lengths; they can delay and drop, which is a dropout. Of each party at most one request is held, and two answers;
    of a node that has not shown a party's certificate, 64 KiB.
    """

    patience_s = PATIENCE_SECONDS

    def __init__(
        self,
        parties: Mapping[str, str],
        *,
        certificate: Pathlike,
        private_key: Pathlike,
        authority: Pathlike,
        url: str = "flower://superlink",
        socket: Pathlike | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        super().__init__(parties)
        context = mutual_context(
            certificate=certificate, private_key=private_key, trusted=[authority], server=True, check_name=False
        )
        self.url = url
        self.socket, mode = socket_of(certificate, socket)
        self._longest = longest_parcel(max_message_bytes)
        self._nodes = Nodes(self._roll, self._desk, context, max_message_bytes)
        self._listener = listen_unix(self.socket, mode=mode)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news, self._over = asyncio.Event(), asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blindsight-flower", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._loop is None:
            self._thread.join()
            raise UnavailableError("The channel's thread did not start", fix="read the log")

    def close(self) -> None:
        """Tell the app inside Flower that this is over, and end."""
        self._desk.close()
        self._call(self._over.set)
        self._thread.join()

    def _wake(self, party: str) -> None:
        del party
        self._call(self._news.set)

    def _drop(self, party: str) -> None:
        self._call(self._dropped, party)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function, *arguments)

    # -- in the channel's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("the channel over Flower has failed")
        finally:
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self.socket)
            self._desk.close()
            self._started.set()

    async def _serve(self) -> None:
        running: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for older in running:
                older.cancel()  # the app was started again
            task = asyncio.ensure_future(self._connection(reader, writer))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: writer.close())  # one that is cancelled before it begins closes nothing

        server = await asyncio.start_unix_server(connected, sock=self._listener, limit=READ_BYTES)
        self._loop = asyncio.get_running_loop()
        self._started.set()
        await self._over.wait()
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One app inside Flower, until it ends or another one comes."""
        log.info("Flower's app has connected")
        pump = asyncio.ensure_future(self._pump(writer))
        try:
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if not HEAD.size <= length <= HEAD.size + self._longest:
                    raise WireError("A frame of Flower's app has a length that none has", got=f"{length} bytes")
                await self._hear(reader, length - HEAD.size)
        except (asyncio.IncompleteReadError, OSError):
            log.warning("Flower's app has gone; waiting for it to come back")
        except WireError as error:
            log.error("Flower's app was cut off: %s", error)
        finally:
            # nothing is awaited before all is said and closed: a newer connection may cancel this one here again
            pump.cancel()
            self._nodes.unheard()
            if self._over.is_set():
                writer.write(_frame(HEAD.pack(END, 0, 0, 0.0)))
            writer.close()  # once all of it has been read
            try:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await writer.wait_closed()
            except (OSError, TimeoutError):
                writer.transport.abort()
            await asyncio.gather(pump, return_exceptions=True)

    async def _hear(self, reader: asyncio.StreamReader, length: int) -> None:
        """Read one frame, of which ``length`` bytes follow the head, and take it."""
        kind, node, number, _ = HEAD.unpack(await reader.readexactly(HEAD.size))
        if kind == ANSWER:
            parcel, whole = await read_parcel(
                reader, length, lambda header: self._longest if self._nodes.know(node, header) else STRANGER_BYTES
            )
            if whole:
                self._nodes.answered(node, number, parcel, time.monotonic())
            else:
                why = f"a parcel of {length} bytes is longer than a stranger's may be"
                self._nodes.lost(node, number, why, time.monotonic())
        elif kind == NODES and length % LENGTH.size == 0:
            if length > LENGTH.size * MAX_NODES:
                raise _too_long(f"{length // LENGTH.size} nodes", f"at most {MAX_NODES}")
            listed = await reader.readexactly(length)
            self._nodes.seen(one for (one,) in LENGTH.iter_unpack(listed))
        elif kind == LOST:
            if length > STRANGER_BYTES:
                raise _too_long(f"{length} bytes of why an answer is lost", f"at most {STRANGER_BYTES}")
            reason = await reader.readexactly(length)
            self._nodes.lost(node, number, reason[:400].decode(errors="replace"), time.monotonic())
        else:
            raise WireError("A frame of Flower's app is of no kind that there is", got=str(kind))
        self._news.set()

    async def _pump(self, writer: asyncio.StreamWriter) -> None:
        while True:
            self._news.clear()
            for errand in self._nodes.due(time.monotonic()):
                head = HEAD.pack(CARRY, errand.node, errand.number, errand.seconds)
                writer.write(_frame(head, errand.parcel))
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._news.wait()

    def _dropped(self, party: str) -> None:
        self._nodes.drop(party)
        self._news.set()


def _frame(*parts: bytes) -> bytes:
    return LENGTH.pack(sum(map(len, parts))) + b"".join(parts)


def _too_long(got: str, rule: str) -> WireError:
    return WireError("A frame of Flower's app is too long", got=got, rule=rule)
