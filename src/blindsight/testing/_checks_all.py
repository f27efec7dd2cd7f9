"""What holds for every detector, however it is fitted."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from blindsight.data import Schema
from blindsight.detectors import detector_from_json, detector_to_json
from blindsight.errors import DataError, NotFittedError, NotKeptError, ParameterError

from ._kit import ROWS, Check, Make, expect, fitted
from ._sample import sample_chunk, sample_records

__all__ = ["CHECKS"]

_RELOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, polars as pl, blindsight as bs
model = bs.load(sys.argv[1], allowed=frozenset({sys.argv[4]}))
table = pl.read_parquet(sys.argv[2])
np.savez(sys.argv[3], scores=model.decision_function(table), labels=model.predict(table), threshold=model.threshold_)
"""


def _check_parameters(make: Make, schema: Schema) -> None:
    """The constructor only stores, so that clone, set_params and the wire form keep every parameter."""
    detector = make()
    signature = inspect.signature(type(detector).__init__).parameters
    named = [p for p in signature.values() if p.name != "self"]
    assert all(p.kind is p.KEYWORD_ONLY for p in named), "the constructor takes keywords only"
    assert {"contamination", "schema"} <= set(signature), "the constructor takes contamination and schema"
    assert not [a for a in vars(detector) if a.endswith("_")], "a constructor only stores"
    parameters = detector.get_params(deep=False)
    assert all(getattr(detector, k) is v for k, v in parameters.items()), "a constructor stores what it was given"
    copy = clone(detector)
    assert type(copy) is type(detector), "clone keeps the class"
    assert copy.get_params(deep=False) == parameters, "clone keeps the parameters"
    assert copy.set_params(contamination=0.25).contamination == 0.25, "set_params sets"
    assert detector.contamination == parameters["contamination"], "a clone does not share state"
    described = detector_from_json(detector_to_json(detector), allowed=frozenset({detector.name}))
    same = {k: v for k, v in described.get_params(deep=False).items() if k != "schema"}
    assert same == {k: v for k, v in parameters.items() if k != "schema"}, "the wire form keeps the parameters"
    for bad in (0.0, -0.1, 0.51, float("nan")):
        broken = clone(detector).set_params(contamination=bad, schema=schema)
        expect(ParameterError, lambda broken=broken: broken.fit(sample_records(schema, 9, 0)), "a bad contamination")  # type: ignore[misc]


def _check_unfitted(make: Make, schema: Schema) -> None:
    table = sample_records(schema, 5, 1)
    for name in ("decision_function", "predict", "predict_proba", "forget"):
        text = expect(NotFittedError, lambda name=name: getattr(make(), name)(table), f"{name} before fit")  # type: ignore[misc]
        assert "fit" in text, "the message names the fix"
    expect(NotFittedError, lambda: make().threshold_, "threshold_ before fit")
    expect(NotFittedError, lambda: make().save("nowhere"), "save before fit")


def _check_batches(make: Make, schema: Schema) -> None:
    """A record's score depends on nothing but the record and the model."""
    model = fitted(make, schema, sample_records(schema, ROWS, 5))
    fresh = sample_records(schema, ROWS, 6)
    scores = model.decision_function(fresh)
    assert scores.shape == (ROWS,), "one score per row"
    assert scores.dtype == np.float64, "scores are float64"
    assert np.isfinite(scores).all(), "scores are finite"
    generator = np.random.default_rng(7)
    for size in (1, 2, 17, ROWS):
        rows = generator.choice(ROWS, size=size, replace=False)
        assert np.array_equal(model.decision_function(fresh[rows]), scores[rows]), f"a batch of {size} scores otherwise"
    columns = fresh.select(list(reversed(fresh.columns)))
    assert np.array_equal(model.decision_function(columns), scores), "the order of the columns matters"
    matrix = sample_chunk(schema, fresh).X
    assert np.array_equal(model.decision_function(np.ascontiguousarray(matrix)), scores), "an array scores otherwise"


