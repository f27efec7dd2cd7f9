"""SIGKILL before every single step between charge and release: nothing is lost, nothing is charged twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blindsight.errors import BudgetError
from blindsight.privacy import Ledger
from blindsight.store import Store

from . import crash_child

HELPER = Path(__file__).with_name("crash_child.py")

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL") or not hasattr(os, "fork"), reason="POSIX only")


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    done = subprocess.run(
        [sys.executable, str(HELPER), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def test_every_step_was_a_failpoint(attempts):
    _, reports = attempts
    assert [r["k"] for r in reports] == list(range(len(reports)))
    assert [r["killed"] for r in reports] == [True] * (len(reports) - 1) + [False]
    whole = reports[-1]["steps"]
    assert whole.count("BEGIN") == whole.count("COMMIT") == 2  # the charge; the output
    assert whole.count("INSERT") == 3  # the charge's line; the output; the output's line
    assert whole.index("COMMIT") < whole.index("draw") < whole.index("publish")
    for report in reports:
        assert report["steps"] == whole[: report["k"]]


def test_before_the_retry_the_charge_is_there_if_noise_was_drawn(attempts, tmp_path):
    folder, reports = attempts
    for report in reports:
        copy = tmp_path / str(report["k"])
        copy.mkdir()
        for file in (folder / str(report["k"])).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        with Store(copy / "ledger.db") as store:
            ledger = Ledger(store, crash_child.BUDGET)
            entries = ledger.entries()
            ledger.verify()
            assert len(entries) <= 1
            if "draw" in report["steps"]:
                assert len(entries) == 1  # charged before any noise existed
            if "write" in report["steps"]:
                assert ledger.output(crash_child.RELEASE) is not None
            published = copy / "published"
            if published.exists():
                assert published.read_bytes() == ledger.output(crash_child.RELEASE)


def test_the_retry_completes_the_same_release(attempts):
    folder, reports = attempts
    for report in reports:
        home = folder / str(report["k"])
        with Store(home / "ledger.db") as store:
            kept = Ledger(store).output(crash_child.RELEASE)
        output = crash_child.release(home, lambda name: None)
        if kept is not None:
            assert output == kept  # not drawn again
        assert (home / "published").read_bytes() == output
        with Store(home / "ledger.db") as store:
            ledger = Ledger(store, crash_child.BUDGET)
            assert [e.release_id for e in ledger.entries()] == [crash_child.RELEASE]
            assert ledger.verify() == 2
            assert 0.999 < ledger.spent() <= 1.0
            assert ledger.output(crash_child.RELEASE) == output
            with pytest.raises(BudgetError, match="nothing was charged"):
                ledger.reserve("run/2", crash_child.EVENT)
