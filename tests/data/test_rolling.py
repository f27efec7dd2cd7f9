"""Rolling features: against naive loops, and a stream against the table to the last bit."""

from __future__ import annotations

import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.data import Column, RollingState, Schema, records, rolling_features
from blindsight.errors import DataError, ParameterError, SchemaError

SCHEMA = Schema(
    (
        Column(name="when", role="time", type="number"),
        Column(name="terminal", role="entity", type="number"),
        Column(name="customer", role="person", type="text"),
        Column(name="amount", low=0, high=500, scale="log"),
    )
)
OPTIONS = {"values": ("amount",), "windows": ("10s", 30.0)}

ROWS = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda tick: tick * 2.5),
        st.integers(0, 2),
        st.sampled_from("ab"),
        st.floats(0, 500, width=32),
    ),
    min_size=1,
    max_size=40,
)


def frame(rows: list[tuple[float, int, str, float]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["when", "terminal", "customer", "amount"], orient="row")


def naive(rows: list[tuple[float, int, str, float]], current: bool) -> list[dict[str, float | None]]:
    """For every row look at every other one."""
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])
    place = {row: at for at, row in enumerate(order)}
    out = []
    for i, row in enumerate(rows):
        found: dict[str, float | None] = {}
        for name, at in (("terminal", 1), ("customer", 2)):
            same = [j for j in range(len(rows)) if rows[j][at] == row[at] and place[j] < place[i]]
            for label, length in (("10s", 10.0), ("30", 30.0)):
                inside = [rows[j][3] for j in same if rows[j][0] > row[0] - length] + [row[3]] * current
                mean = sum(inside) / len(inside) if inside else None
                found[f"{name}_count_{label}"] = len(inside)
                found[f"{name}_amount_sum_{label}"] = sum(inside)
                found[f"{name}_amount_mean_{label}"] = mean
                found[f"{name}_amount_ratio_{label}"] = min(row[3] / mean, 100.0) if mean and mean > 1e-4 else None
            last = max((rows[j][0] for j in same), default=None)
            found[f"{name}_gap"] = 30.0 if last is None else min(row[0] - last, 30.0)
        out.append(found)
    return out


@settings(max_examples=60, deadline=None)
@given(ROWS, st.booleans())
def test_features_are_those_of_naive_loops(rows: list[tuple[float, int, str, float]], current: bool) -> None:
    table, columns = rolling_features(frame(rows), schema=SCHEMA, current=current, **OPTIONS)
    expected = naive(rows, current)
    assert table.columns == ["when", "terminal", "customer", "amount", *expected[0]]
    assert [column.name for column in columns] == list(expected[0])
    for got, wanted in zip(table.iter_rows(named=True), expected, strict=True):
        for name, value in wanted.items():
            if value is None:
                assert "ratio" in name or got[name] is None
            else:
                tolerance = 1e-2 if "ratio" in name else 1e-6
                assert got[name] == pytest.approx(value, rel=tolerance, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.booleans())
def test_a_stream_gives_the_table_to_the_last_bit(rows: list[tuple[float, int, str, float]], current: bool) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    table, columns = rolling_features(frame(rows), schema=SCHEMA, current=current, **OPTIONS)
    state = RollingState(schema=SCHEMA, current=current, **OPTIONS)
    assert state.columns == columns
    for record in table.iter_rows(named=True):
        assert state.push(record) == {column.name: record[column.name] for column in columns}


def test_the_future_never_shows() -> None:
    rows = [(float(i), i % 2, "a", float(i)) for i in range(20)]
    early, _ = rolling_features(frame(rows[:10]), schema=SCHEMA, **OPTIONS)
    late, _ = rolling_features(frame(rows), schema=SCHEMA, **OPTIONS)
    assert late[:10].equals(early)


