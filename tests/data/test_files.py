"""CSV and Parquet files: bounded memory, exact row numbers, damaged files refused in words."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsight.data import Column, Schema, read_table, records
from blindsight.data import _files as files
from blindsight.errors import DataError

SCHEMA = Schema(
    [
        Column(name="age", low=0, high=120),
        Column(name="shop", type="category", categories=("food", "fuel", "NA", "007")),
        Column(name="who", role="person", type="text"),
        Column(name="y", role="label"),
    ]
)
NUMBERS = Schema([Column(name=f"x{i}", low=-8, high=8) for i in range(10)])


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(schema: Schema, path: Path, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        list(records(schema, path))


def test_csv_and_parquet_give_the_same_records(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "y": rng.integers(0, 2, 1000),
            "who": [f"p{i}" for i in rng.integers(0, 50, 1000)],
            "age": rng.uniform(0, 120, 1000),
            "note": ['a, "quoted"\nnote'] * 1000,
            "shop": rng.choice(["food", "fuel", "NA", "007"], 1000),
        }
    )
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet", row_group_size=300)
    for path in (tmp_path / "t.csv", str(tmp_path / "t.parquet")):
        chunks = list(read_table(path, SCHEMA, chunk_rows=77))
        assert [len(chunk) for chunk in chunks] == [77] * 12 + [76]
        assert [chunk.row0 for chunk in chunks] == list(range(0, 1000, 77))
        np.testing.assert_array_equal(np.concatenate([c.X[:, 0] for c in chunks]), frame["age"])
        codes = [("food", "fuel", "NA", "007").index(shop) for shop in frame["shop"]]
        np.testing.assert_array_equal(np.concatenate([c.X[:, 1] for c in chunks]), codes)
        assert np.concatenate([c.person for c in chunks]).tolist() == frame["who"].to_list()
        assert np.concatenate([c.label for c in chunks]).tolist() == frame["y"].to_list()


def test_read_table_is_for_files():
    with pytest.raises(DataError, match="use records"):
        read_table(np.zeros((2, 2)), SCHEMA)


def test_numbers_in_csv_may_be_written_in_several_ways(write):
    schema = Schema([Column(name="x", low=-100, high=2000, missing=-1), Column(name="b", low=0, high=9)])
    path = write("x,b\n1e3,1\n -2.5 ,1\n+4,1\n,1\nNA,1\nnull,1\n NaN,1\n")
    (chunk,) = records(schema, path)
    assert chunk.X[:, 0].tolist() == [1000, -2.5, 4, -1, -1, -1, -1]
    assert chunk.report.filled == {"x": 4}


def test_a_byte_order_mark_crlf_and_blank_last_lines_are_no_data(write):
    schema = Schema([Column(name="a", low=0, high=9), Column(name="b", low=0, high=9)])
    for text in ("a,b\n1,2\n3,4", "\ufeffa,b\r\n1,2\r\n3,4\r\n", "a,b\n1,2\n3,4\n\n\n\r\n"):
        (chunk,) = records(schema, write(text))
        assert chunk.X.tolist() == [[1, 2], [3, 4]]


def test_persons_of_type_number_are_parsed_from_csv(write):
    schema = Schema([Column(name="a", low=0, high=9), Column(name="who", role="person")])
    (chunk,) = records(schema, write("a,who\n1,007\n2,7\n"))
    assert chunk.person.tolist() == [7, 7]
    refused(schema, write("a,who\n1,7\n2,x7\n"), "Person 'who' is missing or unusable in row 1. Got: 'x7'")
    refused(schema, write("a,who\n1,7\n2,\n"), "Person 'who' is missing or unusable in row 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty. Got: 0 bytes"),
        (b"\n", "has no header"),
        (b"age,shop,who,y\n", "no rows"),
        (b"age,shop,who,y", "no rows"),
        (b"age,shop,who,y,age\n1,food,a,0,1\n", "two columns 'age'"),
        (b"age;shop;who;y\n1;food;a;0\n", "not separated by commas"),
        (b'age,"shop\n1,food\n', "header of"),
        (b"\xff\xfea\x00g\x00e\x00\n\x00", "not UTF-8"),
        (b"age,shop,who,y\n1,food,\xe9,0\n", "not UTF-8"),
        (b"age,shop,who\n1,food,a,0\n2,food,b,1\n", "Row 0 of"),
        (b"age,shop,who,y\n1,food,a,0\n2,food,b\n3,food,c,1\n", "Row 1 of"),
        (b"age,shop,who,y\n1,food,a,0\n\n3,food,c,1\n", "has 0 values. Rule: 4, like the header"),
        (b"age,shop,who,y\n1,food,a,0\n3,food,c,1,5\n", "has 5 values. Rule: 4, like the header"),
        (b'age,shop,who,y\n1,food,a,0\n3,"food",c\n', "has 3 values"),
        (b'age,shop,who,y\n1,food,"a,0\n3,food,c,1\n', "has 3 values"),
        (b"age,shop,who,y\n1,food,a,0\nold,food,b,1\n", "Column 'age' is not a number in row 1. Got: 'old'"),
        (b"age,shop,who,y\n1,food," + b"a" * 200_000 + b"\n2,food,b,0\n", "is malformed after row 0"),
        (b"age,shop,who,y\n1,food,a,0\ninf,food,b,1\n", "1 infinite value, the first in row 1"),
        (b"age,shop,who,y\n1,food,a,0\n,food,b,1\n", "Column 'age' has 1 missing value, the first in row 1"),
        (b"age,shop,who,y\n1,,a,0\n", "Column 'shop' has 1 missing value, the first in row 0"),
        (b"age,shop,who,y\n1,food,,0\n", "Person 'who' is missing or unusable in row 0"),
        (b"age,shop,who,y\n1,food,a,\n", "Label 'y' is missing in row 0"),
        (b"age,shop,who,y\n1,food,a,2\n", "Label 'y' has another value in row 0. Got: '2'"),
        (b"AGE,shop,who,y\n1,food,a,0\n", "Fix: rename 'AGE' if that is meant"),
    ],
    ids=range(24),
)
def test_a_damaged_csv_file_is_refused_in_words(write, text, message):
    refused(SCHEMA, write(text), message)


def test_rows_are_numbered_across_blocks(write, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 64)
    rows = [f"{i},food,p{i},0" for i in range(100)]
    rows[83] = "x,food,p,0"
    refused(SCHEMA, write("age,shop,who,y\n" + "\n".join(rows)), "not a number in row 83. Got: 'x'")
    rows[83] = "1,food,p"
    refused(SCHEMA, write("age,shop,who,y\n" + "\n".join(rows)), "Row 83 of")


def test_an_unclosed_quote_cannot_fill_the_memory(write, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    text = "age,shop,who,y\n1,food,a,0\n" + '2,"food,b,1\n' + "3,food,c,1\n" * 1000
    refused(SCHEMA, write(text), "has no end of row after row 1")


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, st.just("1")), min_size=1, max_size=30), block=st.integers(60, 300))
def test_any_csv_that_python_writes_is_read_back_whatever_the_block(tmp_path, rows, block):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("a", "b", "n"), *rows])
    path = tmp_path / "any.csv"
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", block)
        chunks = list(files.CsvTable(path).chunks(("b", "a"), 7))
    for column, position in (("a", 0), ("b", 1)):
        values = [value or "" for chunk in chunks for value in chunk[column]]
        assert values == [row[position] for row in rows]


# ---- Parquet


def test_a_damaged_parquet_file_is_refused_in_words(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({f"x{i}": np.zeros(1000) + i for i in range(10)}).write_parquet(path)
    whole = path.read_bytes()
    for bad in (b"hello", b"PAR1" + b"x" * 99 + b"PAR1", whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(bad)
        refused(NUMBERS, path, "is not readable Parquet")
    path.write_bytes(b"")
    refused(NUMBERS, path, "is empty")
    pl.DataFrame(schema={f"x{i}": pl.Float64 for i in range(10)}).write_parquet(path)
    refused(NUMBERS, path, "no rows")


def test_flipped_bytes_in_parquet_never_crash(tmp_path):
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(1)
    pl.DataFrame({f"x{i}": rng.standard_normal(200) for i in range(10)}).write_parquet(path)
    whole = bytearray(path.read_bytes())
    outcomes = set()
    for _ in range(150):
        mutant = bytearray(whole)
        mutant[rng.integers(len(mutant))] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        try:
            rows = sum(len(chunk) for chunk in records(NUMBERS, path, warn=False))
            assert rows == 200
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_file_that_shrinks_between_chunks_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame({f"x{i}": np.zeros(1000) for i in range(10)})
    frame.write_parquet(path)
    chunks = records(NUMBERS, path, chunk_rows=600)
    next(chunks)
    frame.head(700).write_parquet(path)
    with pytest.raises(DataError, match=r"changed while it was read|not readable Parquet"):
        list(chunks)


def test_a_name_with_wildcards_is_one_file(tmp_path):
    pl.DataFrame({f"x{i}": np.zeros(3) for i in range(10)}).write_parquet(tmp_path / "a[1]*.parquet")
    pl.DataFrame({f"x{i}": np.zeros(5) for i in range(10)}).write_parquet(tmp_path / "a1.parquet")
    assert sum(len(chunk) for chunk in records(NUMBERS, tmp_path / "a[1]*.parquet")) == 3


def test_names_that_look_like_patterns_are_names(tmp_path):
    names = ["^a.*$", "*", "a", "^b$"]
    schema = Schema([Column(name=name, low=0, high=9) for name in names])
    frame = pl.DataFrame({name: [float(i)] for i, name in enumerate(names)})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    for source in (tmp_path / "t.parquet", tmp_path / "t.csv", frame):
        (chunk,) = records(schema, source)
        assert chunk.X.tolist() == [[0, 1, 2, 3]]


READ = """
import sys
from blindsight.data import Column, Schema, _files, records
_files.BLOCK_BYTES = 1 << 20  # so that even the smaller file has several blocks
schema = Schema([Column(name=f"x{i}", low=-8, high=8) for i in range(10)])
rows = sum(len(chunk) for chunk in records(schema, sys.argv[1], chunk_rows=16_384))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(rows, int(peak.split()[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    rng = np.random.default_rng(2)
    peaks = []
    for rows in (100_000, 600_000):
        path = tmp_path / f"{rows}{suffix}"
        frame = pl.DataFrame({f"x{i}": rng.standard_normal(rows).astype(np.float32) for i in range(10)})
        if suffix == ".csv":
            frame.select(pl.all().round(3)).write_csv(path)
        else:
            frame.write_parquet(path, row_group_size=65_536)
        done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
        read, peak = map(int, done.stdout.split())
        assert read == rows
        peaks.append(peak)
    assert peaks[1] <= 1.2 * peaks[0]
