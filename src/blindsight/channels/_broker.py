"""One connection to an MQTT broker, on asyncio's loop: over when it breaks, and then another is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from blindsight.errors import AuthenticationError, BlindsightError, MissingExtraError, UnavailableError, WireError

from ._mqtt_wire import MAX_PAYLOAD_BYTES
from ._packets import AROUND_BYTES, PacketGuard

__all__ = ["BrokerLink", "check_paho", "first_of"]

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FLUSH_SECONDS = 2.0
IN_FLIGHT = 16
"""Messages that the broker has not confirmed, at most; fewer where it says so."""
MAX_QUEUED = 1 << 15
"""Messages that wait for the broker to confirm others: a broker that sends, and confirms nothing, fills no memory."""
MAX_PACKET_BYTES = MAX_PAYLOAD_BYTES + AROUND_BYTES
"""Longest packet, either way."""
READS = 32


def check_paho() -> None:
    """Say how to get paho-mqtt where it is missing.

    Raises
    ------
    MissingExtraError
    """
    try:
        import paho.mqtt.client  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("MQTT needs paho-mqtt", fix="pip install 'blindsight[net]'") from error


async def first_of(*awaited: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait until one of them is done, whatever came of it."""
    await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class _BrokerSocket(ssl.SSLSocket):
    """What paho reads from: it would take a packet of 256 MiB into memory before it asked anybody.

    Closed if its handshake fails: paho drops it as it is.
    """

    guard: PacketGuard | None = None

    def do_handshake(self, block: bool = False) -> None:
        """As ssl's."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
        self.guard = PacketGuard(MAX_PACKET_BYTES)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As ssl's, as long as what comes is what a broker may send; then the end.

        Raises
        ------
        WireError
            It is not; once.
        """
        if self.guard is None:
            return b""
        data = super().recv(buflen, flags)
        try:
            self.guard.feed(data)
        except WireError:
            self.guard = None
            raise
        return data

    def shutdown(self, how: int) -> None:
        """As ssl's; what is still in the system's buffer is not read any more: it would be ciphertext."""
        self.guard = None
        super().shutdown(how)


