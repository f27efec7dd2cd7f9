"""The coordinator against parties that err or cheat: named, left out, and never a wrong total in silence."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest

from blindsight.errors import AuthenticationError, FormatError, ProtocolError, SurvivorsError, WireError
from blindsight.securesum import Method, Phase, load_server
from blindsight.securesum import _client as client_module
from blindsight.securesum import _dealing as dealing_module
from blindsight.securesum import _envelopes as envelopes_module
from blindsight.securesum._shamir import PRIME, SHARE_BYTES
from blindsight.securesum._wire import UnmaskBody, encode_body, seal_message

from ._drive import PHASES, KeySigner, Sum, make_sum
from .test_client import A, B, C, D, advertisement, decode_body

VICTIM = "party-006"


@pytest.mark.parametrize("phase", PHASES)
def test_garbage_at_each_phase_leaves_its_sender_out_and_the_sum_exact(phase: Phase) -> None:
    this = make_sum(8, threshold=6)
    total = this.run(tamper=lambda p, name, message: b"garbage" if (p, name) == (phase, VICTIM) else message)
    gone = this.server.dropped[VICTIM]
    assert (gone.phase, gone.at_fault) == (phase, True)
    assert "malformed" in gone.reason
    assert (VICTIM in this.server.survivors) == (phase > Phase.MASK)
    np.testing.assert_array_equal(total, this.expected())


def test_reasons_reach_the_error_when_too_few_are_left() -> None:
    this = make_sum(3)
    with pytest.raises(SurvivorsError, match=rf"missing {B} \(share: A share message is malformed.*at least 3"):
        this.run(tamper=lambda p, name, message: b"\x91" if (p, name) == (Phase.SHARE, B) else message)


def test_good_message_after_a_bad_one_counts_and_late_ones_do_not() -> None:
    this = make_sum(4)
    good = {name: this.clients[name].advertise() for name in this.spec.names}
    assert not this.server.receive(A, b"")
    assert this.server.receive(A, good[A])
    assert not this.server.receive(A, advertisement(this, A))  # the first good message stands
    assert not this.server.receive("eve", good[B])
    assert this.server.receive(B, good[B])
    assert this.server.receive(C, good[C])
    assert this.server.waiting == (D,)
    assert list(this.server.requests()) == [D]
    this.server.close_phase()
    assert not this.server.receive(D, good[D])
    assert this.server.dropped[D].reason == "did not answer"
    assert A not in this.server.dropped


def test_message_of_another_party_run_or_phase_does_not_count() -> None:
    this = make_sum(4)
    other = make_sum(4, run="run-0", signers=this.signers)
    mine = this.clients[A].advertise()
    assert not this.server.receive(B, mine)
    assert not this.server.receive(A, other.clients[A].advertise())
    assert not this.server.receive(A, seal_message(this.spec, Phase.SHARE, A, bytes(96), this.signers[A]))
    assert not this.server.receive(A, seal_message(this.spec, Phase.ADVERTISE, A, bytes(95), this.signers[A]))
    assert not this.server.receive(A, seal_message(this.spec, Phase.ADVERTISE, A, bytes(96), KeySigner()))
    assert not this.server.receive(A, "text")  # type: ignore[arg-type]
    assert not this.server.receive(A, bytes(10_000))
    assert this.server.receive(A, mine)


def test_message_in_another_encoding_does_not_count() -> None:
    this = make_sum(4)
    good = this.clients[A].advertise()
    signature = good[-64:]
    assert good[-66:-64] == b"\xc4\x40"  # bin 8, 64 bytes
    longer = good[:-66] + b"\xc5\x00\x40" + signature  # the same value as bin 16
    assert msgspec.msgpack.decode(longer) == msgspec.msgpack.decode(good)
    assert not this.server.receive(A, longer)
    assert this.server.receive(A, good)


@pytest.mark.parametrize("u", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 + 9])
@pytest.mark.parametrize("field", ["share_public", "mask_public"])
def test_low_order_and_odd_keys_are_kept_from_the_others(u: int, field: str) -> None:
    this = make_sum(4)
    evil = advertisement(this, B, **{field: u.to_bytes(32, "little")})
    np.testing.assert_array_equal(
        this.run(tamper=lambda p, n, m: evil if (p, n) == (Phase.ADVERTISE, B) else m), this.expected()
    )
    assert "low order" in this.server.dropped[B].reason or "not canonical" in this.server.dropped[B].reason


def test_copied_key_is_kept_from_the_others() -> None:
    this = make_sum(4)
    this.server.receive(A, this.clients[A].advertise())
    copied = this.server._advertised[A].mask_public
    assert not this.server.receive(B, advertisement(this, B, share_public=copied))


def test_shares_for_the_wrong_peers_do_not_count() -> None:
    this = make_sum(4).until(Phase.SHARE)
    reply = this.clients[A].handle(this.server.requests()[A])
    body = decode_body(reply)
    for broken in (body[:-1], body.replace(C.encode(), b"party-00X"), body.replace(b"\x83\xa9party", b"\x82\xa9party")):
        assert not this.server.receive(A, seal_message(this.spec, Phase.SHARE, A, broken, this.signers[A]))
    assert this.server.receive(A, reply)


@pytest.mark.parametrize("cut", [0, 31, 32, -1, -4])
def test_masked_vector_of_another_length_or_story_does_not_count(cut: int) -> None:
    this = make_sum(4).until(Phase.MASK)
    body = decode_body(this.clients[A].handle(this.server.requests()[A], lambda: this.vectors[A]))
    for broken in (body[:cut], bytes(32) + body[32:]):
        assert not this.server.receive(A, seal_message(this.spec, Phase.MASK, A, broken, this.signers[A]))
    np.testing.assert_array_equal(this.run(), this.expected())  # nothing of it was added to the total


# --- bad shares ------------------------------------------------------------------------------------------------


def plus_one(share: bytes) -> bytes:
    return ((int.from_bytes(share, "big") + 1) % PRIME).to_bytes(SHARE_BYTES, "big")


@pytest.mark.parametrize("kind", ["key", "seed"])
def test_holder_that_releases_a_wrong_share_is_named_and_the_sum_still_opens(kind: str) -> None:
    this = make_sum(8, threshold=6).until(Phase.MASK)
    this.exchange({"party-003"})
    this.until(Phase.UNMASK)

    def lie(phase: Phase, name: str, message: bytes) -> bytes:
        if name != A:
            return message
        body = msgspec.msgpack.decode(decode_body(message), type=UnmaskBody)
        keys, seeds = dict(body.key_shares), dict(body.seed_shares)
        group, dealer = (keys, "party-003") if kind == "key" else (seeds, B)
        group[dealer] = plus_one(group[dealer])
        return seal_message(this.spec, phase, name, encode_body(UnmaskBody(keys, seeds)), this.signers[name])

    np.testing.assert_array_equal(this.run(tamper=lie), this.expected())
    gone = this.server.dropped[A]
    assert (gone.phase, gone.at_fault) == (Phase.UNMASK, True)
    assert f"'{A}' released a {kind} share of" in gone.reason


@pytest.mark.parametrize("change", ["missing", "other kind"])
def test_released_shares_must_be_those_asked_for(change: str) -> None:
    this = make_sum(4).until(Phase.UNMASK)
    reply = this.clients[A].handle(this.server.requests()[A])
    body = msgspec.msgpack.decode(decode_body(reply), type=UnmaskBody)
    seeds = dict(body.seed_shares)
    share = seeds.pop(B)
    broken = UnmaskBody({B: share} if change == "other kind" else {}, seeds)
    assert not this.server.receive(A, seal_message(this.spec, Phase.UNMASK, A, encode_body(broken), this.signers[A]))
    assert this.server.receive(A, reply)


def cheat_in_sharing(
    this: Sum, cheat: str, monkeypatch: pytest.MonkeyPatch, where: object, what: str, how: object
) -> None:
    """Run the sharing phase with one function replaced while ``cheat`` answers."""
    for name, request in this.server.requests().items():
        with monkeypatch.context() as patch:
            if name == cheat:
                patch.setattr(where, what, how)
            assert this.server.receive(name, this.clients[name].handle(request))
    this.server.close_phase()


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("wrong", ["one share", "another secret"])
def test_dealer_of_bad_shares_is_named_and_no_total_appears(
    monkeypatch: pytest.MonkeyPatch, dropped: bool, wrong: str
) -> None:
    """Seed shares when the cheat survives, mask-key shares when it drops out after sharing."""
    this = make_sum(8, threshold=6).until(Phase.SHARE)
    cheat, honest = "party-001", dealing_module.deal

    def bad(secret: bytes, **how: object) -> list[bytes]:
        if wrong == "another secret":
            return honest(bytes(32), **how)  # type: ignore[arg-type]
        first, *others = honest(secret, **how)  # type: ignore[arg-type]
        return [plus_one(first), *others]

    cheat_in_sharing(this, cheat, monkeypatch, dealing_module, "deal", bad)
    this.exchange({cheat} if dropped else frozenset())
    this.until(Phase.UNMASK)
    with pytest.raises(AuthenticationError, match=f"'{cheat}' dealt shares that do not open.*without '{cheat}'"):
        this.exchange()
    assert this.server.dropped[cheat].at_fault
    assert ("mask key" if dropped else "seed") in this.server.dropped[cheat].reason
    with pytest.raises(AuthenticationError):
        this.server.result()


def test_shares_that_differ_from_their_commitments_are_refused_by_the_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    this = make_sum(5).until(Phase.SHARE)

    def other_commitments(self: object, spec: object, *, source: str, destination: str) -> bytes:
        return bytes(64)

    cheat_in_sharing(this, B, monkeypatch, envelopes_module.SharePair, "commitments", other_commitments)
    for name in (A, C, D):
        with pytest.raises(AuthenticationError, match=f"shares from '{B}' are not those it commits to"):
            this.clients[name].handle(this.server.requests()[name], lambda: this.vectors[A])


# --- bad vectors -------------------------------------------------------------------------------------------------


def test_total_beyond_what_honest_parties_can_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    this = make_sum(4)
    monkeypatch.setattr(client_module, "check_vector", lambda spec, vector: None)
    this.vectors = {name: np.full(7, 1000) for name in this.spec.names}
    this.vectors[B] = np.full(7, 1001)
    with pytest.raises(ProtocolError, match=r"larger than honest parties.*4 survivors x max_abs = 4000"):
        this.run()


def test_result_waits_for_the_end_and_is_read_only() -> None:
    this = make_sum(3).until(Phase.UNMASK)
    with pytest.raises(ProtocolError, match="not open yet"):
        this.server.result()
    total = this.run()
    assert not total.flags.writeable
    assert this.server.requests() == {}
    assert this.server.waiting == ()
    assert not this.server.receive(A, this.sent[Phase.UNMASK, A])
    with pytest.raises(ProtocolError, match="sum is over"):
        this.server.close_phase()


def test_client_of_a_slow_party_sees_a_request_of_the_right_sum_only() -> None:
    this, other = make_sum(3), make_sum(3, run="run-9")
    with pytest.raises(WireError, match="belongs to another sum"):
        this.clients[A].handle(other.server.requests()[A])


@pytest.mark.parametrize("method", ["masked", "he"])
@pytest.mark.parametrize("phase", [*PHASES, Phase.DONE])
def test_killed_between_two_phases_it_asks_the_same_and_opens_the_same_total(phase: Phase, method: Method) -> None:
    """Answers to the open phase are lost with it; the parties, asked again, repeat them."""
    this = make_sum(8, threshold=6, method=method)
    gone = {Phase.SHARE: {"party-001"}, Phase.MASK: {"party-002"}}
    while this.server.phase < phase:
        this.exchange(silent=gone.get(this.server.phase, set()))
    kept = this.server.dump()
    asked = this.server.requests()
    for name, request in asked.items():  # answered, and then the coordinator dies
        this.server.receive(name, this.clients[name].handle(request, lambda name=name: this.vectors[name]))
    assert this.server.dump() == kept
    again = load_server(kept, spec=this.spec)
    assert (again.phase, again.requests(), dict(again.dropped)) == (phase, asked, dict(this.server.dropped))
    this.server = again
    while this.server.phase is not Phase.DONE:
        this.exchange(silent=gone.get(this.server.phase, set()))
    np.testing.assert_array_equal(this.server.result(), this.expected())
    assert len(this.server.survivors) == 6
    np.testing.assert_array_equal(load_server(this.server.dump(), spec=this.spec).result(), this.server.result())


@pytest.mark.parametrize("method", ["masked", "he"])
def test_a_stored_state_that_was_altered_or_is_anothers_is_refused(method: Method) -> None:
    this, other = make_sum(4, method=method), make_sum(4, run="run-0", method=method)
    states = []
    while True:
        states.append(this.server.dump())
        if this.server.phase is Phase.DONE:
            break
        this.exchange()
    rng = np.random.default_rng(0)
    for state in states:
        with pytest.raises(FormatError):
            load_server(state, spec=other.spec)
        for end in rng.integers(0, len(state), 20):
            with pytest.raises(FormatError):
                load_server(state[:end], spec=this.spec)
        fields = msgspec.msgpack.decode(state)
        for place, value in ((2, 9), (3, ["eve"]), (3, fields[3][::-1]), (4, {"eve": [0, "", False]}), (-1, b"x")):
            changed = list(fields)
            changed[place] = value
            with pytest.raises(FormatError):
                load_server(msgspec.msgpack.encode(changed), spec=this.spec)
        for position in rng.integers(0, len(state), 40):  # a byte turned: refused, or a state of the right form
            altered = bytearray(state)
            altered[position] ^= 1 << int(rng.integers(8))
            with contextlib.suppress(FormatError):
                load_server(bytes(altered), spec=this.spec)


def test_a_sum_that_failed_has_no_state() -> None:
    this = make_sum(3)
    with pytest.raises(SurvivorsError):
        this.exchange(silent={A})
    with pytest.raises(SurvivorsError):
        this.server.dump()
