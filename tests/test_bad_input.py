"""Bad input end to end: at one party of a federation, in a fit alone, and in a file to be scored."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest

from blindsight import DifferentialPrivacy, Federation, Policy
from blindsight.data import Column, Schema
from blindsight.detectors import ECOD, Detector, IForest, Mahalanobis, Training
from blindsight.errors import BlindsightWarning, DataError
from cli.conftest import invoke
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

SMALL = Training(rounds=2, learning_rate=0.1, clip_norm=5.0)
SERIES = Schema(
    (
        Column(name="when", role="time", type="number"),
        Column(name="speed", low=-2, high=2),
        Column(name="heat", low=-2, high=2),
    )
)
MIXED = ["ECOD", "IForest", "AutoEncoder"]
KINDS = [*MIXED, "Mahalanobis"]


def made(name: str, **options: object) -> Detector:
    """A small detector by name; the deep ones only where their extra is installed."""
    if name in ("AutoEncoder", "LSTM"):
        pytest.importorskip("torch", reason="the extra 'deep' is not installed")
        import torch

        from blindsight.detectors import AutoEncoder, LSTMAutoEncoder

        torch.set_num_threads(1)
        if name == "LSTM":
            return LSTMAutoEncoder(**{"window": 8, "training": SMALL, **options})
        return AutoEncoder(**{"hidden": (4, 2, 4), "training": SMALL, **options})
    return {"ECOD": ECOD, "IForest": IForest, "Mahalanobis": Mahalanobis}[name](**options)


def federation(data: dict[str, object], schema: Schema) -> Federation:
    return Federation.embedded(data, schema=schema, policy=Policy(allow_exact_sums=True, maximum_epsilon=50.0))


def ordinary(parties: str = "abc", rows: int = 120) -> dict[str, object]:
    return {name: make_table(rows, seed) for seed, name in enumerate(parties)}


def sine(rows: int, seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    step = np.arange(rows)
    return pl.DataFrame(
        {
            "when": step.astype(float),
            "speed": np.sin(step / 3) + generator.normal(0, 0.05, rows),
            "heat": np.cos(step / 3) + generator.normal(0, 0.05, rows),
        }
    )


# -- series


def test_a_party_whose_series_is_shorter_than_a_window_adds_nothing_and_is_named() -> None:
    asked = federation({"a": sine(120), "b": sine(120, 1), "c": sine(120, 2), "short": sine(5)}, SERIES)
    with pytest.warns(BlindsightWarning, match="short added nothing in round 0: it has no records"):
        model = asked.fit(made("LSTM"), privacy=None)
    assert np.isfinite(model.decision_function(sine(5))).all(), "a short series is scored all the same"
    with pytest.raises(DataError):
        made("LSTM", schema=SERIES).fit(sine(5))


def test_time_that_goes_back_is_refused_by_its_row_and_not_told_to_the_others(tmp_path) -> None:
    back = sine(120, 3)
    back = pl.concat([back[:60], back[50:51], back[60:]])
    asked = federation({"a": sine(120), "b": sine(120, 1), "c": back}, SERIES)
    with pytest.raises(DataError, match=r"row 60"):
        asked.fit(made("LSTM"), privacy=None)
    model = made("LSTM", schema=SERIES).fit(sine(120))
    with pytest.raises(DataError, match=r"row 60"):
        model.decision_function(back)
    model.save(tmp_path / "m.blindsight")
    back.write_csv(tmp_path / "back.csv")
    done = invoke("score", "--model", tmp_path / "m.blindsight", "--input", tmp_path / "back.csv",
                  "--output", tmp_path / "s.csv")  # fmt: skip
    assert done.code == 2
    assert "row 60" in done.err
    assert not (tmp_path / "s.csv").exists()


def test_a_gap_is_crossed_by_no_window() -> None:
    """Irregular time, with a declared interval: what follows a gap is scored as if nothing had come before."""
    gap = sine(120).with_columns(pl.when(pl.col("when") >= 60).then(pl.col("when") + 40).otherwise(pl.col("when")))
    asked = federation({"a": gap, "b": sine(120, 1), "c": sine(120, 2)}, SERIES)
    model = asked.fit(made("LSTM", interval=1.0), privacy=None)
    scores = model.decision_function(gap)
    assert np.array_equal(scores[60:], model.decision_function(gap[60:]))
    assert not np.array_equal(scores[60:67], made("LSTM", schema=SERIES).fit(sine(120)).decision_function(gap)[60:67])


# -- small, uniform and constant parties


@pytest.mark.parametrize("kind", KINDS)
def test_a_party_with_ten_rows_and_one_with_one_class(kind: str) -> None:
    few = make_table(10, 7)
    normal = make_table(150, 8).filter(pl.col("fraud") == 0)
    asked = federation({**ordinary("ab"), "few": few, "normal": normal}, NUMBER_SCHEMA)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BlindsightWarning)
        model = asked.fit(made(kind), privacy=None)
        measured = asked.evaluate(model, privacy=None)
    assert np.isfinite(model.decision_function(few)).all()
    assert measured.measurable
    assert measured.breakdown["few"].records == 10
    assert measured.breakdown["normal"].auroc is None, "one class has no ranking"
    assert measured.breakdown["normal"].false_negative_rate is None
    assert model.n_records_ == 2 * 120 + 10 + len(normal)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_channel_at_one_party_and_at_all(kind: str) -> None:
    data = ordinary()
    for constant in (["c"], list(data)):
        table = {
            name: frame.with_columns(pl.lit(7.0).alias("age")) if name in constant else frame
            for name, frame in data.items()
        }
        model = federation(table, NUMBER_SCHEMA).fit(made(kind), privacy=None)
        for probe in (table["a"], data["a"]):
            assert np.isfinite(model.decision_function(probe)).all()


# -- training that fails at one party


def calm(rows: int, seed: int) -> pl.DataFrame:
    """Records in the middle of every range, where a network's inputs are nearly 0."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (3, rows))
    middle = 10_000 * np.expm1(0.5 * np.log1p(1000)) / 1000
    return pl.DataFrame({"age": 60 + noise[0], "amount": middle + noise[1], "balance": noise[2], "fraud": [0] * rows})


