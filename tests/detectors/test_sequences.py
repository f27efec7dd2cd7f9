"""Window detectors: scores look back and never ahead, series stay apart, and the privacy of aligned windows."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

import torch
from sklearn.metrics import roc_auc_score

from blindsight import DifferentialPrivacy, Federation, Policy, load, modelfile
from blindsight.data import Column, Schema, records
from blindsight.detectors import (
    ConvAutoEncoder,
    Local,
    LSTMAutoEncoder,
    SequenceDetector,
    SumQuery,
    Total,
    Training,
    TransformerAutoEncoder,
    UpdateQuery,
    detector_from_json,
    detector_to_json,
    local_total,
)
from blindsight.errors import BlindsightWarning, DataError, NotFittedError, ParameterError, SchemaError
from blindsight.privacy import SampledNoise
from blindsight.testing import check_detector, detector_checks
from sample_tables import NUMBER_SCHEMA

torch.set_num_threads(1)

SCHEMA = Schema(
    (
        Column(name="when", role="time", type="number"),
        Column(name="machine", role="entity", type="text"),
        Column(name="speed", low=-2, high=2),
        Column(name="heat", low=-2, high=2),
    )
)
POLICY = Policy(allow_exact_sums=True, detectors=("LSTMAutoEncoder",))
SHORT = Training(rounds=2, learning_rate=0.1, clip_norm=10.0)
KINDS = [LSTMAutoEncoder, TransformerAutoEncoder]


def table(rows: int = 240, seed: int = 0, machines: str = "ab") -> pl.DataFrame:
    """Two machines that turn at speeds of their own, interleaved."""
    generator = np.random.default_rng(seed)
    step = np.repeat(np.arange(rows // len(machines)), len(machines))
    which = np.tile(np.arange(len(machines)), rows // len(machines))
    phase = step / (3.0 + which)
    noise = generator.normal(0, 0.05, (len(step), 2))
    return pl.DataFrame(
        {
            "when": step.astype(float),
            "machine": np.array(list(machines))[which],
            "speed": np.sin(phase) + noise[:, 0],
            "heat": np.cos(phase) + noise[:, 1],
        }
    )


def fitted(cls: type[SequenceDetector], **options: object) -> SequenceDetector:
    return cls(**{"window": 8, "training": SHORT, "schema": SCHEMA, **options}).fit(table())


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("options", [{}, {"horizon": 2}, {"normalise": "window", "point": "last"}])
def test_scores_look_back_and_never_ahead(cls: type[SequenceDetector], options: dict[str, object]) -> None:
    model = fitted(cls, **options)
    data = table(120, 1)
    scores = model.decision_function(data)
    assert scores.shape == (120,)
    assert np.isfinite(scores).all()
    assert np.array_equal(model.decision_function(data[:50]), scores[:50])
    changed = data.with_columns(speed=pl.when(pl.int_range(pl.len()) == 60).then(1.9).otherwise(pl.col("speed")))
    moved = np.flatnonzero(model.decision_function(changed) != scores)
    # machine "a" has the even rows; a score reaches back over span rows of its own series
    assert set(moved) <= set(range(60, 60 + 2 * model.span, 2))
    assert len(moved) >= model.span // 2


@pytest.mark.parametrize("cls", KINDS)
def test_series_stay_apart(cls: type[SequenceDetector]) -> None:
    model = fitted(cls)
    data = table(120, 1)
    scores = model.decision_function(data)
    for machine in "ab":
        mine = (data["machine"] == machine).to_numpy()
        assert np.array_equal(model.decision_function(data.filter(pl.Series(mine))), scores[mine])
    persons = Schema((*SCHEMA.columns[:1], Column(name="machine", role="person", type="text"), *SCHEMA.columns[2:]))
    other = cls(window=8, training=SHORT, schema=persons).fit(table())
    assert np.array_equal(other.decision_function(data), scores)


@pytest.mark.parametrize("cls", KINDS)
def test_a_gap_begins_anew(cls: type[SequenceDetector]) -> None:
    model = fitted(cls, interval=1.0)
    data = table(120, 1, "a")
    gap = data.with_columns(when=pl.col("when") + pl.when(pl.col("when") >= 60).then(5.0).otherwise(0.0))
    scores, cut = model.decision_function(data), model.decision_function(gap)
    assert np.array_equal(cut[:60], scores[:60])
    assert np.array_equal(cut[60:], model.decision_function(gap[60:]))
    assert not np.array_equal(cut[60:], scores[60:])
    assert np.array_equal(cut[60 + model.span :], scores[60 + model.span :])


@pytest.mark.parametrize("cls", KINDS)
def test_a_changed_shape_is_found(cls: type[SequenceDetector]) -> None:
    """Every value is ordinary; only their order is not."""
    model = cls(window=16, schema=SCHEMA, training=Training(rounds=12, learning_rate=0.2, clip_norm=10.0))
    model.fit(table(1200, 0, "a"))
    data = table(800, 1, "a").to_dict(as_series=False)
    data["speed"][300:330] = data["speed"][330:300:-1]
    labels = np.zeros(800)
    labels[300:340] = 1
    assert roc_auc_score(labels, model.decision_function(data)) > 0.95


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("options", [{}, {"interval": 1.0, "horizon": 1}])
def test_a_stream_scores_as_a_table_does(cls: type[SequenceDetector], options: dict[str, object]) -> None:
    model = fitted(cls, **options)
    data = table(80, 2)
    data = data.with_columns(when=pl.col("when") + pl.when(pl.col("when") >= 20).then(3.0).otherwise(0.0))
    stream = model.stream()
    rows = list(data.iter_rows(named=True))
    assert [stream.score(row) for row in rows] == model.decision_function(data).tolist()
    assert stream.predict({**rows[-1], "when": 1000.0}) in (0, 1)
    with pytest.raises(DataError, match="goes back"):
        stream.score({**rows[-1], "when": 10.0})
    if options:
        with pytest.raises(DataError, match="no time"):
            stream.score([0.0, 0.0])


@pytest.mark.parametrize("cls", [*KINDS, ConvAutoEncoder])
def test_saved_and_loaded_it_scores_the_same(cls: type, tmp_path: object) -> None:
    options = {"interval": 1.0, "normalise": "window"} if cls is not ConvAutoEncoder else {}
    options |= {"window": 8} if cls is not ConvAutoEncoder else {"shape": (2,), "code": 1}
    model = cls(training=SHORT, schema=SCHEMA, **options).fit(table())
    model.save(f"{tmp_path}/model")
    again = load(f"{tmp_path}/model")
    assert np.array_equal(again.decision_function(table(80, 3)), model.decision_function(table(80, 3)))
    assert again.threshold_ == model.threshold_
    assert detector_from_json(detector_to_json(model)).get_params() == {**model.get_params(), "schema": None}


def test_ranges_have_scores_of_their_own() -> None:
    model = fitted(LSTMAutoEncoder)
    data = table(80, 1)
    rows, scores = model.window_scores(data)
    assert rows.tolist() == [[0 + 16 * i, 14 + 16 * i] for i in range(5)] + [
        [1 + 16 * i, 15 + 16 * i] for i in range(5)
    ]
    # with point="window" a whole window's score is that of its last record
    assert np.array_equal(scores, model.decision_function(data)[rows[:, 1]])
    assert len(model.window_scores(data, stride=1)[1]) == 2 * 33


def test_several_rounds_at_three_parties_equal_the_walk_by_hand() -> None:
    """Federated through masked sums: the same model as summing the updates in the clear."""
    data = {name: table(240, seed, name) for seed, name in enumerate("abc")}
    make = LSTMAutoEncoder(window=8, stride=2, training=SHORT)
    federation = Federation.embedded(data, schema=SCHEMA, policy=POLICY)
    model = federation.fit(make, privacy=None)
    other = make.unfitted_copy()
    memory: dict[str, dict[str, bytes]] = {name: {} for name in data}
    cache: dict[str, dict[str, object]] = {name: {} for name in data}

    def total(query: object) -> Total:
        parts = [
            local_total(query, SCHEMA, data[name], memory=memory[name], cache=cache[name])  # type: ignore[arg-type]
            for name in data
        ]
        return Total(values=sum(part.values for part in parts), parties=tuple(data))  # type: ignore[arg-type]

    other.run(SCHEMA, total)
    scores = table(80, 5)
    assert np.array_equal(model.decision_function(scores), other.decision_function(scores))
    with pytest.raises(ParameterError, match=r"no bounded sensitivity.*aligned=True"):
        federation.fit(make, privacy=DifferentialPrivacy(epsilon=8.0, delta=1e-6))


def test_sums_over_windows_off_the_grid_have_no_bounded_sensitivity() -> None:
    loose = LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA)
    loose.begin(SCHEMA)
    query = loose.next_query()
    assert isinstance(query, SumQuery)
    assert query.sensitivity_l2 == 2.0**41
    loose.fit(table())
    assert loose.score_query().sensitivity_l2 == 2.0**41
    with pytest.raises(ParameterError, match="need the distance"):
        LSTMAutoEncoder(aligned=True, schema=SCHEMA).fit(table())


def test_one_record_changes_one_aligned_score() -> None:
    """Against the query itself: a neighbouring table moves the threshold's counts by one in one bin."""
    model = fitted(LSTMAutoEncoder, interval=1.0, aligned=True)
    query = model.score_query()
    assert query.sensitivity_l2 == 1.0
    data = table(240, 4)

    def counts(frame: pl.DataFrame, chunk_rows: int = 1 << 18) -> np.ndarray:
        accumulator = np.zeros(query.length, dtype=np.int64)
        for chunk in records(SCHEMA, frame, chunk_rows=chunk_rows, warn=False):
            query.add(accumulator, chunk)
        return accumulator

    whole = counts(data)
    assert whole.sum() == 2 * (120 // 8)
    for gone in (0, 1, 57, 120, 239):
        less = counts(data.filter(pl.int_range(pl.len()) != gone))
        assert np.abs(whole - less).sum() == 1
    # windows reach over the borders of chunks, so that these do not matter either
    for rows in (7, 64, 239):
        assert np.array_equal(counts(data, rows), whole)


CASES = Schema((*SCHEMA.columns, Column(name="odd", role="label")))


def labelled(rows: int = 240, seed: int = 0) -> pl.DataFrame:
    data = table(rows, seed)
    return data.with_columns(odd=(pl.int_range(pl.len()) % 37 < 3).cast(pl.Int64))


def cases(model: SequenceDetector, data: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    parts = [model._cases(chunk) for chunk in model._chunks(CASES, data)]
    return tuple(np.concatenate([part[i] for part in parts]) for i in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("options", [{}, {"interval": 1.0, "horizon": 1}, {"interval": 1.0, "aligned": True}])
def test_chunks_score_as_the_whole_does(rows: int, options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    from blindsight.data import _records

    model = LSTMAutoEncoder(window=8, training=SHORT, schema=CASES, **options).fit(labelled())
    # a gap near a border, and a machine that comes late
    data = labelled(240, 2).with_columns(when=pl.col("when") + pl.when(pl.col("when") >= 61).then(5.0).otherwise(0.0))
    data = data.filter((pl.col("machine") == "a") | (pl.col("when") > 80))
    scores, found = model.decision_function(data), cases(model, data)
    monkeypatch.setattr(_records, "CHUNK_VALUES", 2 * rows)
    assert len(list(records(CASES, data))) == math.ceil(len(data) / rows)
    assert np.array_equal(model.decision_function(data), scores)
    assert all(np.array_equal(a, b) for a, b in zip(cases(model, data), found, strict=True))
    if not options.get("aligned"):
        assert max(len(chunk) for chunk in model._chunks(CASES, data)) == rows, "never all at once"
    with pytest.raises(DataError, match="goes back in row 200 of series 'a'"):
        model.decision_function(pl.concat([labelled(200, 2), labelled(10, 2)]))


@pytest.mark.parametrize("scales", ["declared", "local"])
@pytest.mark.parametrize("options", [{}, {"interval": 1.0, "aligned": True}])
def test_sums_over_chunks_are_those_of_the_whole(scales: str, options: dict[str, object]) -> None:
    """In any order where windows are aligned; every query anew, and one query twice."""
    training = Training(rounds=1, patience=1, validation=0.4, learning_rate=0.1, clip_norm=10.0)
    model = LSTMAutoEncoder(window=4, training=training, schema=CASES, scales=scales, **options).fit(labelled(480))
    model.local_scaling_ = None  # as it comes from a federation
    data = labelled(480, 3)
    if options:
        data = pl.concat([data.sample(fraction=1.0, shuffle=True, seed=0), data[5:6]])
    for query in (model.score_query(), model._loss_query()):
        totals = []
        for rows in (1 << 18, 100, 31, 100):
            accumulator = np.zeros(query.length, dtype=np.int64)
            for chunk in records(CASES, data, chunk_rows=rows, warn=False):
                query.add(accumulator, chunk)
            totals.append(accumulator)
        assert totals[0].any()
        assert all(np.array_equal(total, totals[0]) for total in totals)


def test_a_record_is_scored_once_where_chunks_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over chunks costs what the whole costs, but for the windows' reach."""
    model = fitted(LSTMAutoEncoder)
    scored: list[int] = []
    real = LSTMAutoEncoder._scored
    monkeypatch.setattr(LSTMAutoEncoder, "_scored", lambda self, Z: (scored.append(len(Z)), real(self, Z))[1])
    query = model.score_query()
    accumulator = np.zeros(query.length, dtype=np.int64)
    for chunk in records(SCHEMA, table(480), chunk_rows=48, warn=False):
        query.add(accumulator, chunk)
    assert accumulator.sum() == 480
    assert sum(scored) <= 480 + 9 * 2 * (model.span - 1)


def test_a_personal_copy_fits_its_machine_better() -> None:
    training = Training(rounds=4, learning_rate=0.1, clip_norm=10.0)
    shared = LSTMAutoEncoder(window=8, training=training, schema=SCHEMA).fit(table(480, 0, "a"))
    own = table(480, 1, "xy").filter(pl.col("machine") == "y")
    before = shared.decision_function(own)
    mine = shared.personalise(own, epochs=10, learning_rate=0.2)
    assert np.array_equal(shared.decision_function(own), before)
    assert mine.decision_function(own).mean() < 0.8 * before.mean()
    assert mine.is_personal_
    assert mine.score_histogram_.n_records == len(own)
    assert np.array_equal(load_again(mine).decision_function(own), mine.decision_function(own))


def load_again(model: SequenceDetector) -> SequenceDetector:
    return modelfile.loads(modelfile.dumps(model))  # type: ignore[return-value]


@pytest.mark.parametrize("cls", [*KINDS, ConvAutoEncoder])
def test_it_trains_by_dp_sgd(cls: type) -> None:
    """Opacus knows every layer, an update is bounded, and with hardly any noise it learns as without."""
    training = Training(rounds=1, local_epochs=2, learning_rate=0.1, clip_norm=2.0, sampling_rate=0.5)
    aligned = {"window": 8, "interval": 1.0, "aligned": True}
    options = {"shape": (2,), "code": 1} if cls is ConvAutoEncoder else aligned
    model = cls(training=training, scales="declared", schema=SCHEMA, **options)
    model.begin(SCHEMA)
    size = model.next_query()
    assert isinstance(size, SumQuery)
    assert size.name == "size"
    model.advance(size, local_total(size, SCHEMA, table(480)))
    query = model.next_query()
    assert isinstance(query, UpdateQuery)

    def update(multiplier: float, data: pl.DataFrame) -> np.ndarray:
        noise = SampledNoise(sampling_rate=0.5, noise_multiplier=multiplier)
        return query.update(Local(records=lambda: records(SCHEMA, data, warn=False), noise=noise)).values

    quiet, loud = update(1e-6, table(480)), update(50.0, table(480))
    for values in (quiet, loud):
        assert values.shape == (query.length,)
        assert np.linalg.norm(values) <= query.sensitivity_l2
    assert np.linalg.norm(loud) > 2 * np.linalg.norm(quiet) > 0
    # a party without a single window adds noise like any other: that it has none does not show
    if cls is not ConvAutoEncoder:
        # nor does one without a single record
        for rows in (4, 0):
            empty = update(1.0, table(480)[:rows])
            assert np.linalg.norm(empty[: model._size]) > 0
            assert empty[-2:].tolist() == [1, 1]


def test_what_dp_sgd_refuses() -> None:
    training = Training(rounds=1, weighting="equal")
    records_of = lambda: records(SCHEMA, table(), warn=False)  # noqa: E731
    for options, by_person, message in (
        ({}, False, "no bounded sensitivity"),
        ({"interval": 1.0, "aligned": True}, True, "person's windows"),
    ):
        model = LSTMAutoEncoder(window=8, training=training, scales="declared", schema=SCHEMA, **options)
        model.begin(SCHEMA)
        model.advance(model.next_query(), Total(values=np.array([240])))  # type: ignore[arg-type]
        query = model.next_query()
        assert isinstance(query, UpdateQuery)
        noise = SampledNoise(sampling_rate=0.1, noise_multiplier=1.0, by_person=by_person)
        with pytest.raises(ParameterError, match=message):
            query.update(Local(records=records_of, noise=noise))


def test_a_party_with_too_few_records_adds_nothing_and_alone_is_refused() -> None:
    model = LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA)
    with pytest.raises(DataError, match="No series is long enough"):
        model.fit(table(10))
    aligned = LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA, interval=1.0, aligned=True)
    with pytest.raises(DataError, match="no aligned window of 8 records"):
        aligned.fit(table(10))
    model.begin(SCHEMA)
    prepare = model.next_query()
    assert prepare is not None
    model.advance(prepare, local_total(prepare, SCHEMA, table()))
    query = model.next_query()
    assert isinstance(query, UpdateQuery)
    update = query.update(Local(records=lambda: records(SCHEMA, table(10), warn=False)))
    assert not update.values.any()
    assert "no records" in update.notice
    with pytest.warns(BlindsightWarning, match="shorter than a window.*'b'"):
        LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA).fit(pl.concat([table(60, 0, "a"), table(4, 0, "b")]))


@pytest.mark.parametrize(
    "training", [{}, {"weighting": "equal"}, {"aggregation": "median"}, {"aggregation": "median", "parties": 0.5}]
)
@pytest.mark.parametrize("options", [{}, {"interval": 1.0, "aligned": True}])
def test_where_no_party_has_a_window_there_is_no_model(training: dict[str, object], options: dict[str, object]) -> None:
    data = {name: table(10, seed, "a") for seed, name in enumerate("abcd")}
    policy = Policy(allow_exact_sums=True, allow_unmasked_updates=True, detectors=("LSTMAutoEncoder",))
    federation = Federation.embedded(data, schema=SCHEMA, policy=policy)
    detector = LSTMAutoEncoder(window=24, training=Training(rounds=2, **training), **options)
    lack = "no aligned window of 24 records" if options else "no series is long enough for a window of 24 rows"
    with (
        pytest.warns(BlindsightWarning, match="added nothing in round [01]: it has no records to train on: " + lack),
        pytest.raises(DataError, match=rf"round/[01]'.*there is no trained model.*{lack}"),
    ):
        federation.fit(detector, privacy=None)
    # those of whom a part is asked might have a window in the next round
    assert federation.history[0].steps[-1].step == ("round/1" if "parties" in training else "round/0")


@pytest.mark.parametrize("unit", ["record", "party"])
def test_under_privacy_too_few_windows_are_told_from_the_noised_count(unit: str) -> None:
    """No party refuses, which would tell of its records; the warning goes by what was released."""
    data = {name: table(10, seed, "a") for seed, name in enumerate("abc")}
    policy = Policy(units=("record", "party"), detectors=("LSTMAutoEncoder",))
    federation = Federation.embedded(data, schema=SCHEMA, policy=policy)
    detector = LSTMAutoEncoder(window=24, interval=1.0, aligned=True, training=Training(rounds=2))
    more = {"max_records_per_party": 10} if unit == "party" else {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = federation.fit(detector, privacy=DifferentialPrivacy(epsilon=1.0, delta=1e-5, unit=unit, **more))
    said = [str(w.message) for w in told]
    noise = math.sqrt(model.score_histogram_.noise_variance * model.score_histogram_.counts.size)
    assert model.n_records_deviation_ == noise > 0
    assert model.noise_floor(model.noise_variance_) >= 2 * noise
    # the true count is 0: its noise is over the floor, of two deviations, in one run of forty
    few = model.n_records_ < model.noise_floor(model.noise_variance_)
    assert any("usable windows of 24 records; at this epsilon" in text for text in said) == few
    assert few == (f"(± {2 * noise:,.0f}) usable windows" in "".join(said))
    assert not any("added nothing" in text for text in said)
    assert not any(step.notices for step in federation.history[0].steps)


def uneven(kind: str) -> pl.DataFrame:
    when = {
        "random": pl.Series(np.random.default_rng(0).exponential(1.0, 120).cumsum()).repeat_by(2).explode(),
        "still": pl.lit(5.0),
    }[kind]
    return table(240).with_columns(when=when)


@pytest.mark.parametrize(("kind", "said"), [("random", "unevenly far apart"), ("still", "Time stands still in 100%")])
def test_uneven_time_is_warned_of_once_where_no_interval_is_declared(kind: str, said: str) -> None:
    def told(work: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
        return [str(w.message) for w in caught]

    data, model = uneven(kind), fitted(LSTMAutoEncoder)
    for work in (
        lambda: LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA).fit(data),
        lambda: model.decision_function(data),
        lambda: model.predict(data),
        lambda: Federation.embedded({"a": data, "b": table(), "c": table(240, 1)}, schema=SCHEMA, policy=POLICY).fit(
            LSTMAutoEncoder(window=8, training=SHORT), privacy=None
        ),
    ):
        (message,) = told(work)
        assert said in message
        assert "Without interval=..." in message
    gap = table().with_columns(when=pl.col("when") + 50.0 * (pl.col("when") > 60))
    assert told(lambda: model.decision_function(gap)) == []
    if kind == "random":
        declared = fitted(LSTMAutoEncoder, interval=1.0, tolerance=0.4)
        assert told(lambda: declared.decision_function(data)) == [], "a declared interval cuts the series at gaps"


def test_columns_of_the_series_that_are_missing_are_named() -> None:
    model = fitted(LSTMAutoEncoder)
    for given, lost in (
        (table(80).drop("when"), "'when' (time):"),
        (table(80).drop("machine").with_columns(when=pl.int_range(pl.len())), "'machine' (entity):"),
        (table(80).select("speed", "heat").to_numpy(), "'when' (time) and 'machine' (entity):"),
    ):
        with pytest.warns(BlindsightWarning) as told:
            model.decision_function(given)
        assert len(told) == 1
        assert lost in str(told[0].message)
        assert "taken as one" in str(told[0].message)
    bare = Schema(SCHEMA.columns[2:])
    X = table(80).select("speed", "heat").to_numpy()
    other = LSTMAutoEncoder(window=8, training=SHORT, schema=bare).fit(X)
    assert np.isfinite(other.decision_function(X)).all(), "a schema without time asks for none"


def test_early_stopping_looks_at_windows_that_were_held_out() -> None:
    training = Training(rounds=3, patience=2, validation=0.3, learning_rate=0.1, clip_norm=10.0)
    for options in ({}, {"interval": 1.0, "aligned": True}):
        model = LSTMAutoEncoder(window=4, training=training, schema=SCHEMA, **options).fit(table(960))
        assert 0 < model.best_loss_ < math.inf
        assert model.round_ == 3


def test_learned_local_and_declared_scales() -> None:
    data = table(80, 1)
    model = fitted(LSTMAutoEncoder, scales="local")
    assert np.isfinite(model.decision_function(data)).all()
    assert np.isfinite(model.localise(table(80, 7)).decision_function(data)).all()
    assert np.isfinite(fitted(LSTMAutoEncoder, scales="declared").decision_function(data)).all()


def test_constants_floats_and_wild_values_stay_finite() -> None:
    for options in ({}, {"normalise": "window"}):
        model = LSTMAutoEncoder(window=8, training=SHORT, schema=SCHEMA, **options)
        data = table().with_columns(heat=pl.lit(0.5))
        model.fit(data)
        wild = data.with_columns(speed=pl.lit(1e300))
        with pytest.warns(BlindsightWarning, match="outside"):
            scores = model.decision_function(wild)
        assert np.isfinite(scores).all()
        single = data.with_columns(pl.col("speed").cast(pl.Float32))
        rounded = single.with_columns(pl.col("speed").cast(pl.Float64))
        assert np.array_equal(model.decision_function(single), model.decision_function(rounded))


def test_what_is_refused() -> None:
    for wrong in (
        {"window": 1},
        {"window": 2000},
        {"window": 8.0},
        {"stride": 0},
        {"horizon": -1},
        {"interval": 0},
        {"interval": float("nan")},
        {"tolerance": 0.5},
        {"aligned": 1},
        {"normalise": "series"},
        {"point": "first"},
        {"hidden": 0},
    ):
        with pytest.raises(ParameterError):
            LSTMAutoEncoder(schema=SCHEMA, **wrong).fit(table())
    for wrong in ({"width": 1}, {"heads": 3}, {"blocks": 0}):
        with pytest.raises(ParameterError):
            TransformerAutoEncoder(schema=SCHEMA, **wrong).fit(table())
    for wrong in ({"shape": (3,)}, {"shape": (1, 2)}, {"shape": ()}, {"shape": "22"}, {"channels": 0}, {"code": 0}):
        with pytest.raises(ParameterError):
            ConvAutoEncoder(schema=SCHEMA, **wrong).fit(table())
    schema = Schema((*SCHEMA.columns, Column(name="mode", type="category", categories=("x",))))
    with pytest.raises(SchemaError, match="'mode' is a category"):
        ConvAutoEncoder(schema=schema).fit(table().with_columns(mode=pl.lit("x")))
    model = fitted(LSTMAutoEncoder)
    with pytest.raises(DataError, match="goes back in row"):
        model.decision_function(table().reverse())
    with pytest.raises(ParameterError, match="not scored one by one"):
        model._integer_scores(np.zeros((3, 2)))
    with pytest.raises(DataError, match="No series is long enough"):
        model.personalise(table(10))
    with pytest.raises(NotFittedError):
        LSTMAutoEncoder().stream()
    with pytest.raises(NotFittedError):
        LSTMAutoEncoder().window_scores(table())


TIMED = Schema((*NUMBER_SCHEMA.columns, Column(name="when", role="time", type="number")))
NOT_FOR_WINDOWS = {"batches", "bad_inputs"}
"""A window's score depends on the records before it, and one record alone is no window; tests above hold both."""


ONCE = {"malformed_states"}
"""Both are read by the same code, and a Transformer has so many tensors that damaging each takes long."""


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (cls, name)
        for cls in KINDS
        for name in detector_checks(cls)
        if name not in (NOT_FOR_WINDOWS if cls is LSTMAutoEncoder else NOT_FOR_WINDOWS | ONCE)
    ],
)
def test_window_detectors_pass_the_suite(cls: type[SequenceDetector], check: str) -> None:
    small: dict[str, Any] = {"hidden": 2} if cls is LSTMAutoEncoder else {"width": 2, "heads": 1}

    def make() -> SequenceDetector:
        return cls(window=2, interval=1.0, aligned=True, training=SHORT, **small)

    detector_checks(make)[check](make, TIMED)