class BrokerLink:
    """A clean MQTT v5 session of one connection, QoS 1: the broker keeps nothing for us once it has ended.

    All methods are for the thread of the running loop.

    Parameters
    ----------
    host, port : str, int
    context : ssl.SSLContext
        Of the dialling side.
    take : callable (topic, payload)
        Gets every message. The connection does not read on before it returns; an error of ours ends the connection.
    will : (str, bytes, bool)
        Topic, payload and whether it is retained: what the broker publishes if the connection breaks.
    keepalive_s : float
        How often a quiet connection is tried.

    Attributes
    ----------
    over : asyncio.Future
        Its result, once the connection has ended, is the error that says why.

    Security
    --------
    The broker is told how long a packet may be. One that sends a longer one all the same, or one that is long around
    its message or without any, or steps of QoS 2, or more than it hears the receipt of, is left before the packet's
    body is read: see :class:`PacketGuard`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        take: Callable[[str, bytes], None],
        will: tuple[str, bytes, bool],
        keepalive_s: float,
    ) -> None:
        from paho.mqtt.client import Client, MQTTMessage
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self._where, self._take, self._keepalive_s = (host, port), take, max(1, int(keepalive_s))
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[BlindsightError] = self._loop.create_future()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: dict[int | None, asyncio.Future[None]] = {}
        self._queued: deque[tuple[str, bytes, bool, Callable[[], None] | None]] = deque()
        self._unconfirmed: dict[int, Callable[[], None] | None] = {}
        self._in_flight = IN_FLIGHT
        self._timer: asyncio.TimerHandle | None = None
        context.sslsocket_class = _BrokerSocket
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False)
        client.tls_set_context(context)
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(0)  # paho has a limit of its own, and does not ask the broker for its
        client.will_set(will[0], will[1], qos=1, retain=will[2])

        def on_message(_client: object, _data: object, message: MQTTMessage) -> None:
            try:
                self._take(message.topic, bytes(message.payload))
            except BlindsightError as error:
                self._end(error)
            except Exception as error:
                log.exception("a message of the broker could not be dealt with")
                self._end(UnavailableError("A message of the broker could not be dealt with", got=str(error)[:200]))

        self._told = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._told.MaximumPacketSize = MAX_PACKET_BYTES
        client.on_message = on_message
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        self._client = client

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        UnavailableError
            The broker cannot be reached, or its TLS is not accepted.
        AuthenticationError
            It does not let us in.
        """
        connecting = asyncio.ensure_future(
            asyncio.to_thread(
                self._client.connect,
                *self._where,
                keepalive=self._keepalive_s,
                clean_start=True,
                properties=self._told,
            )
        )
        try:
            await asyncio.shield(connecting)
        except OSError as error:  # ssl.SSLError is one
            self._end(refused := self._refused(error))
            raise refused from error
        except asyncio.CancelledError:
            await asyncio.wait({connecting})
            if not connecting.exception():
                self._shut()
            raise
        sock = self._socket()
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client.on_socket_close = self._on_socket_close
            self._client.on_socket_register_write = self._on_want_write
            self._client.on_socket_unregister_write = self._on_no_write
            self._loop.add_reader(sock.fileno(), self._read)
            if self._client.want_write():
                self._loop.add_writer(sock.fileno(), self._client.loop_write)
            self._misc()
        else:
            self._end(UnavailableError("The broker has ended the connection"))
        await self._answered(self._connected, "The broker does not answer")

    def _refused(self, error: OSError) -> UnavailableError:
        told = getattr(error, "verify_message", None) or error.strerror or str(error)
        got = f"{self._where[0]}:{self._where[1]}: {told}"[:200]
        if isinstance(error, ssl.SSLError):
            return UnavailableError(
                "The broker's TLS is not accepted",
                got=got,
                fix="see that its kit and ours are of one federation, and new",
            )
        fix = "start it; let the firewall here pass outgoing TCP to it"
        return UnavailableError("The broker cannot be reached", got=got, fix=fix)

    async def subscribe(self, *topics: str) -> None:
        """Ask for what is published under some topics or filters, and what is retained there.

        Raises
        ------
        UnavailableError, AuthenticationError
            The connection has ended; the broker refuses.
        """
        from paho.mqtt.subscribeoptions import SubscribeOptions

        _, number = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
        subscribed = self._subscribed[number] = self._loop.create_future()
        await self._answered(subscribed, "The broker does not answer a subscription")

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, done: Callable[[], None] | None = None
    ) -> None:
        """Have a message published; ``done`` is called later, once the broker has it. Nothing where it is over.

        With too many that the broker has not taken, the connection is over.
        """
        if self.over.done():
            return
        if len(self._queued) >= MAX_QUEUED:
            self._queued.clear()
            self._end(UnavailableError("The broker does not take what we publish", got=f"{MAX_QUEUED} messages wait"))
            return
        self._queued.append((topic, payload, retain, done))
        self._send()

    def _send(self) -> None:
        while self._queued and len(self._unconfirmed) < self._in_flight and not self.over.done():
            topic, payload, retain, done = self._queued.popleft()
            self._unconfirmed[self._client.publish(topic, payload, qos=1, retain=retain).mid] = done

    async def close(self) -> None:
        """Give what was published a moment to leave, say goodbye, and end; the broker then publishes the last will."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.reasoncodes import ReasonCode

        try:
            deadline = self._loop.time() + FLUSH_SECONDS
            while not self.over.done() and self._loop.time() < deadline:
                if not self._queued and not self._client.want_write():
                    break
                await asyncio.sleep(0.005)
            if not self.over.done():
                self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
                await first_of(self.over, timeout_s=FLUSH_SECONDS)
        finally:
            self._shut()
            self._end(UnavailableError("The connection to the broker was closed"))

    async def _answered(self, answer: asyncio.Future[None], what: str) -> None:
        await first_of(answer, self.over, timeout_s=ANSWER_SECONDS)
        if answer.done():
            answer.result()
        elif self.over.done():
            raise self.over.result()
        else:
            raise UnavailableError(what, got=f"nothing within {ANSWER_SECONDS:g} s")

    # -- what paho calls ----------------------------------------------------------------------------------------------

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: Any, more: Any) -> None:
        if self._connected.done():
            return
        self._in_flight = min(IN_FLIGHT, getattr(more, "ReceiveMaximum", IN_FLIGHT))
        longest = getattr(more, "MaximumPacketSize", None)
        if reason.is_failure:
            self._connected.set_exception(
                AuthenticationError(
                    "The broker does not let us in",
                    got=str(reason)[:200],
                    fix="see that its kit is the newest one, and look into its log",
                )
            )
        elif longest is not None and longest < MAX_PACKET_BYTES:
            self._connected.set_exception(
                UnavailableError(
                    "The broker takes only shorter messages",
                    got=f"packets of at most {longest} bytes",
                    rule=f"{MAX_PACKET_BYTES} bytes",
                    fix="raise its limit; in mosquitto.conf: max_packet_size",
                )
            )
        else:
            self._connected.set_result(None)

    def _on_subscribe(self, _client: object, _data: object, number: int, reasons: Any, _more: object) -> None:
        subscribed = self._subscribed.pop(number, None)
        if subscribed is None or subscribed.done():
            return
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            subscribed.set_exception(
                AuthenticationError(
                    "The broker does not let us read our topic",
                    got=refused[0][:200],
                    fix="give it the newest acl file of its kit",
                )
            )
        else:
            subscribed.set_result(None)

    def _on_publish(self, _client: object, _data: object, number: int, reason: Any, _more: object) -> None:
        if reason.is_failure:
            self._end(
                AuthenticationError(
                    "The broker does not take what we publish",
                    got=str(reason)[:200],
                    fix="give it the newest acl file of its kit; see that name and certificate here are of one party",
                )
            )
        self._loop.call_soon(self._confirmed, number)  # not from inside: paho holds its locks here

    def _confirmed(self, number: int) -> None:
        done = self._unconfirmed.pop(number, None)
        if done is not None:
            done()
        self._send()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _more: object) -> None:
        told = str(reason)[:200]
        fix = "run one process with this certificate" if "taken over" in told else None
        self._end(UnavailableError("The connection to the broker has ended", got=told, fix=fix))

    def _on_socket_close(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())

    def _on_want_write(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.add_writer(sock.fileno(), self._client.loop_write)

    def _on_no_write(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.remove_writer(sock.fileno())

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _socket(self) -> _BrokerSocket | None:
        return cast("_BrokerSocket | None", self._client.socket())

    def _read(self) -> None:
        """Read until TLS holds nothing back: the selector does not see what is decrypted already."""
        sock = self._socket()
        if sock is not None and sock.guard is not None and not self._client.want_write():
            sock.guard.heard()
        for _ in range(READS):
            try:
                self._client.loop_read()
            except BlindsightError as error:
                self._end(error)
                self._shut()
            except Exception as error:  # paho says nothing of what a packet that is none does to it
                self._end(UnavailableError("What the broker sends is no MQTT", got=repr(error)[:200]))
                self._shut()
            sock = self._socket()
            if sock is None or not sock.pending():
                return
        self._loop.call_soon(self._read)  # others have their turn

    def _misc(self) -> None:
        if not self.over.done():
            self._client.loop_misc()
            self._timer = self._loop.call_later(1.0, self._misc)

    def _end(self, error: BlindsightError) -> None:
        if not self.over.done():
            self.over.set_result(error)

    def _shut(self) -> None:
        """Close the socket, whatever state it is in."""
        if self._timer is not None:
            self._timer.cancel()
        for answer in (self._connected, *self._subscribed.values()):
            if answer.done() and not answer.cancelled():
                answer.exception()  # nobody else may ask for it
        sock = self._socket()
        if sock is None or sock.fileno() < 0:
            return
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        with contextlib.suppress(OSError):  # it is closed on the other side
            sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._client.loop_read()  # sees the end, and has paho close what it holds
        sock.close()
