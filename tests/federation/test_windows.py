"""Windows in a federation: refused early where no noise could help, evaluated by what they count."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

import torch
from sklearn.metrics import roc_auc_score

from blindsight import DifferentialPrivacy, Federation, Policy
from blindsight.data import Column, Schema, records
from blindsight.detectors import LSTMAutoEncoder, Training, detector_to_json
from blindsight.errors import ParameterError, SurvivorsError
from blindsight.federation._breakdown import evaluate_locally
from blindsight.federation._evaluation import evaluation_query
from blindsight.federation._steps import terms_of
from blindsight.federation._wire import Begin, Refusal, decode_reply, encode

from ._drive import charges, faulty, nothing_charged

torch.set_num_threads(1)

SCHEMA = Schema(
    (
        Column(name="when", role="time", type="number"),
        Column(name="customer", role="person", type="number"),
        Column(name="speed", low=-2, high=2),
        Column(name="broken", role="label"),
    )
)
POLICY = Policy(allow_exact_sums=True, units=("record", "person", "party"), maximum_epsilon=40.0)
SHORT = Training(rounds=1, learning_rate=0.2, clip_norm=2.0)
ALIGNED = {"window": 8, "interval": 1.0, "aligned": True, "scales": "declared", "training": SHORT}


def table(rows: int, seed: int) -> pl.DataFrame:
    """A sine that stands still now and then, for eight records."""
    rng = np.random.default_rng(seed)
    speed = np.sin(np.arange(rows) / 3.0) + rng.normal(0, 0.05, rows)
    broken = np.zeros(rows, dtype=np.int64)
    for start in rng.choice(rows // 8, max(rows // 80, 1), replace=False) * 8:
        speed[start : start + 8] = 1.9
        broken[start : start + 8] = 1
    when = np.arange(rows, dtype=float)
    return pl.DataFrame({"when": when, "customer": np.ones(rows), "speed": speed, "broken": broken})


DATA = {name: table(480, seed) for seed, name in enumerate("abc")}


def federation(rows: int = 480) -> Federation:
    data = DATA if rows == 480 else {name: table(rows, seed) for seed, name in enumerate("abc")}
    return Federation.embedded(data, schema=SCHEMA, policy=POLICY)


@pytest.mark.parametrize(
    ("options", "unit", "fix"),
    [
        ({"window": 8}, "record", "aligned=True and interval"),
        ({"window": 8}, "party", "aligned=True and interval"),
        (ALIGNED, "person", "unit='record'"),
    ],
)
def test_what_no_noise_could_hide_is_refused_before_anything_is_sent(
    options: dict[str, object], unit: str, fix: str
) -> None:
    asked = federation()
    channel = faulty(asked)
    privacy = DifferentialPrivacy(epsilon=8.0, delta=1e-5, unit=unit)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=f"Fix: .*{fix}"):
        asked.fit(LSTMAutoEncoder(**options), privacy=privacy)
    assert channel.requests == []
    assert asked.history == []


@pytest.mark.parametrize(("options", "unit"), [({"window": 8, "training": SHORT}, "record"), (ALIGNED, "person")])
def test_a_party_refuses_it_too(options: dict[str, object], unit: str) -> None:
    """A coordinator that does not ask its own detector: the party rebuilds it and asks."""
    asked = federation()
    channel = faulty(asked, silent_from=dict.fromkeys("abc", 0))
    with pytest.raises(SurvivorsError):
        asked.fit(LSTMAutoEncoder(**ALIGNED), privacy=DifferentialPrivacy(epsilon=8.0, delta=1e-5))
    step = msgspec.msgpack.decode(channel.requests[0]["a"], type=Begin).step
    hostile = msgspec.structs.replace(
        step,
        detector=detector_to_json(LSTMAutoEncoder(**options)),
        privacy=terms_of(DifferentialPrivacy(epsilon=8.0, delta=1e-5, unit=unit)),  # type: ignore[arg-type]
    )
    answer = decode_reply(asked.parties["a"].handle(encode(Begin(hostile))))
    assert isinstance(answer, Refusal)
    assert answer.kind == "ParameterError"
    assert "windows" in answer.what
    assert nothing_charged(asked)


def test_evaluation_counts_every_record_where_sums_are_exact() -> None:
    asked = federation()
    model = asked.fit(LSTMAutoEncoder(window=8, stride=2, training=SHORT), privacy=None)
    measured = asked.evaluate(model, privacy=None)
    labels = np.concatenate([data["broken"] for data in DATA.values()])
    scores = np.concatenate([model.decision_function(data) for data in DATA.values()])
    assert measured.normal + measured.anomalous == len(labels)
    assert measured.auroc == pytest.approx(roc_auc_score(labels, scores), abs=0.01)
    for name, own in measured.breakdown.items():
        assert own.records == 480
        exact = roc_auc_score(DATA[name]["broken"], model.decision_function(DATA[name]))
        assert own.auroc == pytest.approx(exact)
    alone = evaluate_locally(model, SCHEMA, DATA["a"])
    assert alone.normal + alone.anomalous == 480
    privacy = DifferentialPrivacy(epsilon=8.0, delta=1e-5)
    before = charges(asked)
    with pytest.raises(ParameterError, match="no bounded sensitivity"):
        asked.evaluate(model, privacy=privacy)
    assert charges(asked) == before


@pytest.mark.filterwarnings("ignore:The federation has about")
def test_evaluation_under_privacy_counts_aligned_windows() -> None:
    asked = federation(4800)
    privacy = DifferentialPrivacy(epsilon=20.0, delta=1e-5)
    training = Training(rounds=1, learning_rate=0.2, clip_norm=2.0, sampling_rate=0.2)
    model = asked.fit(LSTMAutoEncoder(**{**ALIGNED, "training": training}), privacy=privacy)
    measured = asked.evaluate(model, privacy=privacy)
    assert measured.certificate is not None
    assert measured.certificate["differential_privacy"]
    assert abs(measured.normal + measured.anomalous - 3 * 600) < 100
    assert {own.records for own in measured.breakdown.values()} == {600}
    assert sum(own.anomalous for own in measured.breakdown.values()) == 3 * 60


def test_one_record_changes_one_case_of_an_evaluation() -> None:
    model = LSTMAutoEncoder(**ALIGNED, schema=SCHEMA).fit(DATA["a"])
    query = evaluation_query(model)
    assert query.sensitivity_l2 == 1.0

    def counts(frame: pl.DataFrame, chunk_rows: int = 1 << 18) -> np.ndarray:
        accumulator = np.zeros(query.length, dtype=np.int64)
        for chunk in records(SCHEMA, frame, chunk_rows=chunk_rows, warn=False):
            query.add(accumulator, chunk)
        return accumulator

    whole = counts(DATA["a"])
    assert whole.sum() == 60
    assert whole[query.length // 2 :].sum() == 6, "a window with one broken record is broken"
    for gone in (0, 7, 8, 211, 479):
        assert np.abs(whole - counts(DATA["a"].filter(pl.int_range(pl.len()) != gone))).sum() == 1
    for rows in (7, 100):
        assert np.array_equal(counts(DATA["a"], rows), whole), "windows reach over the borders of chunks"


def test_a_party_without_a_window_has_a_breakdown_of_nothing() -> None:
    data = {**DATA, "d": table(480, 9)[:5]}
    asked = Federation.embedded(data, schema=SCHEMA, policy=POLICY)
    with pytest.warns(match="d added nothing"):
        model = asked.fit(LSTMAutoEncoder(**ALIGNED), privacy=None)
    measured = asked.evaluate(model, privacy=None)
    assert measured.normal + measured.anomalous == 180
    empty = measured.breakdown["d"]
    assert (empty.records, empty.auroc, empty.own_threshold) == (0, None, model.threshold_)
