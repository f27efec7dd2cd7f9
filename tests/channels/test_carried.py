"""A session in numbered messages: what a broker may do to them, and what it never achieves."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.channels import MqttTopics
from blindsight.channels._carried import WINDOW, Carried, Line
from blindsight.channels._mqtt_wire import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RECORDS_BYTES,
    Envelope,
    Sort,
    Why,
)
from blindsight.channels._pin import pin_context
from blindsight.channels._tls import mutual_context
from blindsight.errors import AuthenticationError, ParameterError, WireError
from blindsight.testing import InsecureAuthority

SESSION = bytes(range(16))


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    authority = InsecureAuthority(tmp_path_factory.mktemp("carried"))
    sides = []
    for one, server in (
        (coordinator := authority.issue("coordinator", server=True), True),
        (authority.issue("a"), False),
    ):
        files = {"certificate": one.certificate, "private_key": one.private_key, "trusted": [one.authority]}
        sides.append(mutual_context(**files, server=server, check_name=False))
    return sides[0], pin_context(sides[1], coordinator.fingerprint)


class Pair:
    """Party and coordinator; what the party has on the way lies in ``up``."""

    def __init__(self, contexts: tuple, window: int = WINDOW) -> None:
        self.coordinator = Carried(contexts[0], server=True, session=SESSION, window=window)
        self.party = Carried(contexts[1], server=False, session=SESSION, window=window)
        while not self.coordinator.established:
            self.give(self.party, self.coordinator)
            self.give(self.coordinator, self.party)

    @staticmethod
    def give(one: Carried, other: Carried) -> list[bytes]:
        return [frame for message in one.messages() for frame in other.take(Envelope.decode(message))]


@pytest.fixture
def pair(contexts: tuple) -> Pair:
    return Pair(contexts)


def test_frames_arrive_whole_and_in_order_and_every_message_keeps_to_the_limit(pair: Pair) -> None:
    frames = [b"", b"one", bytes(MAX_FRAME_BYTES), bytes(range(256)) * 800, b"two"]
    for frame in frames:
        pair.party.put(frame)
    messages = pair.party.messages()
    assert max(map(len, messages)) == MAX_PAYLOAD_BYTES
    assert not any(b"one" in message for message in messages)
    got = [frame for message in messages for frame in pair.coordinator.take(Envelope.decode(message))]
    assert got == frames
    pair.coordinator.put(b"an answer")
    assert pair.give(pair.coordinator, pair.party) == [b"an answer"]


def test_a_message_that_comes_again_is_dropped(pair: Pair) -> None:
    for text in (b"one", b"two"):
        pair.party.put(text)
        (message,) = pair.party.messages()
        envelope = Envelope.decode(message)
        assert pair.coordinator.take(envelope) == [text]
        assert pair.coordinator.take(envelope) == []


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("changed", AuthenticationError),
        ("dropped", WireError),
        ("reordered", WireError),
        ("renumbered", AuthenticationError),
    ],
)
def test_anything_else_ends_the_session(pair: Pair, how: str, error: type[Exception]) -> None:
    sent = []
    for text in (b"one", b"two"):
        pair.party.put(text)
        sent += [Envelope.decode(message) for message in pair.party.messages()]
    one, two = sent
    if how == "changed":
        one = Envelope(one.sort, one.session, one.number, one.credit, one.records[:-1] + b"\0")
    elif how == "renumbered":  # the second in the first one's place
        one = Envelope(one.sort, one.session, one.number, one.credit, two.records)
    else:
        one = two
    with pytest.raises(error):
        pair.coordinator.take(one)


def test_a_session_that_is_played_again_does_not_come_about(contexts: tuple) -> None:
    recorded: list[bytes] = []
    party, coordinator = (Carried(contexts[not server], server=server, session=SESSION) for server in (False, True))
    while not coordinator.established:
        recorded += (messages := party.messages())
        for message in messages:
            coordinator.take(Envelope.decode(message))
        Pair.give(coordinator, party)
    party.put(b"pay 100")
    recorded += (last := party.messages())
    assert [frame for message in last for frame in coordinator.take(Envelope.decode(message))] == [b"pay 100"]
    again = Carried(contexts[0], server=True, session=SESSION)

    def replay() -> None:
        for message in recorded:
            assert again.take(Envelope.decode(message)) == []
            assert again.messages()  # its own flight, with keys of its own

    with pytest.raises(AuthenticationError):
        replay()
    assert not again.established


@settings(max_examples=40, deadline=None)
@given(
    deeds=st.lists(
        st.tuples(st.sampled_from(["pass", "drop", "twice", "swap", "flip", "cut", "credit"]), st.integers(0, 2**32)),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_a_broker_does_what_arrives_is_a_beginning_of_what_was_sent(contexts: tuple, deeds: list) -> None:
    pair = Pair(contexts, window=64)
    sent, way, got = [], [], []
    for number, _ in enumerate(deeds):
        sent.append(b"frame %d" % number)
        pair.party.put(sent[-1])
        way += pair.party.messages()
    for place, (deed, where) in enumerate(deeds):
        raw = bytearray(way[place] or b"")
        if deed == "drop":
            way[place] = b""
        elif deed == "twice":
            way[place] = bytes(raw), bytes(raw)
        elif deed == "swap":
            other = where % len(deeds)
            way[place], way[other] = way[other], way[place]
        elif deed == "flip" and raw and isinstance(way[place], bytes):
            raw[where % len(raw)] ^= 1 << where % 8
            way[place] = bytes(raw)
        elif deed == "cut" and isinstance(way[place], bytes):
            way[place] = way[place][: where % (len(raw) + 1)]
        elif deed == "credit":
            pair.party.take(Envelope(Sort.CREDIT, SESSION, 0, where))
    try:
        for item in way:
            for message in item if isinstance(item, tuple) else (item,):
                if message:
                    got += pair.coordinator.take(Envelope.decode(message))
    except (WireError, AuthenticationError):
        pass
    assert got == sent[: len(got)]
    if all(deed in ("pass", "twice", "credit") for deed, _ in deeds):
        assert got == sent


@pytest.mark.parametrize("window", [1, 2, WINDOW])
def test_nobody_has_more_on_the_way_than_the_other_side_allows(contexts: tuple, window: int) -> None:
    pair = Pair(contexts, window=window)
    frames = iter([b"%d" % i for i in range(40)])
    way: list[tuple[bytes, Callable[[], None]]] = []
    line = Line(pair.party, lambda message, done: way.append((message, done)), lambda: next(frames, None))
    line.pump()
    assert 1 <= len(way) <= window
    got, most = [], 0
    while way:
        most = max(most, len(way))
        message, done = way.pop(0)
        got += pair.coordinator.take(Envelope.decode(message))
        for credit in pair.coordinator.messages():
            pair.party.take(Envelope.decode(credit))
        done()
    assert got == [b"%d" % i for i in range(40)]
    assert most <= window
    # a broker that claims any credit, and takes nothing, gets no more of our memory for it
    pair.party.take(Envelope(Sort.CREDIT, SESSION, 0, 2**64 - 1))
    frames = iter([b"x"] * 1000)
    line = Line(pair.party, lambda message, done: way.append((message, done)), lambda: next(frames, None))
    line.pump()
    assert len(way) == WINDOW

    # and the other side does not take more than it allowed
    def flood() -> None:
        while True:
            message, done = way.pop(0)
            pair.coordinator.take(Envelope.decode(message))
            done()

    with pytest.raises(WireError, match="more than it may"):
        flood()


def test_a_frame_of_absurd_length_is_refused_before_it_is_kept(pair: Pair) -> None:
    pair.party._tls.send(struct.pack("<I", MAX_FRAME_BYTES + 1))
    with pytest.raises(WireError, match="too long"):
        pair.give(pair.party, pair.coordinator)


HEADER = struct.pack("<BB16sQQ", 1, Sort.DATA, SESSION, 7, 9)


def test_a_message_is_what_the_page_says(contexts: tuple) -> None:
    page = (Path(__file__).parents[2] / "docs" / "channels.md").read_text(encoding="utf-8")
    session = bytes.fromhex("3f1e0c5a9b7d42e88c6a1f0b2d4e6871")
    (hello,) = Carried(contexts[1], server=False, session=session).messages()
    for way, message in (("up", hello[:37]), ("down", Envelope(Sort.END, session, Why.UNKNOWN).encode())):
        line = next(line for line in page.splitlines() if line.split()[:3] == [way, "01", f"{message[1]:02x}"])
        assert bytes.fromhex("".join(line.split()[1:]).rstrip(".")) == message
    envelope = Envelope(Sort.DATA, SESSION, 7, 9, b"records")
    assert envelope.encode() == HEADER + b"records"
    assert Envelope.decode(HEADER + b"records") == envelope
    assert Envelope.decode(HEADER + bytes(MAX_RECORDS_BYTES)).encode() == HEADER + bytes(MAX_RECORDS_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER[:-1],
        HEADER,  # DATA without any
        HEADER + bytes(MAX_RECORDS_BYTES + 1),
        b"\2" + HEADER[1:] + b"x",
        HEADER[:1] + b"\4" + HEADER[2:] + b"x",
        HEADER[:1] + b"\2" + HEADER[2:] + b"x",  # CREDIT with some
    ],
)
def test_a_malformed_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="malformed"):
        Envelope.decode(data)


def test_names_cannot_reach_other_topics() -> None:
    topics = MqttTopics("ab" * 32)
    assert topics.up("bank-a") == "blindsight/" + "ab" * 16 + "/bank-a/up"
    assert topics.party_of(topics.up("bank-a")) == "bank-a"
    for name in ("+", "#", "a/b", "", "a" * 65, "ä"):
        with pytest.raises(ParameterError, match="cannot stand in a topic"):
            topics.check_name(name)
