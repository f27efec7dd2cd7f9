"""Proposed schemas: robust ranges rounded outward, categories, nothing guessed that changes meaning."""

import datetime
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindsight.data import Column, Schema, records
from blindsight.data._infer import _outward, _range_rule
from blindsight.errors import BlindsightWarning, DataError, SchemaError

RNG = np.random.default_rng(0)


def test_an_array_gets_names_and_learned_ranges():
    schema = Schema.infer(RNG.standard_normal((5000, 3)))
    assert schema.ranges == "learned"
    assert schema.feature_names == ("x0", "x1", "x2")
    for column in schema.features:
        assert -4 < column.low < -2.9
        assert 2.9 < column.high < 4
        assert column.scale == "linear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 101), (0, 1, "linear")),
        (np.arange(24), (0, 23, "linear")),
        (np.array([0.0, 1.0]), (0, 1, "linear")),
        (np.zeros(9), (0, 0.5, "linear")),
        (np.full(9, -3.0), (-4.5, -1.5, "linear")),
        (np.full(9, 1e9), (5e8, 1.5e9, "linear")),
        (np.r_[np.zeros(100_000), 7.0], (0, 7, "linear")),
        (np.r_[np.zeros(5_000), np.exp(np.linspace(0, 12, 1001))], (0, 1.55e5, "log")),
        (np.r_[np.linspace(0, 1, 10_001), 1e9], (0, 1, "linear")),
        (np.exp(np.linspace(0, 12, 1001)), (0, 1.65e5, "log")),
        (-np.exp(np.linspace(0, 12, 1001)), (-1.65e5, 0, "linear")),
        (np.array([0.3, 0.31]), (0.3, 0.31, "linear")),
    ],
)
def test_the_range_rule_on_known_values(values, expected):
    low, high, scale = _range_rule(np.asarray(values, dtype=np.float64))
    assert (low, scale) == (expected[0], expected[2])
    assert high == pytest.approx(expected[1], rel=0.03)


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e12, 1e12)))
def test_the_range_rule_always_gives_a_usable_range_around_nearly_all_values(values):
    low, high, scale = _range_rule(values)
    Column(name="x", low=low, high=high, scale=scale)
    # Of 50 values or fewer none is cut off; what is allowed for is rounding in the last digit.
    slack = 1e-9 * (high - low)
    assert values.min() >= low - slack
    assert values.max() <= high + slack


def test_at_most_a_thousandth_is_left_outside_at_either_end():
    values = RNG.standard_cauchy(50_000)
    low, high, _ = _range_rule(values)
    assert 0 < np.sum(values < low) <= 50
    assert 0 < np.sum(values > high) <= 50


@given(st.floats(-1e15, 1e15), st.floats(1e-3, 1e15))
def test_rounding_is_outward_to_few_digits(low, width):
    high = low + width
    if width < 1e-9 * abs(low):
        return
    a, b = _outward(low, high)
    assert a <= low + 1e-9 * width
    assert b >= high - 1e-9 * width
    assert b - a <= 1.11 * width


def test_overflowing_values_are_refused_by_name():
    with pytest.raises(SchemaError, match="overflow"):
        _range_rule(np.array([-1.7e308, 1.7e308]))
    with pytest.raises(SchemaError, match="overflow"):
        _range_rule(np.array([1.7e308]))
    with pytest.raises(SchemaError, match="Column 'x' gets no range: The values overflow"):
        Schema.infer({"x": [-1.7e308, 1.7e308]})
    with pytest.raises(SchemaError, match="holds no finite number"):
        Schema.infer({"x": [math.nan, math.inf]})


@pytest.mark.parametrize("width", [20 * 10.0**e * (1 - 2**-53) for e in range(-9, 10)])
def test_rounding_survives_a_width_just_below_a_power_of_ten(width):
    low, high = _outward(0.0, width)
    assert low == 0
    assert width <= high <= 1.06 * width


def test_missing_and_infinite_values_do_not_touch_the_range():
    for values in ([5.0, 6.0, math.nan, math.inf, -math.inf], [5, 6, None]):
        (column,) = Schema.infer({"x": values}).features
        assert (column.low, column.high) == (5, 6)