def test_columns_carry_ranges_that_were_declared() -> None:
    rows = [(float(i), i % 2, "a", float(i)) for i in range(20)]
    table, columns = rolling_features(frame(rows), schema=SCHEMA, most=50, **OPTIONS)
    ranges = {column.name: (column.low, column.high) for column in columns}
    assert ranges["terminal_count_10s"] == (0.0, 50.0)
    assert ranges["terminal_amount_sum_10s"] == (0.0, 25_000.0)
    assert ranges["customer_amount_mean_30"] == (0.0, 500.0)
    assert ranges["customer_gap"] == (0.0, 30.0)
    schema = Schema((*SCHEMA.columns, *columns))
    (chunk,) = records(schema, table)
    assert chunk.X.shape == (20, 1 + len(columns))
    _, blank = rolling_features(frame(rows), time="when", by=["terminal"], **OPTIONS)
    assert {c.name for c in blank if c.role == "ignore"} == {
        f"terminal_amount_{statistic}_{label}" for statistic in ("sum", "mean") for label in ("10s", "30")
    }
    _, given_by_hand = rolling_features(
        frame(rows), time="when", by=["terminal"], ranges={"amount": (0, 9), "terminal_gap": (0, 5)}, **OPTIONS
    )
    assert all(column.role == "feature" for column in given_by_hand)
    assert given_by_hand[-1].high == 5


def test_dates_are_rolled_in_seconds_in_both_forms() -> None:
    start = datetime.datetime(2026, 5, 31)
    when = [start + datetime.timedelta(minutes=20 * i) for i in range(6)]
    table = pl.DataFrame({"when": when, "host": ["a"] * 6})
    out, _ = rolling_features(table, time="when", by=["host"], windows=["1h"])
    assert out["host_count_1h"].to_list() == [0, 1, 2, 2, 2, 2]
    assert out["host_gap"].to_list() == [3600, *[1200] * 5]
    state = RollingState(time="when", by=["host"], windows=["1h"])
    text = [moment.isoformat() for moment in when]
    assert [state.push({"when": t, "host": "a"})["host_count_1h"] for t in text] == [0, 1, 2, 2, 2, 2]


def test_what_is_refused() -> None:
    table = frame([(0.0, 1, "a", 1.0)])
    with pytest.raises(SchemaError, match="no time to roll over"):
        rolling_features(table, by=["terminal"])
    with pytest.raises(SchemaError, match="nothing to group by"):
        rolling_features(table, time="when")
    with pytest.raises(DataError, match="'host' is missing"):
        rolling_features(table, time="when", by=["host"])
    for wrong in (
        {"windows": ["1 fortnight"]},
        {"windows": [0]},
        {"windows": [True]},
        {"windows": []},
        {"statistics": ["median"]},
        {"statistics": "count"},
        {"most": 0},
    ):
        with pytest.raises(ParameterError):
            rolling_features(table, schema=SCHEMA, **wrong)
    with pytest.raises(DataError, match="missing or infinite value in row 0"):
        rolling_features(table.with_columns(amount=float("inf")), schema=SCHEMA, values=["amount"])
    with pytest.raises(DataError, match="overflow"):
        rolling_features(table.with_columns(amount=1e18), schema=SCHEMA, values=["amount"])
    with pytest.raises(DataError, match="already"):
        rolling_features(table.with_columns(terminal_gap=1.0), schema=SCHEMA)
    with pytest.raises(DataError, match="no rows"):
        rolling_features(table[:0], schema=SCHEMA)
    state = RollingState(schema=SCHEMA, values=["amount"])
    state.push({"when": 5.0, "terminal": 1, "customer": "a", "amount": 1.0})
    with pytest.raises(DataError, match="goes back"):
        state.push({"when": 4.0, "terminal": 1, "customer": "a", "amount": 1.0})
    with pytest.raises(DataError, match="'amount' is missing"):
        state.push({"when": 6.0, "terminal": 1, "customer": "a"})
    with pytest.raises(DataError, match="unreadable"):
        state.push({"when": "soon", "terminal": 1, "customer": "a", "amount": 1.0})
    with pytest.raises(DataError, match="not a finite number"):
        state.push({"when": 6.0, "terminal": 1, "customer": "a", "amount": "much"})
