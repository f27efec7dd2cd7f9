"""A connection to a broker: without one, and to one that is out to cost memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindsight.channels import _broker, mutual_context
from blindsight.channels._packets import MAX_OWED, PacketGuard
from blindsight.errors import BlindsightError, UnavailableError, WireError
from blindsight.testing import InsecureAuthority

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not there: the extra net")

CONNACK, SUBACK = bytes.fromhex("2003000000"), 0x90
USER_PROPERTY = b"\x26\0\0\0\0"
PIECE = bytes(1 << 16)
ENOUGH_BYTES = 64 << 20
"""What a broker gets rid of at most, here; buffers of the system take a few megabytes."""


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + length_of(len(body)) + body


def length_of(length: int) -> bytes:
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(digits)


def publish(number: int, *, qos: int, payload: bytes = b"x", topic: bytes = b"up", properties: bytes = b"") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + (number.to_bytes(2, "big") if qos else b"")
    return packet(0x30 | qos << 1, body + length_of(len(properties)) + properties + payload)


class HostileBroker:
    """Speaks as much MQTT over TLS as lets a client in; then it sends what it was made for, as long as it can.

    Parameters
    ----------
    folder : Path
    sends : iterator of bytes
    hears : bool
        Whether it reads what the client answers meanwhile.
    """

    def __init__(self, folder: Path, sends: Iterator[bytes], *, hears: bool) -> None:
        authority = InsecureAuthority(folder)
        party, broker = authority.issue("party"), authority.issue("broker", server=True)
        self.context, server = (
            mutual_context(
                certificate=one.certificate,
                private_key=one.private_key,
                trusted=[one.authority],
                server=one is broker,
                check_name=one is party,
            )
            for one in (party, broker)
        )
        self._sends, self._hears, self._tls = sends, hears, server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)  # what it does not read fills soon
        self._listener.settimeout(20)
        self.port = self._listener.getsockname()[1]
        self.connect, self.sent = b"", 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        raw, _ = self._listener.accept()
        with contextlib.suppress(OSError), self._tls.wrap_socket(raw, server_side=True) as client:
            client.settimeout(20)
            self.connect = client.recv(1 << 16)
            client.sendall(CONNACK)
            asked = client.recv(1 << 16)
            client.sendall(packet(SUBACK, asked[2:4] + b"\0\1"))
            client.settimeout(5)
            for piece in self._sends:
                if self._hears:
                    client.setblocking(False)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.recv(1 << 16)
                    client.settimeout(5)
                client.sendall(piece)
                self.sent += len(piece)
            while self._hears and client.recv(1 << 16):  # a reset would take with it what is on the way
                pass

    def close(self) -> None:
        self._listener.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


def link_to(port: int, context: ssl.SSLContext, got: list[bytes]) -> _broker.BrokerLink:
    return _broker.BrokerLink(
        "127.0.0.1", port, context, take=lambda _, payload: got.append(payload), will=("will", b"", False),
        keepalive_s=20.0,
    )  # fmt: skip


def meet(folder: Path, sends: Iterator[bytes], *, hears: bool = True) -> tuple[BlindsightError, HostileBroker, list]:
    """Subscribe at such a broker; why that was over, the broker, and what came until then."""
    broker, got = HostileBroker(folder, sends, hears=hears), []

    async def visit() -> BlindsightError:
        link = link_to(broker.port, broker.context, got)
        try:
            await link.open()
            await link.subscribe("up")
            return await asyncio.wait_for(link.over, 20)
        finally:
            await link.close()

    try:
        return asyncio.run(visit()), broker, got
    finally:
        broker.close()


def pieces(first: bytes) -> Iterator[bytes]:
    yield first
    for _ in range(ENOUGH_BYTES // len(PIECE)):
        yield PIECE


def test_a_packet_longer_than_the_broker_was_told_is_not_read(tmp_path: Path) -> None:
    longest = bytes([0x32]) + length_of((1 << 28) - 1) + b"\0\2up"
    error, broker, got = meet(tmp_path, pieces(publish(1, qos=1) + longest))
    assert "\x27" + _broker.MAX_PACKET_BYTES.to_bytes(4, "big").decode("latin-1") in broker.connect.decode("latin-1")
    assert isinstance(error, WireError)
    assert "a packet of 268435460 bytes" in str(error)
    assert broker.sent < ENOUGH_BYTES / 2, "the rest found nobody who reads"
    assert got == [b"x"]


@pytest.mark.parametrize(
    ("first", "match"),
    [
        (publish(1, qos=2), "begins with 0x34"),
        (packet(0x62, b"\0\1"), "begins with 0x62"),  # PUBREL
        (packet(0x50, b"\0\1"), "begins with 0x50"),  # PUBREC
        (b"\x32\xff\xff\xff\xff\x01", "without an end"),
        (packet(SUBACK, b"\0\1\0" + bytes(60_000)), "a packet of 60007 bytes"),
        (packet(0x40, b"\0\1\0" + length_of(5_000) + USER_PROPERTY * 1000), "a packet of 5008 bytes"),  # PUBACK
        (publish(1, qos=1, properties=USER_PROPERTY * 26_000), "130000 bytes of properties"),
        (publish(1, qos=0, topic=b"u" * 511), "513 bytes of topic"),
        (packet(0x30, b"\0\xc8up\0x"), "202 bytes of topic in a message of 6"),
        (packet(0x30, b"\0\2up\5x"), "5 bytes of properties"),
        (packet(0x30, b"\0"), "a message of 1 bytes"),
        (packet(0x30, b"\0\2up\xff\xff\xff\xffx"), "without an end"),
    ],
)
def test_what_no_broker_sends_to_such_a_client_ends_the_connection(tmp_path: Path, first: bytes, match: str) -> None:
    error, broker, got = meet(tmp_path, pieces(first))
    assert match in str(error)
    assert broker.sent < ENOUGH_BYTES / 2
    assert got == []


def test_a_broker_that_reads_no_answer_is_left(tmp_path: Path) -> None:
    error, _, got = meet(tmp_path, (publish(1 + n % 65535, qos=1) * 100 for n in range(1 << 20)), hears=False)
    assert "it reads no answer" in str(error)
    assert len(got) >= MAX_OWED


def test_one_that_does_may_send_as_many_as_it_likes(tmp_path: Path) -> None:
    count = 2 * MAX_OWED // 100
    goodbye = packet(0xE0, b"\0")
    sends = (publish(1, qos=1) * 100 if n < count else goodbye for n in range(count + 1))
    error, _, got = meet(tmp_path, sends)
    assert isinstance(error, UnavailableError)
    assert len(got) == 100 * count


messages = st.builds(
    publish,
    st.just(1),
    qos=st.sampled_from([0, 1]),
    payload=st.binary(max_size=160),
    topic=st.binary(max_size=60),
    properties=st.binary(max_size=60),
)
others = st.builds(packet, st.sampled_from([0x20, 0x40, 0xD0]), st.binary(max_size=300))


@given(packets=st.lists(messages | others, max_size=8), cuts=st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_packets_pass_in_whatever_pieces_and_a_long_one_does_not(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(packets)
    assert max(map(len, packets), default=0) <= 303
    guard, at = PacketGuard(303), 0
    while at < len(stream):
        for cut in cuts:
            guard.feed(stream[at : at + cut])
            at += cut
    guard.feed(bytes([0x30]) + length_of(301)[:-1])
    with pytest.raises(WireError, match="a packet of 304 bytes"):
        guard.feed(length_of(301)[-1:])


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("payload", [b"", bytes(200_000)])
def test_what_is_around_a_payload_has_at_most_512_bytes(qos: int, payload: bytes) -> None:
    def message(topic: int, properties: int) -> bytes:
        return publish(1, qos=qos, payload=payload, topic=b"u" * topic, properties=bytes(properties))

    topic = 512 - (len(message(0, 300)) - len(payload))
    guard = PacketGuard(_broker.MAX_PACKET_BYTES)
    assert len(message(topic, 300)) == 512 + len(payload)
    guard.feed(message(topic, 300) * 2)
    for more in (message(topic + 1, 300), message(topic, 301)):
        with pytest.raises(WireError, match="bytes of properties"):
            PacketGuard(_broker.MAX_PACKET_BYTES).feed(more)


def test_a_broker_that_confirms_nothing_fills_no_memory() -> None:
    async def meet() -> None:
        link = link_to(1, ssl.create_default_context(), [])
        for _ in range(_broker.IN_FLIGHT + _broker.MAX_QUEUED):
            link.publish("down", b"end")
        assert not link.over.done()
        for _ in range(100):
            link.publish("down", b"end")
        assert isinstance(link.over.result(), UnavailableError)
        assert len(link._queued) == 0

    asyncio.run(meet())
