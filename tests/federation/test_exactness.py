"""Federated equals centralised, integer for integer, against NumPy alone; whoever drops out, at whatever phase."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import DataError, SurvivorsError
from blindsight.federation import Federation

from ._drive import EXACT, PHASES, embedded, faulty, nothing_charged, numpy_counts, stacked, tables


@pytest.mark.parametrize("n", [3, 5, 20])
def test_ecod_totals_are_those_of_np_histogram(n: int, number_schema: Schema) -> None:
    data = tables(n)
    federation = embedded(data, number_schema)
    model = federation.fit(ECOD(), privacy=None)
    expected = numpy_counts(stacked(data))
    assert model.totals_.dtype == np.int64
    assert np.array_equal(model.totals_, expected)
    central = ECOD(schema=number_schema).fit(stacked(data))
    assert model.circuit_ == central.circuit_
    assert np.array_equal(model.score_histogram_.counts, central.score_histogram_.counts)
    assert model.threshold_ == central.threshold_
    steps = federation.history[0].steps
    assert [len(step.survivors) for step in steps] == [n, n]
    assert all(step.dropped == {} for step in steps)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_mahalanobis_totals_are_those_of_np_cov(n: int, number_schema: Schema) -> None:
    linear = Schema([column for column in number_schema.columns if column.name != "amount"])
    data = tables(n)
    model = embedded(data, linear).fit(Mahalanobis(), privacy=None)
    rows = stacked(data)
    x = np.column_stack([np.rint(127 * (2 * rows["age"].to_numpy() / 120 - 1)), np.rint(127 * rows["balance"] / 500)])
    z = np.column_stack([np.full(len(x), 127), x]).astype(np.int64)
    i, j = np.triu_indices(3)
    expected = np.where(i == j, 5, 7) * (z.T @ z)[i, j]
    assert np.array_equal(model.totals_, expected)
    # and the circuit is the quadratic form of np.cov's inverse, up to its own quantisation
    precision = np.linalg.inv(np.cov(x.T, bias=True))
    centred = x - x.mean(axis=0)
    distance = np.einsum("ij,jk,ik->i", centred, precision, centred)
    assert np.allclose(model.decision_function(rows), distance, rtol=1e-3, atol=1e-3)


def test_a_split_skewed_by_value_changes_nothing(number_schema: Schema) -> None:
    rows = stacked(tables(5))
    by_age = rows.sort("age")
    skewed = {"a": by_age[:1], "b": by_age[1:20], "c": by_age[20:200], "d": by_age[200:201], "e": by_age[201:]}
    model = embedded(skewed, number_schema).fit(ECOD(bins=16), privacy=None)
    assert model.circuit_ == ECOD(bins=16, schema=number_schema).fit(rows).circuit_


@pytest.mark.parametrize("phase", range(5), ids=PHASES)
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_dropout_at_each_phase_is_exact_over_the_survivors(phase: int, lost: str, number_schema: Schema) -> None:
    data = tables(5, rows=20)
    federation = embedded(data, number_schema)
    gone = "bank-02"
    if lost == "request":
        faulty(federation, silent_from={gone: phase})
    else:
        faulty(federation, tamper=lambda k, name, answer: None if name == gone and k >= phase else answer)
    steps = federation.history
    if phase <= 2:
        model = federation.fit(ECOD(), privacy=None)
        survivors = [name for name in data if name != gone]
        assert [s.survivors for s in steps[0].steps] == [survivors, survivors]
        assert np.array_equal(model.totals_, numpy_counts(stacked(data, survivors)))
        assert model.provenance_ is not None
        assert model.provenance_["survivors"]["fit"] == survivors
    else:
        # its vector is in the first total already; without it the second would tell the two apart
        with pytest.raises(SurvivorsError, match="over other parties than an earlier one"):
            federation.fit(ECOD(), privacy=None)
        assert [s.survivors for s in steps[0].steps] == [list(data)]
    first = steps[0].steps[0]
    assert set(first.dropped) == {gone}
    assert first.dropped[gone].startswith(PHASES[phase])


@pytest.mark.parametrize("phase", [3, 4])
def test_a_party_that_leaves_after_masking_is_still_in_the_total(phase: int, number_schema: Schema) -> None:
    """Gone in one sum, back for the next: it is in both totals."""
    data = tables(5, rows=20)
    federation = embedded(data, number_schema)
    faulty(federation, tamper=lambda k, name, answer: None if name == "bank-04" and k == phase else answer)
    model = federation.fit(ECOD(), privacy=None)
    assert np.array_equal(model.totals_, numpy_counts(stacked(data)))
    assert [len(s.survivors) for s in federation.history[0].steps] == [5, 5]


@pytest.mark.parametrize("phase", range(5), ids=PHASES)
def test_too_few_survivors_are_refused_with_the_reason(phase: int, number_schema: Schema) -> None:
    """Of three parties with the default threshold none may vanish."""
    federation = embedded(tables(3, rows=20), number_schema)
    faulty(federation, silent_from={"bank-01": phase})
    with pytest.raises(SurvivorsError) as caught:
        federation.fit(ECOD(), privacy=None)
    text = str(caught.value)
    assert f"the {PHASES[phase]} phase" in text
    assert "missing bank-01" in text
    assert "did not answer" in text
    assert "at least 3" in text
    assert "nothing was opened" in text
    assert federation.history[0].steps == []


def test_two_of_five_gone_is_below_the_threshold(number_schema: Schema) -> None:
    federation = embedded(tables(5, rows=10), number_schema)
    faulty(federation, silent_from={"bank-01": 2, "bank-03": 2})
    with pytest.raises(SurvivorsError, match=r"3 of 5; missing bank-01 .*; bank-03 .*at least 4"):
        federation.fit(ECOD(), privacy=None)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_parties_are_refused(n: int, number_schema: Schema, tmp_path: object) -> None:
    data = dict(list(tables(3).items())[:n])
    match = rf"at least three parties\. Got: {n}\. Rule: from the total of two.*Fix: invite a third"
    with pytest.raises(SurvivorsError, match=match):
        embedded(data, number_schema)
    with pytest.raises(SurvivorsError, match=match):
        Federation.processes(dict.fromkeys(data, "x.csv"), schema=number_schema, home=str(tmp_path))
    three = embedded(tables(3), number_schema)
    with pytest.raises(SurvivorsError, match=match):
        Federation(three._channel, participants=three._participants[:n], schema=number_schema)


def test_a_party_with_a_bad_row_says_so_without_showing_it(
    number_schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    data = tables(4, rows=20)
    data["bank-01"] = data["bank-01"].with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(float("nan")).otherwise(pl.col("age")).alias("age")
    )
    federation = embedded(data, number_schema)
    channel = faulty(federation)
    with pytest.raises(DataError, match="Column 'age' has 1 missing value, the first in row 7"):
        federation.fit(ECOD(), privacy=None)  # whoever embeds a party holds its data: the caller is told
    told = channel.answers[0]["bank-01"]
    assert b"DataError" in told, "the coordinator learns what kind of error"
    assert b"row 7" not in told
    assert b"age" not in told
    assert nothing_charged(federation)
    assert any("row 7" in record.getMessage() for record in caplog.records), "the owner's own log names the row"


def test_the_argument_is_cloned(number_schema: Schema) -> None:
    detector = ECOD(bins=8)
    federation = embedded(tables(3), number_schema, EXACT)
    model = federation.fit(detector, privacy=None)
    assert model is not detector
    assert detector.schema is None
    assert not hasattr(detector, "circuit_")
    assert model.bins == 8
