"""CKKS columns: scores of networks within the error that the parameters promise, and refusals that name the layer."""

import dataclasses
import math

import numpy as np
import pytest

from blindsight.blind import (
    BitBudget,
    CkksParameters,
    MemoryTable,
    RecordOwner,
    RegistrationCheck,
    Scorer,
    plan_network,
)
from blindsight.blind._ckks_circuit import MAX_OUTPUTS, _centre, _sum_of_squares
from blindsight.blind._protect import Protections
from blindsight.circuits import Activation, Network
from blindsight.errors import (
    AuthenticationError,
    BlindsightWarning,
    BudgetError,
    CapacityError,
    FormatError,
    ParameterError,
)
from blindsight.he import CkksContext, CkksHeParameters

from ._networks import NetworkModel, dense, network_model, rows_of

KINDS = ["quadratic", "wide", "reconstruction", "square", "square-centre"]


def check(scorer, owner, model, X):
    sealed = owner.seal(X)
    scores = owner.open(scorer.score(sealed), sealed=sealed)
    clear = model.decision_function(X)
    assert scores.dtype == np.float64
    assert scores.shape == clear.shape
    for blind, exact in zip(scores.tolist(), clear.tolist(), strict=True):
        assert abs(blind - exact) <= owner.parameters.error(exact)
    below = clear <= model.threshold_
    assert np.abs(scores - clear)[below].max(initial=0) <= 1e-3 * model.threshold_
    return np.abs(scores - clear)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_within_the_promised_error(kind):
    model = network_model(kind)
    scorer = Scorer(model, packing="columns")
    owner = RecordOwner(scorer.offer())
    for n in (1, 2, 3, 100):
        check(scorer, owner, model, rows_of(model, n, seed=n))
    # the box's corners, far outside what the model knows: the largest scores that there are
    corners = np.sign(rows_of(model, 16)) * 100
    check(scorer, owner, model, corners)
    assert model.decision_function(corners).max() < 2.0**scorer.parameters.score_bits


def test_full_and_several_groups():
    model = network_model("quadratic", 3)
    scorer = Scorer(model, packing="columns", threads=2)
    owner = RecordOwner(scorer.offer())
    n = scorer.parameters.rows_per_ciphertext
    errors = check(scorer, owner, model, rows_of(model, n + 5))
    # half the tolerance is flood on purpose: if it were not there, this would fail
    assert errors.std() > scorer.parameters.tolerance / 2 / 8 / 3


def test_without_the_flood_the_error_is_in_the_other_half():
    model = network_model("square")
    scorer = Scorer(model, packing="columns")
    scorer._protections = Protections(flood=False, rerandomise=False)
    owner = RecordOwner(scorer.offer())
    X = rows_of(model, 256)
    errors = np.abs(owner.open(scorer.score(owner.seal(X))) - model.decision_function(X))
    assert errors.max() < scorer.parameters.error(model.threshold_) - scorer.parameters.tolerance / 2


@pytest.mark.parametrize("upload", ["seeded", "unseeded"])
def test_uploads(upload):
    model = network_model("reconstruction", 3)
    scorer = Scorer(model, packing="columns", upload=upload)
    owner = RecordOwner(scorer.offer())
    check(scorer, owner, model, rows_of(model, 20))


def test_prepared_masks_are_used_once():
    model = network_model()
    scorer = Scorer(model, packing="columns")
    owner = RecordOwner(scorer.offer())
    check(scorer, owner, model, rows_of(model, 4))
    scorer.prepare(owner.key_id, 2)
    _, masks = scorer._owners[owner._key_id]
    assert len(masks._ready) == 2
    sealed = owner.seal(rows_of(model, 4))
    one, two = scorer.score(sealed), scorer.score(sealed)
    assert not masks._ready
    assert one != two
    assert np.abs(owner.open(one) - owner.open(two)).max() < 2 * scorer.parameters.tolerance


@pytest.mark.parametrize("name", ["AutoEncoder", "DeepSVDD"])
def test_trained_models(name):
    pytest.importorskip("opacus", reason="deep detectors need the extra 'deep'")
    import blindsight as bs
    from blindsight import detectors

    banks, schema = bs.simulate_card_payments(n=2_000)
    model = getattr(detectors, name)(hidden=(4,), activation="square", schema=schema).fit(banks["bank-a"])
    rows = banks["bank-b"][:300]
    with pytest.warns(BlindsightWarning, match="not secret"):
        scorer = Scorer(model, packing="columns")
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(rows)
    scores, clear = owner.open(scorer.score(sealed), sealed=sealed), model.decision_function(rows)
    promised = np.array([owner.parameters.error(score) for score in clear.tolist()])
    assert (np.abs(scores - clear) <= promised + 2.0**-20).all()  # the detector rounds to 2**-20
    assert np.abs(scores - clear)[clear <= model.threshold_].max() <= 1e-3 * model.threshold_
    assert scorer.parameters.squares == (2 if name == "AutoEncoder" else 1)


# -- refusals