def test_a_conv_net_sees_neighbours() -> None:
    """Images of bars: with the pixels of a bar shuffled, every pixel alone is as usual."""
    generator = np.random.default_rng(0)

    def images(n: int) -> np.ndarray:
        X = np.zeros((n, 6, 6))
        for image, row in zip(X, generator.integers(0, 6, n), strict=True):
            image[row] = 10
        return X.reshape(n, -1) + generator.normal(0, 0.3, (n, 36)).clip(-1, 1)

    schema = Schema(tuple(Column(name=f"p{i}", low=-2, high=12) for i in range(36)))
    training = Training(rounds=25, learning_rate=0.2, clip_norm=10.0)
    model = ConvAutoEncoder(shape=(6, 6), schema=schema, training=training).fit(images(600))
    ordinary, broken = images(100), images(100)
    for image in broken:
        image[:] = image.reshape(6, 6)[:, ::-1][generator.permutation(6)].ravel()
        columns = image.reshape(6, 6)
        for column in range(6):
            columns[:, column] = np.roll(columns[:, column], int(generator.integers(6)))
    scores = model.decision_function(np.concatenate([ordinary, broken]))
    assert roc_auc_score(np.repeat([0, 1], 100), scores) > 0.9


def test_odd_shapes_come_back_in_their_own_size() -> None:
    for shape, channels in itertools.product([(5,), (7, 3), (2, 2)], [1, 2]):
        d = math.prod(shape) * channels
        schema = Schema(tuple(Column(name=f"p{i}", low=0, high=1) for i in range(d)))
        model = ConvAutoEncoder(shape=shape, channels=channels, schema=schema, training=SHORT)
        X = np.random.default_rng(0).random((50, d))
        assert np.isfinite(model.fit(X).decision_function(X)).all()


def test_a_conv_net_passes_the_whole_suite(number_schema: Schema) -> None:
    training = Training(rounds=2, learning_rate=0.1, clip_norm=1.0)
    check_detector(lambda: ConvAutoEncoder(filters=2, code=2, training=training), number_schema)


def test_it_fits_under_differential_privacy() -> None:
    """Through masked, noised sums: the threshold counts the aligned windows, within its noise."""
    data = {name: table(2400, seed, name) for seed, name in enumerate("abc")}
    training = Training(rounds=2, learning_rate=0.2, clip_norm=1.0, sampling_rate=0.2)
    detector = LSTMAutoEncoder(window=8, interval=1.0, aligned=True, scales="declared", training=training)
    federation = Federation.embedded(data, schema=SCHEMA, policy=Policy(detectors=("LSTMAutoEncoder",)))
    model = federation.fit(detector, privacy=DifferentialPrivacy(epsilon=8.0, delta=1e-5))
    assert model.certificate_ is not None
    assert model.certificate_["differential_privacy"]
    assert model.certificate_["epsilon_spent"] <= 8.0
    assert abs(model.n_records_ - 3 * 300) < 300
    assert np.isfinite(model.decision_function(table(80, 5))).all()
