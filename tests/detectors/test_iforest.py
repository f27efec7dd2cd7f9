"""IForest and VotingForest against path lengths found by walking; their refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

import blindsight as bs
from blindsight.circuits import TreeLeaves
from blindsight.data import Column, Schema, records
from blindsight.detectors import IForest, Local, Total, VotingForest, local_total
from blindsight.detectors.iforest import RECORD_MASS, expected_path, path_lengths
from blindsight.errors import BlindsightWarning, ParameterError, PolicyError
from blindsight.testing import detector_checks
from sample_tables import MIXED_SCHEMA, make_table

BOX = Schema(tuple(Column(name=f"x{i}", low=-5, high=5) for i in range(4)))


def c(n: float) -> float:
    """Equation 1 of Liu et al. 2008."""
    return 0.0 if n <= 1 else 1.0 if n == 2 else 2 * (math.log(n - 1) + 0.5772156649015329) - 2 * (n - 1) / n


def cloud(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A correlated cloud, one in twenty of it scattered."""
    generator = np.random.default_rng(seed)
    odd = generator.random(rows) < 0.05
    X = generator.normal(size=(rows, 4)) * 0.6
    X[:, 1] += X[:, 0]
    X[odd] = generator.uniform(-5, 5, size=(odd.sum(), 4))
    return X, odd.astype(int)


def test_scores_are_the_mean_path_lengths_of_records_walked_one_by_one() -> None:
    X, _ = cloud(150, 0)
    model = IForest(trees=6, depth=5, schema=BOX).fit(X)
    encoder = model.encoder_
    assert isinstance(encoder, TreeLeaves)
    trees = encoder.structure
    cells = np.array([[np.searchsorted(e, v, side="right") for e, v in zip(encoder.edges, x, strict=True)] for x in X])
    paths = np.zeros((len(X), 6), dtype=object)
    for t in range(6):
        for i, cell in enumerate(cells):
            node, path = 0, [0]
            for _ in range(5):
                node = 2 * node + 1 + int(cell[trees.features[t, node]] > trees.cuts[t, node])
                path.append(node)
            paths[i, t] = path
    lengths = np.zeros((len(X), 6))
    for t in range(6):
        mass: dict[int, float] = {}
        for path in paths[:, t]:
            for node in path:
                mass[node] = mass.get(node, 0.0) + RECORD_MASS
        for i, path in enumerate(paths[:, t]):
            lengths[i, t] = sum(mass[node] > 1 for node in path[:-1]) + c(mass[path[-1]])
    scores = model.decision_function(X)
    difference = scores + lengths.mean(axis=1)
    # a constant apart, and rounded to 2**-10 a tree
    assert np.ptp(difference) <= 2.0**-10
    assert np.corrcoef(scores, lengths.mean(axis=1))[0, 1] < -0.999


def test_path_lengths_by_hand() -> None:
    # a tree of depth 2: masses 3, 0 | 1, 0; the right half is alone after one test
    lengths = path_lengths(np.array([[3.0, 0.0, 1.0, 0.0]]))
    assert lengths.tolist() == [[2 + c(3), 2.0, 1.0, 1.0]]
    assert np.allclose(expected_path(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 256.0])), [0, 0, 0.5, 1, c(3), c(256)])


def test_it_ranks_as_well_as_the_forest_of_scikit_learn() -> None:
    X, y = cloud(3000, 1)
    ours = roc_auc_score(y, IForest(schema=BOX).fit(X).decision_function(X))
    theirs = roc_auc_score(y, -IsolationForest(random_state=0).fit(X).score_samples(X))
    assert ours > theirs - 0.01
    assert ours > 0.9


def test_a_subsample_shows_every_tree_its_part_of_the_records() -> None:
    X, y = cloud(4000, 1)
    model = IForest(trees=40, subsample=0.25, schema=BOX).fit(X)
    masses = model.totals_.reshape(40, -1).sum(axis=1)
    assert masses.sum() == 10 * len(X), "every record counts in ten trees"
    assert model.n_records_ == len(X)
    assert np.abs(masses - 1000).max() < 6 * math.sqrt(4000 * 0.25 * 0.75)
    assert model.fit_query(BOX).sensitivity_l2 == math.sqrt(10)
    whole = IForest(trees=40, schema=BOX).fit(X)
    assert roc_auc_score(y, model.decision_function(X)) > roc_auc_score(y, whole.decision_function(X)) - 0.02
    parts = IForest(trees=40, subsample=0.25, schema=BOX).fit(X[1000:].astype(np.float32)).partial_fit(X[:1000])
    parts.forget(X[:500])
    rest = IForest(trees=40, subsample=0.25, schema=BOX).fit(np.concatenate([X[500:1000], X[1000:].astype(np.float32)]))
    assert np.array_equal(parts.totals_, rest.totals_), "a record's trees are its own, whoever counts it, and when"


