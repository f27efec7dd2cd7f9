"""Contributions of a record's blocks, opened to its owner alone."""

import numpy as np
import pytest

import blindsight as bs
from blind._models import StandInModel, quadratic_model, records, table_model
from blindsight.blind import BitBudget, RecordOwner, Scorer
from blindsight.blind._explain import explained_bytes, rows_of_one_answer
from blindsight.blind._protect import Protections
from blindsight.circuits import InnerProduct, OneHotBins, ProjectedBins, TreeLeaves
from blindsight.errors import AuthenticationError, BudgetError, CapacityError, ParameterError, PolicyError, WireError


def pair(model, **options):
    scorer = Scorer(model, explanations=True, **options)
    return scorer, RecordOwner(scorer.offer())


def whole_parts(model, X):
    """The reference: weights of the dense encoding's ones, block after block."""
    encoding = model.encoder_.encode(X) * model.circuit_.weights
    return np.add.reduceat(encoding, model.encoder_.offsets, axis=1)


def check(model, X):
    scorer, owner = pair(model)
    sealed = owner.seal(X, explain=True)
    parts = owner.open_contributions(scorer.score(sealed), sealed=sealed)
    whole = np.rint(parts / model.score_scale_).astype(np.int64)
    assert np.array_equal(whole, whole_parts(model, X))
    assert np.array_equal(whole * model.score_scale_, parts)
    scores = (whole.sum(axis=1) + model.circuit_.bias) * model.score_scale_
    assert np.array_equal(scores, model.decision_function(X))
    return scorer


@pytest.mark.parametrize("n", [1, 3, 20])
def test_contributions_add_up_to_the_score(n):
    """One record, a full group, and groups of which the last is partial."""
    model = table_model(9, 30, bias=-77)
    scorer = check(model, records(model, n))
    assert scorer.parameters.rows_per_ciphertext == 15


def test_blocks_that_lie_across_two_ciphertexts():
    model = table_model(3, 1700)
    assert check(model, records(model, 2)).parameters.ciphertexts_per_group == 2


def test_blocks_of_different_sizes_and_of_negative_weights():
    encoder = OneHotBins(edges=((0.0,), tuple(np.linspace(-1, 1, 40)), (-1.0, 0.0, 1.0)))
    rng = np.random.default_rng(3)
    model = StandInModel(encoder, InnerProduct(weights=rng.integers(-(1 << 20), 1 << 20, encoder.length), bias=5))
    check(model, rng.normal(size=(90, 3)))


def test_a_block_whose_weights_are_all_zero():
    model = table_model(3, 8)
    weights = np.array(model.circuit_.weights)
    weights[8:16] = 0
    check(StandInModel(model.encoder_, InnerProduct(weights=weights)), records(model, 4))


@pytest.mark.parametrize(
    "encoder",
    [
        TreeLeaves(edges=((-1.0, 0.0, 1.0),) * 4, trees=5, depth=4, seed=1),
        ProjectedBins(
            lows=(-3.0,) * 4, highs=(3.0,) * 4, logs=(False,) * 4, starts=(0.0,) * 4, stops=(1.0,) * 4,
            projections=6, bins=10, seed=1,
        ),
    ],
    ids=["trees", "projections"],
)  # fmt: skip
def test_other_one_hot_encodings(encoder):
    rng = np.random.default_rng(0)
    model = StandInModel(encoder, InnerProduct(weights=rng.integers(0, 1 << 14, encoder.length)))
    check(model, rng.normal(size=(5, 4)))


@pytest.mark.parametrize("name", ["ECOD", "LODA"])
def test_equal_to_the_models_own(name):
    banks, schema = bs.simulate_card_payments(n=2_000)
    more = {"projections": 12} if name == "LODA" else {}
    model = getattr(bs, name)(schema=schema, **more).fit(banks["bank-a"])
    rows = banks["bank-b"][:3]
    scorer, owner = pair(model)
    parts = owner.open_contributions(scorer.score(owner.seal(rows, explain=True)))
    assert np.array_equal(parts, model.contributions(rows))
    assert owner.contribution_names == model.contribution_names
    if name == "ECOD":
        assert owner.contribution_names == schema.feature_names
    else:
        assert owner.contribution_names[:2] == ("projection 0", "projection 1")


def test_prepared_masks_are_used_up():
    model = table_model(4, 8)
    scorer, owner = pair(model)
    X = records(model, 2)
    first = owner.open_contributions(scorer.score(owner.seal(X, explain=True)))
    scorer.prepare(owner.key_id, 4)
    again = owner.open_contributions(scorer.score(owner.seal(X, explain=True)))
    assert np.array_equal(first, again)
    (_, masks) = next(iter(scorer._owners.values()))
    assert masks.take() is None