def refused(layers, match, **rest):
    model = dataclasses.replace(network_model(), network_=Network(layers=layers, **rest))
    with pytest.raises(CapacityError, match=match) as caught:
        Scorer(model, packing="columns")
    assert "MPC" in str(caught.value)


def test_layers_that_do_not_fit_are_named():
    rng = np.random.default_rng(0)
    first, square, back = dense(rng, 3, 4), Activation("square", 0.1), dense(rng, 4, 3)
    refused((first, Activation("relu"), back), "Layer 2 of the network, relu", target="inputs")
    middle = dense(rng, 3, 3)
    refused((first, square, middle, square, back), "Layer 4 of the network, the second square", target="inputs")
    refused((first, square, dense(rng, 1025, 3)), "Layer 3 of the network is too wide", target="centre")
    heavy = dataclasses.replace(first, weights=first.weights * 2.0**40)
    refused((heavy, square, back), "Layer 2 of the network does not fit", target="inputs")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"packing": "rows"}, CapacityError, "columns"),
        ({"packing": "columns", "reveal": "verdict"}, CapacityError, "MPC"),
        ({"packing": "columns", "tolerance": 0.0}, ParameterError, "tolerance"),
        ({"packing": "columns", "tolerance": math.nan}, ParameterError, "tolerance"),
        ({"packing": "columns", "threads": 0}, ParameterError, "threads"),
    ],
)
def test_options_that_do_not_go_with_networks(options, error, words):
    with pytest.raises(error, match=words):
        Scorer(network_model(), **options)


def test_a_model_without_a_threshold_needs_a_tolerance():
    model = dataclasses.replace(network_model(), threshold_=None)
    with pytest.raises(ParameterError, match="give tolerance"):
        Scorer(model, packing="columns")
    assert Scorer(model, packing="columns", tolerance=0.01).parameters.tolerance == 2.0**-7


# -- parameters


def planned(kind, features=6):
    model = network_model(kind, features)
    return plan_network(model.inputs_, model.network_, 1e-3 * model.threshold_)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_hold_what_they_say(kind):
    p = planned(kind)
    primes = CkksContext(p.he).primes
    assert p.he.primes == primes
    modulus, kept = math.prod(primes), math.prod(primes[: p.kept])
    largest = math.ldexp(1.0, p.score_bits + p.scale_bits)
    assert 2 * largest < modulus
    # everything at its largest in an answer's slot: score, flood, mask, rounding
    noise = 8 * math.sqrt(p.degree / 12) * p.flood_half_width + p.mask_noise + p.rounding_noise
    assert 2 * (p.answer_scale * math.ldexp(1.0, p.score_bits) + noise) < kept
    assert noise <= p.answer_scale * p.tolerance / 2
    assert p.error(p.tolerance) == p.tolerance
    assert 16 * p.zeros >= math.log2(kept) + 8
    assert p.answer_bits == pytest.approx(math.log2(kept) - math.log2(2 * p.flood_half_width))
    assert p.hiding_bits >= 16
    assert sum(p.he.bits) <= {8192: 218, 16384: 438}[p.degree]


def test_partial_groups_are_charged_as_the_next_power_of_two():
    p = planned("quadratic")
    n = p.rows_per_ciphertext
    for rows, counted in ((1, 1), (2, 2), (3, 4), (5, 8), (n - 1, n), (n, n), (n + 1, n + 1), (n + 3, n + 4)):
        assert p.charge_bits(rows) == math.ceil(counted * p.answer_bits)
    for bits in (0, 1, 100, 1000, p.charge_bits(n) + 100):
        most = p.rows_for(bits)
        assert p.charge_bits(most) <= bits if most else True
        assert p.charge_bits(most + 1) > bits


@pytest.mark.parametrize(
    "change",
    [
        {"degree": 4096},
        {"count": 8},
        {"kept": 0},
        {"kept": 6},
        {"squares": 3},
        {"upload": "half"},
        {"entries": 0},
        {"input_bits": 61},
        {"tolerance_bits": 200},
    ],
)
def test_parameters_out_of_their_domain(change):
    p = planned("quadratic")
    with pytest.raises(ParameterError):
        dataclasses.replace(p, **change)


def test_parameters_that_contradict_each_other():
    p = planned("quadratic")
    for change in ({"score_bits": p.score_bits + 40}, {"tolerance_bits": p.tolerance_bits + 60}, {"kept": 1}):
        with pytest.raises(CapacityError):
            dataclasses.replace(p, **change)


def test_the_plan_sees_sizes_of_the_weights_only():
    model = network_model("quadratic", 6)
    flipped = Network(
        layers=(dataclasses.replace(model.network_.layers[0], weights=-model.network_.layers[0].weights[:, ::-1]),),
        target="centre",
        centre=model.network_.centre,
    )
    one, other = (
        Scorer(model, packing="columns"),
        Scorer(dataclasses.replace(model, network_=flipped), packing="columns"),
    )
    assert one.parameters == other.parameters
    assert isinstance(one.parameters, CkksParameters)
    assert "CKKS" in one.parameters.describe()


# -- keys, budgets, restarts


