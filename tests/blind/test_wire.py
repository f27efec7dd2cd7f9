"""Untrusted bytes: every mutant is refused by name or answered harmlessly, and no unauthenticated one is charged."""

import contextlib
import struct

import msgspec
import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer
from blindsight.blind._envelope import (
    MAGIC,
    PREFIX,
    TAG_BYTES,
    Header,
    Session,
    close_envelope,
    key_id_of,
    new_salt,
    public_bytes,
    split_envelope,
)
from blindsight.blind._offer import Offer
from blindsight.errors import AuthenticationError, BlindsightError, DataError, ProtocolError, WireError
from blindsight.he import SEED_BYTES

from ._models import quadratic_model, records, table_model

MUTANTS = 300


@pytest.fixture(scope="module", params=["rows", "columns"])
def scene(request):
    """A scorer, an owner it knows, records, and a request without registration."""
    model = table_model(4, 16) if request.param == "rows" else quadratic_model(2)
    scorer = Scorer(model, packing=request.param)
    owner = RecordOwner(scorer.offer())
    X = records(model, 5)
    owner.open(scorer.score(owner.seal(X)))
    return scorer, owner, X, model


def reseal(owner: RecordOwner, message: bytes) -> bytes:
    """Recompute the MAC of a mutant, as its own owner can."""
    try:
        _, length = PREFIX.unpack_from(message)
        header = msgspec.msgpack.decode(message[PREFIX.size : PREFIX.size + length], type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, struct.error):
        return message
    covered = message[:-TAG_BYTES]
    return covered + owner._session.tag(header, memoryview(covered))


def mutate(rng: np.random.Generator, message: bytes) -> bytes:
    data = bytearray(message)
    header = min(PREFIX.size + int.from_bytes(message[4:6], "little"), len(message))
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(0, 5)
        at = int(rng.integers(0, header if rng.random() < 0.4 else len(data)))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at : at + 8] = b"\xff" * len(data[at : at + 8])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            data[at : at + 8] = rng.bytes(len(data[at : at + 8]))
        header = min(header, len(data))
        if not header:
            break
    return bytes(data)


def says_what_and_why(error):
    """A sentence on what is wrong, and the rule or the mend."""
    return len(error.what.split()) >= 3 and bool(error.rule or error.fix)


def test_mutated_requests(scene):
    scorer, owner, X, model = scene
    rng = np.random.default_rng(11)
    sealed = owner.seal(X)
    answered = 0
    for i in range(MUTANTS):
        mutant = mutate(rng, sealed)
        if mutant == sealed:
            continue
        before = scorer.bits_released()
        if i % 2:
            with contextlib.suppress(ProtocolError):  # anything else is a bug, and fails the test
                scorer.score(reseal(owner, mutant))
                answered += 1
        else:
            with pytest.raises(ProtocolError) as refusal:
                scorer.score(mutant)
            assert says_what_and_why(refusal.value)
            assert scorer.bits_released() == before
    assert answered > 0  # reduced residues are residues: garbage in, garbage out
    assert np.array_equal(owner.open(scorer.score(owner.seal(X))), model.decision_function(X))


def test_mutated_answers(scene):
    scorer, owner, X, model = scene
    rng = np.random.default_rng(12)
    answer = scorer.score(owner.seal(X))
    opened = 0
    for i in range(MUTANTS):
        mutant = mutate(rng, answer)
        if mutant == answer:
            continue
        if i % 2:
            with contextlib.suppress(ProtocolError):
                opened += owner.open(reseal(owner, mutant)).dtype == np.float64
        else:
            with pytest.raises(ProtocolError) as refusal:
                owner.open(mutant)
            assert says_what_and_why(refusal.value)
    assert opened > 0
    assert np.array_equal(owner.open(answer), model.decision_function(X))


