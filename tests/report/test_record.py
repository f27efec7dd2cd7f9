"""run.json: written and read back, and refused when it is anything else."""

from __future__ import annotations

import json

import msgspec
import pytest

from blindsight.errors import FormatError, StoreError
from blindsight.report import Histogram, RunFile, parse_run, read_run, write_run

from ._runs import bare_run, full_run


@pytest.mark.parametrize("make", [full_run, bare_run])
def test_what_is_written_is_read_back(make, tmp_path):
    path = write_run(make(), tmp_path)
    assert path == tmp_path / "run.json"
    assert path.stat().st_mode & 0o077 == 0
    assert read_run(tmp_path) == make()
    assert read_run(path) == make()


def _plain() -> dict:
    return json.loads(msgspec.json.encode(full_run()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.update(extra=1),
        lambda v: v.pop("title"),
        lambda v: v.update(format="something else"),
        lambda v: v.update(version=2),
        lambda v: v.update(title="x" * 257),
        lambda v: v.update(parties=["a", 3]),
        lambda v: v["model"].update(threshold="high"),
        lambda v: v["model"].update(records=-1),
        lambda v: v["evaluation"].update(auroc=1.5),
        lambda v: v["evaluation"].update(roc=[[0, 0]]),
        lambda v: v["comparison"]["curves"][0].update(kind="secret"),
        lambda v: v["histogram"]["counts"].pop(),
        lambda v: v["privacy"].update(unit="household"),
        lambda v: v["stages"][0].update(seconds=1e30),
    ],
)
def test_anything_else_is_refused(spoil):
    value = _plain()
    spoil(value)
    with pytest.raises(FormatError, match="run file is malformed"):
        parse_run(json.dumps(value).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"title": NaN}', b"[" * 100_000, b"\xff" * 100])
def test_garbage_is_refused(text):
    with pytest.raises(FormatError, match="malformed"):
        parse_run(text)


def test_not_a_number_is_refused():
    text = msgspec.json.encode(full_run()).replace(b"0.8125", b"NaN")
    with pytest.raises(FormatError):
        parse_run(text)


def test_a_truncated_file_is_refused():
    whole = msgspec.json.encode(full_run())
    for length in range(0, len(whole), 97):
        with pytest.raises(FormatError):
            parse_run(whole[:length])


def test_a_huge_file_is_refused(tmp_path):
    (tmp_path / "run.json").write_bytes(b" " * ((1 << 24) + 1))
    with pytest.raises(FormatError, match="longer than 16 MiB"):
        read_run(tmp_path)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(StoreError, match="blindsight fit --home"):
        read_run(tmp_path)


def test_a_run_is_frozen_and_checked():
    run = full_run()
    with pytest.raises(AttributeError):
        run.title = "other"
    with pytest.raises(ValueError, match="one count more"):
        full_run(histogram=Histogram(edges=(1.0, 2.0), counts=(1.0, 2.0), noise_stddev=0.0))
    assert isinstance(run, RunFile)
