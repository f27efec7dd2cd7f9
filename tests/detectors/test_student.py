"""TableStudent: it ranks as its teacher does where an additive table can, travels with it, and ends without it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from blindsight import modelfile
from blindsight.data import Column, Records, Schema, records
from blindsight.detectors import ECOD, Detector, RandomFeatures, TableStudent, local_total
from blindsight.detectors._registry import detector_from_json, detector_to_json
from blindsight.errors import FormatError, NotFittedError, ParameterError
from blindsight.federation import Federation, Policy
from blindsight.privacy import DifferentialPrivacy
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")  # values out of range

TABLE = make_table(800, 0)


@pytest.fixture(scope="module")
def teacher() -> Detector:
    return RandomFeatures(features=256, schema=NUMBER_SCHEMA).fit(TABLE)


def adbench(name: str) -> tuple[np.ndarray, np.ndarray]:
    root = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    path = root / "adbench" / f"{name}.npz"
    if not path.is_file():
        pytest.skip("the adbench sets are absent; set BLINDSIGHT_DATA")
    with np.load(path) as data:
        return data["X"].astype(float), data["y"]


def test_it_ranks_as_its_teacher_does(teacher: Detector) -> None:
    fresh = make_table(500, 1)
    student = TableStudent(teacher=teacher).fit(TABLE)
    assert spearmanr(student.decision_function(fresh), teacher.decision_function(fresh))[0] > 0.95
    few = TableStudent(teacher=teacher, rounds=1).fit(TABLE)
    assert (
        spearmanr(few.decision_function(fresh), teacher.decision_function(fresh))[0]
        < spearmanr(student.decision_function(fresh), teacher.decision_function(fresh))[0]
    )


@pytest.mark.parametrize("name", ["6_cardio", "38_thyroid"])
def test_on_real_records(name: str) -> None:
    """Fitted on normal records alone, it still finds the anomalies that fall into bins where nobody was."""
    X, y = adbench(name)
    normal = X[y == 0]
    half, rest = normal[: len(normal) // 2], normal[len(normal) // 2 :]
    teacher = RandomFeatures(schema=Schema.infer(half)).fit(half)
    student = TableStudent(teacher=teacher).fit(half)
    test, labels = np.concatenate([rest, X[y == 1]]), np.repeat([0, 1], [len(rest), int(y.sum())])
    taught, learned = (roc_auc_score(labels, model.decision_function(test)) for model in (teacher, student))
    assert learned > taught - 0.02
    assert spearmanr(teacher.decision_function(test), student.decision_function(test))[0] > 0.9


def test_what_it_imitates_is_the_tail_of_the_teachers_scores(teacher: Detector) -> None:
    """One feature: a table can follow any teacher, bin by bin."""
    schema = Schema((Column(name="x", low=0, high=10),))
    rows = {"x": np.random.default_rng(0).normal(5, 1.5, 3000)}
    alone = ECOD(bins=32, schema=schema).fit(rows)
    student = TableStudent(teacher=alone, bins=32, rounds=3).fit(rows)
    scores = alone.decision_function(rows)
    share = np.array([(scores >= s).mean() for s in scores])
    ordinary = share > 0.01
    errors = np.abs(student.decision_function(rows) + np.log(share))[ordinary]
    assert errors.mean() < 0.1
    assert errors.max() < 0.3


def test_federated_equals_local_and_drops_the_teacher(teacher: Detector) -> None:
    data = {"a": TABLE[:20], "b": TABLE[20:500], "c": TABLE[500:]}
    policy = Policy(allow_exact_sums=True, detectors=("TableStudent", "RandomFeatures"))
    federation = Federation.embedded(data, schema=NUMBER_SCHEMA, policy=policy)
    model = federation.fit(TableStudent(teacher=teacher, bins=16, rounds=3), privacy=None)
    alone = TableStudent(teacher=teacher, bins=16, rounds=3).fit(pl.concat(data.values()))
    assert model.circuit_ == alone.circuit_
    assert model.threshold_ == alone.threshold_
    file = modelfile.dumps(model)
    assert b"teacher" not in file
    assert b"RandomFeatures" not in file
    assert not hasattr(model, "teacher_")
    assert np.array_equal(modelfile.loads(file).decision_function(TABLE), model.decision_function(TABLE))


def test_under_differential_privacy(teacher: Detector) -> None:
    """What the student costs is within the asked epsilon, and noise leaves most of the ranking."""
    data = {name: make_table(4000, seed) for seed, name in enumerate("abc")}
    privacy = DifferentialPrivacy(epsilon=8.0, delta=1e-6, unit="record")
    model = Federation.embedded(
        data, schema=NUMBER_SCHEMA, policy=Policy(detectors=("TableStudent", "RandomFeatures"))
    ).fit(TableStudent(teacher=teacher, bins=16, rounds=3), privacy=privacy)
    assert model.certificate_["epsilon_spent"] <= 8.0
    assert sum(event["query"].startswith("round/") for event in model.certificate_["events"]) == 3
    assert spearmanr(model.decision_function(TABLE), teacher.decision_function(TABLE))[0] > 0.8


def test_states_travel_with_the_teacher(teacher: Detector) -> None:
    model = TableStudent(teacher=teacher, bins=16, rounds=3)
    model.begin(NUMBER_SCHEMA)
    asked = 0.0
    while (query := model.next_query()) is not None and query.name != "threshold":
        other = modelfile.loads(modelfile.dumps(model)).next_query()
        mine, theirs = (local_total(q, NUMBER_SCHEMA, TABLE) for q in (query, other))
        assert np.array_equal(mine.values, theirs.values)
        assert query.sensitivity_l2 == other.sensitivity_l2
        asked += query.fraction
        model.advance(query, mine)
    assert asked == pytest.approx(1.0)


def test_every_round_keeps_its_bound(teacher: Detector) -> None:
    model = TableStudent(teacher=teacher, bins=16, rounds=3)
    model.begin(NUMBER_SCHEMA)
    (chunk,) = list(records(NUMBER_SCHEMA, make_table(40, 5), for_scoring=True))
    X = np.concatenate([chunk.X, [[1e300, -1e300, 1e300]]])
    while (query := model.next_query()) is not None and query.name != "threshold":
        for i in range(len(X)):
            added = np.zeros(query.length, dtype=np.int64)
            query.add(added, Records(X=X[i : i + 1]))
            assert np.sqrt((added**2).sum()) <= query.sensitivity_l2
            assert np.abs(added).max() <= query.max_abs
        model.advance(query, local_total(query, NUMBER_SCHEMA, TABLE))


def test_the_teacher_is_not_a_plain_parameter(teacher: Detector) -> None:
    student = TableStudent(teacher=teacher, bins=16)
    assert "teacher" not in student.get_params()
    assert clone(student).teacher is teacher
    assert detector_to_json(student)["parameters"] == {"contamination": 0.1, "bins": 16, "rounds": 8}
    for value in ("ECOD", 1, [1]):
        with pytest.raises((FormatError, ParameterError)):
            detector_from_json({"name": "TableStudent", "parameters": {"teacher": value}})


def test_bad_teachers(teacher: Detector) -> None:
    with pytest.raises(ParameterError, match="needs a teacher"):
        TableStudent(schema=NUMBER_SCHEMA).fit(TABLE)
    with pytest.raises(NotFittedError):
        TableStudent(teacher=ECOD(), schema=NUMBER_SCHEMA).fit(TABLE)
    with pytest.raises(ParameterError, match="another schema"):
        TableStudent(teacher=teacher, schema=MIXED_SCHEMA).fit(TABLE)
    with pytest.raises(ParameterError, match="another kind"):
        TableStudent(teacher=TableStudent(teacher=teacher), schema=NUMBER_SCHEMA).fit(TABLE)


def test_hostile_states_are_refused(teacher: Detector) -> None:
    import dataclasses

    model = TableStudent(teacher=teacher, bins=16, rounds=3)
    model.begin(NUMBER_SCHEMA)
    model.advance(query := model.next_query(), local_total(query, NUMBER_SCHEMA, TABLE))
    state = model.dump()
    nested = {"detector": detector_to_json(model), "state": dict(state.values)}
    changes = [
        {"round": 4},
        {"round": -1},
        {"round": True},
        {"step": 0.0},
        {"step": float("inf")},
        {"table_bias": 1 << 40},
        {"teacher": nested},
        {"teacher": {"detector": {"name": "ECOD", "parameters": {}}, "state": {"noise_variance": 0.0}}},
        {"teacher": None},
        {"more": 1},
    ]
    for change in changes:
        bad = dataclasses.replace(state, values={**state.values, **change})
        with pytest.raises((ValueError, TypeError, KeyError, ParameterError)):
            TableStudent(bins=16, rounds=3).load_state(NUMBER_SCHEMA, bad)
    for name in ("table", "counts", "direction", "lacking", "teacher.weights"):
        bad = dataclasses.replace(state, arrays={**state.arrays, name: state.arrays[name][:-1]})
        with pytest.raises((ValueError, TypeError, KeyError, ParameterError)):
            TableStudent(bins=16, rounds=3).load_state(NUMBER_SCHEMA, bad)
