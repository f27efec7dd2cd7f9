"""Mock records: they fit the schema, come from it alone, and are the same for the same seed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Schema, check, mock_records, records
from blindsight.detectors import ECOD
from blindsight.errors import ParameterError
from sample_tables import MIXED_SCHEMA

EVERYTHING = Schema(
    (
        Column(name="when", role="time", type="text"),
        Column(name="tick", role="ignore", type="number"),
        Column(name="host", role="entity", type="text"),
        Column(name="port", role="entity", type="number"),
        Column(name="who", role="person", type="text"),
        Column(name="iban", role="identifier", type="text"),
        Column(name="postcode", role="quasi-identifier", type="category"),
        Column(name="amount", low=0.0, high=1000.0, scale="log", missing="middle"),
        Column(name="balance", low=-5.0, high=5.0),
        Column(name="kind", type="category", categories=("x", "y"), missing="x"),
        Column(name="bad", role="label", type="category", categories=("fine", "fraud")),
    )
)


@pytest.mark.parametrize("schema", [MIXED_SCHEMA, EVERYTHING], ids=["mixed", "everything"])
def test_mock_records_fit_their_schema(schema: Schema, tmp_path) -> None:
    table = mock_records(schema, 500)
    assert table.columns == [column.name for column in schema.columns]
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"mock{suffix}"
        table.write_csv(path) if suffix == ".csv" else table.write_parquet(path)
        assert [finding for finding in check(schema, path) if finding.level == "error"] == []
        assert sum(len(chunk.X) for chunk in records(schema, path, warn=False)) == 500
    assert np.isfinite(ECOD(schema=schema).fit(table).decision_function(table)).all()


def test_ranges_categories_gaps_and_labels() -> None:
    table = mock_records(EVERYTHING, 4000)
    assert 0 <= table["amount"].min() <= 5  # type: ignore[operator]
    assert 900 < table["amount"].max() <= 1000  # type: ignore[operator]
    assert table["amount"].median() < 100, "uniform on the column's own scale"  # type: ignore[operator]
    assert table["balance"].null_count() == 0
    assert 20 < table["amount"].null_count() < 200
    assert set(table["kind"].drop_nulls()) == {"x", "y"}
    assert 0.02 < (table["bad"] == "fraud").mean() < 0.09  # type: ignore[operator]
    assert table["when"].is_sorted()


def test_the_seed_decides_everything() -> None:
    assert mock_records(EVERYTHING, 50, seed=3).equals(mock_records(EVERYTHING, 50, seed=3))
    assert not mock_records(EVERYTHING, 50, seed=3).equals(mock_records(EVERYTHING, 50, seed=4))
    assert isinstance(mock_records(EVERYTHING, 1), pl.DataFrame)
    for rows in (0, 10_000_000):
        with pytest.raises(ParameterError, match="mock records"):
            mock_records(EVERYTHING, rows)


def test_text_reads_like_what_the_column_is_called() -> None:
    names = ("customer_iban", "e_mail_of_user_email", "x")
    schema = Schema(
        (*(Column(name=name, role="identifier", type="text") for name in names), Column(name="v", low=0.0, high=1.0))
    )
    table = mock_records(schema, 200)
    assert table["customer_iban"].str.contains(r"^[A-Z]{2}\d{2}[A-Z0-9]{10,30}$").all()
    assert table["e_mail_of_user_email"].str.contains("@").all()
    assert table["x"].str.starts_with("mock-").all()
