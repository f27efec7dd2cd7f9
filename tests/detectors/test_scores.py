"""Score grids, histograms and the thresholds read off them; detectors by name."""

from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.data import Column, Records, Schema
from blindsight.detectors import (
    ECOD,
    Mahalanobis,
    ScoreHistogram,
    SumQuery,
    detector_from_json,
    known_detectors,
    score_edges,
)
from blindsight.detectors._moments import clip_to_ball
from blindsight.errors import BlindsightWarning, DataError, FormatError, ParameterError, SchemaError
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table


@given(st.integers(-(2**61), 2**61), st.integers(-5, 2**61), st.integers(0, 2**61), st.integers(3, 2000))
@settings(max_examples=200, deadline=None)
def test_score_edges_are_a_usable_grid(low: int, first: int, width: int, bins: int) -> None:
    edges = score_edges(low, first, low + width, bins)
    assert edges.dtype == np.int64
    assert 1 <= edges.size <= bins - 1
    assert (np.diff(edges.astype(object)) > 0).all()
    assert low - 1 <= int(edges[0])
    tolerance = max(abs(low), width, 4) / 2**50 + 2
    assert abs(int(edges[-1]) - (low + max(width, 2))) <= tolerance


def histogram(scores: np.ndarray, bins: int = 400) -> ScoreHistogram:
    edges = score_edges(0, 20, int(scores.max()) + 1, bins)
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=edges.size + 1)
    return ScoreHistogram(edges=edges, counts=counts)


@given(st.integers(0, 1000), st.floats(0.001, 0.5))
@settings(max_examples=50, deadline=None)
def test_the_threshold_leaves_the_asked_fraction_above(seed: int, contamination: float) -> None:
    scores = np.random.default_rng(seed).gamma(3, 1000, 2000).astype(np.int64)
    found = histogram(scores).threshold(contamination)
    above = np.mean(scores > found)
    assert above == pytest.approx(contamination, abs=0.02)


def test_the_threshold_falls_as_contamination_grows() -> None:
    h = histogram(np.random.default_rng(0).gamma(3, 1000, 500).astype(np.int64))
    thresholds = [h.threshold(c) for c in np.linspace(0.001, 0.5, 60)]
    assert (np.diff(thresholds) <= 0).all()
    for bad in (0.0, -1.0, 0.51, math.nan):
        with pytest.raises(ParameterError):
            h.threshold(bad)


def test_noisy_tails_fall_and_empty_ones_do_not_add_up() -> None:
    generator = np.random.default_rng(1)
    exact = histogram(generator.gamma(3, 1000, 20_000).astype(np.int64), 128)
    noise = np.rint(generator.normal(0, 30, exact.counts.size)).astype(np.int64)
    noisy = ScoreHistogram(edges=exact.edges, counts=exact.counts + noise, noise_variance=900.0)
    assert (np.diff(noisy.tail) <= 0).all()
    assert (noisy.tail >= 0).all()
    for contamination in (0.05, 0.2, 0.4):
        relative = noisy.threshold(contamination) / exact.threshold(contamination)
        assert relative == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("contamination", [0.02, 0.2])
@pytest.mark.parametrize("ties", [False, True], ids=["smooth", "ties"])
@pytest.mark.parametrize("deviation", [3.0, 30.0, 150.0])
def test_the_share_above_a_noisy_threshold_lies_in_the_interval_stated(
    deviation: float, ties: bool, contamination: float
) -> None:
    generator = np.random.default_rng(5)
    scores = generator.gamma(3, 1000, 20_000)
    if ties:  # all records of a bin at one place: where in it the threshold falls decides over all of them
        scores = np.rint(scores / 1500) * 1500
    exact = histogram(scores.astype(np.int64), 128)
    within, widths = [], []
    for _ in range(300):
        noise = np.rint(generator.normal(0, deviation, exact.counts.size)).astype(np.int64)
        noisy = ScoreHistogram(edges=exact.edges, counts=exact.counts + noise, noise_variance=deviation**2)
        interval = noisy.alert_interval(contamination)
        assert interval is not None
        low, high = interval
        assert 0 <= low < high <= 1
        within.append(low <= np.mean(scores > noisy.threshold(contamination)) <= high)
        widths.append(high - low)
    assert np.mean(within) >= 0.92, "19 of 20, within what 300 draws can show"
    if not ties:
        noise_alone = 2 * 1.96 * deviation * math.sqrt(exact.counts.size) / scores.size
        assert np.mean(widths) <= noise_alone + 2 * exact.counts.max() / scores.size, "not so wide as to say nothing"


