"""Bytes that nobody honest sends, in sums under a shared key: nothing counts, nothing is answered, nothing crashes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import FormatError, ProtocolError, RefusedError, ReleaseError
from blindsight.securesum import Phase, load_client
from blindsight.securesum._wire import seal_message

from ._drive import PHASES, make_sum
from .test_client import A, B, decode_body, never
from .test_fuzz import mutants


def test_a_mutated_confirm_request_gets_one_signature_at_most_and_over_the_same_survivors() -> None:
    """Requests are unsigned, and a hash looks like any other: what is signed then opens nothing."""
    this = make_sum(4, method="he", threshold=3).until(Phase.CONFIRM)
    request, state = this.server.requests()[A], this.clients[A].dump()
    signed = 0
    for mutant in mutants(request, seed=13):
        client = load_client(state, spec=this.spec, name=A, signer=this.signers[A])
        try:
            client.handle(mutant, never)
        except (ProtocolError, RefusedError):
            continue
        signed += 1
        assert client.survivors == this.server.survivors
        with pytest.raises(ReleaseError):
            client.handle(request, never)
    assert 0 < signed < 40


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase is not Phase.CONFIRM])
def test_no_mutant_of_a_partys_message_counts_and_none_of_a_request_is_answered(phase: Phase) -> None:
    this = make_sum(4, method="he", threshold=3).until(phase)
    client, request = this.clients[A], this.server.requests()[A]
    before = client.dump()
    for mutant in mutants(request, seed=10 + phase):
        with pytest.raises((ProtocolError, RefusedError)):
            client.handle(mutant, never)
        assert client.dump() == before
    reply = client.handle(request, lambda: this.vectors[A])
    for mutant in mutants(reply, seed=phase):
        assert this.server.receive(A, mutant) is False
    assert this.server.receive(A, reply)


@pytest.mark.parametrize("method", ["he", "paillier"])
@pytest.mark.parametrize("phase", [Phase.SHARE, Phase.MASK, Phase.UNMASK])
def test_mutated_bodies_with_a_good_signature_never_crash_the_coordinator(method: str, phase: Phase) -> None:
    this = make_sum(4, method=method, threshold=3).until(phase)
    body = decode_body(this.clients[A].handle(this.server.requests()[A], lambda: this.vectors[A]))
    for mutant in mutants(body, seed=20 + phase)[:40]:
        if this.server.receive(A, seal_message(this.spec, phase, A, mutant, this.signers[A])):
            del this.server._accepted[A]


@pytest.mark.parametrize("reached", list(Phase))
def test_mutated_state_raises_nothing_but_format_error(reached: Phase) -> None:
    this = make_sum(4, method="he", threshold=3).until(reached)
    refused = 0
    made = mutants(this.clients[A].dump(), seed=30 + reached)
    for mutant in made:
        try:
            load_client(mutant, spec=this.spec, name=A, signer=this.signers[A])
        except FormatError:
            refused += 1
    assert refused > len(made) // 2


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes(raw: bytes) -> None:
    assert FUZZED.server.receive(B, raw) is False
    with pytest.raises(ProtocolError):
        FUZZED.clients[B].handle(raw, never)
    with pytest.raises(FormatError):
        load_client(raw, spec=FUZZED.spec, name=B, signer=FUZZED.signers[B])


FUZZED = make_sum(4, method="he", threshold=3)
FUZZED.until(Phase.SHARE)
