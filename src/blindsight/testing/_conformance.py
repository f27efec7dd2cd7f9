"""The suite that every sum-based detector is held against, ours and third parties'.

``check_detector(MyDetector, schema)`` runs it all; ``detector_checks()`` gives the single checks by name, for
``pytest.mark.parametrize``. A check fails with an AssertionError that says what does not hold.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from blindsight.data import Records, Schema, records
from blindsight.detectors import Detector, SumQuery, detector_from_json, detector_to_json
from blindsight.errors import (
    BlindsightWarning,
    CapacityError,
    DataError,
    MissingExtraError,
    NotFittedError,
    NotKeptError,
    ParameterError,
)

from ._faults import FaultyChannel

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Check", "check_detector", "detector_checks", "sample_records"]

Make = Callable[[], Detector]
Check = Callable[[Make, Schema], None]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ROWS = 120

_RELOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, polars as pl, blindsight as bs
model = bs.load(sys.argv[1])
table = pl.read_parquet(sys.argv[2])
np.savez(sys.argv[3], scores=model.decision_function(table), labels=model.predict(table), threshold=model.threshold_)
"""


def sample_records(schema: Schema, rows: int, seed: int, *, extreme: float = 0.2) -> pl.DataFrame:
    """Make records that obey a schema and go to its limits.

    Parameters
    ----------
    schema : Schema
    rows : int
    seed : int
    extreme : float
        Fraction of values at the ends of the range, beyond it, huge, tiny, or of undeclared categories. The schema
        calls all of them legal.

    Returns
    -------
    polars.DataFrame
        One column per feature, label and person.
    """
    import polars as pl

    generator = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for column in schema.columns:
        odd = generator.random(rows) < extreme
        if column.role == "feature" and column.type == "category":
            names = [*(column.categories or ()), "never declared"]
            usual = generator.integers(len(names) - 1, size=rows)
            columns[column.name] = [names[i] for i in np.where(odd, len(names) - 1, usual)]
        elif column.role == "feature":
            assert column.low is not None
            assert column.high is not None
            span = column.high - column.low
            usual_values = column.low + span * generator.beta(2, 5, size=rows)
            ends = np.array([column.low, column.high, column.low - span, column.high + 3 * span, 1e300, -1e300, 5e-324])
            columns[column.name] = np.where(odd, generator.choice(ends, rows), usual_values)
        elif column.role == "label":
            codes = (generator.random(rows) < 0.1).astype(np.int64)
            columns[column.name] = [column.categories[c] for c in codes] if column.categories else codes
        elif column.role == "person":
            persons = generator.integers(max(rows // 3, 1), size=rows)
            columns[column.name] = [f"p{i}" for i in persons] if column.type == "text" else persons
    return pl.DataFrame(columns)


def detector_checks() -> dict[str, Check]:
    """The single checks by name, in the order in which they help most."""
    return {check.__name__.removeprefix("_check_"): _quiet(check) for check in _CHECKS}


def check_detector(make: Make, schema: Schema) -> None:
    """Hold a detector against the whole suite.

    Parameters
    ----------
    make : callable () -> Detector
        A class, or a function that returns an unfitted detector.
    schema : Schema
        With declared ranges; records are made from it by :func:`sample_records`.

    Raises
    ------
    AssertionError
        The message names the check and what does not hold.
    """
    for name, check in detector_checks().items():
        try:
            check(make, schema)
        except SkipTest:
            continue
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def _quiet(check: Check) -> Check:
    """Values outside the ranges are meant here."""

    @functools.wraps(check)
    def quiet(make: Make, schema: Schema) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlindsightWarning)
            check(make, schema)

    return quiet


def _fitted(make: Make, schema: Schema, table: Any) -> Detector:
    detector: Detector = make().set_params(schema=schema)
    return detector.fit(table)


def _chunk(schema: Schema, table: Any, *, labels: bool = False) -> Records:
    (chunk,) = list(records(schema, table, for_scoring=not labels, warn=False))
    return chunk


def _same_model(one: Detector, other: Detector, what: str) -> None:
    assert np.array_equal(one.totals_, other.totals_), f"{what}: the totals differ"
    assert one.circuit_ == other.circuit_, f"{what}: the circuits differ"
    assert one.encoder_ == other.encoder_, f"{what}: the encoders differ"
    assert one.score_scale_ == other.score_scale_, f"{what}: the score scales differ"


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{what} does not raise {kind.__name__}")


# -- the checks


def _check_parameters(make: Make, schema: Schema) -> None:
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
        _raises(ParameterError, lambda broken=broken: broken.fit(sample_records(schema, 9, 0)), "a bad contamination")  # type: ignore[misc]


def _check_unfitted(make: Make, schema: Schema) -> None:
    table = sample_records(schema, 5, 1)
    for name in ("decision_function", "predict", "predict_proba", "forget"):
        text = _raises(NotFittedError, lambda name=name: getattr(make(), name)(table), f"{name} before fit")  # type: ignore[misc]
        assert "fit" in text, "the message names the fix"
    _raises(NotFittedError, lambda: make().threshold_, "threshold_ before fit")
    _raises(NotFittedError, lambda: make().save("nowhere"), "save before fit")


def _check_sums(make: Make, schema: Schema) -> None:
    """Fit is a sum: the order and the grouping of the records do not matter, and adding can be undone."""
    table = sample_records(schema, ROWS, 2)
    a, b = table[: ROWS // 3], table[ROWS // 3 :]
    whole = _fitted(make, schema, table)
    _same_model(whole, _fitted(make, schema, table.sample(fraction=1.0, shuffle=True, seed=0)), "shuffled rows")
    _same_model(whole, _fitted(make, schema, a).partial_fit(b), "fit(A).partial_fit(B)")
    _same_model(whole, make().set_params(schema=schema).partial_fit(a).partial_fit(b), "partial_fit from nothing")
    merged = _fitted(make, schema, a).merge(_fitted(make, schema, b))
    _same_model(whole, merged, "fit(A).merge(fit(B))")
    _same_model(_fitted(make, schema, a), _fitted(make, schema, table).forget(b), "fit(A + B).forget(B)")
    for model in (merged, whole):
        assert model.score_histogram_.counts.sum() == ROWS, "the score histogram counts every record once"
    forgotten = _fitted(make, schema, table).forget(b)
    assert int(forgotten.score_histogram_.counts.sum()) == len(a), "forget leaves one score a record"
    assert abs(whole.n_records_ - ROWS) < 1e-6, "n_records_ counts the records"
    stranger = _fitted(make, schema, a)
    before = stranger.totals_.copy()
    more = sample_records(schema, 10 * ROWS, 3)
    _raises(DataError, lambda: stranger.forget(more), "forgetting records that were never fitted")
    assert np.array_equal(stranger.totals_, before), "a refused forget changes nothing"


def _check_merge_refusals(make: Make, schema: Schema) -> None:
    table = sample_records(schema, 30, 4)
    model = _fitted(make, schema, table)
    other_schema = Schema(schema.columns, ranges="learned")
    text = _raises(ParameterError, lambda: model.merge(_fitted(make, other_schema, table)), "merging other schemas")
    assert "schema" in text, "the message names the rule"


def _check_batches(make: Make, schema: Schema) -> None:
    """A record's score depends on nothing but the record and the model."""
    table = sample_records(schema, ROWS, 5)
    model = _fitted(make, schema, table)
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
    matrix = _chunk(schema, fresh).X
    assert np.array_equal(model.decision_function(np.ascontiguousarray(matrix)), scores), "an array scores otherwise"


def _check_bounds(make: Make, schema: Schema) -> None:
    """The static bounds hold for every record at all: engines choose their parameters by them."""
    model = _fitted(make, schema, sample_records(schema, ROWS, 8))
    low, high = model.circuit_.bounds(model.encoder_)
    assert -(2**62) < low <= high < 2**62, "scores fit in int64"
    for seed in range(5):
        table = sample_records(schema, 400, 100 + seed, extreme=(0.0, 0.2, 0.5, 0.8, 1.0)[seed])
        scores = model.decision_function(table) / model.score_scale_
        assert scores.min() >= low - 0.5, "a score lies below the static bound"
        assert scores.max() <= high + 0.5, "a score lies above the static bound"


def _check_circuit(make: Make, schema: Schema) -> None:
    """The score is one integer inner product on a public encoding."""
    table = sample_records(schema, ROWS, 9)
    model = _fitted(make, schema, table)
    weights = model.circuit_.weights
    assert weights.dtype == np.int64, "weights are int64"
    assert weights.shape == (model.encoder_.length,), "one weight per slot"
    assert not weights.flags.writeable, "weights are read-only"
    assert type(model.circuit_.bias) is int, "the bias is an integer"
    assert model.score_scale_ > 0, "higher is more anomalous"
    assert model.encoder_ == model.encoder(schema), "the encoder is a function of schema and parameters"
    e = model.encoder_.encode(_chunk(schema, table).X)
    assert np.abs(e).max() <= model.encoder_.max_abs, "the encoding keeps its bound"
    by_hand = [sum(int(a) * int(w) for a, w in zip(row, weights, strict=True)) + model.circuit_.bias for row in e]
    product = np.array(by_hand, dtype=np.float64) * model.score_scale_
    assert np.array_equal(product, model.decision_function(table)), "decision_function is not <e(x), w> + b"


def _check_sensitivity(make: Make, schema: Schema) -> None:
    """What one record adds stays inside the stated bounds, whatever the record and whoever else is in the chunk."""
    model = _fitted(make, schema, sample_records(schema, ROWS, 10))
    for query in (model.fit_query(schema), model.score_query()):
        for extreme in (0.0, 0.3, 1.0):
            chunk = _chunk(schema, sample_records(schema, 80, 11, extreme=extreme))
            together = _add(query, chunk.X)
            rows = [_add(query, chunk.X[i : i + 1]) for i in range(len(chunk))]
            assert np.array_equal(together, np.sum(rows, axis=0)), f"{query.name}: a sum of records is not their sum"
            worst = max(float(np.sqrt(sum(int(v) ** 2 for v in row))) for row in rows)
            assert worst <= query.sensitivity_l2 * (1 + 1e-12), (
                f"{query.name}: a record adds {worst:g} in L2, stated is {query.sensitivity_l2:g}"
            )
            largest = max(int(np.abs(row).max()) for row in rows)
            assert largest <= query.max_abs, f"{query.name}: a record adds {largest}, stated is {query.max_abs}"


def _add(query: SumQuery, X: Floats) -> Ints:
    accumulator = np.zeros(query.length, dtype=np.int64)
    query.add(accumulator, Records(X=X))
    assert accumulator.dtype == np.int64
    return accumulator


def _check_federated(make: Make, schema: Schema) -> None:
    """Five parties of uneven size, one of which vanishes: the fit is that on the survivors' rows, to the integer."""
    from blindsight.federation import Federation, Policy

    sizes = {"a": 5, "b": 60, "c": 21, "d": 33, "e": 1}
    data = {name: sample_records(schema, size, 20 + i) for i, (name, size) in enumerate(sizes.items())}
    policy = Policy(allow_exact_sums=True, detectors=(make().name,))
    federation = Federation.embedded(data, schema=schema, policy=policy)
    whole = federation.fit(make(), privacy=None)
    _same_model(whole, _fitted(make, schema, _stack(data, "abcde")), "federated over five parties")
    federation = Federation.embedded(data, schema=schema, policy=policy)
    federation._channel = FaultyChannel(federation._channel, silent_from={"d": 2})
    model = federation.fit(make(), privacy=None)
    alone = _fitted(make, schema, _stack(data, "abce"))
    _same_model(model, alone, "federated with a dropout")
    assert np.array_equal(model.score_histogram_.counts, alone.score_histogram_.counts), "the score histograms differ"
    assert model.threshold_ == alone.threshold_, "the thresholds differ"
    assert not hasattr(make(), "circuit_"), "Federation.fit clones its argument"


def _stack(data: dict[str, pl.DataFrame], names: str) -> pl.DataFrame:
    import polars as pl

    return pl.concat([data[name] for name in names])


def _check_reload(make: Make, schema: Schema) -> None:
    """Saved and loaded in another process, a model scores the same."""
    table = sample_records(schema, ROWS, 12)
    model = _fitted(make, schema, table)
    with tempfile.TemporaryDirectory() as folder:
        path, rows, out = (Path(folder) / name for name in ("model.blindsight", "rows.parquet", "out.npz"))
        model.save(path)
        table.write_parquet(rows)
        command = [sys.executable, "-c", _RELOAD, str(path), str(rows), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"another process cannot load the model: {done.stderr[-500:]}"
        content = path.read_bytes()
        with np.load(out) as other:
            assert np.array_equal(other["scores"], model.decision_function(table)), "reloaded, it scores otherwise"
            assert np.array_equal(other["labels"], model.predict(table)), "reloaded, it predicts otherwise"
            assert float(other["threshold"]) == model.threshold_, "the reloaded threshold differs"
    for row in _chunk(schema, table).X:
        distinct = [v for v in row if v not in (0.0, 1.0) and abs(v) < 1e100 and v != round(v)]
        assert not distinct or row.tobytes() not in content, "the file holds a training row"


def _check_pyod(make: Make, schema: Schema) -> None:
    """What PyOD users expect, and what they must not get."""
    table = sample_records(schema, ROWS, 13, extreme=0.05)
    model = _fitted(make, schema, table)
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
        text = _raises(NotKeptError, lambda name=name: getattr(model, name), name)  # type: ignore[misc]
        assert instead in text, f"the message of {name} names the replacement"
    assert model.n_features_in_ == schema.n_features, "n_features_in_"
    assert list(model.feature_names_in_) == list(schema.feature_names), "feature_names_in_"
    assert str(int(model.circuit_.weights[-1])) not in repr(model.circuit_), "repr shows the model"
    first = schema.features[0].name
    text = _raises(DataError, lambda: model.decision_function(table.drop(first)), "a missing column")
    assert first in text, "the message names the missing column"


def _check_no_rows_kept(make: Make, schema: Schema) -> None:
    """Nothing in the model grows with the number of records."""
    small = _fitted(make, schema, sample_records(schema, 30, 14))
    large = _fitted(make, schema, sample_records(schema, 3000, 14))
    sizes = [len(pickle.dumps({k: v for k, v in vars(m).items() if k != "schema"})) for m in (small, large)]
    assert abs(sizes[1] - sizes[0]) < 1000, "the fitted state grows with the records"


def _check_blind(make: Make, schema: Schema) -> None:
    """Scored blind, the scores are those of decision_function, exactly; or the model is refused by name."""
    try:
        from blindsight.blind import RecordOwner, Scorer
    except (ImportError, MissingExtraError) as error:
        raise SkipTest(f"blind scoring is not installed: {error}") from error
    model = _fitted(make, schema, sample_records(schema, ROWS, 15))
    try:
        scorer = Scorer(model)
    except CapacityError:
        return  # refused by name: no parameters at 128-bit security carry this circuit
    except MissingExtraError as error:
        raise SkipTest(str(error)) from error
    table = sample_records(schema, 6, 16)
    owner = RecordOwner(scorer.offer())
    sealed = owner.seal(_chunk(schema, table).X)
    opened = owner.open(scorer.score(sealed))
    assert np.array_equal(opened, model.decision_function(table)), "blind scores differ from decision_function"


_CHECKS: tuple[Check, ...] = (
    _check_parameters,
    _check_unfitted,
    _check_sums,
    _check_merge_refusals,
    _check_batches,
    _check_bounds,
    _check_circuit,
    _check_sensitivity,
    _check_federated,
    _check_reload,
    _check_pyod,
    _check_no_rows_kept,
    _check_blind,
)
