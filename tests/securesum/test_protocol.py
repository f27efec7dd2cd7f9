"""Whole sums: exact over the survivors, with dropouts at every phase; masks equal a naive re-implementation."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from blindsight.errors import SurvivorsError
from blindsight.keys import Identity
from blindsight.securesum import Participant, Phase, SumClient, SumServer, SumSpec

from ._drive import PHASES, make_sum


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("n", [3, 4, 5, 20])
def test_total_is_exact(n: int, bits: int) -> None:
    largest = ((1 << (bits - 1)) - 1) // n
    this = make_sum(n, bits=bits, length=33, max_abs=largest)
    np.testing.assert_array_equal(this.run(), this.expected())
    assert this.server.survivors == this.spec.names
    assert not this.server.dropped


@pytest.mark.parametrize("sign", [-1, 1])
def test_total_at_the_largest_value_does_not_wrap(sign: int) -> None:
    largest = ((1 << 63) - 1) // 3
    this = make_sum(3, bits=64, max_abs=largest)
    this.vectors = {name: np.full(7, sign * largest) for name in this.spec.names}
    assert this.run().tolist() == [3 * sign * largest] * 7


def test_vector_longer_than_one_keystream_chunk() -> None:
    this = make_sum(3, length=(1 << 18) + 5, bits=32)  # one mebibyte and five words
    np.testing.assert_array_equal(this.run(), this.expected())


@pytest.mark.parametrize("phase", PHASES)
def test_two_dropped_at_each_phase(phase: Phase) -> None:
    this = make_sum(8, threshold=6, bits=64, max_abs=1 << 50)
    gone = {"party-000", "party-005"}  # one first in the order of signs, one in the middle
    total = this.run({phase: gone})
    in_total = this.spec.names if phase > Phase.MASK else tuple(n for n in this.spec.names if n not in gone)
    assert this.server.survivors == in_total
    np.testing.assert_array_equal(total, this.expected())
    assert {name: (gone.phase, gone.at_fault) for name, gone in this.server.dropped.items()} == dict.fromkeys(
        gone, (phase, False)
    )


def test_one_dropped_at_every_phase_of_the_same_sum() -> None:
    this = make_sum(16, threshold=11)
    total = this.run({phase: {f"party-{3 * phase:03d}"} for phase in PHASES})
    assert len(this.server.survivors) == 13
    np.testing.assert_array_equal(total, this.expected())


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_is_refused_and_names_who_is_missing(phase: Phase) -> None:
    this = make_sum(4)  # threshold 3
    with pytest.raises(SurvivorsError, match=r"party-001 \(\w+: did not answer\); party-003") as caught:
        this.run({phase: {"party-001", "party-003"}})
    assert f"the {phase.label} phase" in str(caught.value)
    assert "at least 3" in str(caught.value)
    assert this.server.requests() == {}
    with pytest.raises(SurvivorsError):
        this.server.close_phase()
    with pytest.raises(SurvivorsError):
        this.server.result()


@pytest.mark.parametrize("phase", PHASES)
def test_three_parties_abort_on_any_dropout_by_default(phase: Phase) -> None:
    with pytest.raises(SurvivorsError, match="party-002"):
        make_sum(3).run({phase: {"party-002"}})


def test_three_parties_with_threshold_two_still_need_three_vectors() -> None:
    with pytest.raises(SurvivorsError, match="fewer than three"):
        make_sum(3, threshold=2).run({Phase.MASK: {"party-002"}})
    late = make_sum(3, threshold=2)
    np.testing.assert_array_equal(late.run({Phase.UNMASK: {"party-002"}}), late.expected())
    assert len(late.server.survivors) == 3


def test_every_party_restarted_from_its_state_after_every_phase() -> None:
    this = make_sum(5, bits=64)
    np.testing.assert_array_equal(this.run({Phase.MASK: {"party-004"}}, restart=True), this.expected())


def test_coordinator_resumes_by_replaying_its_journal() -> None:
    this = make_sum(5)
    this.run({Phase.MASK: {"party-001"}})
    again = SumServer(this.spec)
    for phase in PHASES:
        assert again.requests() == {n: r for (p, n), r in this.asked.items() if p is phase}
        for (sent_in, name), message in this.sent.items():
            if sent_in is phase:
                assert again.receive(name, message)
        again.close_phase()
    np.testing.assert_array_equal(again.result(), this.server.result())


def test_masked_vector_equals_a_naive_reimplementation() -> None:
    """Masks recomputed from docs/wire-securesum.md with hashlib, hmac and Python integers."""
    this = make_sum(4, length=5, bits=64)
    this.until(Phase.SHARE)
    secrets = {name: client._state.secrets for name, client in this.clients.items()}
    this.until(Phase.CONFIRM)

    label = b"blindsight/securesum/1"

    def tagged(purpose: bytes, *parts: bytes) -> bytes:
        return hashlib.sha256(
            b"".join(len(part).to_bytes(8, "little") + part for part in (label, purpose, *parts))
        ).digest()

    def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
        extracted = hmac.digest(salt, secret, "sha256")
        return hmac.digest(extracted, info + b"\x01", "sha256")

    def mask(key: bytes) -> list[int]:
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * 5))
        return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(5)]

    names = this.spec.names
    flat = [part for name in names for part in (name.encode(), this.sent[Phase.ADVERTISE, name])]
    transcript = tagged(b"transcript", this.spec.digest, *flat)
    public = {
        name: X25519PrivateKey.from_private_bytes(secrets[name].mask_secret).public_key().public_bytes_raw()
        for name in names
    }
    for name in names:
        own = X25519PrivateKey.from_private_bytes(secrets[name].mask_secret)
        seed = hkdf(secrets[name].seed, transcript, label + b"\0self mask\0" + name.encode())
        columns = [this.vectors[name].tolist(), mask(seed)]
        for peer in names:
            if peer != name:
                shared = own.exchange(X25519PublicKey.from_public_bytes(public[peer]))
                info = label + b"\0pairwise mask\0" + b"".join(sorted((public[name], public[peer])))
                sign = 1 if name > peer else -1
                columns.append([sign * value for value in mask(hkdf(shared, transcript, info))])
        expected = b"".join((sum(column) % 2**64).to_bytes(8, "little") for column in zip(*columns, strict=True))
        assert this.sent[Phase.MASK, name][-64 - 2 - 40 : -64 - 2] == expected  # before the signature's header


def test_masked_vectors_of_equal_inputs_look_unrelated() -> None:
    this = make_sum(3, length=4096)
    this.vectors = {name: np.zeros(4096, dtype=np.int64) for name in this.spec.names}
    this.until(Phase.CONFIRM)
    words = [np.frombuffer(this.sent[Phase.MASK, name][-66 - 4 * 4096 : -66], dtype="<u4") for name in this.spec.names]
    for one, other in itertools.combinations(words, 2):
        assert int((one == other).sum()) <= 2  # chance of three equal words: below 1e-16
    for one in words:
        bits = np.unpackbits(one.view(np.uint8)).sum()
        assert abs(int(bits) - 65536) < 8 * 181  # eight standard deviations of 131,072 fair bits
    np.testing.assert_array_equal(this.run(), np.zeros(4096))


def test_works_with_identities_of_the_keys_package() -> None:
    identities = {name: Identity.generate() for name in ("a", "b", "c")}
    spec = SumSpec(
        federation="f",
        run="r",
        step="s",
        participants=tuple(Participant(name=n, public_key=i.public.raw) for n, i in identities.items()),
        length=2,
        bits=32,
        threshold=3,
        max_abs=9,
    )
    clients = {name: SumClient(spec, name, identity) for name, identity in identities.items()}
    server = SumServer(spec)
    while server.phase is not Phase.DONE:
        for name, request in server.requests().items():
            server.receive(name, clients[name].handle(request, lambda: np.array([1, -3])))
        server.close_phase()
    assert server.result().tolist() == [3, -9]