def test_an_interval_of_the_share_is_only_for_noise_and_holds_at_the_ends() -> None:
    exact = histogram(np.arange(1000), 20)
    assert exact.alert_interval(0.02) is None
    with pytest.raises(ParameterError, match="contamination"):
        exact.alert_interval(0.6)
    edges = np.array([10, 20])
    for counts in ([5, 0, 900], [0, 0, 0], [-3, -4, 2], [1, 900, 5]):
        interval = ScoreHistogram(edges=edges, counts=np.array(counts), noise_variance=4.0).alert_interval(0.1)
        assert interval is not None
        assert 0 <= interval[0] <= interval[1] <= 1
    top = ScoreHistogram(edges=edges, counts=np.array([5, 0, 900]), noise_variance=4.0)
    most = (900 + 1.96 * 2) / 905
    assert top.alert_interval(0.1) == pytest.approx((0.0, most)), "how many of the last bin score just at its edge?"
    low_only = ScoreHistogram(edges=edges, counts=np.array([1000, 0, 0]), noise_variance=4.0)
    assert low_only.alert_interval(0.1) == pytest.approx((0.0, 1.96 * 2 * math.sqrt(3) / 1000))


@given(st.lists(st.integers(-50, 100), min_size=4, max_size=12), st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_rebinning_loses_no_record(counts: list[int], ratio: float) -> None:
    h = ScoreHistogram(edges=np.arange(len(counts) - 1) * 10 + 5, counts=np.array(counts))
    moved = h.rebinned(np.arange(1, 500, 7), ratio)
    assert moved.counts.sum() == sum(counts)
    assert h.rebinned(h.edges, 1.0) is h
    mean, deviation = ScoreHistogram(edges=h.edges, counts=np.abs(h.counts)).moments()
    assert h.edges[0] <= mean <= h.edges[-1]
    assert deviation >= 1.0


def first_query(detector: ECOD | Mahalanobis) -> SumQuery:
    detector.begin(NUMBER_SCHEMA)
    query = detector.next_query()
    assert isinstance(query, SumQuery)
    return query


@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("detector", [ECOD(), Mahalanobis(), Mahalanobis(norm_clip=0.3)], ids=["E", "M", "M-clip"])
def test_no_record_at_all_adds_more_than_stated(detector: ECOD | Mahalanobis, rows: list[tuple]) -> None:
    query = first_query(detector)
    for row in rows:
        added = np.zeros(query.length, dtype=np.int64)
        with np.errstate(over="ignore"):
            query.add(added, Records(X=np.array([row])))
        assert math.sqrt(sum(int(v) ** 2 for v in added)) <= query.sensitivity_l2 * (1 + 1e-12)
        assert int(np.abs(added).max()) <= query.max_abs


def test_the_stated_sensitivity_is_attained() -> None:
    """A looser bound would cost noise for nothing."""
    corner = Records(X=np.array([[0.0, 0.0, -500.0]]))
    for detector, slack in ((ECOD(), 1e-12), (Mahalanobis(), 0.011)):
        query = first_query(detector)
        added = np.zeros(query.length, dtype=np.int64)
        query.add(added, corner)
        norm = math.sqrt(sum(int(v) ** 2 for v in added))
        assert norm == pytest.approx(query.sensitivity_l2, rel=slack)


def test_mahalanobis_refuses_categories_by_name() -> None:
    with pytest.raises(SchemaError, match=r"categorical column 'country'.*Fix: use ECOD"):
        Mahalanobis(schema=MIXED_SCHEMA).fit(make_table(20, 1))


def test_categories_score_by_frequency_and_unseen_ones_highest() -> None:
    table = make_table(400, 1).drop("country")
    model = ECOD(schema=MIXED_SCHEMA).fit(
        table.with_columns(country=np.array(["DE"] * 300 + ["FR"] * 80 + ["GB"] * 20))  # type: ignore[arg-type]
    )
    one = table[:1]

    def score(country: str) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(model.decision_function(one.with_columns(country=pl.lit(country)))[0])

    scores = [score(c) for c in ("DE", "FR", "GB", "US", "never declared")]
    assert scores[0] < scores[1] < scores[2] < scores[3]
    assert scores[3] == scores[4], "declared but never seen, and undeclared: the same"
    assert scores[1] - scores[0] == pytest.approx(math.log(300 / 80), abs=0.01)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"name": "ECOD"},
        {"name": "ECOD", "parameters": {}, "code": "import os"},
        {"name": "Unknown", "parameters": {}},
        {"name": {"a": 1}, "parameters": {}},
        {"name": "ECOD", "parameters": {"schema": None}},
        {"name": "ECOD", "parameters": {"self": 1}},
        {"name": "ECOD", "parameters": {"bins": {"a": 1}}},
        {"name": "ECOD", "parameters": {"bins": [[64]]}},
        {"name": "ECOD", "parameters": {"bins": [64] * 65}},
        {"name": "ECOD", "parameters": {"bins": [float("inf")]}},
        {"name": "ECOD", "parameters": {"contamination": float("nan")}},
        {"name": "ECOD", "parameters": {"contamination": "x" * 300}},
    ],
)
def test_descriptions_of_detectors_are_parsed_strictly(value: object) -> None:
    with pytest.raises(FormatError):
        detector_from_json(value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ECOD", {"bins": 3}),
        ("ECOD", {"bins": 1025}),
        ("ECOD", {"bins": True}),
        ("ECOD", {"bins": [64]}),
        ("ECOD", {"bins": 64.0}),
        ("ECOD", {"contamination": "much"}),
        ("ECOD", {"contamination": None}),
        ("Mahalanobis", {"norm_clip": 0.0}),
        ("Mahalanobis", {"norm_clip": 1.5}),
        ("Mahalanobis", {"eigenvalue_floor": 1.0}),
    ],
)
def test_parameters_out_of_their_domain_are_refused(name: str, parameters: dict) -> None:
    with pytest.raises(ParameterError):
        detector_from_json({"name": name, "parameters": parameters})