def test_a_network_that_diverges_at_one_party_is_named_and_the_round_goes_on() -> None:
    """A rate far too high: harmless where inputs are nearly 0, and beyond float32 where they jump end to end."""
    jumps = {"age": [0.0, 120.0], "amount": [0.0, 10_000.0], "balance": [-500.0, 500.0], "fraud": [0, 0]}
    wild = pl.DataFrame({name: ends * 200 for name, ends in jumps.items()})
    asked = federation({**{name: calm(100, seed) for seed, name in enumerate("abc")}, "wild": wild}, NUMBER_SCHEMA)
    training = Training(rounds=2, local_epochs=60, learning_rate=1000.0)
    with pytest.warns(BlindsightWarning, match=r"wild added nothing in round \d: its training diverged") as told:
        model = asked.fit(made("AutoEncoder", training=training, scales="declared"), privacy=None)
    assert not [str(w.message) for w in told if "added nothing" in str(w.message) and "wild" not in str(w.message)]
    rounds = [step for step in asked.history[0].steps if step.step.startswith("round/")]
    assert len(rounds) == 2
    assert all(step.survivors == ["a", "b", "c", "wild"] for step in rounds), "it answered; what it added was nothing"
    assert np.isfinite(model.decision_function(wild)).all()


@pytest.mark.filterwarnings("ignore:The federation has about")
def test_empty_poisson_batches_train_and_are_charged_like_any_other() -> None:
    """Six rows sampled at one in two hundred: nearly every batch is empty."""
    asked = federation(ordinary("abc", 6), NUMBER_SCHEMA)
    training = Training(rounds=2, learning_rate=0.1, clip_norm=1.0, sampling_rate=0.005)
    model = asked.fit(
        made("AutoEncoder", training=training, scales="declared"), privacy=DifferentialPrivacy(epsilon=8.0, delta=1e-5)
    )
    assert model.certificate_ is not None
    assert 0 < model.certificate_["epsilon_spent"] <= 8.0
    assert [event["mechanism"] for event in model.certificate_["events"]].count("sampled-gaussian") == 2
    assert np.isfinite(model.decision_function(make_table(5, 3))).all()


# -- tables that differ in form


@pytest.mark.parametrize("kind", KINDS)
def test_another_order_of_columns_at_one_party_changes_nothing(kind: str) -> None:
    data = ordinary()
    turned = {**data, "b": data["b"].select(reversed(data["b"].columns))}
    probe = make_table(60, 99)
    one, other = (federation(d, NUMBER_SCHEMA).fit(made(kind), privacy=None) for d in (data, turned))
    assert np.array_equal(one.decision_function(probe), other.decision_function(probe))
    assert np.array_equal(one.decision_function(probe), one.decision_function(probe.select(reversed(probe.columns))))


@pytest.mark.parametrize("kind", MIXED)
def test_a_category_outside_the_declared_set_is_told_at_its_party_and_ranks_high(kind: str) -> None:
    data = ordinary()
    strange = data["c"].with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("XX")).otherwise(pl.col("country")).alias("country")
    )
    asked = federation({**data, "c": strange}, MIXED_SCHEMA)
    with pytest.warns(BlindsightWarning, match="1 of [0-9]+ rows have 'country' of no declared category"):
        model = asked.fit(made(kind), privacy=None)
    probe = pl.concat([data["a"], data["a"].with_columns(pl.lit("YY").alias("country"))])
    with pytest.warns(BlindsightWarning, match="of no declared category"):
        scores = model.decision_function(probe)
    assert np.isfinite(scores).all()
    assert scores[120:].mean() > scores[:120].mean()


@pytest.mark.parametrize("kind", [*KINDS, "LSTM"])
def test_float32_and_float64_are_the_same_records(kind: str) -> None:
    if kind == "LSTM":
        schema, data = SERIES, {name: sine(120, seed) for seed, name in enumerate("abc")}
    else:
        schema, data = NUMBER_SCHEMA, ordinary()
    names = [column.name for column in schema.features]
    # values that both can hold
    wide = {n: f.with_columns(pl.col(names).cast(pl.Float32).cast(pl.Float64)) for n, f in data.items()}
    narrow = {**wide, "b": wide["b"].with_columns(pl.col(names).cast(pl.Float32))}
    one, other = (federation(d, schema).fit(made(kind), privacy=None) for d in (wide, narrow))
    expected = one.decision_function(wide["a"])
    assert np.array_equal(expected, other.decision_function(wide["a"]))
    assert np.array_equal(expected, one.decision_function(wide["a"].with_columns(pl.col(names).cast(pl.Float32))))
    if kind != "LSTM":
        matrix = wide["a"].select(names).to_numpy()
        assert np.array_equal(expected, one.decision_function(matrix.astype(np.float32)))
