"""Feature selection by private sums: constants last, copies after what they copy, noise or not."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight.data import Column, Schema
from blindsight.detectors import Total, local_total, select_features
from blindsight.detectors._preparation import Preparation, preparation_query
from blindsight.detectors._selection import feature_weights, moments_query, pairwise_correlations
from blindsight.errors import ParameterError

RNG = np.random.default_rng(0)
ROWS = 4000
A, B = RNG.normal(0, 1, (2, ROWS))
TABLE = {
    "a": A,
    "nearly": A + RNG.normal(0, 0.05, ROWS),
    "same": np.full(ROWS, 1.0),
    "kind": RNG.choice(["x", "y", "z"], ROWS, p=[0.5, 0.3, 0.2]),
    "b": B,
    "one": np.full(ROWS, "x"),
    "opposite": -B,
}
SCHEMA = Schema(
    tuple(
        Column(name=name, type="category", categories=("x", "y", "z"))
        if name in ("kind", "one")
        else Column(name=name, low=-6, high=6)
        for name in TABLE
    )
)


def sums(deviation: float, asked: list[object] | None = None) -> object:
    rng = np.random.default_rng(1)

    def total_of(query: object) -> Total:
        if asked is not None:
            asked.append(query)
        total = local_total(query, SCHEMA, TABLE)
        noise = np.rint(rng.normal(0, deviation * query.sensitivity_l2, total.values.size)).astype(np.int64)
        return Total(values=total.values + noise, noise_variance=(deviation * query.sensitivity_l2) ** 2)

    return total_of


@pytest.mark.parametrize("deviation", [0.0, 0.2])
def test_select(deviation: float) -> None:
    names, ranks = select_features(SCHEMA, 3, sums(deviation))
    assert set(names) & {"a", "nearly"}
    assert set(names) & {"b", "opposite"}
    assert "kind" in names
    assert len(names) == 3
    assert list(names) == [name for name in TABLE if name in names]
    assert {rank.name for rank in ranks[5:]} == {"same", "one"}
    copies = {rank.name: rank.redundant_with for rank in ranks if rank.redundant_with}
    assert {frozenset(pair) for pair in copies.items()} == {frozenset(("a", "nearly")), frozenset(("b", "opposite"))}
    assert {rank.name for rank in ranks} == set(TABLE)


def test_the_sums_are_two_and_within_the_budget() -> None:
    asked: list[object] = []
    select_features(SCHEMA, 2, sums(0.0, asked))
    assert [query.name for query in asked] == ["prepare", "moments"]
    assert sum(query.fraction for query in asked) == pytest.approx(1.0)
    for query in asked:
        rows = [
            local_total(query, SCHEMA, {name: values[i : i + 1] for name, values in TABLE.items()}).values
            for i in range(20)
        ]
        assert max(np.sqrt(float((row.astype(object) ** 2).sum())) for row in rows) <= query.sensitivity_l2


def test_weights_are_mean_scores() -> None:
    """The mean of -log of the smaller tail, from sixteenths of the range; a constant's is nil."""
    preparation = Preparation.from_total(SCHEMA, local_total(preparation_query(SCHEMA), SCHEMA, TABLE))
    weights = dict(zip(TABLE, feature_weights(SCHEMA, preparation), strict=True))
    assert weights["same"] == weights["one"] == 0.0
    values = np.array([0.5, 0.3, 0.2])
    seen = np.array([np.mean(TABLE["kind"] == k) for k in "xyz"])
    assert weights["kind"] == pytest.approx(float(-seen @ np.log(seen)), abs=1e-6)
    assert abs(weights["kind"] - float(-values @ np.log(values))) < 0.05
    # for a continuous feature the smaller tail is uniform on (0, 1/2): the mean of -log of it is 1 + log 2
    assert 0.9 < weights["a"] < 1 + np.log(2)


def test_correlations() -> None:
    found = pairwise_correlations(SCHEMA, local_total(moments_query(SCHEMA), SCHEMA, TABLE))
    live = [0, 1, 4, 6]
    expected = np.abs(np.corrcoef([TABLE[name] for i, name in enumerate(TABLE) if i in live]))
    assert np.abs(found[np.ix_(live, live)] - expected).max() < 0.01
    for constant_or_category in (2, 3, 5):
        assert np.array_equal(found[constant_or_category], np.eye(7)[constant_or_category])


@pytest.mark.parametrize("k", [0, 8, 1.0, True])
def test_k(k: object) -> None:
    with pytest.raises(ParameterError):
        select_features(SCHEMA, k, sums(0.0))


def test_a_number_of_features_out_of_its_domain_is_refused() -> None:
    for wrong in (0, len(TABLE) + 1, 2.0, True, None):
        with pytest.raises(ParameterError, match=f"k is out of its domain.*a whole number, 1 to {len(TABLE)}"):
            select_features(SCHEMA, wrong, sums(0.0))  # type: ignore[arg-type]