def test_each_block_costs_an_answer():
    model = table_model(5, 10)
    scorer, owner = pair(model)
    scorer.score(owner.seal(records(model, 3), explain=True))
    assert scorer.bits_released() == -int(-15 * scorer.parameters.answer_bits // 1)
    assert scorer.rows_answered() == 3


def test_a_record_for_every_slot_of_the_largest_block_extracts_the_table():
    """What the docstring and ``rows_to_extract`` say, done: by an owner with a budget that lets it."""
    model = table_model(4, 12)
    scorer, owner = pair(model)
    assert scorer.rows_to_extract == 12 < Scorer(model).rows_to_extract
    centres = np.concatenate([[-9.0], np.linspace(-2, 2, 11) + 0.01])
    X = np.repeat(centres[:, None], 4, axis=1)
    parts = owner.open_contributions(scorer.score(owner.seal(X, explain=True)))
    table = np.rint(parts / model.score_scale_).astype(np.int64).T.reshape(-1)
    assert np.array_equal(table, model.circuit_.weights)


def test_a_budget_that_carries_scores_and_not_contributions():
    model = table_model(5, 10)
    bits = Scorer(model).parameters.charge_bits(4)
    scorer, owner = pair(model, budget=BitBudget(bits_total=bits))
    X = records(model, 1)
    with pytest.raises(BudgetError, match="does not carry 1 more records"):
        scorer.score(owner.seal(X, explain=True))
    assert scorer.bits_released() == 0
    assert np.array_equal(owner.open(scorer.score(owner.seal(X))), model.decision_function(X))


def test_refused_unless_the_holder_allows_it_and_nothing_is_charged():
    model = table_model(5, 10)
    scorer = Scorer(model)
    owner = RecordOwner(scorer.offer())
    with pytest.raises(PolicyError, match="no contributions"):
        scorer.score(owner.seal(records(model, 1), explain=True))
    assert scorer.bits_released() == 0


def test_refused_by_name_where_blocks_cannot_be_told_apart():
    quadratic, table = quadratic_model(3), table_model(3, 8)
    with pytest.raises(CapacityError, match="monomials"):
        Scorer(quadratic, explanations=True)
    with pytest.raises(CapacityError, match="columns"):
        Scorer(table, packing="columns", explanations=True)
    with pytest.raises(CapacityError, match="verdicts"):
        Scorer(table, reveal="verdict", thresholds=[0.5], explanations=True)
    owner = RecordOwner(Scorer(quadratic).offer())
    with pytest.raises(CapacityError, match="monomials"):
        owner.seal(records(quadratic, 1), explain=True)
    with pytest.raises(CapacityError, match="monomials"):
        _ = owner.contribution_names


def test_detectors_that_are_not_one_hot_say_so():
    X = np.random.default_rng(0).normal(size=(200, 3))
    model = bs.Mahalanobis().fit(X)
    with pytest.raises(CapacityError, match="Mahalanobis has no contributions"):
        model.contributions(X)


def test_scores_and_contributions_are_not_mixed_up():
    model = table_model(3, 8)
    scorer, owner = pair(model)
    X = records(model, 2)
    scores, parts = owner.seal(X), owner.seal(X, explain=True)
    with pytest.raises(WireError, match="another kind"):
        owner.open(scorer.score(parts))
    answer = scorer.score(scores)
    with pytest.raises(WireError, match="another kind"):
        owner.open_contributions(answer)
    explained = scorer.score(parts)
    with pytest.raises(WireError, match="another kind"):
        owner.open_contributions(explained, sealed=scores)
    other = owner.seal(X, explain=True)
    with pytest.raises(AuthenticationError, match="another request"):
        owner.open_contributions(explained, sealed=other)


def test_a_request_for_scores_does_not_pass_for_one_for_contributions():
    """The MAC's key depends on the kind: a peer in the middle cannot turn one into the other, which costs more."""
    model = table_model(3, 8)
    scorer, owner = pair(model)
    sealed = bytearray(owner.seal(records(model, 1)))
    at = sealed.index(b"\xa6sealed")  # msgpack: a string of 6 bytes
    forged = bytes(sealed[:at] + b"\xa7explain" + sealed[at + 7 :])
    forged = forged[:4] + (int.from_bytes(forged[4:6], "little") + 1).to_bytes(2, "little") + forged[6:]
    with pytest.raises(AuthenticationError, match="does not authenticate"):
        scorer.score(forged)
    assert scorer.bits_released() == 0


def test_lengths_follow_from_rows_and_blocks():
    model = table_model(9, 30)
    scorer, owner = pair(model)
    sealed = owner.seal(records(model, 17), explain=True, register=True)
    answer = scorer.score(sealed)
    p = scorer.parameters
    assert len(answer) - explained_bytes(p, 9, 17) < 300
    for wrong in (answer[:-17] + answer[-16:], answer + b"\0"):
        with pytest.raises(WireError, match="wrong length"):
            owner.open_contributions(wrong)


def test_more_records_than_one_answer_carries():
    model = table_model(60, 70)  # one record to a group, 60 answers of 49 kB each
    scorer, owner = pair(model)
    most = rows_of_one_answer(scorer.parameters, 60)
    assert 300 < most < 400
    with pytest.raises(ParameterError, match=f"at most {most}"):
        owner.seal(records(model, most + 1), explain=True)


def test_the_answers_second_parts_are_masked_each_by_itself():
    """Without masks the second parts of two equal requests are equal; with them no two coefficients stay."""
    model = table_model(3, 8)
    scorer, owner = pair(model)
    sealed = owner.seal(records(model, 1), explain=True)
    scorer.score(sealed)
    p = scorer.parameters
    seconds = []
    for protections in (Protections(rerandomise=False), Protections()):
        scorer._protections = protections
        for _ in range(2):
            answer = scorer.score(sealed)
            body = answer[-16 - explained_bytes(p, 3, 1) : -16]
            seconds.append([body[(b + 1) * p.answer_bytes(1) - p.part_bytes :][: p.part_bytes] for b in range(3)])
    assert seconds[0] == seconds[1]
    drawn = [
        np.frombuffer(part, dtype=np.uint8).reshape(-1, p.residue_bytes) for answer in seconds[2:] for part in answer
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one == other).all(axis=1).mean() < 0.001
