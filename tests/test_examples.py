"""Every example runs as it stands, in well under a minute, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_workers() -> None:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    pytest.importorskip("tenseal", reason="the extra 'he' is not installed")
    said = run("three_workers.py")
    spent = re.search(r"epsilon ([\d.]+) per record", said)
    assert spent is not None
    assert 0 < float(spent[1]) <= 8
    for worker in ("alice", "bob", "charlie"):
        assert worker in said
    errors = re.search(r"charlie +reconstruction error: ordinary ([\d.]+), five times too wide ([\d.]+)", said)
    assert errors is not None
    assert float(errors[2]) > 5 * float(errors[1])
    assert "as in the clear: True" in said


def test_the_example_is_as_short_as_it_says() -> None:
    lines = (EXAMPLES / "three_workers.py").read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 35


def test_time_series() -> None:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    said = run("time_series.py")
    areas = {kind: [float(a) for a in re.findall(rf"{kind} AUROC ([\d.]+)", said)] for kind in ("ECOD", "LSTM")}
    assert [len(values) for values in areas.values()] == [3, 3], "one a site"
    mean = {kind: float(a) for kind, a in re.findall(r"(ECOD|LSTM): mean AUROC ([\d.]+); \d+ sums, [\d,]+ bytes", said)}
    for kind, values in areas.items():
        assert mean[kind] == pytest.approx(sum(values) / 3, abs=0.0011)
    winner = re.search(r"(ECOD|LSTM) is better here, by (\d\.\d+)\.", said)
    assert winner is not None
    assert winner[1] == max(mean, key=mean.__getitem__), "it says which one wins"
    assert float(winner[2]) == pytest.approx(abs(mean["ECOD"] - mean["LSTM"]), abs=0.0011)
    assert ("The simple one wins" in said) == (winner[1] == "ECOD")
    assert mean["ECOD"] > 0.7, "the trouble can be seen"