def test_mutated_registrations(scene):
    scorer, _, X, model = scene
    rng = np.random.default_rng(13)
    for i in range(30):
        stranger = RecordOwner(scorer.offer())
        sealed = stranger.seal(X[:1], register=True)
        _, body = split_envelope(sealed, "sealed", offer=stranger._digest)
        end = len(sealed) - TAG_BYTES - len(body) + scorer.registration_bytes
        mutant = mutate(rng, sealed[:end]) + sealed[end:]
        if mutant != sealed:
            with pytest.raises(ProtocolError):  # the key id commits to every byte of a registration
                scorer.score(reseal(stranger, mutant) if i % 2 else mutant)
            assert scorer.bits_released(stranger.key_id) == 0
        assert np.array_equal(stranger.open(scorer.score(sealed)), model.decision_function(X[:1]))


def test_mutated_offers(scene):
    scorer, _, _, _ = scene
    rng = np.random.default_rng(14)
    offer = scorer.offer()
    accepted = 0
    for _ in range(MUTANTS):
        mutant = mutate(rng, offer)
        with contextlib.suppress(WireError):
            Offer.decode(mutant)
            accepted += 1
    assert accepted < MUTANTS  # a changed edge is an offer as good as any; its digest is another


def test_a_residue_at_its_prime_is_refused_after_authentication(scene):
    scorer, owner, X, _ = scene
    p = owner.parameters
    sealed = bytearray(owner.seal(X))
    header, body = split_envelope(bytes(sealed), "sealed", offer=owner._digest)
    start = len(sealed) - TAG_BYTES - len(body) + (SEED_BYTES if p.upload == "seeded" else 0)
    width = p.he.residue_bytes
    sealed[start : start + width] = owner._context.primes[0].to_bytes(width, "little")
    with pytest.raises(WireError, match="not reduced"):
        scorer.score(reseal(owner, bytes(sealed)))
    assert header.rows == 5


def test_equal_seeds_in_a_registration_are_refused(scene):
    scorer, _, X, _ = scene
    owner = RecordOwner(scorer.offer())
    size = SEED_BYTES + owner.parameters.part_bytes
    owner._adopt(owner._material[:size] + owner._material[:SEED_BYTES] + owner._material[size + SEED_BYTES :])
    with pytest.raises(WireError, match="share a seed"):
        scorer.score(owner.seal(X))
    assert scorer.bits_released(owner.key_id) == 0


def test_a_registration_of_another_key_id_is_refused(scene):
    scorer, _, X, _ = scene
    owner = RecordOwner(scorer.offer())
    owner._key_id = bytes(16)
    with pytest.raises(AuthenticationError, match="does not belong"):
        scorer.score(owner.seal(X))


def test_an_unknown_key_id_is_told_to_register(scene):
    scorer, _, X, _ = scene
    with pytest.raises(AuthenticationError, match="register=True"):
        scorer.score(RecordOwner(scorer.offer()).seal(X, register=False))


def test_another_owners_key_opens_nothing(scene):
    scorer, owner, X, _ = scene
    answer = scorer.score(owner.seal(X))
    with pytest.raises(AuthenticationError, match="another key"):
        RecordOwner(scorer.offer()).open(answer)


def test_the_right_mac_with_another_secret_key_decrypts_to_noise(scene):
    scorer, owner, X, model = scene
    answer = scorer.score(owner.seal(X))
    thief = RecordOwner(scorer.offer())
    thief._key_id, thief._session = owner._key_id, owner._session
    assert not (thief.open(answer) == model.decision_function(X)).any()


def test_another_offer_is_refused(scene):
    scorer, owner, X, model = scene
    other = Scorer(model, packing=scorer.parameters.packing)
    with pytest.raises(AuthenticationError, match="another offer"):
        other.score(owner.seal(X))


def test_an_answer_is_not_a_request_and_a_request_is_not_an_answer(scene):
    scorer, owner, X, _ = scene
    sealed = owner.seal(X)
    answer = scorer.score(sealed)
    with pytest.raises(WireError, match="another kind"):
        scorer.score(answer)
    with pytest.raises(WireError, match="another kind"):
        owner.open(sealed)


