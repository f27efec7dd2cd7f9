"""Every example runs as it stands, in well under a minute, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=120, check=False
    )
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
    assert len(code) <= 45
