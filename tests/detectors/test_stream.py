"""One record at a time: the same integers as a table, the same refusals, whatever the record looks like."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, RollingState, Schema, records, rolling_features
from blindsight.detectors import ECOD, PCA, Detector, Mahalanobis, RandomFeatures
from blindsight.errors import BlindsightWarning, DataError, NotFittedError
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

DETECTORS = [
    pytest.param(ECOD(schema=MIXED_SCHEMA), id="ECOD, mixed"),
    pytest.param(ECOD(schema=NUMBER_SCHEMA, bins=7), id="ECOD, numbers"),
    pytest.param(Mahalanobis(schema=NUMBER_SCHEMA), id="Mahalanobis"),
    pytest.param(PCA(schema=NUMBER_SCHEMA), id="PCA"),
    pytest.param(RandomFeatures(schema=NUMBER_SCHEMA), id="RandomFeatures"),
]


def strange_table() -> pl.DataFrame:
    """At, below and above every edge; whole numbers; categories nobody declared."""
    ends = [0.0, 120.0, -1e300, 1e300, 5e-324, 60.0, 1.875]
    return pl.DataFrame(
        {
            "age": ends,
            "amount": ends[::-1],
            "balance": [-500, 500, 0, 1, 2, 3, 4],
            "country": ["DE", "FR", "GB", "US", "never declared", "XX", "DE"],
            "customer": range(7),
            "fraud": [0] * 7,
        }
    )


@pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_stream_scores_as_a_table_does(detector: Detector) -> None:
    model = detector.unfitted_copy().fit(make_table(300, 0))
    stream = model.stream()
    assert model.schema_ is not None
    for table in (make_table(60, 1), strange_table()):
        scores, labels = model.decision_function(table), model.predict(table)
        rows = list(table.iter_rows(named=True))
        assert [stream.score(row) for row in rows] == scores.tolist()
        assert [stream.predict(row) for row in rows] == labels.tolist()
        names = model.schema_.feature_names
        assert [stream.score([row[name] for name in names]) for row in rows] == scores.tolist()
        X = np.concatenate([chunk.X for chunk in records(model.schema_, table, warn=False)])
        assert [stream.score(row) for row in X] == scores.tolist()
        assert [stream.integer_score(row) * model.score_scale_ for row in X] == scores.tolist()


def test_random_records_land_in_the_same_bins() -> None:
    schema = Schema(tuple(Column(name=f"x{i}", low=-1, high=1, scale="linear") for i in range(3)))
    generator = np.random.default_rng(3)
    model = ECOD(schema=schema, bins=31).fit(generator.uniform(-1, 1, (500, 3)))
    edges = np.array(model.encoder_.edges[0])
    X = np.concatenate([generator.uniform(-0.999, 0.999, (500, 3)), np.tile(edges[:, None], 3)])
    X = np.concatenate([X, np.nextafter(X, -2), np.nextafter(X, 2)])
    with pytest.warns(BlindsightWarning, match="outside"):
        expected = model.decision_function(X)
    stream = model.stream()
    assert [stream.score(row) for row in X] == expected.tolist()


def test_missing_values_follow_the_schema() -> None:
    schema = Schema(
        (
            Column(name="a", low=0, high=10, missing="middle"),
            Column(name="b", low=1, high=9, missing=3.0, scale="log"),
            Column(name="c", type="category", categories=("x", "1", "true"), missing="x"),
        )
    )
    table = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 9.0], "c": ["x", "1", "true"]})
    model = ECOD(schema=schema, bins=8).fit(table)
    stream = model.stream()
    holes = pl.DataFrame({"a": [None, 2.0, 3.0], "b": [1.0, None, 9.0], "c": ["x", "1", None]})
    assert [stream.score(row) for row in holes.iter_rows(named=True)] == model.decision_function(holes).tolist()
    assert stream.score({"a": float("nan"), "b": 1, "c": ""}) == model.decision_function(holes[:1])[0]
    assert stream.score({"a": 2, "b": 2.0, "c": 1}) == stream.score({"a": 2.0, "b": 2.0, "c": "1"})
    assert stream.score({"a": 2, "b": 2.0, "c": 1.0}) == stream.score({"a": 2.0, "b": 2.0, "c": "1"})
    assert stream.score({"a": 2, "b": 2.0, "c": True}) == stream.score({"a": 2.0, "b": 2.0, "c": "true"})
    assert stream.score(np.array([2.0, 2.0, np.nan])) == stream.score({"a": 2.0, "b": 2.0, "c": "x"})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"age": 1.0, "amount": 2.0, "balance": 3.0}, "'country' is missing"),
        ({"age": None, "amount": 2.0, "balance": 3.0, "country": "DE"}, "'age' has a missing value"),
        ({"age": float("nan"), "amount": 2.0, "balance": 3.0, "country": "DE"}, "'age' has a missing value"),
        ({"age": float("inf"), "amount": 2.0, "balance": 3.0, "country": "DE"}, "'age' has an infinite value"),
        ({"age": "40", "amount": 2.0, "balance": 3.0, "country": "DE"}, "'age' is not a number"),
        ({"age": 1.0, "amount": 2.0, "balance": 3.0, "country": None}, "'country' has a missing value"),
        ({"age": 1.0, "amount": 2.0, "balance": 3.0, "country": 1.5}, "'country' is neither text"),
        ({"age": 1.0, "amount": 2.0, "balance": 3.0, "country": []}, "'country' holds no category"),
        ([1.0, 2.0], "another number of values"),
        (np.zeros((1, 4)), "another number of values"),
        (7.0, "another number of values"),
        ("age", "another number of values"),
        (np.array([1.0, 2.0, 3.0, 9.0]), "no such category code"),
    ],
)
def test_what_a_table_would_refuse_is_refused(record: object, message: str) -> None:
    stream = ECOD(schema=MIXED_SCHEMA).fit(make_table(50, 0)).stream()
    with pytest.raises(DataError, match=message):
        stream.score(record)  # type: ignore[arg-type]


def test_an_unfitted_model_has_no_stream() -> None:
    with pytest.raises(NotFittedError):
        ECOD(schema=MIXED_SCHEMA).stream()


def test_rolling_features_join_each_record() -> None:
    schema = Schema(
        (
            Column(name="when", role="time", type="number"),
            Column(name="terminal", role="entity", type="number"),
            Column(name="amount", low=0, high=100),
        )
    )
    generator = np.random.default_rng(5)
    table = pl.DataFrame(
        {
            "when": np.sort(generator.integers(0, 5000, 200)),
            "terminal": generator.integers(0, 5, 200),
            "amount": generator.uniform(0, 100, 200),
        }
    )
    options = {"schema": schema, "values": ["amount"], "windows": ["10m", "1h"], "most": 200}
    rolled, columns = rolling_features(table, **options)
    wide = Schema((*schema.columns, *columns))
    model = ECOD(schema=wide).fit(rolled)
    stream = model.stream(RollingState(**options))
    got = [stream.score(row) for row in table.iter_rows(named=True)]
    assert got == model.decision_function(rolled).tolist()
    with pytest.raises(DataError, match="without names"):
        stream.score([1.0])
