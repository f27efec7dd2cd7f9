"""What holds for detectors that are one sum over their records."""

from __future__ import annotations

import numpy as np

from blindsight.data import Schema
from blindsight.detectors import SumDetector
from blindsight.errors import DataError, ParameterError

from ._kit import ROWS, Check, Make, expect, fitted, same_state
from ._sample import sample_records

__all__ = ["CHECKS"]

SCORES = frozenset({"score_edges", "score_counts", "histogram_noise_variance"})
"""The histogram of an updated model keeps the earlier records' scores as they were."""


def _fitted(make: Make, schema: Schema, table: object) -> SumDetector:
    model = fitted(make, schema, table)
    assert isinstance(model, SumDetector)
    return model


def _check_sums(make: Make, schema: Schema) -> None:
    """Fit is a sum: neither order nor grouping of the records matters, and adding can be undone."""
    table = sample_records(schema, ROWS, 2)
    a, b = table[: ROWS // 3], table[ROWS // 3 :]
    whole = _fitted(make, schema, table)
    same_state(whole, _fitted(make, schema, table.sample(fraction=1.0, shuffle=True, seed=0)), "shuffled rows")
    same_state(whole, _fitted(make, schema, table.select(reversed(table.columns))), "columns in another order")
    assert whole.score_histogram_.counts.sum() == ROWS, "the score histogram counts every record once"
    assert abs(whole.n_records_ - ROWS) < 1e-6, "n_records_ counts the records"
    if whole.preparation_ is not None:
        # another half would have learned other scales: only updates on the same ones add up
        added = _fitted(make, schema, table).partial_fit(b).forget(b)
        same_state(whole, added, "fit(A).partial_fit(B).forget(B)", without=SCORES)
        return
    same_state(whole, _fitted(make, schema, a).partial_fit(b), "fit(A).partial_fit(B)", without=SCORES)
    nothing = make().set_params(schema=schema)
    same_state(whole, nothing.partial_fit(a).partial_fit(b), "partial_fit from nothing", without=SCORES)
    merged = _fitted(make, schema, a).merge(_fitted(make, schema, b))
    same_state(whole, merged, "fit(A).merge(fit(B))", without=SCORES)
    assert merged.score_histogram_.counts.sum() == ROWS, "merge keeps one score a record"
    forgotten = _fitted(make, schema, table).forget(b)
    same_state(_fitted(make, schema, a), forgotten, "fit(A + B).forget(B)", without=SCORES)
    assert int(forgotten.score_histogram_.counts.sum()) == len(a), "forget leaves one score a record"


def _check_forget_refusals(make: Make, schema: Schema) -> None:
    """Forgetting what was never fitted is refused and changes nothing."""
    table = sample_records(schema, ROWS, 2)
    stranger = _fitted(make, schema, table[: ROWS // 3])
    before = stranger.totals_.copy()
    expect(DataError, lambda: stranger.forget(sample_records(schema, 10 * ROWS, 3)), "forgetting records never fitted")
    assert np.array_equal(stranger.totals_, before), "a refused forget changes nothing"


def _check_merge_refusals(make: Make, schema: Schema) -> None:
    """Only models of one kind, schema and scale add up."""
    table = sample_records(schema, 30, 4)
    model = _fitted(make, schema, table)
    other_schema = Schema(schema.columns, ranges="learned")
    text = expect(ParameterError, lambda: model.merge(_fitted(make, other_schema, table)), "merging other schemas")
    assert "schema" in text, "the message names the rule"
    if model.preparation_ is not None:
        other = _fitted(make, schema, sample_records(schema, 31, 5))
        text = expect(ParameterError, lambda: model.merge(other), "merging models on other learned scales")
        assert "scales" in text, "the message names the rule"


CHECKS: tuple[Check, ...] = (_check_sums, _check_forget_refusals, _check_merge_refusals)
