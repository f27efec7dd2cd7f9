"""Published vectors for what is wrapped, and the properties of hashes, rings and envelopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.errors import AuthenticationError, ParameterError
from blindsight.securesum._agreement import KeyPair, hkdf_sha256, mask_key, seed_key, share_key
from blindsight.securesum._envelopes import ITEM_BYTES, SharePair, open_item, seal_item
from blindsight.securesum._hashing import tagged_hash
from blindsight.securesum._ring import RingVector, check_vector

from ._drive import make_sum

SPEC = make_sum(3, length=16).spec
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
P = 2**255 - 19
LOW_ORDER = [  # u-coordinates of the points of order 1, 2, 4 and 8 on the curve and its twist, below p
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
]


def test_x25519_rfc7748_section_6_1() -> None:
    alice, bob = KeyPair(bytes.fromhex(ALICE)), KeyPair(bytes.fromhex(BOB))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.agree(bob.public, "bob").hex() == bob.agree(alice.public, "alice").hex() == shared


def test_hkdf_rfc5869_case_1() -> None:
    okm = hkdf_sha256(bytes([0x0B] * 22), salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_mask_is_the_keystream_of_rfc8439_appendix_a1() -> None:
    ring = RingVector(SPEC)
    ring.add_mask(bytes(32))
    assert ring.to_bytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )


@pytest.mark.parametrize("u", LOW_ORDER)
def test_points_of_low_order_are_refused(u: int) -> None:
    with pytest.raises(AuthenticationError, match=r"'mallory' advertised is a point of low order"):
        KeyPair.generate().agree(u.to_bytes(32, "little"), "mallory")


@pytest.mark.parametrize("u", [P, P + 1, P + 9, 9 + 2**255, 2**256 - 1])
def test_other_encodings_of_a_point_are_refused(u: int) -> None:
    with pytest.raises(AuthenticationError, match="not canonical"):
        KeyPair.generate().agree(u.to_bytes(32, "little"), "mallory")


def test_derived_keys_agree_and_differ_by_purpose_transcript_and_pair() -> None:
    pair, other, salt = (b"\x01" * 32, b"\x02" * 32), (b"\x01" * 32, b"\x03" * 32), b"\x09" * 32
    secret = b"\x05" * 32
    assert mask_key(secret, transcript=salt, publics=pair) == mask_key(secret, transcript=salt, publics=pair[::-1])
    keys = {
        mask_key(secret, transcript=salt, publics=pair),
        mask_key(secret, transcript=salt, publics=other),
        mask_key(secret, transcript=b"\x08" * 32, publics=pair),
        share_key(secret, transcript=salt, publics=pair),
        seed_key(secret, transcript=salt, owner="a"),
        seed_key(secret, transcript=salt, owner="b"),
    }
    assert len(keys) == 6


def test_secrets_are_redacted() -> None:
    pair = KeyPair(bytes.fromhex(ALICE))
    assert ALICE not in repr(pair)
    shares = SharePair(key_share=b"\xaa" * 33, seed_share=b"\xbb" * 33)
    assert repr(shares) == "SharePair()"
    ring = RingVector(SPEC)
    ring.add_integers(np.full(16, 424242, dtype=np.int64))
    assert repr(ring) == "RingVector(<16 values>)"


@given(parts=st.lists(st.binary(max_size=6), max_size=5), others=st.lists(st.binary(max_size=6), max_size=5))
def test_tagged_hash_is_injective(parts: list[bytes], others: list[bytes]) -> None:
    assert (tagged_hash("p", *parts) == tagged_hash("p", *others)) == (parts == others)
    assert tagged_hash("p", *parts) != tagged_hash("q", *parts)


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from([32, 64]), data=st.data())
def test_ring_adds_like_integers_modulo_two_to_the_bits(bits: int, data: st.DataObject) -> None:
    spec = make_sum(3, length=4, bits=bits).spec
    edge = 1 << (bits - 1)
    values = st.lists(st.integers(-edge, edge - 1), min_size=4, max_size=4)
    one, other = data.draw(values), data.draw(values)
    ring = RingVector(spec)
    ring.add_integers(np.array(one, dtype=np.int64))
    ring.add_bytes(b"".join((value % (1 << bits)).to_bytes(bits // 8, "little") for value in other))
    ring.add_mask(b"\x11" * 32)
    ring.add_mask(b"\x22" * 32)
    ring.subtract_mask(b"\x11" * 32)
    ring.subtract_mask(b"\x22" * 32)
    assert ring.centred().tolist() == [(a + b + edge) % (1 << bits) - edge for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(15, dtype=np.int64),
        np.zeros((16, 1), dtype=np.int64),
        np.zeros(16, dtype=np.int32),
        np.zeros(16, dtype=np.float64),
        np.zeros(16, dtype=">i8"),
        [0] * 16,
    ],
)
def test_vector_of_another_type_or_shape_is_refused(vector: object) -> None:
    with pytest.raises(ParameterError, match="wrong type or shape"):
        check_vector(SPEC, vector)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1001, -1001, 2**63 - 1, -(2**63)])
def test_value_that_could_overflow_is_refused_without_showing_it(value: int) -> None:
    vector = np.zeros(16, dtype=np.int64)
    vector[11] = value
    with pytest.raises(ParameterError, match=r"larger than the sum was planned for.*max_abs = 1000") as caught:
        check_vector(SPEC, vector)
    assert "11" not in str(caught.value)
    assert str(abs(value)) not in str(caught.value)


PAIR = SharePair(key_share=b"\x01" * 33, seed_share=b"\x02" * 33)
SEALED = {"key": b"k" * 32, "transcript": b"t" * 32, "source": "party-000", "destination": "party-001"}


def test_envelope_opens_for_whom_it_was_sealed() -> None:
    item = seal_item(SPEC, PAIR, **SEALED)  # type: ignore[arg-type]
    assert len(item) == ITEM_BYTES == 158
    assert open_item(SPEC, item, **SEALED) == PAIR  # type: ignore[arg-type]
    assert PAIR.to_bytes() not in item
    assert seal_item(SPEC, PAIR, **SEALED) != item  # type: ignore[arg-type]  # a fresh nonce each time


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"l" * 32},
        {"transcript": b"u" * 32},
        {"source": "party-002"},
        {"destination": "party-002"},
        {"source": "party-001", "destination": "party-000"},  # reflected to its dealer
    ],
)
def test_envelope_is_bound_to_its_context(change: dict[str, object]) -> None:
    item = seal_item(SPEC, PAIR, **SEALED)  # type: ignore[arg-type]
    with pytest.raises(AuthenticationError, match="do not open"):
        open_item(SPEC, item, **{**SEALED, **change})  # type: ignore[arg-type]
    other = make_sum(3, length=16, run="another").spec
    with pytest.raises(AuthenticationError, match="do not open"):
        open_item(other, item, **SEALED)  # type: ignore[arg-type]


def test_every_bit_of_an_envelope_is_protected() -> None:
    item = seal_item(SPEC, PAIR, **SEALED)  # type: ignore[arg-type]
    for position in range(8 * len(item)):
        broken = bytearray(item)
        broken[position // 8] ^= 1 << (position % 8)
        with pytest.raises(AuthenticationError):
            open_item(SPEC, bytes(broken), **SEALED)  # type: ignore[arg-type]
