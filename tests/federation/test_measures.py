"""``evaluate`` against scikit-learn, ``describe`` against NumPy."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD, Detector, Mahalanobis
from blindsight.errors import BlindsightWarning, DataError, ParameterError
from blindsight.federation import Evaluation, Federation, Policy
from blindsight.federation._bootstrap import spread_of
from blindsight.federation._breakdown import kept_breakdowns
from blindsight.federation._certificate import epsilon_by_party
from blindsight.federation._curves import curves_of
from blindsight.federation._evaluation import evaluation_query
from blindsight.privacy import shown_epsilon
from sample_tables import NUMBER_SCHEMA, make_table

from ._drive import dp, embedded, faulty, stacked, tables

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
    assert np.isnan(measured.average_precision)
    of_nobody, of_all = measured.false_negative_rate, measured.false_positive_rate
    if only:
        of_nobody, of_all = of_all, of_nobody
    assert np.isnan(of_nobody), "a rate over no record is no number"
    assert 0 <= of_all <= 1
    assert not measured.both_classes
    assert measured.to_json()["average_precision"] is None
    shown = measured._repr_html_()
    assert shown.count("not measurable") == 3
    assert "<svg" not in shown, "no empty frame"
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


def test_one_record_in_all_is_fitted_and_warned_of_once(number_schema: Schema) -> None:
    data = {name: make_table(1, i) for i, name in enumerate("abc")}
    for detector in (ECOD(), Mahalanobis()):
        with pytest.warns(BlindsightWarning, match="has about 3 records in all, fewer than 50") as warned:
            model = embedded(data, number_schema).fit(detector, privacy=None)
        assert len(warned) == 1
        assert warned[0].filename == __file__
        assert np.isfinite(model.decision_function(make_table(10, 3))).all()
        assert np.isfinite(model.threshold_)


# -- curves, thresholds, intervals, whose records --------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> tuple[Federation, Detector, Evaluation, dict[str, pl.DataFrame]]:
    federation = embedded(tables(4, rows=400), NUMBER_SCHEMA)
    model = federation.fit(ECOD(), privacy=None)
    held = {name: make_table(700, 900 + i) for i, name in enumerate(federation.parties)}
    return federation, model, federation.evaluate(model, data=held, privacy=None), held


def test_curves_are_scikit_learns(measured: tuple) -> None:
    _, model, evaluation, held = measured
    rows = stacked(held)
    labels, scores = rows["fraud"].to_numpy(), model.decision_function(rows)
    assert np.isinf(evaluation.thresholds[[0, -1]]).all()
    for (fpr, tpr), (recall, precision), score in zip(
        evaluation.roc[1:-1:20], evaluation.precision_recall[1:-1:20], evaluation.thresholds[1:-1:20], strict=True
    ):
        flagged = scores > score - model.score_scale_ / 2  # a score on an edge lies above it
        assert fpr == pytest.approx(flagged[labels == 0].mean(), abs=1e-9)
        assert tpr == pytest.approx(flagged[labels == 1].mean(), abs=1e-9)
        assert recall == tpr
        if flagged.any():
            assert precision == pytest.approx(labels[flagged].mean(), abs=1e-9)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
def test_a_threshold_for_a_false_positive_rate(measured: tuple, fpr: float) -> None:
    _, model, evaluation, held = measured
    rows = stacked(held)
    normal = model.decision_function(rows)[rows["fraud"].to_numpy() == 0]
    threshold = evaluation.threshold_for(fpr=fpr)
    assert np.mean(normal >= threshold) <= fpr
    assert np.mean(normal >= threshold) > 0.6 * fpr, "and not far below it"
    contamination = evaluation.contamination_for(model, fpr=fpr)
    moved = modelfile.loads(modelfile.dumps(model)).set_params(contamination=contamination)
    assert np.mean(normal > moved.threshold_) == pytest.approx(fpr, rel=0.35)


def test_a_rate_that_the_records_cannot_tell_is_warned_of(measured: tuple) -> None:
    _, _, evaluation, _ = measured
    with pytest.warns(BlindsightWarning, match="cannot be set precisely"):
        evaluation.threshold_for(fpr=1e-4)
    for bad in (0.0, 1.0, -0.1, "1%", None):
        with pytest.raises(ParameterError, match="fpr is out of its domain"):
            evaluation.threshold_for(fpr=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shift", "anomalous", "stddev"), [(1.0, 100, 5.0), (2.0, 100, 5.0), (2.0, 40, 5.0), (2.0, 100, 0.0)]
)
def test_intervals_cover_the_true_auroc(shift: float, anomalous: int, stddev: float) -> None:
    """Simulated releases of Gaussian scores, whose AUROC is known: at least 90% of the 95% intervals hold it."""
    generator = np.random.default_rng(5)
    shares = np.array([0.5, 0.25, 0.1, 0.05, 0.02, 0.01]) if stddev else np.linspace(0.995, 0.005, 100)
    edges = np.unique(np.rint(norm.isf(shares) * 1000).astype(np.int64))
    truth = norm.cdf(shift / np.sqrt(2))
    inside, widths = 0, []
    for _ in range(60):
        drawn = [generator.normal(0, 1000, 2000), generator.normal(shift * 1000, 1000, anomalous)]
        counts = [np.bincount(np.searchsorted(edges, scores), minlength=edges.size + 1) for scores in drawn]
        noisy = [np.rint(c + generator.normal(0, stddev, c.size)).astype(np.float64) for c in counts]
        curves = curves_of(edges, *noisy, stddev**2, 2000.0)
        estimate, half = curves.measures()["auroc"], spread_of(curves)["auroc"]
        inside += estimate - half <= truth <= estimate + half
        widths.append(half)
    assert inside >= 54
    assert np.median(widths) < (0.25 if anomalous < 100 else 0.12), "an interval of everything says nothing"


def test_intervals_are_in_range_and_hold_the_estimate(measured: tuple) -> None:
    _, _, evaluation, _ = measured
    assert set(evaluation.intervals) == {
        "auroc",
        "average_precision",
        "false_positive_rate",
        "false_negative_rate",
    }
    for name, (low, high) in evaluation.intervals.items():
        assert 0 <= low <= getattr(evaluation, name) <= high <= 1
    json.dumps(evaluation.to_json())


def test_every_party_keeps_its_own_figures(measured: tuple) -> None:
    federation, model, evaluation, held = measured
    assert set(evaluation.breakdown) == set(held)
    for name, own in evaluation.breakdown.items():
        labels, scores = held[name]["fraud"].to_numpy(), model.decision_function(held[name])
        assert own.party == name
        assert own.left_party is False
        assert (own.records, own.anomalous) == (700, labels.sum())
        assert own.auroc == pytest.approx(roc_auc_score(labels, scores))
        assert own.false_positive_rate == pytest.approx((scores > model.threshold_)[labels == 0].mean())
        assert np.mean(scores > own.own_threshold) <= model.contamination
        assert np.mean(scores > own.own_threshold) > model.contamination - 0.02
        (kept,) = [b for b in kept_breakdowns(federation.parties[name]._own.store) if b.run == own.run]
        assert kept == own
    assert "breakdown" not in evaluation.to_json()


def test_no_message_holds_a_partys_own_figures(number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=100), number_schema)
    model = federation.fit(ECOD(), privacy=None)
    channel = faulty(federation)
    evaluation = federation.evaluate(model, privacy=None)
    sent = b"".join(answer for answers in channel.answers for answer in answers.values())
    assert len(evaluation.breakdown) == 4
    for own in evaluation.breakdown.values():
        for value in (own.auroc, own.own_threshold):
            assert struct.pack("<d", value) not in sent
            assert struct.pack(">d", value) not in sent
            assert repr(value).encode() not in sent


def test_a_party_of_one_class_has_no_auroc_of_its_own(number_schema: Schema) -> None:
    data = tables(3, rows=60)
    data["bank-00"] = data["bank-00"].with_columns(pl.lit(0, dtype=pl.Int64).alias("fraud"))
    federation = embedded(data, number_schema)
    evaluation = federation.evaluate(federation.fit(ECOD(), privacy=None), privacy=None)
    own = evaluation.breakdown["bank-00"]
    assert own.auroc is None
    assert own.false_negative_rate is None
    assert own.false_positive_rate is not None
    assert evaluation.measurable


def test_a_validation_set_of_ones_own_asks_no_party(measured: tuple) -> None:
    federation, model, _, _ = measured
    table = make_table(600, 77)
    runs = len(federation.history)
    evaluation = federation.evaluate(model, validation=table)
    assert evaluation.source == "validation set"
    assert evaluation.noise_stddev == 0
    assert evaluation.certificate is None
    assert not evaluation.breakdown
    assert len(federation.history) == runs
    truth = roc_auc_score(table["fraud"].to_numpy(), model.decision_function(table))
    assert evaluation.auroc == pytest.approx(truth, abs=0.005)
    with pytest.raises(ParameterError, match="neither the parties' data nor a budget"):
        federation.evaluate(model, validation=table, privacy=dp())
    with pytest.raises(ParameterError, match="Say how private"):
        federation.evaluate(model)


def test_under_noise_few_bins_are_asked_for(measured: tuple) -> None:
    _, model, _, _ = measured
    assert evaluation_query(model, private=True).length <= 2 * 8
    assert evaluation_query(model, private=False).length > 100
    assert evaluation_query(model).length == evaluation_query(model, private=False).length


def test_curves_are_drawn_and_shown(measured: tuple, tmp_path: Path) -> None:
    federation, _, evaluation, held = measured
    evaluation.plot().savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    for shown in (evaluation._repr_html_(), federation._repr_html_()):
        assert "<script" not in shown
        assert "http" not in shown
        for value in held["bank-00"]["balance"].to_list()[:50]:
            assert repr(value) not in shown
    assert evaluation._repr_html_().count("<svg") == 2
    assert "bank-03" in federation._repr_html_()


@pytest.mark.filterwarnings(FLOOR)
def test_every_run_is_a_row_that_can_be_told_from_the_others(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    for detector, privacy in (
        (ECOD(), dp(1.0)),
        (ECOD(bins=16), dp(1.0)),
        (ECOD(), dp(1.0, trust="local")),
        (ECOD(), None),
    ):
        federation.fit(detector, privacy=privacy)
    rows = [row for row in federation._repr_html_().split("<tr>") if ">fit ECOD" in row]
    for record, row in zip(federation.history, rows, strict=True):
        assert record.run in row
    plain, bins, local, exact = (row.split("</td>", 1)[1].rsplit("<td", 2)[0] for row in rows)
    assert len({plain, bins, local, exact}) == 4, "without name, seconds and bytes"
    assert "fit ECOD(bins=16)" in bins
    assert "trust=&#x27;local&#x27;" in local
    assert "exact sums" in exact
    spent = federation.history[0].steps
    assert f"{shown_epsilon(epsilon_by_party(spent, sorted(federation.parties), 1e-6)['bank-00'])}<" in plain
