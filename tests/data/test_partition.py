"""One table cut into many: every row once, nobody without one, as unlike as asked, from the seed alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Schema, Split, partition, records
from blindsight.errors import DataError, ParameterError
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

SCHEMA = Schema(
    (
        Column(name="row", low=0.0, high=1e6),
        Column(name="kind", type="category", categories=("a", "b", "c")),
        Column(name="bad", role="label"),
    )
)


def table(n: int = 600) -> pl.DataFrame:
    kinds = np.array(["a", "b", "c"])[np.arange(n) % 3]
    return pl.DataFrame({"row": np.arange(n, dtype=float), "kind": kinds, "bad": (np.arange(n) % 10 == 0).astype(int)})


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.1", "dirichlet:100:kind", "dirichlet:0.5:row", "quantile:row",
                                  "quantile"])  # fmt: skip
@pytest.mark.parametrize("parties", [3, 200])
def test_every_row_is_at_exactly_one_party(text, parties):
    cut = partition(table(), SCHEMA, parties, Split.parse(text), seed=3)
    assert len(cut) == parties
    assert min(part.height for part in cut.values()) >= 1
    rows = np.concatenate([part["row"].to_numpy() for part in cut.values()])
    assert np.array_equal(np.sort(rows), np.arange(600))
    again = partition(table(), SCHEMA, parties, Split.parse(text), seed=3)
    assert all(cut[name].equals(again[name]) for name in cut)
    other = partition(table(), SCHEMA, parties, Split.parse(text), seed=4)
    assert not all(cut[name].equals(other[name]) for name in cut)


def spread_of_kinds(alpha: float) -> float:
    cut = partition(table(6000), SCHEMA, 10, Split(kind="dirichlet", alpha=alpha, column="kind"), seed=1)
    shares = [[(part["kind"] == kind).mean() or 0.0 for kind in "abc"] for part in cut.values()]
    return float(np.std(shares, axis=0).mean())


def test_a_small_alpha_makes_parties_unlike():
    assert spread_of_kinds(0.1) > 0.2 > 0.05 > spread_of_kinds(1000)


def test_a_dirichlet_split_goes_by_the_label_unless_told_otherwise():
    by_label = partition(table(), SCHEMA, 5, Split(kind="dirichlet"), seed=1)
    named = partition(table(), SCHEMA, 5, Split(kind="dirichlet", column="bad"), seed=1)
    assert all(by_label[name].equals(named[name]) for name in named)


def test_quantiles_put_neighbours_together():
    cut = partition(table(), SCHEMA, 6, Split(kind="quantile"), seed=1)
    means = [float(part["row"].mean()) for part in cut.values()]
    assert means == sorted(means)
    assert {part.height for part in cut.values()} == {100}


@pytest.mark.parametrize("schema", [MIXED_SCHEMA, NUMBER_SCHEMA])
def test_a_file_is_cut_into_the_records_that_it_holds(schema, tmp_path):
    whole = make_table(300, 0)
    path = tmp_path / "records.csv"
    whole.write_csv(path)

    def read(source) -> list:
        return [
            (chunk.X, None if chunk.person is None else chunk.person.astype(str), chunk.label)
            for chunk in records(schema, source, warn=False)
        ]

    (X, person, label), *_ = read(path)
    cut = partition(path, schema, 4, Split(), seed=9)
    rows = sorted(
        (*x, None if p is None else str(p[i]), None if y is None else int(y[i]))
        for part in cut.values()
        for xs, p, y in read(part)
        for i, x in enumerate(xs)
    )
    assert rows == sorted(
        (*x, None if person is None else str(person[i]), None if label is None else int(label[i]))
        for i, x in enumerate(X)
    )


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(DataError, match="fewer rows than parties"):
        partition(table(5), SCHEMA, 6, Split(), seed=1)
    with pytest.raises(DataError, match="no column names"):
        partition(np.zeros((10, 2)), SCHEMA, 3, Split(), seed=1)
    with pytest.raises(ParameterError, match="column that is not there"):
        partition(table(), SCHEMA, 3, Split(kind="quantile", column="other"), seed=1)


@pytest.mark.parametrize("text", ["", "even", "dirichlet:x", "dirichlet:-1", "dirichlet:nan", "iid:3", "dirichlet:1e9"])
def test_a_split_that_cannot_be_read_is_refused(text):
    with pytest.raises(ParameterError):
        Split.parse(text)