def test_an_undeclared_category_and_a_value_never_seen_score_higher() -> None:
    table = make_table(2000, 2)
    model = IForest(schema=MIXED_SCHEMA).fit(table)
    usual = table.head(1).with_columns(age=45.0, amount=55.0, balance=0.0, country=table["country"][:1])
    wild = usual.with_columns(age=1e9, balance=-1e9)
    with pytest.warns(BlindsightWarning, match="outside"):
        score = model.decision_function(wild)[0]
    assert score > model.threshold_ > model.decision_function(usual)[0]


def test_learned_scales_help_where_the_declared_ranges_are_far_too_wide() -> None:
    X, y = cloud(3000, 3)
    wide = Schema(tuple(Column(name=f"x{i}", low=-5000, high=5000) for i in range(4)))
    declared = roc_auc_score(y, IForest(schema=wide).fit(X).decision_function(X))
    # the fine histogram of the range has one bin for all of it, or two: the help is as fine as that histogram
    narrow = Schema(tuple(Column(name=f"x{i}", low=-60, high=60) for i in range(4)))
    learned = IForest(schema=narrow, scales="learned").fit(X)
    assert roc_auc_score(y, learned.decision_function(X)) > declared + 0.1
    assert roc_auc_score(y, learned.decision_function(X)) > 0.9
    assert not learned.is_secret_
    assert IForest(schema=narrow).fit(X).is_secret_


def test_noise_moves_the_ranking_little_and_the_masses_stay_possible() -> None:
    X, y = cloud(20_000, 4)
    privacy = bs.DifferentialPrivacy(epsilon=1.0, delta=1e-6)
    data = {name: X[i::3] for i, name in enumerate("abc")}
    policy = bs.Policy(maximum_epsilon=10, detectors=("IForest",))
    with bs.Federation.embedded(data, schema=BOX, policy=policy) as federation:
        noisy = federation.fit(IForest(), privacy=privacy)
    exact = IForest(schema=BOX).fit(X)
    auroc = [roc_auc_score(y, model.decision_function(X)) for model in (exact, noisy)]
    assert auroc[1] > auroc[0] - 0.02
    assert noisy.noise_variance_ > 0
    assert noisy.circuit_.weights.min() >= 0


def test_the_noise_floor_grows_with_noise_and_leaves() -> None:
    assert IForest(depth=8).noise_floor(100.0) == 320
    assert IForest(depth=6).noise_floor(100.0) == 160