def frame(rows: int = 600) -> pl.DataFrame:
    start = datetime.datetime(2026, 1, 1)
    return pl.DataFrame(
        {
            "amount": RNG.lognormal(3, 2, rows),
            "shop": RNG.choice(["food", "fuel", "toys"], rows),
            "when": [start + datetime.timedelta(hours=i) for i in range(rows)],
            "iban": [f"DE{i:020}" for i in range(rows)],
            "class": RNG.integers(0, 2, rows),
            "member": RNG.integers(0, 2, rows).astype(bool),
            "customer": [f"c{i % 50}" for i in range(rows)],
        }
    )


def test_columns_of_a_table_by_type():
    with pytest.warns(BlindsightWarning, match="Not used as features: iban"):
        schema = Schema.infer(frame())
    kinds = {column.name: (column.role, column.type) for column in schema.columns}
    assert kinds == {
        "amount": ("feature", "number"),
        "shop": ("feature", "category"),
        "when": ("time", "text"),
        "iban": ("ignore", "text"),
        "class": ("feature", "number"),  # not a label by its name alone
        "member": ("feature", "number"),
        "customer": ("feature", "category"),
    }
    assert schema.label is None
    assert schema.columns[0].scale == "log"
    assert schema.columns[1].categories == ("food", "fuel", "toys")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["polars", "pandas", "csv", "parquet", "dict"])
def test_roles_and_label_are_taken_on_the_callers_word(tmp_path, kind):
    table = frame()
    sample = {
        "polars": lambda: table,
        "pandas": lambda: pd.DataFrame(table.to_dict(as_series=False)),
        "csv": lambda: table.write_csv(tmp_path / "t.csv") or tmp_path / "t.csv",
        "parquet": lambda: table.write_parquet(tmp_path / "t.parquet") or str(tmp_path / "t.parquet"),
        "dict": lambda: table.to_dict(),
    }[kind]()
    roles = {"iban": "identifier", "customer": "person", "member": "ignore", "when": "time"}
    schema = Schema.infer(sample, label="class", roles=roles)
    assert schema.label == Column(name="class", role="label")
    assert schema.person == Column(name="customer", role="person", type="text")
    assert schema.feature_names == ("amount", "shop")
    (chunk,) = records(schema, sample, require_label=True)
    assert chunk.X.shape == (600, 2)
    assert len(np.unique(chunk.person)) == 50


def test_what_cannot_be_inferred_says_so():
    table = frame().with_columns(outcome=pl.lit("bad"))
    with pytest.raises(SchemaError, match="Label 'outcome' is text"):
        Schema.infer(table, label="outcome")
    with pytest.raises(SchemaError, match="no column 'fraud'"):
        Schema.infer(table, label="fraud")
    with pytest.raises(SchemaError, match="unknown role"):
        Schema.infer(table, roles={"shop": "shop"})
    with pytest.raises(SchemaError, match="Feature 'iban' has more than 256"):
        Schema.infer(table, roles={"iban": "feature"})
    with pytest.raises(DataError, match="no rows"):
        Schema.infer(table.head(0))
    with pytest.raises(DataError, match="no rows"):
        Schema.infer(np.zeros((0, 3)))


def test_a_constant_column_has_a_range_that_holds_it():
    (column,) = Schema.infer({"x": [5.0] * 10}).features
    assert column.low < 5 < column.high


@pytest.mark.parametrize("rows", [1000, 20])
def test_numbers_as_text_are_named_and_become_no_categories(rows):
    X = RNG.standard_normal((rows, 2))
    for text in (X.astype(str), X.astype(str).astype(object), X.astype(str).tolist()):
        with pytest.raises(SchemaError, match=r"Column x0 holds numbers as text.*convert to float"):
            Schema.infer(text)
    assert Schema.infer(np.array([["1.5", "a"], ["2.5", "b"]]), roles={"x0": "ignore"}).feature_names == ("x1",)
    words = Schema.infer(np.array([["a", "7b"], ["b", "8c"]]))
    assert [column.type for column in words.features] == ["category", "category"]
    # a table says of each column what it is: codes of digits stay categories
    assert Schema.infer({"code": ["404", "200"]}).features[0].type == "category"


def test_a_sample_without_any_feature_says_why():
    numbers = [str(value) for value in RNG.standard_normal(1000)]
    with pytest.raises(SchemaError, match=r"No column can be a feature.*a holds numbers as text"):
        Schema.infer({"a": numbers})
    with pytest.raises(SchemaError, match=r"No column can be a feature.*a: text of many kinds"):
        Schema.infer({"a": [f"n{number}" for number in numbers]})
