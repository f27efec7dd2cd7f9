"""A party's state machine: each phase once, retries byte for byte, and nothing for a coordinator that cheats."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    FormatError,
    ParameterError,
    ProtocolError,
    ReleaseError,
    SurvivorsError,
    WireError,
)
from blindsight.securesum import Phase, SumClient
from blindsight.securesum._advertisements import Advertisement
from blindsight.securesum._agreement import KeyPair, OwnKeys
from blindsight.securesum._masking import mask_vector
from blindsight.securesum._shamir import Recombiner
from blindsight.securesum._state import Secrets
from blindsight.securesum._wire import decode_request, encode_request, seal_message

from ._drive import PHASES, Ints, KeySigner, Sum, make_sum

A, B, C, D, E = (f"party-{i:03d}" for i in range(5))


def never() -> Ints:
    raise AssertionError("the vector was asked for")


def parts(this: Sum, name: str) -> dict[str, bytes]:
    return decode_request(this.spec, this.server.requests()[name])[1]


# --- once, and retries ---------------------------------------------------------------------------------------


def test_retry_of_every_phase_gives_the_same_bytes_and_draws_no_noise() -> None:
    this = make_sum(5)
    this.run()
    client = this.clients[B]
    before = client.dump()
    for phase in PHASES:
        assert client.handle(this.asked[phase, B], never) == this.sent[phase, B]
    assert client.advertise() == this.sent[Phase.ADVERTISE, B]
    inbox = decode_request(this.spec, this.asked[Phase.MASK, B])[1]
    assert client.mask(inbox, this.vectors[B]) == this.sent[Phase.MASK, B]
    assert client.confirm(list(this.spec.names)[::-1]) == this.sent[Phase.CONFIRM, B]
    assert client.dump() == before
    assert client.survivors == this.spec.names


def test_methods_and_handle_are_the_same_protocol() -> None:
    this = make_sum(3)
    server, client = this.server, this.clients[A]
    for phase in PHASES:
        reply = {
            Phase.ADVERTISE: lambda: client.advertise(),
            Phase.SHARE: lambda: client.share(parts(this, A)),
            Phase.MASK: lambda: client.mask(parts(this, A), this.vectors[A]),
            Phase.CONFIRM: lambda: client.confirm(parts(this, A)),
            Phase.UNMASK: lambda: client.unmask(parts(this, A)),
        }[phase]()
        assert server.receive(A, reply)
        for name in (B, C):
            server.receive(name, this.clients[name].handle(server.requests()[name], lambda n=name: this.vectors[n]))
        server.close_phase()
    np.testing.assert_array_equal(server.result(), this.expected())


@pytest.mark.parametrize("phase", [Phase.SHARE, Phase.MASK, Phase.CONFIRM, Phase.UNMASK])
@pytest.mark.parametrize("reloaded", [False, True])
def test_another_request_for_an_answered_phase_is_refused(phase: Phase, reloaded: bool) -> None:
    this = make_sum(5)  # threshold 4: one part fewer is still a request that could have been served
    this.run()
    client = this.clients[A]
    if reloaded:
        client = SumClient.load(client.dump(), spec=this.spec, name=A, signer=this.signers[A])
    asked = decode_request(this.spec, this.asked[phase, A])[1]
    del asked[E]
    before = client.dump()
    with pytest.raises(ReleaseError, match=rf"{phase.label} phase of this sum was answered before"):
        client.handle(encode_request(this.spec, phase, asked), never)
    assert client.dump() == before


def test_another_vector_under_the_same_masks_is_refused() -> None:
    this = make_sum(3).until(Phase.CONFIRM)
    inbox = decode_request(this.spec, this.asked[Phase.MASK, A])[1]
    with pytest.raises(ReleaseError, match="mask phase"):
        this.clients[A].mask(inbox, this.vectors[A] // 2)


def test_second_survivor_set_is_refused_after_a_restart_too() -> None:
    this = make_sum(5).until(Phase.CONFIRM)
    client = this.clients[A]
    signed = client.confirm([A, B, C, D])
    client = SumClient.load(client.dump(), spec=this.spec, name=A, signer=this.signers[A])
    for other in ([A, B, C, D, E], [A, B, C, E]):
        with pytest.raises(ReleaseError, match=r"subtract to single parties' vectors.*new release"):
            client.confirm(other)
    assert client.confirm([D, C, B, A]) == signed


@pytest.mark.parametrize("reached", [Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.CONFIRM])
def test_phases_out_of_turn_are_refused(reached: Phase) -> None:
    this = make_sum(3)
    this.run()
    fresh = make_sum(3, signers=this.signers).until(reached)
    for phase in PHASES[reached + 1 :]:
        with pytest.raises(ProtocolError, match=f"out of turn.*next phase is {reached.label}"):
            fresh.clients[A].handle(this.asked[phase, A], never)


def test_a_refused_request_changes_nothing_and_a_good_one_still_works() -> None:
    this = make_sum(5).until(Phase.MASK)
    client, request = this.clients[A], this.server.requests()[A]
    before = client.dump()
    too_large = np.full(7, 1001)
    with pytest.raises(ParameterError, match="larger than the sum was planned for"):
        client.handle(request, lambda: too_large)
    with pytest.raises(ParameterError, match="needs the party's vector"):
        client.handle(request)
    assert client.dump() == before
    np.testing.assert_array_equal(this.run(), this.expected())


def test_vector_is_asked_for_only_when_all_shares_are_good() -> None:
    this = make_sum(5).until(Phase.MASK)
    inbox = parts(this, A)
    inbox[C] = inbox[C][:-1] + bytes([inbox[C][-1] ^ 1])
    with pytest.raises(AuthenticationError, match=C):
        this.clients[A].handle(encode_request(this.spec, Phase.MASK, inbox), never)
    with pytest.raises(SurvivorsError):
        this.clients[A].handle(encode_request(this.spec, Phase.MASK, {B: inbox[B]}), never)


# --- identities ----------------------------------------------------------------------------------------------


def test_signer_must_be_the_pinned_identity() -> None:
    this = make_sum(3)
    with pytest.raises(AuthenticationError, match="not the one in the participant list"):
        SumClient(this.spec, A, this.signers[B])
    with pytest.raises(ParameterError, match="takes no part"):
        SumClient(this.spec, "eve", KeySigner())

    class Odd:
        public = "a string"

        def sign(self, message: bytes, /) -> bytes:
            return message

    with pytest.raises(ParameterError, match="signer's public key"):
        SumClient(this.spec, A, Odd())


# --- round 1: a coordinator or a peer cheats with advertisements ------------------------------------------------


def advertisement(this: Sum, name: str, **changes: bytes) -> bytes:
    """A well signed advertisement of ``name`` with some fields chosen."""
    fields = {
        "share_public": KeyPair.generate().public,
        "mask_public": KeyPair.generate().public,
        "seed_commitment": bytes(32),
        **changes,
    }
    return seal_message(this.spec, Phase.ADVERTISE, name, Advertisement(**fields).to_bytes(), this.signers[name])


def test_forged_advertisement_is_refused() -> None:
    this = make_sum(4).until(Phase.SHARE)
    mallory = KeySigner()
    body = Advertisement(
        share_public=KeyPair.generate().public, mask_public=KeyPair.generate().public, seed_commitment=bytes(32)
    ).to_bytes()
    forged = seal_message(this.spec, Phase.ADVERTISE, C, body, mallory)
    with pytest.raises(AuthenticationError, match=f"not signed by '{C}'"):
        this.clients[A].share({**parts(this, A), C: forged})


def test_advertisements_of_two_parties_cannot_be_swapped() -> None:
    this = make_sum(4).until(Phase.SHARE)
    got = parts(this, A)
    with pytest.raises(AuthenticationError, match="not signed by"):
        this.clients[A].share({**got, B: got[C], C: got[B]})


def test_advertisement_of_another_run_is_refused() -> None:
    this = make_sum(4).until(Phase.SHARE)
    other = make_sum(4, run="run-0", signers=this.signers).until(Phase.SHARE)
    with pytest.raises(WireError, match="belongs to another sum"):
        this.clients[A].share({**parts(this, A), C: other.sent[Phase.ADVERTISE, C]})
    # nor does it help to rewrite the specification's hash in it: the signature covers that
    rewritten = other.sent[Phase.ADVERTISE, C].replace(other.spec.digest, this.spec.digest)
    with pytest.raises(AuthenticationError, match="not signed by"):
        this.clients[A].share({**parts(this, A), C: rewritten})


def test_own_advertisement_must_come_back_unchanged() -> None:
    this = make_sum(4).until(Phase.SHARE)
    with pytest.raises(AuthenticationError, match="not the one it sent"):
        this.clients[A].share({**parts(this, A), A: advertisement(this, A)})
    without = parts(this, A)
    del without[A]
    with pytest.raises(AuthenticationError, match="not the one it sent"):
        this.clients[A].share(without)


@pytest.mark.parametrize("field", ["share_public", "mask_public"])
@pytest.mark.parametrize("u", [0, 1, 2**255 - 20])
def test_low_order_keys_are_refused_by_the_party_too(field: str, u: int) -> None:
    this = make_sum(4).until(Phase.SHARE)
    evil = advertisement(this, C, **{field: u.to_bytes(32, "little")})
    with pytest.raises(AuthenticationError, match=f"'{C}' advertised is a point of low order"):
        this.clients[A].share({**parts(this, A), C: evil})


def test_copied_key_is_refused() -> None:
    this = make_sum(4).until(Phase.SHARE)
    copied = Advertisement.from_bytes(this.clients[B]._state.answered[0].reply[-162:-66], owner=B).mask_public
    evil = advertisement(this, C, mask_public=copied)
    with pytest.raises(AuthenticationError, match=f"'{B}' and '{C}' advertise the same key"):
        this.clients[A].share({**parts(this, A), C: evil})


def test_too_few_advertisements() -> None:
    this = make_sum(5).until(Phase.SHARE)
    got = parts(this, A)
    with pytest.raises(SurvivorsError, match=r"advertised keys\. Got: 3 of 5\. Rule: at least 4"):
        this.clients[A].share({name: got[name] for name in (A, B, C)})


def test_stranger_in_a_request() -> None:
    this = make_sum(4).until(Phase.SHARE)
    with pytest.raises(WireError, match="takes no part"):
        this.clients[A].share({**parts(this, A), "eve": b""})


# --- round 2: shares -------------------------------------------------------------------------------------------


def test_swapped_shares_are_refused() -> None:
    this = make_sum(5).until(Phase.MASK)
    mine, bobs = parts(this, A), parts(this, B)
    with pytest.raises(AuthenticationError, match=f"shares from '{C}' do not open"):
        this.clients[A].mask({**mine, C: mine[D], D: mine[C]}, this.vectors[A])  # other source
    with pytest.raises(AuthenticationError, match=f"shares from '{C}' do not open"):
        this.clients[A].mask({**mine, C: bobs[C]}, this.vectors[A])  # other destination
    with pytest.raises(AuthenticationError, match=f"shares from '{B}' do not open"):
        this.clients[A].mask({**mine, B: bobs[A]}, this.vectors[A])  # its own item, reflected


def test_parties_shown_different_advertisements_open_nothing() -> None:
    """A coordinator that shows A another key of C, well signed by C, is found out before anything is masked."""
    this = make_sum(5).until(Phase.SHARE)
    request = {**parts(this, A), C: advertisement(this, C)}
    reply = this.clients[A].handle(encode_request(this.spec, Phase.SHARE, request))
    assert not this.server.receive(A, reply)
    this.exchange({A})
    inbox = {name: this.server._dealt[name].items[A] for name in (B, C, D, E)}
    with pytest.raises(AuthenticationError, match="do not open"):
        this.clients[A].mask(inbox, this.vectors[A])


@pytest.mark.parametrize("senders", [(A, B, C, D), ("eve", B, C, D)])
def test_inbox_senders_are_checked(senders: tuple[str, ...]) -> None:
    this = make_sum(5).until(Phase.MASK)
    item = parts(this, A)[B]
    with pytest.raises(WireError):
        this.clients[A].mask(dict.fromkeys(senders, item), this.vectors[A])


def test_item_of_another_length_is_refused() -> None:
    this = make_sum(5).until(Phase.MASK)
    inbox = parts(this, A)
    with pytest.raises(WireError, match=f"'{C}' have the wrong length"):
        this.clients[A].mask({**inbox, C: inbox[C][:-1]}, this.vectors[A])


# --- rounds 3 and 4: the survivor set ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("survivors", "error", "message"),
    [
        ([A, B, C], SurvivorsError, "3 of 5"),
        ([B, C, D, E], WireError, "not one of those who shared"),
        ([A, B, C, D, "eve"], WireError, "takes no part"),
        ([A, B, C, D, D], WireError, "twice"),
        ([], WireError, "not one of those who shared"),
    ],
)
def test_bad_survivor_sets(survivors: list[str], error: type[BlindsightError], message: str) -> None:
    this = make_sum(5).until(Phase.CONFIRM)
    with pytest.raises(error, match=message):
        this.clients[A].confirm(survivors)
    assert this.clients[A].phase is Phase.CONFIRM


def test_survivor_who_never_shared_is_refused() -> None:
    this = make_sum(5, threshold=4).until(Phase.SHARE)
    this.exchange({E})
    this.until(Phase.CONFIRM)
    with pytest.raises(WireError, match="not one of those who shared"):
        this.clients[A].confirm([A, B, C, D, E])


def test_signatures_are_checked() -> None:
    this = make_sum(5).until(Phase.UNMASK)
    client, good = this.clients[A], parts(this, A)
    before = client.dump()
    with pytest.raises(SurvivorsError, match="at least 4"):
        client.unmask({name: good[name] for name in (A, B, C)})
    mallory = KeySigner()
    body = decode_body(good[C])
    with pytest.raises(AuthenticationError, match=f"not signed by '{C}'"):
        client.unmask({**good, C: seal_message(this.spec, Phase.CONFIRM, C, body, mallory)})
    with pytest.raises(AuthenticationError, match="not signed by"):
        client.unmask({**good, C: good[D]})
    other_set = seal_message(this.spec, Phase.CONFIRM, C, bytes(32), this.signers[C])
    with pytest.raises(AuthenticationError, match=f"'{C}' signed another survivor set"):
        client.unmask({**good, C: other_set})
    other_run = make_sum(5, run="run-0", signers=this.signers).until(Phase.UNMASK)
    with pytest.raises(WireError, match="another sum"):
        client.unmask({**good, C: other_run.sent[Phase.CONFIRM, C]})
    wrong_phase = seal_message(this.spec, Phase.ADVERTISE, C, body, this.signers[C])
    with pytest.raises(WireError, match="another phase"):
        client.unmask({**good, C: wrong_phase})
    assert client.dump() == before
    np.testing.assert_array_equal(this.run(), this.expected())


def test_dropped_party_cannot_vote_on_who_survived() -> None:
    this = make_sum(6, threshold=5).until(Phase.MASK)
    gone = "party-005"
    this.exchange({gone})
    this.exchange()
    good = parts(this, A)
    late = seal_message(this.spec, Phase.CONFIRM, gone, decode_body(good[B]), this.signers[gone])
    with pytest.raises(WireError, match=f"'{gone}' confirmed a survivor set it is not in"):
        this.clients[A].unmask({**good, gone: late})


def test_two_survivor_sets_shown_to_two_halves_open_neither() -> None:
    """The attack that round 3 is there for: both kinds of share for E, from different parties."""
    this = make_sum(5).until(Phase.CONFIRM)
    with_e, without_e = [A, B, C, D, E], [A, B, C, D]
    signed = {name: this.clients[name].confirm(with_e) for name in (A, B, E)}
    signed |= {name: this.clients[name].confirm(without_e) for name in (C, D)}
    for name in with_e:
        with pytest.raises((AuthenticationError, WireError)):
            this.clients[name].unmask(signed)  # all five: some are over the other set
        same = [peer for peer in signed if (peer in (C, D)) == (name in (C, D))]
        with pytest.raises(SurvivorsError, match="confirmed the survivor set"):
            this.clients[name].unmask({peer: signed[peer] for peer in same})


def test_different_sharers_shown_to_one_party_are_found_out_at_unmasking() -> None:
    """A is told that E never shared, the others that it did; all agree on the survivors, and still nothing opens."""
    this = make_sum(5).until(Phase.MASK)
    for name in this.spec.names:
        inbox = parts(this, name)
        if name == A:
            del inbox[E]
        this.clients[name].mask(inbox, this.vectors[name])
    survivors = [A, B, C, D]
    signed = {name: this.clients[name].confirm(survivors) for name in survivors}
    for name in survivors:
        with pytest.raises(AuthenticationError, match="signed another survivor set"):
            this.clients[name].unmask(signed)


def test_both_kinds_of_share_would_open_a_vector_and_one_kind_is_all_that_leaves() -> None:
    this = make_sum(5, bits=64).until(Phase.CONFIRM)
    spec, victim, holders = this.spec, E, [A, B, C, D]
    held = {name: this.clients[name]._state.held[victim] for name in holders}
    recombiner = Recombiner([spec.point(name) for name in holders])
    key = recombiner.open([held[name][:33] for name in holders])
    seed = recombiner.open([held[name][33:] for name in holders])
    masks = mask_vector(
        spec,
        victim,
        np.zeros(7, dtype=np.int64),
        OwnKeys(sealing=KeyPair(bytes(32)), masking=KeyPair(key), seed=seed),
        this.server._advertised,
        this.server._transcript,
        holders,
    )
    body = decode_body(this.sent[Phase.MASK, victim])[32:]
    opened = np.frombuffer(body, "<i8") - np.frombuffer(masks, "<i8")
    np.testing.assert_array_equal(opened, this.vectors[victim])  # so it matters that the following holds

    this.run()
    for name in holders:
        answer = decode_body(this.sent[Phase.UNMASK, name])
        assert held[name][33:] in answer
        assert held[name][:33] not in answer
        assert this.clients[name]._state.held == {}


def test_released_shares_are_of_one_kind_per_peer() -> None:
    this = make_sum(8, threshold=6).until(Phase.MASK)
    gone = {"party-002", "party-007"}
    this.exchange(gone)
    this.until(Phase.DONE)
    for name in this.server.survivors:
        released = this.server._released[name]
        assert set(released.key_shares) == gone
        assert set(released.seed_shares) == set(this.server.survivors)
        assert not set(released.key_shares) & set(released.seed_shares)
        assert "share" in repr(released)
        assert released.seed_shares[name].hex() not in repr(released)


def decode_body(message: bytes) -> bytes:
    body: bytes = msgspec.msgpack.decode(message)[3]
    return body


# --- state at rest ------------------------------------------------------------------------------------------------


def test_state_forgets_secrets_as_soon_as_the_protocol_allows() -> None:
    this = make_sum(4).until(Phase.MASK)
    secrets = this.clients[A]._state.secrets
    assert secrets is not None
    own = [secrets.share_secret, secrets.mask_secret, secrets.seed]
    assert all(secret in this.clients[A].dump() for secret in own)
    assert "redacted" in repr(secrets)
    assert "redacted" in repr(this.clients[A]._state)
    this.until(Phase.CONFIRM)
    assert not any(secret in this.clients[A].dump() for secret in own)
    pairs = list(this.clients[A]._state.held.values())
    assert all(pair in this.clients[A].dump() for pair in pairs)
    this.run()
    assert not any(pair[:33] in this.clients[A].dump() for pair in pairs)  # mask-key shares: never released here


def test_repr_shows_no_secret() -> None:
    this = make_sum(3).until(Phase.MASK)
    assert repr(this.clients[A]) == f"SumClient('{A}', 'run-1' / 'step-1', phase=mask)"
    assert repr(this.server) == "SumServer('run-1' / 'step-1', phase=mask)"


@pytest.mark.parametrize("reached", list(Phase))
def test_state_survives_a_round_trip(reached: Phase) -> None:
    this = make_sum(4).until(reached)
    for name in this.spec.names:
        raw = this.clients[name].dump()
        again = SumClient.load(raw, spec=this.spec, name=name, signer=this.signers[name])
        assert again.dump() == raw
        assert again.phase is reached


def test_state_of_another_sum_or_party_is_refused() -> None:
    this = make_sum(4).until(Phase.MASK)
    raw = this.clients[A].dump()
    other = make_sum(4, run="run-2", signers=this.signers)
    with pytest.raises(FormatError, match="another sum, party or version"):
        SumClient.load(raw, spec=other.spec, name=A, signer=this.signers[A])
    with pytest.raises(FormatError, match="another sum, party or version"):
        SumClient.load(raw, spec=this.spec, name=B, signer=this.signers[B])


BREAKS: list[tuple[Phase, dict[str, Any]]] = [
    (Phase.SHARE, {"secrets": None}),
    (Phase.SHARE, {"secrets": Secrets(b"", bytes(32), bytes(32))}),
    (Phase.SHARE, {"own_pair": bytes(66)}),
    (Phase.MASK, {"own_pair": bytes(65)}),
    (Phase.MASK, {"transcript": b""}),
    (Phase.MASK, {"advertised": {}}),
    (Phase.MASK, {"advertised": {A: bytes(96), "eve": bytes(96)}}),
    (Phase.MASK, {"advertised": {A: bytes(95), B: bytes(96)}}),
    (Phase.MASK, {"advertised": {A: b"\xff" * 96, B: bytes(96)}}),
    (Phase.CONFIRM, {"vector_digest": b""}),
    (Phase.CONFIRM, {"held": {}}),
    (Phase.CONFIRM, {"held": {A: bytes(66), B: bytes(66)}}),
    (Phase.CONFIRM, {"held": {A: bytes(66), B: bytes(66), C: bytes(65)}}),
    (Phase.CONFIRM, {"held": {D: bytes(66), B: bytes(66), C: bytes(66)}}),
    (Phase.UNMASK, {"survivors": ()}),
    (Phase.UNMASK, {"survivors": (A, B)}),
    (Phase.UNMASK, {"survivors": (C, B, A)}),
    (Phase.UNMASK, {"survivors": (A, B, "eve")}),
    (Phase.UNMASK, {"survivors": (B, C, D)}),
    (Phase.DONE, {"transcript": bytes(32)}),
    (Phase.DONE, {"survivors": ()}),
    (Phase.DONE, {"survivors": (A, B, "eve")}),
]


@pytest.mark.parametrize(("reached", "change"), BREAKS)
def test_state_that_contradicts_itself_is_refused(reached: Phase, change: dict[str, Any]) -> None:
    this = make_sum(4).until(reached)
    state = msgspec.structs.replace(this.clients[A]._state, **change)
    with pytest.raises(FormatError, match="malformed"):
        SumClient.load(msgspec.msgpack.encode(state), spec=this.spec, name=A, signer=this.signers[A])


def test_state_with_a_foreign_or_missing_reply_is_refused() -> None:
    this = make_sum(4).until(Phase.MASK)
    mine, bobs = this.clients[A]._state, this.clients[B]._state
    for answered in (
        (mine.answered[0],),
        (mine.answered[0], bobs.answered[1]),
        mine.answered[::-1],
        mine.answered * 3,
        (mine.answered[0], msgspec.structs.replace(mine.answered[1], request=b"")),
    ):
        raw = msgspec.msgpack.encode(msgspec.structs.replace(mine, answered=answered))
        with pytest.raises(FormatError, match="malformed"):
            SumClient.load(raw, spec=this.spec, name=A, signer=this.signers[A])


def test_truncated_extended_and_oversized_state_is_refused() -> None:
    this = make_sum(4).until(Phase.MASK)
    raw = this.clients[A].dump()
    for broken in (*(raw[:cut] for cut in range(0, len(raw), 7)), raw + b"\0", raw + bytes(1 << 20)):
        with pytest.raises(FormatError, match="malformed"):
            SumClient.load(broken, spec=this.spec, name=A, signer=this.signers[A])
