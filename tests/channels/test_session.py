"""TLS over messages: what arrives, and what any change on the way does."""

from __future__ import annotations

import datetime
import ssl
import threading
import tracemalloc
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blindsight.channels._pin import pin_context
from blindsight.channels._session import PIECE_BYTES, TlsSession
from blindsight.channels._tls import certificate_fingerprint, mutual_context
from blindsight.errors import AuthenticationError, ParameterError
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
    assert pair.party.outgoing() == b"", "the stranger is shown our certificate"


def test_a_party_of_another_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair = Pair(tmp_path, stranger=True)
    pair.coordinator.receive(pair.party.outgoing())
    pair.party.receive(pair.coordinator.outgoing())
    with pytest.raises(AuthenticationError):
        pair.coordinator.receive(pair.party.outgoing())
    assert not pair.coordinator.established
    with pytest.raises(AuthenticationError, match="ALERT"):
        pair.party.receive(pair.coordinator.outgoing())


def context_of(folder: Path, certificate: Path, private_key: Path, *, server: bool, tickets: int = 0) -> ssl.SSLContext:
    context = mutual_context(
        certificate=certificate,
        private_key=private_key,
        trusted=[folder / "authority.crt"],
        server=server,
        check_name=False,
    )
    if server:
        context.num_tickets = tickets
    return context


def test_who_speaks_first_must_know_the_other_side_by_its_certificate(tmp_path: Path) -> None:
    party = InsecureAuthority(tmp_path).issue("party")
    with pytest.raises(ParameterError, match="does not know whom it talks to"):
        TlsSession(context_of(tmp_path, party.certificate, party.private_key, server=False), server=False)


def test_a_party_cannot_pass_for_a_coordinator_even_where_its_certificate_is_the_one_expected(tmp_path: Path) -> None:
    authority = InsecureAuthority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    party = TlsSession(
        pin_context(context_of(tmp_path, one.certificate, one.private_key, server=False), two.fingerprint), server=False
    )
    false = TlsSession(context_of(tmp_path, two.certificate, two.private_key, server=True), server=True)
    false.receive(party.outgoing())
    with pytest.raises(AuthenticationError, match="purpose"):
        party.receive(false.outgoing())


def test_after_an_error_nothing_is_kept_of_what_still_comes(pair: Pair) -> None:
    with pytest.raises(AuthenticationError):
        pair.coordinator.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    tracemalloc.start()
    try:
        for _ in range(20):
            with pytest.raises(AuthenticationError):
                pair.coordinator.receive(bytes(1_000_000))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_stranger_is_refused_at_its_first_record_however_much_it_sends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pair = Pair(tmp_path)
    with pytest.raises(AuthenticationError):
        pair.coordinator.receive(b"\x16\x03\x01\x40\x00" + bytes(20_000_000))
    assert pair.coordinator._incoming.pending <= PIECE_BYTES


def test_nothing_behind_a_certificate_that_is_not_accepted_is_decrypted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pair, asked = Pair(tmp_path), []

    def accept(certificate: bytes) -> None:
        asked.append(certificate_fingerprint(certificate))
        raise AuthenticationError("not on the list")

    pair.coordinator = TlsSession(pair.coordinator._tls.context, server=True, accept=accept)
    pair.coordinator.receive(pair.party.outgoing())
    pair.party.receive(pair.coordinator.outgoing())
    pair.party.send(bytes(20_000_000))
    carried = pair.party.outgoing()
    tracemalloc.start()
    try:
        with pytest.raises(AuthenticationError, match="not on the list"):
            pair.coordinator.receive(carried)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert asked == [pair.issued[1].fingerprint]
    assert not pair.coordinator.established
    with pytest.raises(AuthenticationError, match="has ended"):
        pair.coordinator.receive(b"")


def test_threads_may_send_and_receive_at_the_same_time(pair: Pair) -> None:
    # without a lock OpenSSL corrupts memory here, and the process dies
    for _ in range(40):
        pair.party.send(bytes(100_000))
    carried = pair.party.outgoing()
    counts: list[int] = []

    def receive() -> None:
        counts.append(sum(len(pair.coordinator.receive(carried[i : i + 5000])) for i in range(0, len(carried), 5000)))

    def send() -> None:
        for _ in range(400):
            pair.coordinator.send(bytes(20_000))

    threads = [threading.Thread(target=target) for target in (receive, send, send)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [4_000_000]
    assert len(pair.party.receive(pair.coordinator.outgoing())) == 2 * 400 * 20_000


def test_what_is_said_while_a_ticket_is_here_in_part_waits_for_the_rest(tmp_path: Path) -> None:
    # a session ticket holds the client's certificate: with this one it is longer than a record
    authority = InsecureAuthority(tmp_path)
    coordinator, key = authority.issue("coordinator", server=True), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "party")])
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    names = x509.SubjectAlternativeName([x509.DNSName(f"name-{i:03d}.{'x' * 50}.example") for i in range(260)])
    made = authority._builder(name, key.public_key(), until).add_extension(names, critical=False)
    (tmp_path / "party.crt").write_bytes(
        made.sign(authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    (tmp_path / "party.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    there = TlsSession(
        context_of(tmp_path, coordinator.certificate, coordinator.private_key, server=True, tickets=1), server=True
    )
    mine = context_of(tmp_path, tmp_path / "party.crt", tmp_path / "party.key", server=False)
    here = TlsSession(pin_context(mine, coordinator.fingerprint), server=False)
    there.receive(here.outgoing())
    here.receive(there.outgoing())
    there.receive(here.outgoing())
    ticket = there.outgoing()
    first = 5 + int.from_bytes(ticket[3:5], "big")
    assert first < len(ticket), "the ticket fits a record"
    here.receive(ticket[:first])
    here.send(b"said")
    assert here.outgoing() == b""
    here.receive(ticket[first:])
    assert there.receive(here.outgoing()) == b"said"


def test_a_call_that_breaks_off_ends_the_session(pair: Pair) -> None:
    with pytest.raises(TypeError):
        pair.party.send("text")  # type: ignore[arg-type]
    with pytest.raises(AuthenticationError, match="TypeError in the middle"):
        pair.party.send(b"more")


def test_an_orderly_end_is_one_and_nothing_follows_it(pair: Pair) -> None:
    pair.party.send(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.party._tls.unwrap()
    assert pair.coordinator.receive(pair.party.outgoing()) == b"last"
    with pytest.raises(AuthenticationError, match="the other side has ended it"):
        pair.coordinator.receive(b"")
