"""What holds for every command: help, exit codes, errors as one block, interruption; and the small commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from blindsight import errors
from blindsight.cli._doctor import examine
from blindsight.cli._exits import command, exit_code_of, safe_after
from blindsight.data import Schema

from .conftest import REPOSITORY, invoke, start

COMMANDS = [
    ["demo"], ["schema", "draft"], ["schema", "check"], ["fit"], ["score"], ["report"], ["ledger", "show"],
    ["ledger", "verify"], ["doctor"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_json_and_an_example(words):
    done = invoke(*words, "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert f"Example: blindsight {' '.join(words)}" in text
    assert "--json" in text


def test_help_is_quick_and_loads_nothing_heavy():
    times = []
    for _ in range(4):
        began = time.perf_counter()
        done = start("--help")
        times.append(time.perf_counter() - began)
    assert done.code == 0
    assert "Exit codes" in done.out
    assert min(times) < 0.5, times
    heavy = ("numpy", "polars", "matplotlib", "tenseal", "sklearn")
    code = f"import sys, blindsight.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_version_and_usage():
    assert start("--version").out.startswith("blindsight ")
    for words in (["nonsense"], ["fit", "--party", "x"], ["fit", "--epsilon", "one"], ["score"]):
        assert invoke(*words).code == 2


# -- exit codes ------------------------------------------------------------------------------------------------------


def test_exit_codes_of_the_error_tree():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not issubclass(kind, errors.BlindsightError):
            continue
        expected = 3 if issubclass(kind, errors.RefusedError) else 75 if kind is errors.UnavailableError else 2
        assert exit_code_of(kind("x")) == expected


def _app(body) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @command
    @safe_after("Three things are safe.")
    def run(json_output: bool = typer.Option(False, "--json")) -> None:
        body()

    return app


def _raise(error):
    def body():
        raise error

    return body


def test_an_error_is_one_block():
    error = errors.PolicyError("Not allowed", got="this", rule="that", fix="ask")
    result = CliRunner().invoke(_app(_raise(error)), [])
    assert result.exit_code == 3
    assert result.stderr == "error: Not allowed.\n  got:  this\n  rule: that\n  fix:  ask\n"
    assert result.stdout == ""
    as_json = CliRunner().invoke(_app(_raise(error)), ["--json"])
    assert json.loads(as_json.stderr) == {
        "error": {"kind": "PolicyError", "what": "Not allowed", "got": "this", "rule": "that", "fix": "ask"}
    }


def test_a_crash_is_exit_one_without_a_traceback(monkeypatch):
    monkeypatch.delenv("BLINDSIGHT_DEBUG", raising=False)
    result = CliRunner().invoke(_app(_raise(ZeroDivisionError("oh"))), [])
    assert result.exit_code == 1
    assert "ZeroDivisionError: oh" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("BLINDSIGHT_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(_app(_raise(ZeroDivisionError("oh"))), []).stderr


def test_interruption_says_what_is_safe():
    result = CliRunner().invoke(_app(_raise(KeyboardInterrupt())), [])
    assert result.exit_code == 130
    assert result.stderr == "\nInterrupted. Three things are safe.\n"


def test_warnings_are_one_line():
    def body():
        import warnings

        warnings.warn("Look at this.", errors.BlindsightWarning, stacklevel=1)

    result = CliRunner().invoke(_app(body), [])
    assert result.exit_code == 0
    assert result.stderr == "warning: Look at this.\n"


def test_ctrl_c_on_a_real_process(fitted, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "blindsight", *fitted.command, "--epsilon", "1", "--home", tmp_path / "run",
         "--output", tmp_path / "m.blindsight"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Fitting ecod at 3 parties")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Interrupted. No model was written." in told
    assert "Traceback" not in told
    assert not (tmp_path / "m.blindsight").exists()


def test_exit_codes_of_real_processes(tmp_path):
    column = "name = 'x'\nrole = 'feature'\ntype = 'number'\nlow = 0\nhigh = 1\n"
    (tmp_path / "schema.toml").write_text(f"version = 1\nranges = 'declared'\n[[columns]]\n{column}")
    (tmp_path / "good.csv").write_text("x\n0.1\n0.9\n")
    (tmp_path / "bad.csv").write_text("x\n0.1\ninf\n")
    assert start("schema", "check", "schema.toml", "good.csv", cwd=tmp_path).code == 0
    found = start("schema", "check", "schema.toml", "bad.csv", cwd=tmp_path)
    assert found.code == 4
    assert "infinite" in found.out
    missing = start("schema", "check", "nowhere.toml", "good.csv", cwd=tmp_path)
    assert missing.code == 2
    assert missing.err.startswith("error: ")
    assert "Traceback" not in missing.err


# -- schema ----------------------------------------------------------------------------------------------------------


def test_draft_then_check(tmp_path):
    table = pl.DataFrame({"amount": [1.5, 2.5, 700.0], "shop": ["a", "b", "a"]})
    table.write_csv(tmp_path / "t.csv")
    done = invoke("schema", "draft", tmp_path / "t.csv", "--output", tmp_path / "schema.toml")
    assert done.code == 0, done.err
    text = (tmp_path / "schema.toml").read_text()
    assert "amount" in text
    assert "700" not in text  # no value of any record
    assert invoke("schema", "draft", tmp_path / "t.csv").out.strip() == text.strip()
    blank = invoke("schema", "check", tmp_path / "schema.toml", tmp_path / "t.csv")
    assert blank.code == 2  # the blanks are named
    again = invoke("schema", "draft", tmp_path / "t.csv", "--output", tmp_path / "schema.toml")
    assert again.code == 2
    assert (tmp_path / "schema.toml").read_text() == text
    Schema.infer(table).write(tmp_path / "schema.toml")
    assert invoke("schema", "check", tmp_path / "schema.toml", tmp_path / "t.csv").code == 0
    table.drop("shop").write_csv(tmp_path / "t.csv")
    checked = invoke("schema", "check", tmp_path / "schema.toml", tmp_path / "t.csv", "--json")
    assert checked.code == 4
    assert checked.value["problems"] == 1
    assert checked.value["findings"][0]["column"] == "shop"


# -- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_here(tmp_path):
    done = invoke("doctor", "--home", tmp_path, "--json")
    assert done.code == 0, done.out
    findings = {finding["what"]: finding for finding in done.value["findings"]}
    assert findings["disk"]["level"] == "ok"
    assert findings["randomness"]["level"] == "ok"
    assert findings["core"]["level"] == "ok"
    assert not list(tmp_path.iterdir())


def test_doctor_compares_with_constraints(tmp_path):
    (tmp_path / "c.txt").write_text("# tested\nnumpy==0.0.1\nnot-installed==1\n--hash=x\n")
    done = invoke("doctor", "--home", tmp_path, "--constraints", tmp_path / "c.txt")
    assert done.code == 4
    assert "numpy" in done.out
    assert "fix: pip install -c c.txt" in done.out


def test_doctor_reports_what_breaks(tmp_path, monkeypatch):
    from blindsight import store

    def broken(*_: object) -> None:
        raise errors.StoreError("The disk is full")

    monkeypatch.setattr(store, "Store", broken)
    monkeypatch.setattr("os.sched_getaffinity", broken, raising=False)
    findings = {finding.what: finding for finding in examine(tmp_path / "not" / "there")}
    assert findings["disk"].level == "problem"
    assert "The disk is full" in findings["disk"].told
    assert findings["cores"].level == "problem"
    assert findings["disk"].fix


def test_the_repository_is_where_we_think():
    assert (REPOSITORY / "pyproject.toml").is_file()
