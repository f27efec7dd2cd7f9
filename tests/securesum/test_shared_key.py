"""Sums under a shared key: exact over the survivors, with dropouts at every phase; restarts; vectors of the docs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import AuthenticationError, FormatError, ParameterError, ReleaseError, SurvivorsError
from blindsight.securesum import Participant, Phase, SharedKeyClient, SumSpec, load_client
from blindsight.securesum._bfv import DEGREE, READ_BITS, BfvScheme, _coefficients, _total
from blindsight.securesum._paillier import PaillierScheme, _pack, _unpack
from blindsight.securesum._scheme import scheme_of
from blindsight.securesum._sealed_key import holders_of
from blindsight.securesum._shared_wire import ConfirmRequest, encode_body_request

from ._drive import PHASES, KeySigner, make_sum

NAMES = tuple(f"party-{i:03d}" for i in range(20))


@pytest.mark.parametrize(("n", "bits", "length"), [(3, 32, 5000), (3, 64, 2049), (5, 64, 9), (20, 64, 3)])
def test_bfv_total_is_exact_at_the_largest_values(n: int, bits: int, length: int) -> None:
    largest = ((1 << (bits - 1)) - 1) // n
    this = make_sum(n, bits=bits, length=length, max_abs=largest, method="he")
    np.testing.assert_array_equal(this.run(), this.expected())
    assert this.server.survivors == this.spec.names
    for sign in (-1, 1) if n < 20 else ():
        this = make_sum(n, bits=bits, length=2, max_abs=largest, method="he")
        this.vectors = {name: np.full(2, sign * largest) for name in this.spec.names}
        assert this.run().tolist() == [n * sign * largest] * 2


@pytest.mark.parametrize("bits", [32, 64])
def test_paillier_total_is_exact_at_the_largest_values(bits: int) -> None:
    largest = ((1 << (bits - 1)) - 1) // 3
    slots = 3070 // bits
    this = make_sum(3, bits=bits, length=slots + 1, max_abs=largest, method="paillier")
    for i, name in enumerate(this.spec.names):
        this.vectors[name][:2] = (largest, -largest)
        this.vectors[name][-1] = (largest, -largest, 0)[i]
    np.testing.assert_array_equal(this.run(restart=True), this.expected())


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(3, 256), bits=st.sampled_from([32, 64]))
def test_residues_and_slots_of_sums_are_sums_of_vectors(data: st.DataObject, n: int, bits: int) -> None:
    """The encodings alone, for any number of parties: what either scheme adds are these integers."""
    spec = _spec(n, bits)
    numbers = st.lists(st.integers(-spec.max_abs, spec.max_abs), min_size=3, max_size=3)
    few = np.array([data.draw(numbers), data.draw(numbers)], dtype=np.int64)
    copies = n - 1  # all parties but one have the first vector
    expected = few[0] * copies + few[1]
    bfv = BfvScheme(spec)
    (one,), (other,) = _coefficients(few[0], bfv), _coefficients(few[1], bfv)
    read = np.zeros(DEGREE, dtype=np.int64)  # as SEAL reads phases: to an eighth of a message, in the middle
    for j, p in enumerate(bfv.context.primes):
        summed = (copies * one[j].astype(object) + other[j].astype(object)) % p
        read += np.array([round((int(m) << READ_BITS) / p) % (1 << READ_BITS) for m in summed])
    half = 1 << READ_BITS - 1
    assert _total((read + half) % (2 * half) - half, bfv).tolist() == expected.tolist()
    paillier = PaillierScheme(spec)
    packed = [copies * a + b for a, b in zip(_pack(few[0], paillier), _pack(few[1], paillier), strict=True)]
    assert _unpack(packed, paillier, n).tolist() == expected.tolist()


@settings(max_examples=8, deadline=None)
@given(data=st.data(), drop=st.sampled_from(PHASES), gone=st.integers(0, 4))
def test_any_vectors_and_any_dropout(data: st.DataObject, drop: Phase, gone: int) -> None:
    this = make_sum(5, length=3, bits=64, max_abs=1 << 40, method="he")
    numbers = st.lists(st.integers(-(1 << 40), 1 << 40), min_size=3, max_size=3)
    this.vectors = {name: np.array(data.draw(numbers), dtype=np.int64) for name in this.spec.names}
    name = NAMES[gone]
    total = this.run(drop={drop: {name}}, restart=True)
    np.testing.assert_array_equal(total, this.expected())
    assert (name in this.server.survivors) == (drop > Phase.MASK)
    assert this.server.dropped[name].phase is drop


@pytest.mark.parametrize("phase", [Phase.MASK, Phase.UNMASK])
def test_paillier_is_exact_over_the_survivors(phase: Phase) -> None:
    this = make_sum(4, method="paillier", threshold=3)
    np.testing.assert_array_equal(this.run(drop={phase: {"party-000"}}), this.expected())
    assert ("party-000" in this.server.survivors) == (phase is Phase.UNMASK)


def test_below_the_threshold_nothing_is_opened() -> None:
    for phase in PHASES:
        this = make_sum(5, method="he")
        with pytest.raises(SurvivorsError, match="Too few parties completed"):
            this.run(drop={phase: {"party-001", "party-003"}})


def test_who_draws_a_key_and_what_if_none_does() -> None:
    assert [len(holders_of(make_sum(n).spec, NAMES[:n])) for n in (3, 5, 10, 20)] == [1, 2, 3, 3]
    this = make_sum(5, method="he")
    this.run(drop={Phase.SHARE: {"party-000"}})
    assert this.server._in_use.dealer == "party-001"
    this = make_sum(10, method="he")
    with pytest.raises(SurvivorsError, match="Nobody dealt a key"):
        this.run(drop={Phase.SHARE: set(NAMES[:3])})


def test_the_same_request_gets_the_same_bytes_and_another_is_refused() -> None:
    this = make_sum(4, method="he", threshold=3)
    for phase in PHASES:
        this.exchange()
        for name, client in this.clients.items():
            assert client.handle(this.asked[phase, name]) == this.sent[phase, name]
        if phase is Phase.CONFIRM:  # a survivor set without party-003, after one with it was signed
            other = encode_body_request(this.spec, Phase.CONFIRM, ConfirmRequest(NAMES[:3], this.server._digest))
            with pytest.raises(ReleaseError, match="confirm phase of this sum was answered before"):
                this.clients["party-000"].handle(other)


def test_a_vector_beyond_its_bound_or_missing_leaves_no_trace() -> None:
    this = make_sum(3, method="he", max_abs=5).until(Phase.MASK)
    request, client = this.server.requests()["party-000"], this.clients["party-000"]
    before = client.dump()
    with pytest.raises(ParameterError, match="larger than the sum was planned for"):
        client.handle(request, lambda: np.full(7, 6))
    with pytest.raises(ParameterError, match="needs the party's vector"):
        client.handle(request)
    assert client.dump() == before


def test_the_key_is_forgotten_with_the_last_answer() -> None:
    this = make_sum(3, method="he")
    keys = set()
    for _ in PHASES:
        this.exchange()
        keys |= {client._state.key for client in this.clients.values()} - {b""}
    assert len(keys) == 1
    key = keys.pop()
    assert all(client.phase is Phase.DONE for client in this.clients.values())
    assert all(key not in client.dump() for client in this.clients.values())
    assert key.hex() not in repr(this.clients) + repr(scheme_of(this.spec).open(key, bytes(32)))


def test_methods_do_not_mix() -> None:
    masked, he = make_sum(3), make_sum(3, method="he")
    assert masked.spec.digest != he.spec.digest
    he.exchange()
    with pytest.raises(FormatError):
        load_client(
            he.clients["party-000"].dump(), spec=masked.spec, name="party-000", signer=masked.signers["party-000"]
        )
    with pytest.raises(AuthenticationError):
        SharedKeyClient(he.spec, "party-000", KeySigner())
    for method, most in (("he", 1 << 22), ("paillier", 1 << 17)):
        with pytest.raises(ParameterError, match=f"1 to {most}"):
            make_sum(3, method=method, length=most + 1)
    with pytest.raises(ParameterError, match="masked, he or paillier"):
        make_sum(3, method="ckks")


def test_trust_is_stated() -> None:
    spec = make_sum(5, method="he").spec
    assert spec.tolerated_colluders == 0
    assert "one that does opens every party's vector; 1 of 5 may drop out" in spec.trust
    assert make_sum(5).spec.tolerated_colluders == 2


def _spec(n: int, bits: int, **options: Any) -> SumSpec:
    return SumSpec(
        federation="f",
        run="r",
        step="s",
        participants=tuple(Participant(name=f"{i:03d}", public_key=i.to_bytes(32, "big")) for i in range(n)),
        length=3,
        bits=bits,  # type: ignore[arg-type]
        threshold=2 * n // 3 + 1,
        max_abs=((1 << (bits - 1)) - 1) // n,
        **options,
    )