def test_third_party_detectors_load_only_by_allowed_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "Theirs"
        loaded = 0

        def load(self) -> type:
            Entry.loaded += 1
            return type("Theirs", (ECOD,), {"name": "Theirs"})

    monkeypatch.setattr("blindsight.detectors._registry.entry_points", lambda group: [Entry()])
    ours = set(known_detectors())
    assert {"ECOD", "Mahalanobis"} <= ours
    assert "Theirs" not in ours
    assert set(known_detectors(allowed=frozenset({"Other"}))) == ours
    assert Entry.loaded == 0, "code of an installed package runs only when its name is allowed"
    assert set(known_detectors(allowed=frozenset({"Theirs"}))) == {*ours, "Theirs"}
    assert isinstance(NUMBER_SCHEMA, Schema)


# -- updates --------------------------------------------------------------------------------------------------------


def _model(n: int = 600, seed: int = 0) -> tuple[ECOD, np.ndarray, Schema]:
    schema = Schema(tuple(Column(name=f"x{j}", low=-4.0, high=4.0) for j in range(3)))
    X = np.random.default_rng(seed).normal(size=(n, 3))
    return ECOD(bins=16, contamination=0.05, schema=schema), X, schema


def test_forgetting_leaves_as_many_scores_as_records():
    model, X, _ = _model()
    model.fit(X[:200])
    for start in range(200, 600, 100):
        model.partial_fit(X[start : start + 100])
    model.forget(X[:300])
    assert model.n_records_ == 300
    assert model.score_histogram_.counts.sum() == 300
    assert model.score_histogram_.counts.min() >= 0
    with pytest.raises(DataError, match="would leave nothing"):
        model.forget(X[300:])