def test_an_answer_to_another_request_is_refused_when_the_request_is_given(scene):
    scorer, owner, X, _ = scene
    first, second = owner.seal(X), owner.seal(X)
    with pytest.raises(AuthenticationError, match="another request"):
        owner.open(scorer.score(first), sealed=second)


def test_impossible_lengths_and_types(scene):
    scorer, owner, _, _ = scene
    for junk in (b"", MAGIC, b"\0" * 100, PREFIX.pack(MAGIC, 60_000) + bytes(100)):
        with pytest.raises(WireError):
            scorer.score(junk)
        with pytest.raises(WireError):
            owner.open(junk)
        with pytest.raises(WireError):
            RecordOwner(junk)
    with pytest.raises(WireError, match="must be bytes"):
        scorer.score("text")


def test_a_header_has_one_encoding(scene):
    scorer, owner, X, _ = scene
    sealed = owner.seal(X)
    _, length = PREFIX.unpack_from(sealed)
    fields = msgspec.msgpack.decode(sealed[PREFIX.size : PREFIX.size + length])
    reordered = msgspec.msgpack.encode(dict(reversed(fields.items())))
    message = PREFIX.pack(MAGIC, len(reordered)) + reordered + sealed[PREFIX.size + length :]
    with pytest.raises(WireError, match="shortest encoding"):
        scorer.score(reseal(owner, message))


@pytest.mark.parametrize("rows", [0, -1, 1 << 21, 6])
def test_a_wrong_number_of_rows(scene, rows):
    scorer, owner, X, _ = scene
    salt = new_salt()
    _, body = split_envelope(owner.seal(X), "sealed", offer=owner._digest)
    header = Header(kind="sealed", offer=owner._digest, key=owner._key_id, request=salt, salt=salt, rows=rows)
    message = close_envelope(owner._session, header, [bytes(body)[: -1 if rows == 6 else None]])
    with pytest.raises(WireError):
        scorer.score(message)


def test_a_public_key_of_small_order_is_refused(scene):
    scorer, owner, _, _ = scene
    with pytest.raises(AuthenticationError, match="public key"):
        Session(owner._mac_key, bytes(32), offer=bytes(32), owner_public=public_bytes(owner._mac_key))
    assert key_id_of(bytes(32), b"") != key_id_of(bytes(32), b"x")
    forged = bytearray(scorer.offer())
    public = public_bytes(scorer._private)
    forged = bytes(forged).replace(public, bytes(32))
    with pytest.raises(AuthenticationError, match="public key"):
        RecordOwner(forged)


def test_an_offer_that_contradicts_itself_is_refused(scene):
    scorer, _, _, _ = scene
    offer = Offer.decode(scorer.offer())
    for change in ({"score_scale": float("nan")}, {"score_scale": -1.0}, {"encoder": table_model(3, 4).encoder_}):
        values = {name: getattr(offer, name) for name in offer.__dataclass_fields__ if name != "encoded"}
        with pytest.raises(WireError):
            Offer.decode(Offer(**{**values, **change}).encode().encoded)


def test_deeply_nested_offers_are_refused():
    nested = b"BSOF" + b"\x81\xa1a" * 100_000 + b"\xc0"
    with pytest.raises(BlindsightError):
        Offer.decode(nested)


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.zeros((0, 4)), "wrong shape"),
        (np.zeros((2, 3)), "wrong shape"),
        (np.zeros(4), "wrong shape"),
        ([["a", "b", "c", "d"]], "not numbers"),
    ],
)
def test_unusable_records(X, words):
    owner = RecordOwner(Scorer(table_model(4, 16)).offer())
    with pytest.raises(DataError, match=words):
        owner.seal(X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_records_that_are_not_finite_name_row_and_column(value):
    owner = RecordOwner(Scorer(table_model(4, 16)).offer())
    X = np.zeros((3, 4))
    X[1, 2] = value
    with pytest.raises(DataError, match="Row 1, column 2"):
        owner.seal(X)
