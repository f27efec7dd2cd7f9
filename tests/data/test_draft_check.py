"""``schema draft`` and ``schema check``."""

import re

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Schema, check, draft
from blindsight.errors import DataError, SchemaError

SCHEMA = Schema(
    [
        Column(name="age", low=0, high=120),
        Column(name="pay", low=0, high=1e6, scale="log", missing="middle"),
        Column(name="shop", type="category", categories=("food", "fuel")),
        Column(name="who", role="person", type="text"),
        Column(name="y", role="label"),
    ]
)
GOOD = {
    "age": [20.0, 40.0, 90.0],
    "pay": [0.0, 1.0, 9e5],
    "shop": ["food", "fuel", "food"],
    "who": ["a", "b", "a"],
    "y": [0, 1, 0],
}


def said(source: object, schema: object = SCHEMA) -> list[str]:
    return [str(finding) for finding in check(schema, source)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_draft_names_and_types_and_leaves_ranges_blank(tmp_path, suffix):
    table = pl.DataFrame(
        {
            "amount": [17.25, 423.5] * 200,
            "merchant": ["secretshop", "hiddenstore"] * 200,
            "iban": [f"DE{i}777" for i in range(400)],
            "is_fraud": [0, 1] * 200,
            "customer_id": [f"c{i % 9}" for i in range(400)],
        }
    )
    path = tmp_path / f"t.{suffix}"
    table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    text = draft(path)
    for private in ("17.25", "423", "secret", "hidden", "777", "c8"):
        assert private not in text
    with pytest.raises(SchemaError, match=r"'amount', 'is_fraud': has no public range: fill in low"):
        Schema.from_toml(text)
    assert 'A label? Then: role = "label"' in text
    text = text.replace('low = ""', "low = 0").replace('high = ""', "high = 1000")
    with pytest.raises(SchemaError, match="'merchant', 'customer_id': is a category without declared values"):
        Schema.from_toml(text)
    schema = Schema.from_toml(text.replace("categories = []", "categories = ['other']"))
    kinds = {column.name: (column.role, column.type) for column in schema.columns}
    assert kinds == {
        "amount": ("feature", "number"),
        "merchant": ("feature", "category"),
        "iban": ("ignore", "text"),
        "is_fraud": ("feature", "number"),
        "customer_id": ("feature", "category"),
    }
    assert schema.ranges == "declared"


def test_a_draft_needs_a_record(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="no rows"):
        draft(tmp_path / "t.csv")


def test_nothing_to_say_but_the_persons():
    assert said(GOOD) == ["note: 2 persons in 3 rows; most records of one: 2"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"age": [20.0, np.nan, np.inf]}, "error: Column 'age' has 1 infinite values"),
        ({"age": [20.0, np.nan, 30.0]}, "error: Column 'age' has 1 missing values of 3, first in row 1, and missing"),
        ({"age": ["a", "b", "c"]}, "error: Column 'age' is not a number in row 0"),
        ({"age": [20.0, 130.0, -1.0]}, r"warning: Column 'age': 2 values \(66.67%\) lie outside \[0, 120\]"),
        ({"age": [20.0, 20.0, 20.0]}, "warning: Column 'age' is constant"),
        ({"age": [20.0, 20.1, 20.2]}, "warning: Column 'age' uses 0.17% of its range"),
        ({"pay": [None, 1.0, 2.0]}, "note: Column 'pay' has 1 missing values of 3, .*replaced by missing = 'middle'"),
        ({"shop": ["toys", "food", "fuel"]}, r"warning: Column 'shop': 1 values \(33.33%\) are no declared category"),
        ({"who": ["a", None, "b"]}, "error: Person 'who' is missing or unusable in row 1"),
        ({"y": [0, 0, 0]}, "warning: Label 'y' has one class: 3 normal records"),
        ({"y": [1, 1, 1]}, "warning: Label 'y' has one class: 3 anomalies"),
        ({"y": [1, 2, 0]}, "error: Label 'y' has another value in row 1"),
        ({"more": [1, 2, 3]}, "note: 1 columns are not in the schema and are left alone: 'more'"),
    ],
)
def test_every_fault_is_found(changes, expected):
    findings = said({**GOOD, **changes})
    assert any(re.match(expected, finding) for finding in findings), findings


def test_all_faults_are_listed_the_errors_first():
    table = {"Age": [1.0, 2.0], "pay": ["x", "y"], "shop": ["toys", "food"], "who": ["a", "b"]}
    findings = check(SCHEMA, table)
    assert [(finding.level, finding.column) for finding in findings] == [
        ("error", "age"),
        ("error", "pay"),
        ("warning", "shop"),
        ("note", "y"),
        ("note", None),
        ("note", "who"),
    ]
    assert "is 'Age' meant?" in findings[0].message


def test_counts_add_up_over_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("blindsight.data._check.CHUNK_ROWS", 10)
    values = np.arange(100.0)
    values[[15, 25]] = np.nan
    values[[35, 45, 55]] = 500
    findings = said(values.reshape(-1, 1), Schema([Column(name="age", low=0, high=120)]))
    assert findings[0].startswith("error: Column 'age' has 2 missing values of 100, first in row 15")
    assert findings[1].startswith("warning: Column 'age': 3 values (3.00%)")
    who = pl.DataFrame({**{name: values * 33 for name, values in GOOD.items()}})
    assert "note: 2 persons in 99 rows; most records of one: 66" in said(who)


def test_files_are_checked_and_an_unreadable_one_is_a_finding(tmp_path):
    SCHEMA.write(tmp_path / "schema.toml")
    pl.DataFrame(GOOD).write_csv(tmp_path / "t.csv")
    assert said(tmp_path / "t.csv", tmp_path / "schema.toml") == said(GOOD)
    (tmp_path / "t.csv").write_text("age,pay,shop,who,y\n1,2,food,a\n")
    assert said(tmp_path / "t.csv")[0].startswith("error: Row 0 of")
    (tmp_path / "t.csv").write_text("age,pay,shop,who,y\n")
    assert said(tmp_path / "t.csv") == ["error: There are no rows"]
    assert said(tmp_path / "absent.csv")[0].startswith("error: The file")
    with pytest.raises(SchemaError):
        check(tmp_path / "absent.toml", GOOD)