def test_a_restarted_scorer_knows_its_owners_and_counts_on():
    model, table = network_model(), MemoryTable()
    first = Scorer(model, packing="columns", table=table)
    owner = RecordOwner(first.offer())
    check(first, owner, model, rows_of(model, 3))
    spent = first.bits_released(owner.key_id)
    assert spent == first.parameters.charge_bits(3) > 0
    again = Scorer(model, packing="columns", table=table)
    assert again.offer() == first.offer()
    sealed = owner.seal(rows_of(model, 2), register=False)
    owner.open(again.score(sealed), sealed=sealed)
    assert again.bits_released(owner.key_id) == spent + first.parameters.charge_bits(2)


def test_budgets_name_what_is_left():
    model = network_model()
    bits = Scorer(model, packing="columns").parameters.charge_bits(4)
    scorer = Scorer(model, packing="columns", budget=BitBudget(bits_per_owner=bits))
    owner = RecordOwner(scorer.offer())
    with pytest.raises(BudgetError, match="at most 4 records"):
        scorer.score(owner.seal(rows_of(model, 5)))
    check(scorer, owner, model, rows_of(model, 3))  # counted as four
    with pytest.raises(BudgetError, match="new budget"):
        scorer.score(owner.seal(rows_of(model, 1)))


def test_another_owners_key_opens_nothing():
    model = network_model()
    scorer = Scorer(model, packing="columns")
    owner, other = RecordOwner(scorer.offer()), RecordOwner(scorer.offer())
    X = rows_of(model, 8)
    answer = scorer.score(owner.seal(X))
    with pytest.raises(AuthenticationError, match="another key"):
        other.open(answer)
    with pytest.raises(AuthenticationError, match="not registered"):
        scorer.score(other.seal(X, register=False))
    # even past the envelope: the bytes mean nothing under another key
    other._key_id, other._session = owner._key_id, owner._session
    guess = other.open(answer)
    assert np.median(np.abs(guess - model.decision_function(X))) > 100 * model.decision_function(X).max()


def test_keys_persist_in_home(tmp_path):
    model = network_model()
    scorer = Scorer(model, packing="columns")
    X = rows_of(model, 3)
    first = RecordOwner(scorer.offer(), tmp_path)
    answer = scorer.score(first.seal(X))
    again = RecordOwner(scorer.offer(), tmp_path)
    assert again.key_id == first.key_id
    assert np.array_equal(again.open(answer), first.open(answer))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FormatError):
        RecordOwner(scorer.offer(), tmp_path)


def test_registrations_are_checked_without_a_model():
    scorer = Scorer(network_model(), packing="columns")
    owner = RecordOwner(scorer.offer())
    assert RegistrationCheck(scorer.offer()).check(owner.registration) == owner.key_id


def test_secrets_are_redacted():
    model = network_model()
    scorer = Scorer(model, packing="columns")
    owner = RecordOwner(scorer.offer())
    assert "redacted" in repr(owner._key)
    assert "secret" in repr(scorer._engine._network)
    with pytest.raises(TypeError):
        owner._key.__reduce__()
    assert isinstance(model, NetworkModel)


def test_a_model_of_one_partys_own_is_offered_with_a_warning():
    model = network_model("quadratic", 3)
    object.__setattr__(model, "is_personal_", True)
    with pytest.warns(BlindsightWarning, match="one party's own"):
        Scorer(model, packing="columns")


# -- arithmetic at its bounds

PRIMES = CkksHeParameters(degree=8192, count=5, kept=1).primes


@pytest.mark.parametrize("p", [PRIMES[0], PRIMES[-1]])
def test_integers_are_centred_exactly(p):
    rng = np.random.default_rng(7)
    largest = (1 << 53) - p - 1
    middles = [(k * p + p // 2 + step) for k in (0, 1, -1, (1 << 25) - 2, 1 - (1 << 25)) for step in (-1, 0, 1)]
    values = np.concatenate([[largest, -largest, 0, p, -p], middles, rng.integers(-largest, largest, 100_000)])
    found = _centre(values.astype(np.float64), p).astype(np.int64)
    assert np.abs(found).max() <= p // 2 + 1
    assert not ((found - values) % p).any()


@pytest.mark.parametrize("p", [PRIMES[0], PRIMES[-1]])
@pytest.mark.parametrize("parts", [2, 3])
def test_sums_of_as_many_squares_as_are_allowed(p, parts):
    signs = np.random.default_rng(8).choice([-1, 1], (1, parts, 5))
    signs[:, :, 0], signs[:, :, 1] = 1, -1
    r = np.repeat(signs * (p // 2 + 1), MAX_OUTPUTS, axis=0).astype(np.float64)
    constant = p - 1
    found = _sum_of_squares(r, p, constant)
    for column in range(r.shape[2]):
        one = [int(value) for value in r[0, :, column]]
        for k in range(2 * parts - 1):
            pairs = sum(one[i] * one[k - i] for i in range(parts) if 0 <= k - i < parts)
            assert found[k, column] == (MAX_OUTPUTS * pairs + (constant if k == 0 else 0)) % p
