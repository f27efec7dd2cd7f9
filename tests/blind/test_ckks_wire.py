"""Untrusted bytes of CKKS columns: refused by name or answered harmlessly; offers of version 2, byte by byte."""

import contextlib

import msgspec
import numpy as np
import pytest

from blindsight.blind import CkksParameters, RecordOwner, Scorer
from blindsight.blind._envelope import TAG_BYTES, split_envelope
from blindsight.blind._offer import Offer
from blindsight.circuits import Standardised
from blindsight.errors import BlindsightError, ProtocolError, WireError

from ._models import table_model
from ._networks import network_model, rows_of
from .test_wire import mutate, reseal, says_what_and_why

MUTANTS = 60


@pytest.fixture(scope="module", params=["seeded", "unseeded"])
def scene(request):
    model = network_model("quadratic", 2)
    scorer = Scorer(model, packing="columns", upload=request.param)
    owner = RecordOwner(scorer.offer())
    X = rows_of(model, 5)
    owner.open(scorer.score(owner.seal(X)))
    return scorer, owner, X, model


def test_mutated_requests(scene):
    scorer, owner, X, model = scene
    rng = np.random.default_rng(1)
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
    scores = owner.open(scorer.score(owner.seal(X)))
    assert np.abs(scores - model.decision_function(X)).max() <= 1e-3 * model.threshold_


def test_mutated_answers(scene):
    scorer, owner, X, _ = scene
    rng = np.random.default_rng(2)
    answer = scorer.score(owner.seal(X))
    opened = 0
    for i in range(MUTANTS):
        mutant = mutate(rng, answer)
        if mutant == answer:
            continue
        if i % 2:
            with contextlib.suppress(ProtocolError):
                owner.open(reseal(owner, mutant))
                opened += 1
        else:
            with pytest.raises(ProtocolError):
                owner.open(mutant)
    assert opened > 0


def test_mutated_registrations(scene):
    scorer, _, X, _ = scene
    rng = np.random.default_rng(3)
    for _ in range(10):
        stranger = RecordOwner(scorer.offer())
        sealed = stranger.seal(X[:1], register=True)
        _, body = split_envelope(sealed, "sealed", offer=stranger._digest)
        start = len(sealed) - TAG_BYTES - len(body)
        data = bytearray(sealed)
        at = start + int(rng.integers(0, scorer.registration_bytes))
        data[at] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(ProtocolError, match=r"does not belong|does not authenticate|public key"):
            scorer.score(reseal(stranger, bytes(data)))


def test_a_registered_residue_that_is_not_reduced(scene):
    scorer, _, X, _ = scene
    stranger = RecordOwner(scorer.offer())
    stranger._adopt(stranger._material[:64] + b"\xff\xff\xff\xff" + stranger._material[68:])
    with pytest.raises(WireError, match="not reduced"):
        scorer.score(stranger.seal(X))


def test_a_residue_that_is_not_reduced(scene):
    scorer, owner, X, _ = scene
    sealed = bytearray(owner.seal(X, register=False))
    at = len(sealed) - TAG_BYTES - 4
    sealed[at : at + 4] = owner._context.primes[-1].to_bytes(4, "little")
    with pytest.raises(WireError, match="not reduced"):
        scorer.score(reseal(owner, bytes(sealed)))


def test_the_offer_byte_by_byte():
    scorer = Scorer(network_model("quadratic", 2), packing="columns")
    data = scorer.offer()
    assert data.startswith(b"BSOF")
    fields = msgspec.msgpack.decode(data[4:])
    assert list(fields) == ["version", "parameters", "inputs", "schema", "secret", "scorer"]
    assert fields["version"] == 2
    names = "degree count kept entries squares input_bits scale_bits score_bits tolerance_bits upload"
    assert list(fields["parameters"]) == names.split()
    assert fields["inputs"]["kind"] == "standardised"
    assert Offer.decode(data).encode().encoded == data


def test_the_vector_of_the_documentation():
    """docs/wire-blind.md, 'Offer', version 2."""
    parameters = CkksParameters(
        degree=8192,
        count=5,
        kept=3,
        entries=2,
        squares=1,
        input_bits=37,
        scale_bits=116,
        score_bits=17,
        tolerance_bits=6,
        upload="unseeded",
    )
    offer = Offer(
        parameters=parameters,
        encoder=Standardised(offsets=(0.5, 0.0), scales=(2.0, 1.0), slots=(0, 0), bound=20.0),
        schema={"version": 1},
        score_scale=1.0,
        secret=True,
        scorer=bytes(range(32)),
    ).encode()
    assert len(offer.encoded) == 304
    assert offer.digest.hex() == "3a116058dd084a7055c9e1cfad1955e2b84a0fc509c665555e5cfb9b79c56220"
    assert Offer.decode(offer.encoded) == offer


def changed(data, path, value):
    fields = msgspec.msgpack.decode(data[4:])
    place = fields
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return b"BSOF" + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["version"], 1),
        (["version"], 3),
        (["version"], "2"),
        (["parameters", "degree"], 4096),
        (["parameters", "degree"], 16384.5),
        (["parameters", "count"], 0),
        (["parameters", "count"], 1 << 40),
        (["parameters", "kept"], 9),
        (["parameters", "squares"], 0),
        (["parameters", "entries"], 3),
        (["parameters", "scale_bits"], 399),
        (["parameters", "score_bits"], 128),
        (["parameters", "tolerance_bits"], 100),
        (["parameters", "input_bits"], -1),
        (["parameters", "upload"], "both"),
        (["parameters", "more"], 1),
        (["inputs", "bound"], float("nan")),
        (["inputs", "scales"], [0.0, 1.0]),
        (["inputs", "kind"], "one_hot_bins"),
        (["inputs"], []),
        (["scorer"], b"short"),
        (["secret"], 2),
    ],
)
def test_malformed_offers_are_refused(path, value):
    data = Scorer(network_model("quadratic", 2), packing="columns").offer()
    with pytest.raises(WireError):
        RecordOwner(changed(data, path, value))


def test_random_offers_are_refused_or_read():
    data, rng = Scorer(network_model("quadratic", 2), packing="columns").offer(), np.random.default_rng(5)
    for _ in range(300):
        with contextlib.suppress(BlindsightError):
            Offer.decode(mutate(rng, data))


def test_parameters_and_inputs_go_together():
    bfv, ckks = Scorer(table_model(2, 4)).offer(), Scorer(network_model("quadratic", 2), packing="columns").offer()
    one, other = Offer.decode(bfv), Offer.decode(ckks)
    fields = {name: getattr(one, name) for name in ("schema", "score_scale", "secret", "scorer")}
    with pytest.raises(WireError, match="contradicts"):
        Offer(parameters=other.parameters, encoder=one.encoder, **fields).encode()
    with pytest.raises(WireError, match="contradicts"):
        Offer(parameters=one.parameters, encoder=other.encoder, **fields).encode()