@pytest.mark.parametrize(
    "parameters",
    [
        {"trees": 0},
        {"trees": 4097},
        {"trees": 2.0},
        {"depth": 9},
        {"depth": True},
        {"seed": -1},
        {"scales": "x"},
        {"subsample": 0.0},
    ],
)
def test_bad_parameters_are_refused_by_name(parameters: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        IForest(**parameters, schema=BOX).fit(cloud(20, 5)[0])  # type: ignore[arg-type]


# -- VotingForest ------------------------------------------------------------------------------------------------------


def forests_of(model: VotingForest, parts: list[np.ndarray]) -> VotingForest:
    """Fit as a federation does: one row a party."""
    model.begin(BOX)
    query = model.next_query()
    assert query is not None
    rows = [local_total(query, BOX, part).values for part in parts]
    model.advance(query, Total(values=np.concatenate(rows), parties=tuple(str(i) for i in range(len(rows)))))
    query = model.next_query()
    assert query is not None
    model.advance(query, Total(values=np.sum([local_total(query, BOX, part).values for part in parts], axis=0)))
    assert model.next_query() is None
    return model


def test_a_forest_of_one_party_ranks_as_well_as_that_of_scikit_learn() -> None:
    X, y = cloud(3000, 6)
    model = VotingForest(schema=BOX).fit(X)
    theirs = -IsolationForest(n_estimators=50, random_state=0).fit(X).score_samples(X)
    scores = model.decision_function(X)
    assert roc_auc_score(y, scores) > roc_auc_score(y, theirs) - 0.02
    assert np.corrcoef(scores, theirs)[0, 1] > 0.9
    assert scores.min() > 0
    assert scores.max() < 1


def test_the_score_is_the_mean_of_the_forests_votes() -> None:
    X, _ = cloud(600, 7)
    parts = [X[:100], X[100:300], X[300:]]
    alone = [forests_of(VotingForest(trees=8), [part]) for part in parts]
    together = forests_of(VotingForest(trees=8), parts)
    votes = np.mean([model.decision_function(X) for model in alone], axis=0)
    assert np.allclose(together.decision_function(X), votes, atol=1e-9)


def test_a_vote_is_two_to_the_power_of_the_path_length() -> None:
    X, _ = cloud(60, 8)
    model = forests_of(VotingForest(trees=3, depth=4, samples=16), [X])
    inner, per_tree = 15, 46
    forest = model.forests_[0].reshape(3, per_tree)
    edges = np.linspace(-5, 5, 255)
    expected = []
    for x in X:
        lengths = []
        for tree in forest:
            node = 0
            for _ in range(4):
                cell = np.searchsorted(edges, x[tree[node]], side="right")
                node = 2 * node + 1 + int(cell > tree[inner + node])
            lengths.append(tree[2 * inner + node - inner] / 256)
        expected.append(2 ** (-np.mean(lengths) / c(16)))
    assert np.allclose(model.decision_function(X), expected, atol=2e-5)


def test_a_party_of_one_record_changes_no_ranking_and_one_without_records_nothing() -> None:
    X, _ = cloud(300, 9)
    alone, beside = forests_of(VotingForest(trees=4), [X]), forests_of(VotingForest(trees=4), [X[:1], X])
    # a forest of one record calls everything as anomalous as can be
    assert np.allclose(beside.decision_function(X), (1.0 + alone.decision_function(X)) / 2)
    model = VotingForest(trees=4)
    model.begin(BOX)
    query = model.next_query()
    assert query is not None
    nothing = query.update(Local(records=lambda: iter(())))  # type: ignore[union-attr]
    assert "no records" in nothing.notice
    with pytest.raises(ParameterError, match="forest"):
        model.advance(query, Total(values=nothing.values[None, :]))
    model.advance(query, Total(values=np.stack([nothing.values, local_total(query, BOX, X).values[0]])))
    assert np.array_equal(model.forests_, alone.forests_)


def test_differential_privacy_is_refused_by_name() -> None:
    model = VotingForest(schema=BOX)
    model.begin(BOX)
    query = model.next_query()
    assert query is not None
    with pytest.raises(ParameterError, match="VotingForest cannot be fitted with differential privacy"):
        model.advance(query, Total(values=np.ones((2, query.length), dtype=np.int64), noise_variance=1.0))
    noise = bs.DifferentialPrivacy(epsilon=1.0, delta=1e-6)
    X, _ = cloud(50, 10)
    with pytest.raises(ParameterError, match="IForest"):
        query.update(Local(records=lambda: records(BOX, X), noise=noise))  # type: ignore[union-attr, arg-type]


def test_a_federation_fits_it_only_where_every_policy_allows_updates_in_the_clear() -> None:
    X, y = cloud(900, 11)
    data = {name: X[i::3] for i, name in enumerate("abc")}
    closed = bs.Policy(allow_exact_sums=True, detectors=("VotingForest",))
    with bs.Federation.embedded(data, schema=BOX, policy=closed) as federation, pytest.raises(PolicyError):
        federation.fit(VotingForest(trees=10), privacy=None)
    opened = bs.Policy(allow_exact_sums=True, allow_unmasked_updates=True, detectors=("VotingForest",))
    with bs.Federation.embedded(data, schema=BOX, policy=opened) as federation:
        model = federation.fit(VotingForest(trees=10), privacy=None)
    assert len(model.forests_) == 3
    assert roc_auc_score(y, model.decision_function(X)) > 0.9
    assert not model.is_secret_


NOT_FOR_FORESTS = {"bounds_of_updates", "federated", "federated_private", "blind"}
"""These ask for privacy, for a policy that allows no update in the clear, or for the blind scorer's own refusal."""


@pytest.mark.parametrize("name", sorted(set(detector_checks(VotingForest)) - NOT_FOR_FORESTS))
def test_voting_forest_against_the_checks_that_apply(name: str) -> None:
    detector_checks(VotingForest)[name](lambda: VotingForest(trees=5, depth=5, samples=32), MIXED_SCHEMA)


@pytest.mark.parametrize("place", [0, 255, 510])
def test_a_forest_that_does_not_fit_the_schema_is_refused(place: int) -> None:
    model = VotingForest(trees=1, schema=BOX).fit(cloud(100, 12)[0])
    state = model.dump()
    for wild in (-1, 1 << 40):
        forests = state.arrays["forests"].copy()
        forests[0, place] = wild
        with pytest.raises(ParameterError, match="fit the schema"):
            VotingForest(trees=1).load_state(
                BOX, type(state)(values=state.values, arrays={**state.arrays, "forests": forests})
            )