def _check_reload(make: Make, schema: Schema) -> None:
    """Saved and loaded in another process, a model scores the same; the file holds no training row."""
    table = sample_records(schema, ROWS, 12)
    model = fitted(make, schema, table)
    with tempfile.TemporaryDirectory() as folder:
        path, rows, out = (Path(folder) / name for name in ("model.blindsight", "rows.parquet", "out.npz"))
        model.save(path)
        table.write_parquet(rows)
        command = [sys.executable, "-c", _RELOAD, str(path), str(rows), str(out), model.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"another process cannot load the model: {done.stderr[-500:]}"
        content = path.read_bytes()
        with np.load(out) as other:
            assert np.array_equal(other["scores"], model.decision_function(table)), "reloaded, it scores otherwise"
            assert np.array_equal(other["labels"], model.predict(table)), "reloaded, it predicts otherwise"
            assert float(other["threshold"]) == model.threshold_, "the reloaded threshold differs"
    for row in sample_chunk(schema, table).X:
        distinct = [v for v in row if v not in (0.0, 1.0) and abs(v) < 1e100 and v != round(v)]
        assert not distinct or row.tobytes() not in content, "the file holds a training row"


def _check_pyod(make: Make, schema: Schema) -> None:
    """What PyOD users expect, and what they must not get."""
    table = sample_records(schema, ROWS, 13, extreme=0.05)
    model = fitted(make, schema, table)
    scores, labels = model.decision_function(table), model.predict(table)
    assert set(np.unique(labels)) <= {0, 1}, "labels are 0 and 1"
    assert np.array_equal(labels, (scores > model.threshold_).astype(int)), "1 is above the threshold"
    probability = model.predict_proba(table)
    assert probability.shape == (ROWS, 2), "predict_proba has two columns"
    assert np.allclose(probability.sum(axis=1), 1.0), "probabilities add up to 1"
    assert (probability >= 0).all(), "probabilities are not negative"
    order = np.argsort(scores)
    assert (np.diff(probability[order, 1]) >= 0).all(), "a higher score has a higher probability"
    strict = model.set_params(contamination=0.02).threshold_
    loose = model.set_params(contamination=0.4).threshold_
    assert strict >= loose, "less contamination, higher threshold"
    flagged = float(np.mean(scores > loose))
    assert abs(flagged - 0.4) <= 0.15, f"contamination .4 flags {flagged:g} of the fitted records"
    for name, instead in (("decision_scores_", "decision_function"), ("labels_", "predict")):
        assert not hasattr(model, name), f"{name} is kept"
        text = expect(NotKeptError, lambda name=name: getattr(model, name), name)  # type: ignore[misc]
        assert instead in text, f"the message of {name} names the replacement"
    assert model.n_features_in_ == schema.n_features, "n_features_in_"
    assert list(model.feature_names_in_) == list(schema.feature_names), "feature_names_in_"
    assert model.n_records_ > 0, "n_records_ says how many records were fitted"
    assert math.isfinite(model.n_records_), "n_records_ is finite"
    assert model.noise_floor(0.0) >= 0, "noise_floor is a number of records"
    assert model.noise_floor(1e4) >= model.noise_floor(1.0), "more noise needs more records"
    first = schema.features[0].name
    text = expect(DataError, lambda: model.decision_function(table.drop(first)), "a missing column")
    assert first in text, "the message names the missing column"


def _check_no_rows_kept(make: Make, schema: Schema) -> None:
    """Nothing in the model grows with the number of records."""
    small = fitted(make, schema, sample_records(schema, 30, 14))
    large = fitted(make, schema, sample_records(schema, 3000, 14))
    sizes = [len(pickle.dumps({k: v for k, v in vars(m).items() if k != "schema"})) for m in (small, large)]
    assert abs(sizes[1] - sizes[0]) < 1000, "the fitted state grows with the records"


def _check_bad_inputs(make: Make, schema: Schema) -> None:
    """What parties bring in practice: few rows, one class, constant or unknown values, another number type."""
    import polars as pl

    ordinary = sample_records(schema, ROWS, 40, extreme=0.0)
    model = fitted(make, schema, ordinary)
    numbers = [column.name for column in schema.features if column.type != "category"]
    single = ordinary.with_columns(pl.col(name).cast(pl.Float32) for name in numbers)
    double = single.with_columns(pl.col(name).cast(pl.Float64) for name in numbers)
    scores = model.decision_function(single)
    assert np.array_equal(scores, model.decision_function(double)), "float32 scores otherwise than the same in float64"
    for what, table in {
        "ten rows": ordinary[:10],
        "one row": ordinary[:1],
        "constant columns": ordinary.with_columns(pl.lit(ordinary[name][0]).alias(name) for name in numbers),
        "float32": single,
        **_one_class(schema, ordinary),
    }.items():
        few = fitted(make, schema, table)
        assert np.isfinite(few.decision_function(ordinary)).all(), f"fitted on {what}, a score is not finite"
        assert math.isfinite(few.threshold_), f"fitted on {what}, the threshold is not finite"
    categories = [column.name for column in schema.features if column.type == "category"]
    strange = ordinary[:3].with_columns(pl.lit("never declared").alias(name) for name in categories)
    assert np.isfinite(model.decision_function(strange)).all(), "an undeclared category has no finite score"
    expect(DataError, lambda: model.decision_function(ordinary[:0]), "a table without rows")
    missing = ordinary.with_columns(pl.lit(None, dtype=pl.Float64).alias(numbers[0])) if numbers else None
    if missing is not None and schema.features[list(schema.feature_names).index(numbers[0])].missing == "refuse":
        text = expect(DataError, lambda: model.decision_function(missing), "a missing value")
        assert numbers[0] in text, "the message names the column"


def _one_class(schema: Schema, table: Any) -> dict[str, Any]:
    import polars as pl

    labels = [column for column in schema.columns if column.role == "label"]
    return {f"one class ({c.name})": table.with_columns(pl.lit(table[c.name][0]).alias(c.name)) for c in labels}


CHECKS: tuple[Check, ...] = (
    _check_parameters,
    _check_unfitted,
    _check_batches,
    _check_reload,
    _check_pyod,
    _check_no_rows_kept,
    _check_bad_inputs,
)
