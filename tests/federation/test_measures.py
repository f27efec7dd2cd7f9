"""``evaluate`` against scikit-learn, ``describe`` against NumPy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import BlindsightWarning, DataError, ParameterError
from blindsight.federation import Policy
from sample_tables import make_table

from ._drive import dp, embedded, stacked, tables

FLOOR = "ignore:The federation has about"


@pytest.mark.parametrize("detector", [ECOD(), Mahalanobis()], ids=["ECOD", "Mahalanobis"])
def test_exact_evaluation_is_scikit_learns_within_the_grid(detector: object, number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=200), number_schema)
    model = federation.fit(detector, privacy=None)  # type: ignore[type-var]
    held = {name: make_table(150, 900 + i) for i, name in enumerate(federation.parties)}
    measured = federation.evaluate(model, data=held, privacy=None)
    rows = stacked(held)
    labels, scores = rows["fraud"].to_numpy(), model.decision_function(rows)
    assert measured.normal == (labels == 0).sum()
    assert measured.anomalous == (labels == 1).sum()
    assert measured.auroc == pytest.approx(roc_auc_score(labels, scores), abs=0.005)
    assert measured.average_precision == pytest.approx(average_precision_score(labels, scores), abs=0.03)
    flagged = scores > model.threshold_
    assert measured.false_positive_rate == pytest.approx(flagged[labels == 0].mean(), abs=0.02)
    assert measured.false_negative_rate == pytest.approx((~flagged)[labels == 1].mean(), abs=0.03)
    assert measured.roc[0].tolist() == [0.0, 0.0]
    assert measured.roc[-1].tolist() == [1.0, 1.0]
    assert (np.diff(measured.roc, axis=0) >= 0).all()
    assert measured.noise_stddev == 0.0


@pytest.mark.filterwarnings(FLOOR)
def test_noisy_evaluation_is_near(number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=1500), number_schema, Policy(maximum_epsilon=20))
    privacy = dp(8.0)
    model = federation.fit(ECOD(bins=16), privacy=privacy)
    measured = federation.evaluate(model, privacy=privacy)
    rows = stacked(tables(4, rows=1500))
    truth = roc_auc_score(rows["fraud"].to_numpy(), model.decision_function(rows))
    assert measured.auroc == pytest.approx(truth, abs=0.03)
    assert measured.certificate is not None
    assert [event["purpose"] for event in measured.certificate["events"]] == ["evaluation"]


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_has_no_auroc_and_is_said_so(only: int, number_schema: Schema) -> None:
    data = {name: t.with_columns(pl.lit(only, dtype=pl.Int64).alias("fraud")) for name, t in tables(3, rows=30).items()}
    federation = embedded(data, number_schema)
    model = federation.fit(ECOD(), privacy=None)
    with pytest.warns(BlindsightWarning, match=r"one class only: \d+ normal and \d+ anomalous"):
        measured = federation.evaluate(model, privacy=None)
    assert not measured.measurable, "an AUROC of one class is no number"
    assert (measured.auroc, measured.auroc_stddev) == (0.5, 0.5)
    assert (measured.normal, measured.anomalous) == ((0, len(stacked(data))) if only else (len(stacked(data)), 0))


def test_evaluation_without_labels_names_the_missing_ones(number_schema: Schema) -> None:
    data = tables(3, rows=20)
    federation = embedded(data, number_schema)
    model = federation.fit(ECOD(), privacy=None)
    with pytest.raises(DataError, match="Evaluation needs labels"):
        federation.evaluate(model, data={name: t.drop("fraud") for name, t in data.items()}, privacy=None)


def test_evaluation_data_for_a_stranger_is_refused(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=20), number_schema)
    model = federation.fit(ECOD(), privacy=None)
    with pytest.raises(ParameterError, match=r"not in this process.*Got: bank-77"):
        federation.evaluate(model, data={"bank-77": make_table(5, 1)}, privacy=None)


def test_exact_description_is_numpys(mixed_schema: Schema) -> None:
    data = tables(4, rows=150)
    rows = stacked(data)
    columns = {c.name: c for c in embedded(data, mixed_schema).describe(privacy=None)}
    assert list(columns) == ["age", "amount", "balance", "country"]
    for name, span in (("age", 120.0), ("amount", 10_000.0), ("balance", 1000.0)):
        values, column = rows[name].to_numpy(), columns[name]
        assert column.count == len(values)
        assert column.mean == pytest.approx(values.mean(), abs=span / 2000)
        assert column.variance == pytest.approx(values.var(), rel=0.01, abs=(span / 500) ** 2)
        outer = np.concatenate([[-np.inf], column.edges, [np.inf]])
        assert np.array_equal(column.histogram, np.histogram(values, outer)[0])
        if name != "amount":
            for q, value in column.quantiles.items():
                assert value == pytest.approx(np.quantile(values, q), abs=span / 62 * 1.01)
    country = columns["country"]
    counts = dict(rows["country"].value_counts().iter_rows())
    assert dict(zip(country.labels, country.histogram.tolist(), strict=False)) == counts
    assert country.histogram[-1] == 0
    assert country.mean is None
    assert country.quantiles == {}


def test_noisy_description_is_near_and_costs_what_was_asked(mixed_schema: Schema) -> None:
    data = tables(4, rows=3000)
    federation = embedded(data, mixed_schema, Policy())
    columns = {c.name: c for c in federation.describe(privacy=dp(4.0))}
    rows = stacked(data)
    for name, span in (("age", 120.0), ("balance", 1000.0)):
        values = rows[name].to_numpy()
        assert columns[name].count == pytest.approx(len(values), abs=200)
        assert columns[name].mean == pytest.approx(values.mean(), abs=span / 100)
        assert columns[name].variance == pytest.approx(values.var(), rel=0.15)
        assert columns[name].quantiles[0.5] == pytest.approx(np.median(values), abs=span / 40)
    for party in federation.parties.values():
        assert 3.8 < party.ledgers["record"].spent(1e-6) <= 4.0


def test_a_constant_column_is_described_and_fitted(number_schema: Schema) -> None:
    data = {name: t.with_columns(pl.lit(50.0).alias("age")) for name, t in tables(3, rows=60).items()}
    federation = embedded(data, number_schema)
    age = federation.describe(privacy=None)[0]
    assert age.mean == pytest.approx(50.0, abs=0.1)
    assert age.variance == pytest.approx(0.0, abs=0.1)
    for detector in (ECOD(), Mahalanobis()):
        model = federation.fit(detector, privacy=None)
        scores = model.decision_function(stacked(data))
        assert np.isfinite(scores).all()
        odd = stacked(data)[:1].with_columns(pl.lit(90.0).alias("age"))
        assert model.decision_function(odd)[0] > np.quantile(scores, 0.5)


def test_rank_deficient_data_stay_finite(number_schema: Schema) -> None:
    """Three columns on one line: PyOD's whitened PCA returns 1e17 on such data."""
    t = np.random.default_rng(0).random(300)
    labels = (t > 0.9).astype(int)
    line = pl.DataFrame({"age": 120 * t, "amount": 10_000 * t, "balance": -500 + 1000 * t, "fraud": labels})
    data = {"a": line[:100], "b": line[100:150], "c": line[150:]}
    model = embedded(data, number_schema).fit(Mahalanobis(), privacy=None)
    scores = model.decision_function(line)
    assert np.isfinite(scores).all()
    assert scores.max() < 1e4
    off = pl.DataFrame({"age": [60.0], "amount": [5000.0], "balance": [400.0]})
    assert model.decision_function(off)[0] > scores.max()


def test_one_record_in_all_is_fitted(number_schema: Schema) -> None:
    data = {name: make_table(1, i) for i, name in enumerate("abc")}
    for detector in (ECOD(), Mahalanobis()):
        model = embedded(data, number_schema).fit(detector, privacy=None)
        assert np.isfinite(model.decision_function(make_table(10, 3))).all()
        assert np.isfinite(model.threshold_)
