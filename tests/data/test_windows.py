"""Windows: index arithmetic against naive loops; series, gaps, aligned grids; what is refused and how it is said."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsight.data import (
    Column,
    Schema,
    normalise_series,
    records,
    series_key,
    uneven_time,
    window_table,
    windows,
)
from blindsight.data._window_table import gather
from blindsight.errors import BlindsightWarning, DataError, ParameterError, SchemaError

HOSTS = Schema(
    (
        Column(name="when", role="time", type="text"),
        Column(name="host", role="entity", type="text"),
        Column(name="load", low=0, high=1),
        Column(name="mode", type="category", categories=("idle", "busy")),
        Column(name="bad", role="label"),
    )
)


def host_table(rows: int = 12) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "when": [f"2026-05-31T10:00:{second:02d}" for second in range(rows)],
            "host": ["a", "b"] * (rows // 2),
            "load": np.linspace(0, 1, rows),
            "mode": ["idle", "busy", "other"] * (rows // 3),
            "bad": [0] * (rows - 1) + [1],
        }
    )


def naive(X, length, stride, horizon, time, entity, interval, tolerance=0.1):
    """Every window by looking at every row of every series."""
    found = []
    for key in dict.fromkeys(entity):
        rows = [i for i in range(len(X)) if entity[i] == key]
        runs = [[rows[0]]]
        for before, row in itertools.pairwise(rows):
            if interval is not None and abs(time[row] - time[before] - interval) > tolerance * interval:
                runs.append([])
            runs[-1].append(row)
        for run in runs:
            for start in range(0, len(run) - length - horizon + 1, stride):
                found.append(run[start : start + length + horizon])
    return found


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1.0, 1.0, 1.05, 2.0])), min_size=8, max_size=50),
    st.booleans(),
)
def test_windows_are_those_of_naive_loops(length, stride, horizon, steps, with_interval) -> None:
    entity = [entity for entity, _ in steps]
    clocks = dict.fromkeys(entity, 0.0)
    time = []
    for key, step in steps:
        clocks[key] += step
        time.append(clocks[key])
    X = np.random.default_rng(0).normal(size=(len(steps), 2))
    interval = 1.0 if with_interval else None
    expected = naive(X, length, stride, horizon, time, entity, interval)
    arguments = {"length": length, "stride": stride, "horizon": horizon, "interval": interval}
    if not expected:
        with pytest.raises(DataError, match="No series is long enough"):
            windows(X, time=time, entity=entity, **arguments)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlindsightWarning)
        found = windows(X, time=time, entity=entity, **arguments)
    assert found.rows.tolist() == expected
    assert np.array_equal(found.values(), X[np.array(expected)])
    assert np.array_equal(found.values(np.array([0])), X[np.array(expected[:1])])


def test_rows_in_order_are_not_copied_and_keep_their_dtype() -> None:
    X = np.zeros((1000, 3), dtype=np.float32)
    found = windows(X, length=50)
    assert found.X is X
    assert np.shares_memory(found.view, X)
    assert not found.view.flags.writeable
    assert found.values().dtype == np.float32
    assert len(found) == 951
    assert "951" in repr(found)
    assert np.array_equal(windows(X.astype(np.float64), length=50).starts, found.starts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.floats(-0.3, 0.3)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.data(),
)
def test_one_record_changes_one_aligned_window(rows, length, data) -> None:
    """The sensitivity that the privacy of windows rests on: a multiset of windows, one record less, one window less."""

    def multiset(kept):
        X = np.array([[offset, slot] for _, slot, offset in kept]).reshape(-1, 2)
        found = windows(
            X,
            length=length,
            time=[slot + offset for _, slot, offset in kept],
            entity=[key for key, _, _ in kept],
            interval=1.0,
            aligned=True,
        )
        return [window.tobytes() for window in found.values()]

    gone = data.draw(st.integers(0, len(rows) - 1))
    before, after = multiset(rows), multiset(rows[:gone] + rows[gone + 1 :])
    for window in set(before) & set(after):
        for _ in range(min(before.count(window), after.count(window))):
            before.remove(window)
            after.remove(window)
    assert len(before) + len(after) <= 1


def test_aligned_windows_take_any_order_and_leave_out_doubles() -> None:
    X = np.arange(8.0)[:, None]
    found = windows(X, length=2, time=[3, 2, 1, 0, 4, 5, 5, 7], interval=1, aligned=True)
    assert found.values()[..., 0].tolist() == [[3, 2], [1, 0]]
    assert len(windows(X[:0], length=2, time=[], interval=1, aligned=True)) == 0


def test_what_is_refused_says_what_and_where() -> None:
    X = np.zeros((6, 1))
    with pytest.raises(DataError, match=r"goes back in row 4\b.*2 after 9.*sort"):
        windows(X, length=2, time=[0, 1, 2, 9, 2, 3])
    with pytest.raises(DataError, match=r"goes back in row 4 of series 'b'"):
        windows(X, length=2, time=[0, 1, 2, 9, 2, 3], entity=list("aabbba"))
    with pytest.raises(DataError, match=r"irregular in row 3\b.*resample"):
        windows(X, length=2, time=[0, 1, 2, 4, 5, 6], interval=1, irregular="refuse")
    with pytest.raises(DataError, match="time of row 2 is not finite"):
        windows(X, length=2, time=[0, 1, np.nan, 4, 5, 6])
    with pytest.raises(DataError, match=r"No series is long enough.*6 rows.*has 3"):
        windows(X, length=4, entity=list("aaabbb"))
    with pytest.raises(DataError, match="the records have no time"):
        windows(X, length=2, interval=1)
    for wrong in (
        {"length": 0},
        {"length": 2.0},
        {"stride": 0},
        {"horizon": -1},
        {"time": [0, 1]},
        {"interval": 0, "time": range(6)},
        {"interval": 1, "time": range(6), "tolerance": 0.5},
        {"interval": 1, "time": range(6), "irregular": "mend"},
        {"aligned": True, "time": range(6)},
    ):
        with pytest.raises(ParameterError):
            windows(X, **{"length": 2, **wrong})
    with pytest.raises(ParameterError, match="matrix of floats"):
        windows(np.zeros((6, 1), dtype=np.int64), length=2)


def test_a_series_that_is_too_short_is_named_and_left_out() -> None:
    X = np.zeros((10, 1))
    with pytest.warns(BlindsightWarning, match=r"1 series are shorter.*'press'"):
        found = windows(X, length=4, entity=["mill"] * 8 + ["press"] * 2)
    assert len(found) == 5


def test_uneven_time_is_told_from_even_time_with_gaps() -> None:
    even = np.arange(100.0)
    jitter = even + np.random.default_rng(0).uniform(-0.2, 0.2, 100)
    gaps = even + 50.0 * (even >= 30) + 7.0 * (even >= 80)
    for times in (even, jitter, gaps, even[:1], even[:0], np.arange(0, 300, 3, dtype=np.int64)):
        assert uneven_time(times) == ""
    assert "100% of the steps" in uneven_time(np.full(100, 7.0))
    assert "unevenly far apart" in uneven_time(np.random.default_rng(0).exponential(1.0, 100).cumsum())
    assert "13% of the steps are off their median, 1" in uneven_time(even + np.cumsum(even % 8 == 1))
    # two hosts that report at once make every other step nil, unless they are told apart
    both, hosts = np.repeat(even, 2), np.tile(["a", "b"], 100)
    assert "Time stands still" in uneven_time(both)
    assert uneven_time(both, hosts) == ""


def test_int64_time_is_as_good_as_float() -> None:
    X = np.arange(6.0)[:, None]
    found = windows(X, length=2, time=np.arange(6, dtype=np.int64) * 10, interval=10)
    assert len(found) == 5


def test_series_are_normalised_each_on_its_own_and_constants_stay_finite() -> None:
    X = np.array([[1.0, 5], [2, 5], [3, 5], [100, 7], [200, 7], [300, 7]])
    z = normalise_series(X, ["a"] * 3 + ["b"] * 3, floor=[1e-9, 0.5])
    assert np.allclose(z[:3, 0], z[3:, 0])
    assert np.allclose(z[:, 0], np.tile([-1, 0, 1], 2) * np.sqrt(1.5))
    assert (z[:, 1] == 0).all()
    with pytest.raises(ParameterError, match="floor"):
        normalise_series(X, floor=0.0)


def test_records_carry_time_and_entity() -> None:
    (chunk,) = records(HOSTS, host_table(), warn=False)
    assert chunk.time is not None
    assert chunk.entity is not None
    assert np.array_equal(np.diff(chunk.time), np.ones(11))
    assert chunk.time[0] == 1780221600.0  # 2026-05-31 10:00:00 UTC
    assert chunk.entity.tolist() == ["a", "b"] * 6
    kept = chunk.only(chunk.entity == "b")
    assert kept.time is not None
    assert kept.label is not None
    assert len(kept) == len(kept.time) == 6
    assert kept.label[-1] == 1
    (scoring,) = records(HOSTS, host_table(), for_scoring=True, warn=False)
    assert scoring.time is scoring.entity is None
    (lacking,) = records(HOSTS, host_table().drop("when", "host"), warn=False)
    assert lacking.time is lacking.entity is None


@pytest.mark.parametrize(
    "when",
    [
        pl.Series(["2026-05-31 10:00:00", "2026-05-31T10:00:01.500"]).str.to_datetime(),
        pl.Series(["2026-05-31T10:00:00Z", "2026-05-31T10:00:01.5Z"]),
        pl.Series(["2026-05-31T12:00:00+02:00", "2026-05-31T10:00:01.5+00:00"]),
        pl.Series([1780221600.0, 1780221601.5]),
        pl.Series(["1780221600", "1780221601.5"]),
        np.array(["2026-05-31T10:00:00", "2026-05-31T10:00:01.5"], dtype="datetime64[ms]"),
    ],
)
def test_every_form_of_a_time_is_seconds(when) -> None:
    (chunk,) = records(HOSTS, {**host_table(6)[:2].to_dict(as_series=False), "when": when}, warn=False)
    assert chunk.time is not None
    assert chunk.time.tolist() == [1780221600.0, 1780221601.5]


def test_a_time_that_cannot_be_read_names_its_row() -> None:
    table = host_table(6).with_columns(when=pl.Series(["2026-05-31", "soon", *["2026-06-01"] * 4]))
    with pytest.raises(DataError, match=r"Time 'when' is missing or unreadable in row 1.*'soon'"):
        list(records(HOSTS, table))
    with pytest.raises(DataError, match=r"Entity 'host' is missing"):
        list(records(HOSTS, host_table().with_columns(host=None)))
    with pytest.raises(SchemaError, match="entity is of type number or text"):
        Column(name="host", role="entity", type="category", categories=("a",))


def test_several_entities_make_one_key_each_and_persons_never_mix() -> None:
    schema = Schema(
        (
            Column(name="host", role="entity", type="text"),
            Column(name="port", role="entity", type="number"),
            Column(name="who", role="person", type="number"),
            Column(name="x", low=0, high=1),
        )
    )
    table = {"host": ["a", "a", "a", "b"], "port": [1, 1, 2, 1], "who": [7, 8, 7, 7], "x": [0.0, 0.5, 1.0, 0.1]}
    (chunk,) = records(schema, table)
    assert chunk.entity is not None
    assert len(set(chunk.entity.tolist())) == 3
    key = series_key(chunk)
    assert key is not None
    assert len(set(key.tolist())) == 4


def test_a_window_table_summarises_and_derives_its_ranges() -> None:
    schema = Schema((Column(name="x", low=0, high=10), Column(name="y", low=-1, high=1)))
    X = np.random.default_rng(1).uniform([0, -1], [10, 1], size=(40, 2))
    X[7, 0] = 25.0  # legal, outside
    with pytest.warns(BlindsightWarning, match="outside"):
        table, derived = window_table(X, schema, length=5, stride=2)
    assert derived.ranges == "declared"
    view = np.lib.stride_tricks.sliding_window_view(X, 5, axis=0)[::2]
    assert np.allclose(table["y_mean"], view[:, 1].mean(axis=1))
    assert np.allclose(table["y_deviation"], view[:, 1].std(axis=1))
    assert np.allclose(table["y_slope"], [np.polyfit(np.arange(5), w, 1)[0] for w in view[:, 1]])
    assert table["x_max"].max() == 25.0
    assert table["row"].to_list() == list(range(4, 40, 2))
    (chunk,) = records(derived, table, warn=False)
    assert set(chunk.report.outside) == {"x_max"}
    for flat in (np.array([0.0, 0, 0, 10, 10]), np.array([10.0, 10, 0, 0, 0])):
        table, derived = window_table(np.column_stack([flat, flat / 10]), schema, length=5)
        (chunk,) = records(derived, table)
        assert not chunk.report.outside


def test_a_window_table_keeps_category_label_entity_and_time() -> None:
    with pytest.warns(BlindsightWarning, match="no declared category"):
        table, derived = window_table(host_table(), HOSTS, length=3, summaries=("all",))
    assert derived.feature_names == ("load_0", "load_1", "load_2", "mode_last")
    assert table["host"].to_list() == ["a"] * 4 + ["b"] * 4
    assert table["bad"].to_list() == [0] * 7 + [1]
    assert derived.label is not None
    (chunk,) = records(derived, table, warn=False)
    assert chunk.label is not None
    assert chunk.X.shape == (8, 4)
    with pytest.raises(ParameterError, match="summaries"):
        window_table(host_table(), HOSTS, length=3, summaries=("median",))
    with pytest.raises(ParameterError, match="length"):
        window_table(host_table(), HOSTS, length=1)


def test_gathering_chunks_is_reading_at_once(tmp_path) -> None:
    path = tmp_path / "hosts.csv"
    host_table().write_csv(path)
    whole = gather(HOSTS, path, warn=False)
    assert whole.X.shape == (12, 2)
    assert whole.entity is not None
    assert whole.entity.tolist() == ["a", "b"] * 6
