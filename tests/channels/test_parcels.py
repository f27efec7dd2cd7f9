"""Sessions over parcels: what loss, repetition and lies of a carrier do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindsight.channels._frames import FrameReader, parts_of
from blindsight.channels._parcels import KNOCK, Parcel, ParcelSession, new_session
from blindsight.channels._pin import pin_context
from blindsight.channels._tls import mutual_context
from blindsight.errors import AuthenticationError, WireError
from blindsight.testing import InsecureAuthority


class Pair:
    """A party and a coordinator after their handshake."""

    def __init__(self, folder: Path) -> None:
        authority = InsecureAuthority(folder)
        session = new_session()
        coordinator, party = authority.issue("coordinator", server=True), authority.issue("party")
        ours, theirs = (
            mutual_context(
                certificate=one.certificate,
                private_key=one.private_key,
                trusted=[one.authority],
                server=one is coordinator,
                check_name=False,
            )
            for one in (party, coordinator)
        )
        self.party = ParcelSession(pin_context(ours, coordinator.fingerprint), server=False, session=session)
        self.coordinator = ParcelSession(theirs, server=True, session=session)
        self.coordinator.take(self.party.parcel())
        self.party.take(self.coordinator.parcel())
        self.coordinator.take(self.party.parcel())
        assert self.coordinator.established
        assert self.party.established


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_what_was_lost_comes_with_the_next_parcel_and_what_comes_twice_is_taken_once(pair: Pair) -> None:
    pair.coordinator.send(b"one")
    lost = pair.coordinator.parcel()
    pair.coordinator.send(b"two")
    late = pair.coordinator.parcel()
    assert pair.party.take(late) == b"onetwo"
    assert pair.party.take(lost) == pair.party.take(late) == b""
    pair.party.send(b"answer")
    assert pair.coordinator.take(pair.party.parcel()) == b"answer"
    assert pair.coordinator.parcel().records == b"", "the answer said that both had come"
    assert pair.coordinator.take(pair.party.parcel()) == b""
    pair.coordinator.send(b"three")
    assert pair.party.take(pair.coordinator.parcel()) == b"three"
    assert pair.party.take(late) == b"", "an old one afterwards changes nothing"


@pytest.mark.parametrize("lie", ["a gap", "an acknowledgement", "a changed record", "another place"])
def test_a_lie_ends_the_session(pair: Pair, lie: str) -> None:
    pair.coordinator.send(b"secret")
    true = pair.coordinator.parcel()
    forged = {
        "a gap": Parcel(true.session, true.offset + 1, true.received, true.records[1:]),
        "an acknowledgement": Parcel(true.session, true.offset, true.received + 10**6, true.records),
        "a changed record": Parcel(true.session, true.offset, true.received, true.records[:-1] + b"\0"),
        "another place": Parcel(true.session, true.offset - 5, true.received, true.records),
    }[lie]
    with pytest.raises((AuthenticationError, WireError)):
        pair.party.take(forged)


def test_parcels_survive_their_encoding_and_others_are_refused() -> None:
    for parcel in (KNOCK, Parcel(bytes(range(16)), 5, 1 << 40, b"records")):
        assert Parcel.decode(parcel.encode()) == parcel
    good = KNOCK.encode()
    for bad in (b"", good[:-1], b"\2" + good[1:], good[:17] + b"\xff" * 16):
        with pytest.raises(WireError, match="parcel is malformed"):
            Parcel.decode(bad)


@given(bodies=st.lists(st.binary(max_size=300), max_size=4), cut=st.integers(1, 97))
def test_frames_come_out_of_a_stream_as_they_went_in(bodies: list[bytes], cut: int) -> None:
    frames = [frame for i, body in enumerate(bodies) for frame in parts_of(f"{i:032x}", body)]
    stream = b"".join(frame.encode() for frame in frames)
    reader, found = FrameReader(), []
    for start in range(0, len(stream), cut):
        found += reader.feed(stream[start : start + cut])
    assert found == frames


@given(st.binary(max_size=200))
def test_any_other_stream_is_refused_or_waits_for_more(data: bytes) -> None:
    try:
        list(FrameReader().feed(data))
    except WireError:
        return
