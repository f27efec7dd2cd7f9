"""Records from arrays and tables in memory: order, codes, counts, and every refusal's message."""

import decimal
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse

from blindsight.data import ClippingReport, Column, Records, Schema, records
from blindsight.errors import BlindsightWarning, DataError, ParameterError

AGE = Column(name="age", low=0, high=120)
PAY = Column(name="pay", low=0, high=1000)
SHOP = Column(name="shop", type="category", categories=("food", "fuel"))
WHO = Column(name="who", role="person", type="number")
FRAUD = Column(name="fraud", role="label")
SCHEMA = Schema([WHO, AGE, SHOP, PAY, FRAUD])
TABLE = {
    "pay": [10.0, 20.5, 30.0],
    "extra": ["x", "y", "z"],
    "fraud": [0, 1, 0],
    "shop": ["fuel", "food", "fuel"],
    "who": [7, 7, 9],
    "age": [40, 50, 60],
}
X = np.array([[40.0, 1.0, 10.0], [50.0, 0.0, 20.5], [60.0, 1.0, 30.0]])


def one(schema: Schema, source: object, **options: object) -> Records:
    (chunk,) = records(schema, source, **options)
    return chunk


class Capsule:
    """A foreign table that only speaks Arrow's C stream, like a pyarrow Table."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


SOURCES = {
    "dict of lists": TABLE,
    "dict of arrays": {name: np.array(values) for name, values in TABLE.items()},
    "dict of polars series": {name: pl.Series(values) for name, values in TABLE.items()},
    "dict of pandas series": {name: pd.Series(values) for name, values in TABLE.items()},
    "polars": pl.DataFrame(TABLE),
    "polars, categorical": pl.DataFrame(TABLE).with_columns(pl.col("shop").cast(pl.Categorical)),
    "polars, small types": pl.DataFrame(TABLE).with_columns(
        pl.col("age").cast(pl.UInt8), pl.col("pay").cast(pl.Float32), pl.col("fraud").cast(pl.Boolean)
    ),
    "polars, decimal": pl.DataFrame({**TABLE, "pay": [decimal.Decimal(x) for x in ("10", "20.5", "30")]}),
    "pandas": pd.DataFrame(TABLE, index=[5, 5, 1]),
    "pandas, nullable": pd.DataFrame(TABLE).astype({"age": "Int64", "pay": "Float64", "who": "Int64"}),
    "pandas, categorical": pd.DataFrame(TABLE).astype({"shop": "category"}),
    "pandas, object": pd.DataFrame(TABLE).astype(object),
    "arrow capsule": Capsule(pl.DataFrame(TABLE)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_table_gives_the_same_records(kind):
    chunk = one(SCHEMA, SOURCES[kind])
    np.testing.assert_array_equal(chunk.X, X)
    assert chunk.X.dtype == np.float64
    assert chunk.X.flags.f_contiguous
    assert chunk.person.tolist() == [7, 7, 9]
    assert chunk.person.dtype == np.int64
    assert chunk.label.tolist() == [0, 1, 0]
    assert chunk.label.dtype == np.int8
    assert chunk.row0 == 0
    assert chunk.report == ClippingReport(rows=3)


def test_pyarrow_tables_are_read():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow does not import here", exc_type=ImportError)
    np.testing.assert_array_equal(one(SCHEMA, pyarrow.table(TABLE)).X, X)
    backed = pd.DataFrame(TABLE).convert_dtypes(dtype_backend="pyarrow")
    np.testing.assert_array_equal(one(SCHEMA, backed).X, X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, object])
def test_arrays_go_by_position_and_carry_no_person_and_no_label(dtype):
    numbers = Schema([AGE, PAY, FRAUD, WHO])
    array = np.array([[40, 10], [50, 20]], dtype=dtype)
    for source in (array, array.tolist(), np.asfortranarray(array)):
        chunk = one(numbers, source)
        np.testing.assert_array_equal(chunk.X, [[40, 10], [50, 20]])
        assert chunk.person is None
        assert chunk.label is None


def test_a_numeric_array_holds_category_codes_and_an_object_array_the_categories():
    np.testing.assert_array_equal(one(SCHEMA, X).X, X)
    objects = np.array([[40, "fuel", 10.0], [50, "food", 20.5], [60, "fuel", 30.0]], dtype=object)
    np.testing.assert_array_equal(one(SCHEMA, objects).X, X)


def test_records_can_be_read_from_their_own_matrix():
    with pytest.warns(BlindsightWarning, match="no declared category"):
        chunk = one(SCHEMA, {**TABLE, "shop": ["fuel", "toys", "food"]})
    with pytest.warns(BlindsightWarning, match="no declared category"):
        again = one(SCHEMA, chunk.X)
    np.testing.assert_array_equal(again.X, chunk.X)
    assert again.report == chunk.report


def test_the_caller_s_array_is_neither_changed_nor_shared_and_records_are_read_only():
    source = X.copy(order="F")
    chunk = one(SCHEMA, source)
    assert not np.shares_memory(chunk.X, source)
    with pytest.raises(ValueError, match="read-only"):
        chunk.X[0, 0] = 1
    assert source.flags.writeable


def test_a_repr_shows_no_record():
    assert repr(one(SCHEMA, TABLE)) == "Records(rows=3, features=3, row0=0)"


def test_scoring_reads_features_only():
    table = {name: TABLE[name] for name in ("age", "shop", "pay")}
    chunk = one(SCHEMA, table, for_scoring=True)
    np.testing.assert_array_equal(chunk.X, X)
    chunk = one(SCHEMA, TABLE, for_scoring=True)
    assert chunk.person is None
    assert chunk.label is None


def test_chunks_are_consecutive_and_can_be_read_twice():
    frame = pl.DataFrame({"age": range(100), "pay": range(100), "shop": ["food"] * 100, "who": range(100)})
    for source in (frame, frame.to_dict(), pd.DataFrame(frame.to_dict(as_series=False))):
        for _ in range(2):
            chunks = list(records(SCHEMA, source, chunk_rows=33))
            assert [len(chunk) for chunk in chunks] == [33, 33, 33, 1]
            assert [chunk.row0 for chunk in chunks] == [0, 33, 66, 99]
            assert np.concatenate([chunk.X[:, 0] for chunk in chunks]).tolist() == list(range(100))


def test_wide_tables_get_fewer_rows_to_a_chunk():
    d = 4096
    schema = Schema([Column(name=f"x{i}", low=0, high=1) for i in range(d)])
    chunks = list(records(schema, np.zeros((2049, d), dtype=np.float32)))
    assert [len(chunk) for chunk in chunks] == [2048, 1]


@pytest.mark.parametrize("chunk_rows", [0, -1, 1.5, True, "9"])
def test_chunk_rows_is_a_positive_whole_number(chunk_rows):
    with pytest.raises(ParameterError, match="chunk_rows"):
        records(SCHEMA, TABLE, chunk_rows=chunk_rows)


# ---- refusals


def refused(schema: Schema, source: object, message: str, **options: object) -> DataError:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        list(records(schema, source, **options))
    return caught.value


def test_a_missing_column_names_what_there_is_and_what_may_be_meant():
    table = {("Age" if name == "age" else name): values for name, values in TABLE.items()}
    error = refused(SCHEMA, table, "Column 'age' is missing. Got: columns 'pay', 'extra'")
    assert error.fix == "rename 'Age' if that is meant"
    error = refused(SCHEMA, {"a": [1]}, "Column 'age' is missing")
    assert error.fix == "add the column"
    refused(SCHEMA, {name: TABLE[name] for name in ("age", "shop", "pay")}, "Column 'who' is missing")


def test_a_column_is_found_missing_before_anything_is_read():
    with pytest.raises(DataError, match="Column 'age' is missing"):
        records(SCHEMA, {"pay": [1.0]})


@pytest.mark.parametrize("columns", [2, 4])
def test_an_array_with_another_number_of_columns_is_refused(columns):
    refused(SCHEMA, np.zeros((5, columns)), f"The array has {columns} columns and the schema 3 features")


def test_an_absent_label_is_none_unless_required():
    table = {name: values for name, values in TABLE.items() if name != "fraud"}
    assert one(SCHEMA, table).label is None
    refused(SCHEMA, table, "Label 'fraud' is not among the columns", require_label=True)
    refused(SCHEMA, X, "Label 'fraud' is not among the columns", require_label=True)
    refused(Schema([AGE]), table, "The schema has no label column", require_label=True)
    assert one(SCHEMA, TABLE, require_label=True).label is not None


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("age", [40, None, None], "Column 'age' has 2 missing values, the first in row 1"),
        ("age", [40.0, 50.0, np.nan], "Column 'age' has 1 missing value, the first in row 2"),
        ("age", [None, None, None], "Column 'age' has 3 missing values, the first in row 0"),
        ("age", [40.0, np.inf, np.nan], "Column 'age' has 1 infinite value, the first in row 1"),
        ("age", [-np.inf, np.inf, 1.0], "Column 'age' has 2 infinite values, the first in row 0"),
        ("age", ["40", "abc", "60"], "Column 'age' is not a number in row 1. Got: 'abc', type String"),
        ("age", ["40", "50", "60"], "Column 'age' is not a number in row 0. Got: '40', type String"),
        ("age", [[1], [2], [3]], "Column 'age' is not a number in row 0"),
        ("age", np.array(["2020-01-01"] * 3, "M8[D]"), "Column 'age' is not a number in row 0. Got: 2020-01-01"),
        ("shop", ["fuel", None, "food"], "Column 'shop' has 1 missing value, the first in row 1"),
        ("shop", ["fuel", "food", ""], "Column 'shop' has 1 missing value, the first in row 2"),
        ("shop", [1.0, 2.5, 3.0], "Column 'shop' is neither text nor a whole number in row 1. Got: 2.5"),
        ("shop", np.array(["2020-01-01"] * 3, "M8[D]"), "Column 'shop' holds no category values"),
        ("fraud", [0, 2, 1], "Label 'fraud' has another value in row 1. Got: 2"),
        ("fraud", [0, None, 1], "Label 'fraud' is missing in row 1"),
        ("fraud", [0.0, 0.5, 1.0], "Label 'fraud' has another value in row 1. Got: 0.5"),
        ("fraud", ["no", "yes", "no"], "Column 'fraud' is not a number in row 0"),
        ("who", [7, None, 9], "Person 'who' is missing or unusable in row 1"),
        ("who", [7.0, 8.5, 9.0], "Column 'who' is neither text nor a whole number in row 1. Got: 8.5"),
        ("who", ["7", "x", "9"], "Person 'who' is not a whole number in row 1. Got: 'x'"),
    ],
)
@pytest.mark.parametrize("kind", ["polars", "pandas", "dict"])
def test_a_wrong_value_is_named_by_column_row_and_value(column, values, message, kind):
    table = {**TABLE, column: values}
    if kind == "pandas":
        table = pd.DataFrame({name: pd.Series(list(v)) for name, v in table.items()})
    elif kind == "polars":
        table = pl.DataFrame(table, strict=False)
    refused(SCHEMA, table, message)


def test_rows_are_numbered_across_chunks():
    values = np.arange(100.0)
    values[77] = np.nan
    refused(Schema([AGE]), values.reshape(-1, 1), "the first in row 77", chunk_rows=10)
    refused(Schema([SHOP]), np.r_[np.zeros(55), 3.0].reshape(-1, 1), "category code in row 55", chunk_rows=10)


@pytest.mark.parametrize("code", [-1.0, 0.5, 3.0, np.inf])
def test_a_wrong_category_code_is_refused(code):
    error = refused(Schema([SHOP]), np.array([[0.0], [code]]), "Column 'shop' has no such category code in row 1")
    assert "2 for any other value" in error.rule


def test_missing_rules_fill_and_count():
    schema = Schema(
        [
            Column(name="age", low=0, high=120, missing="middle"),
            Column(name="pay", low=0, high=1000, missing=-1.0),
            Column(name="shop", type="category", categories=("food", "fuel"), missing="fuel"),
        ]
    )
    table = {"age": [None, 1.0, 2.0], "pay": [np.nan, 5.0, None], "shop": ["food", None, ""]}
    with pytest.warns(BlindsightWarning, match=r"2 of 3 rows have 'pay' outside \[0, 1000\]"):
        chunk = one(schema, pl.DataFrame(table))
    np.testing.assert_array_equal(chunk.X, [[60, -1, 0], [1, 5, 1], [2, -1, 1]])
    assert chunk.report.filled == {"age": 1, "pay": 2, "shop": 2}
    array = np.array([[np.nan, 5.0, 1.0], [3.0, 7.0, np.nan]])
    np.testing.assert_array_equal(one(schema, array).X, [[60, 5, 1], [3, 7, 1]])


def test_an_infinite_value_is_refused_even_where_missing_values_are_filled():
    schema = Schema([Column(name="age", low=0, high=120, missing="middle")])
    refused(schema, np.array([[1.0], [np.nan], [np.inf]]), "'age' has 1 infinite value, the first in row 2")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pl.DataFrame(schema={"age": pl.Float64}), "no rows"),
        (pd.DataFrame({"age": []}), "no rows"),
        (np.zeros((0, 1)), "no rows"),
        ({"age": []}, "no rows"),
        ({}, "dict of columns is empty"),
        ([], "not a matrix"),
        (np.zeros(5), "not a matrix"),
        (np.zeros((1, 1, 1)), "not a matrix"),
        ([[1.0], [1.0, 2.0]], "differ in length"),
        ({"age": [1, 2], "b": [1]}, "columns differ in length"),
        ({"age": 5}, "not an array or a list"),
        ({"age": np.zeros((2, 2))}, "not one-dimensional"),
        (np.zeros((2, 1), dtype=complex), "neither numbers nor text"),
        (pl.DataFrame({"age": [1]}).lazy(), "call .collect() first"),
        (scipy.sparse.csr_matrix(np.zeros((2, 1))), "call .toarray() first"),
        pytest.param(iter([[1.0]]), "can be read only once", id="iterator"),
        (pl.Series([1.0]), "unknown kind. Got: Series"),
        (pd.Series([1.0]), "unknown kind. Got: Series"),
        (None, "unknown kind. Got: NoneType"),
        (pd.DataFrame([[1, 2]], columns=["age", "age"]), "two columns 'age'"),
        ("records.xlsx", "unknown kind. Got: .xlsx"),
        ("absent.csv", "'absent.csv' cannot be read"),
    ],
    ids=str,
)
def test_an_unusable_source_is_refused(source, message):
    refused(Schema([AGE]), source, message)


def test_masked_values_are_missing():
    masked = np.ma.MaskedArray([[1.0], [2.0]], mask=[[False], [True]])
    refused(Schema([AGE]), masked, "1 missing value, the first in row 1")


# ---- persons, labels, categories


def test_persons_of_type_text_are_text_whatever_the_table_holds():
    schema = Schema([AGE, Column(name="who", role="person", type="text")])
    for who in ([7, 7, 9], ["7", "7", "9"], [7.0, 7.0, 9.0]):
        chunk = one(schema, {"age": [1, 2, 3], "who": who})
        assert chunk.person.tolist() == ["7", "7", "9"]
    refused(schema, {"age": [1], "who": [""]}, "Person 'who' is missing")
    refused(schema, {"age": [1, 2], "who": ["a", "b" * 129]}, "too long in row 1")


def test_labels_may_be_two_categories():
    schema = Schema([AGE, Column(name="y", role="label", type="category", categories=("ok", "bad"))])
    assert one(schema, {"age": [1, 2], "y": ["bad", "ok"]}).label.tolist() == [1, 0]
    refused(schema, {"age": [1, 2], "y": ["bad", "worse"]}, "Label 'y' has another value in row 1. Got: 'worse'")
    refused(schema, {"age": [1, 2], "y": [None, "ok"]}, "Label 'y' is missing in row 0")


def test_categories_match_whole_numbers_and_booleans_by_their_text():
    schema = Schema([Column(name="x", type="category", categories=(5411, 7, True))])
    for values in ([5411, 7, 8], [5411.0, 7.0, 8.0], ["5411", "7", "8"]):
        assert one(schema, {"x": values}, warn=False).X[:, 0].tolist() == [0, 1, 3]
    assert one(schema, {"x": [True, False]}, warn=False).X[:, 0].tolist() == [2, 3]


# ---- counting and warning


def test_values_outside_pass_through_and_are_counted_and_warned_of_once():
    source = {"age": [-5.0, 50.0, 130.0, 1e9], "pay": [0.0, 1000.0, 1.0, 2.0], "shop": ["toys", "food", "x", "fuel"]}
    schema = Schema([AGE, PAY, SHOP])
    with pytest.warns(BlindsightWarning) as caught:
        chunks = list(records(schema, source, chunk_rows=2))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "outside the declared ranges: 3 of 4 rows have 'age' outside [0, 120]; " in message
    assert "; 2 have 'shop' of no declared category. They are kept" in message
    assert "pay" not in message
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(np.concatenate([c.X[:, 0] for c in chunks]), source["age"])
    total = chunks[0].report + chunks[1].report
    assert total == ClippingReport(rows=4, outside={"age": 3}, undeclared={"shop": 2})
    assert chunks[0].report.outside == {"age": 1}


def test_learned_ranges_warn_only_above_one_percent():
    learned = Schema([AGE], "learned")
    values = np.full((200, 1), 50.0)
    values[:2] = 500
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (chunk,) = records(learned, values)
        list(records(learned.declare(), values, warn=False))
    assert chunk.report.outside == {"age": 2}
    values[:3] = 500
    with pytest.warns(BlindsightWarning, match="learned ranges: 3 of 200 rows have 'age' outside"):
        list(records(learned, values))


def test_the_warning_is_short_however_many_columns_there_are():
    schema = Schema([Column(name=f"x{i}", low=0, high=1) for i in range(30)])
    with pytest.warns(BlindsightWarning, match="and 25 more columns"):
        list(records(schema, np.full((2, 30), 9.0)))
