"""TLS over messages: what arrives, and what any change on the way does."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindsight.channels._pin import pin_context
from blindsight.channels._session import TlsSession
from blindsight.channels._tls import certificate_fingerprint, mutual_context
from blindsight.errors import AuthenticationError
from blindsight.testing import InsecureAuthority


class Pair:
    """A party, which speaks first, and a coordinator, whom it knows by certificate."""

    def __init__(self, folder: Path, *, pinned: str | None = None, stranger: bool = False) -> None:
        authority = InsecureAuthority(folder / "a")
        self.issued = authority.issue("coordinator", server=True), authority.issue("party")
        shown = InsecureAuthority(folder / "b").issue("party") if stranger else self.issued[1]
        sides = []
        for one, server in ((self.issued[0], True), (shown, False)):
            context = mutual_context(
                certificate=one.certificate,
                private_key=one.private_key,
                trusted=[self.issued[0].authority],
                server=server,
                check_name=False,
            )
            sides.append(context if server else pin_context(context, pinned or self.issued[0].fingerprint))
        self.coordinator, self.party = TlsSession(sides[0], server=True), TlsSession(sides[1], server=False)

    def shake(self) -> None:
        self.coordinator.receive(self.party.outgoing())
        self.party.receive(self.coordinator.outgoing())
        self.coordinator.receive(self.party.outgoing())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair = Pair(tmp_path)
    pair.shake()
    return pair


def test_both_sides_know_whom_they_talk_to_and_bytes_arrive_in_whatever_pieces(pair: Pair) -> None:
    assert pair.coordinator.established
    assert pair.party.established
    assert certificate_fingerprint(pair.coordinator.certificate) == pair.issued[1].fingerprint
    assert certificate_fingerprint(pair.party.certificate) == pair.issued[0].fingerprint
    message = bytes(range(256)) * 4096
    pair.coordinator.send(message)
    pair.coordinator.send(b"")
    carried = pair.coordinator.outgoing()
    assert message[:64] not in carried
    assert b"".join(pair.party.receive(carried[i : i + 10_007]) for i in range(0, len(carried), 10_007)) == message
    pair.party.send(b"an answer")
    assert pair.coordinator.receive(pair.party.outgoing()) == b"an answer"
    assert pair.coordinator.outgoing() == b""


def test_what_is_sent_before_the_handshake_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pair = Pair(tmp_path)
    pair.party.send(b"early")
    pair.coordinator.receive(pair.party.outgoing())
    pair.party.receive(pair.coordinator.outgoing())
    assert pair.coordinator.receive(pair.party.outgoing()) == b"early"


@pytest.mark.parametrize("how", ["changed", "repeated", "dropped", "of another session"])
def test_a_record_that_does_not_belong_ends_the_session(pair: Pair, how: str, tmp_path: Path) -> None:
    pair.party.send(b"one")
    one = pair.party.outgoing()
    pair.party.send(b"two")
    two = pair.party.outgoing()
    if how == "changed":
        carried = [one[:-1] + bytes([one[-1] ^ 1])]
    elif how == "repeated":
        carried = [one, one]
    elif how == "dropped":
        carried = [two]
    else:
        other = Pair(tmp_path)
        other.shake()
        other.party.send(b"one")
        carried = [other.party.outgoing()]
    for records in carried[:-1]:
        pair.coordinator.receive(records)
    with pytest.raises(AuthenticationError, match="session over messages has ended"):
        pair.coordinator.receive(carried[-1])
    with pytest.raises(AuthenticationError):
        pair.coordinator.send(b"more")
    with pytest.raises(AuthenticationError):
        pair.coordinator.receive(two)


def test_another_certificate_of_the_same_authority_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pair = Pair(tmp_path, pinned="00" * 32)
    pair.party.send(b"secret")
    pair.coordinator.receive(pair.party.outgoing())
    with pytest.raises(AuthenticationError, match="the one that is expected is 0000"):
        pair.party.receive(pair.coordinator.outgoing())
    assert pair.party.outgoing() == b"", "not even the party's certificate"


def test_a_party_of_another_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair = Pair(tmp_path, stranger=True)
    pair.coordinator.receive(pair.party.outgoing())
    pair.party.receive(pair.coordinator.outgoing())
    with pytest.raises(AuthenticationError):
        pair.coordinator.receive(pair.party.outgoing())
    assert not pair.coordinator.established