@pytest.mark.parametrize("contamination", [0.1, 0.2, 0.3, 0.5])
def test_an_exact_threshold_never_flags_more_than_asked(contamination):
    X = (np.random.default_rng(0).random((500, 2)) < [0.1, 0.3]).astype(float)
    schema = Schema(tuple(Column(name=f"x{j}", low=0.0, high=1.0) for j in range(2)))
    model = ECOD(contamination=contamination, schema=schema).fit(X)
    assert model.predict(X).mean() <= contamination


def test_parameters_of_the_fit_may_not_change_afterwards(tmp_path):
    model, X, _ = _model()
    model.fit(X)
    model.set_params(contamination=0.2)
    model.save(tmp_path / "m.blindsight")
    model.set_params(bins=32)
    for use in (lambda: model.save(tmp_path / "n.blindsight"), lambda: model.partial_fit(X), lambda: model.forget(X)):
        with pytest.raises(ParameterError, match="changed after it was fitted"):
            use()
    assert not (tmp_path / "n.blindsight").exists()


def test_an_updated_model_does_not_keep_the_certificate_of_its_release():
    model, X, _ = _model()
    model.fit(X)
    assert model.partial_fit(X).certificate_ is None
    model.certificate_ = {"differential_privacy": True, "statement": "s"}
    model.partial_fit(X[:5])
    assert model.certificate_["differential_privacy"] is False
    assert model.certificate_["earlier"][0]["statement"] == "s"


@pytest.mark.parametrize("value", [None, "auto", True, 0, 0.6, float("nan")])
def test_contamination_is_a_number_in_its_domain(value):
    model, X, _ = _model()
    with pytest.raises(ParameterError, match="contamination"):
        model.set_params(contamination=value).fit(X)


def test_a_ball_that_clips_nothing_clips_nothing():
    for d in (1, 14, 18, 31, 59):
        schema = Schema(tuple(Column(name=f"x{j}", low=0.0, high=1.0) for j in range(d)))
        model = Mahalanobis(schema=schema)
        encoder = model.encoder(schema)
        corner = encoder.quantise(np.ones((1, d)))
        assert np.array_equal(clip_to_ball(corner, model.radius_squared(encoder)), corner)


def test_a_quadratic_too_wide_for_its_weights_says_so():
    rng = np.random.default_rng(0)
    redundant = rng.normal(size=(900, 30)) @ rng.normal(size=(30, 300)) + 0.05 * rng.normal(size=(900, 300))
    with pytest.warns(BlindsightWarning, match="rounding the weights"):
        Mahalanobis().fit(redundant)


def test_a_models_text_is_short_whatever_its_schema(number_schema):
    from blindsight.detectors import ECOD

    model = ECOD(schema=number_schema, bins=32)
    assert repr(model) == "ECOD(bins=32)"
    assert model.schema is number_schema


def test_ranges_learned_from_few_records_are_warned_of() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    for detector in (ECOD, Mahalanobis):
        for rows in (1, 49):
            with pytest.warns(BlindsightWarning, match=f"fitted on {rows} records, fewer than 50") as told:
                model = detector().fit(X[:rows])
            assert len(told) == 1
            assert told[0].filename == __file__
            assert np.isfinite(model.decision_function(X[:rows])).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detector().fit(X)
            # declared ranges are not learned from anything
            detector(schema=Schema.infer(X).declare()).fit(X[:49])
