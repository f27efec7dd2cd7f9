"""What holds for every command: help, exit codes, errors as one block, interruption; and the small commands."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from blindsight import errors, load
from blindsight.cli._choose import choose_detector, read_settings
from blindsight.cli._doctor import examine
from blindsight.cli._exits import command, exit_code_of, safe_after
from blindsight.data import Schema
from blindsight.detectors import known_detectors
from blindsight.errors import ParameterError
from blindsight.keys import Sealer
from blindsight.report import describe_alerts, read_run
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

from .conftest import REPOSITORY, invoke, start

COMMANDS = [
    ["demo"], ["schema", "draft"], ["schema", "check"], ["fit"], ["score"], ["report"], ["ledger", "show"],
    ["ledger", "figures"], ["ledger", "verify"], ["doctor"], ["detectors"], ["compare"], ["plan", "blind"],
    ["init", "make"], ["init", "add"], ["init", "rotate"], ["init", "revoke"], ["init", "show"], ["preflight"],
    ["party", "enrol"], ["party", "join"], ["party", "accept"], ["party", "mock"], ["party", "audit", "show"],
    ["party", "audit", "verify"], ["jobs", "list"], ["jobs", "show"], ["jobs", "approve"], ["jobs", "refuse"],
    ["jobs", "key"], ["simulate"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_json_and_an_example(words):
    done = invoke(*words, "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert f"Example: blindsight {' '.join(words)}" in text
    assert "--json" in text


def test_help_is_quick_and_loads_nothing_heavy():
    # processor time, which other work on the machine does not lengthen
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = start("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == 0
    assert "Exit codes" in done.out
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
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
        expected = (
            3 if issubclass(kind, errors.RefusedError) else 75 if issubclass(kind, errors.UnavailableError) else 2
        )
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
    assert process.stderr.readline().startswith("Fitting ECOD at 3 parties")
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


# -- detectors, compare -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banks")
    NUMBER_SCHEMA.write(folder / "schema.toml")
    columns = ["age", "amount", "balance", "fraud"]
    for place, name in enumerate(["a", "b", "c"]):
        make_table(300, place).select(columns).write_csv(folder / f"{name}.csv")
    make_table(800, 9).select(columns).write_csv(folder / "test.csv")
    (folder / "policy.toml").write_text(
        'allow_exact_sums = true\nmaximum_epsilon = 7.0\ndetectors = ["ECOD", "HBOS", "Mahalanobis"]\n'
    )
    return folder


def parties(folder: Path) -> list[str]:
    return [word for name in "abc" for word in ("--party", f"{name}={folder / name}.csv")]


def test_detectors_are_listed_with_what_they_cost(banks: Path) -> None:
    done = invoke("detectors", "--schema", banks / "schema.toml", "--epsilon", 1, "--json")
    assert done.code == 0, done.err
    entries = {entry["name"]: entry for entry in done.value["detectors"]}
    assert set(entries) == set(known_detectors())
    assert entries["ECOD"]["kind"] == "one sum"
    assert entries["ECOD"]["sums"] == 2
    assert entries["ECOD"]["bytes_per_sum"] == 8 * 3 * 64
    assert entries["ECOD"]["blind"].startswith("BFV")
    assert entries["AutoEncoder"]["kind"] == "rounds"
    assert entries["AutoEncoder"]["extra"] == "deep"
    assert entries["AutoEncoder"]["blind"] == "MPC; CKKS if square"
    assert entries["LSTMAutoEncoder"]["blind"] == entries["ConvAutoEncoder"]["blind"] == "MPC"
    assert "over 30 rounds" in entries["AutoEncoder"]["epsilon"]
    shown = invoke("detectors")
    assert shown.code == 0
    assert all(name in shown.out for name in known_detectors())


def test_what_a_schema_rules_out_is_said(tmp_path: Path) -> None:
    MIXED_SCHEMA.write(tmp_path / "schema.toml")
    done = invoke("detectors", "--schema", tmp_path / "schema.toml")
    assert done.code == 0, done.err
    assert "Mahalanobis: " in done.out
    assert "country" in done.out


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_detectors_are_compared_on_one_file(banks: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"compared.{suffix}"
    done = invoke(
        "compare", "--schema", banks / "schema.toml", "--detectors", "ecod,HBOS,mahalanobis", "--set", "hbos.bins=8",
        "--input", banks / "a.csv", "--test", banks / "test.csv", "--output", output, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [entry["name"] for entry in done.value["detectors"]] == ["ECOD", "HBOS", "Mahalanobis"]
    for entry in done.value["detectors"]:
        assert 0.5 < entry["auroc_low"] < entry["auroc"] < entry["auroc_high"] <= 1
        assert entry["epsilon"] is None
    assert done.value["epsilon_total"] is None
    content = output.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"<svg" in content
        assert b"<script" not in content
        assert b"Mahalanobis" in content


def test_comparing_over_a_federation_says_what_all_of_it_cost(banks: Path, tmp_path: Path) -> None:
    command = ["compare", "--schema", banks / "schema.toml", "--detectors", "ecod,hbos", *parties(banks)]
    command += [word for name in "abc" for word in ("--evaluate", f"{name}={banks / 'test.csv'}")]
    command += ["--policy", banks / "policy.toml", "--home", tmp_path / "run"]
    done = invoke(*command, "--epsilon", 4, "--json")
    assert done.code == 0, done.err
    alone = [entry["epsilon"] for entry in done.value["detectors"]]
    assert all(0 < epsilon <= 4 for epsilon in alone)
    assert max(alone) < done.value["epsilon_total"] <= sum(alone) + 1e-9
    assert all(entry["bytes_total"] > 0 and entry["sums"] == 3 for entry in done.value["detectors"])
    ledger = invoke("ledger", "show", "--home", tmp_path / "run", "--json")
    spent = [account["spent"] for account in ledger.value["accounts"] if account["releases"]]
    assert spent == pytest.approx([done.value["epsilon_total"]] * 3, rel=1e-3)
    refused = invoke(*command, "--epsilon", 4)
    assert refused.code == 3, "beyond every party's budget"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--detectors", "ecod"], "Say whose records"),
        (["--detectors", "ecod,ECOD", "--input", "{a}"], "--detectors cannot be read"),
        (["--detectors", "fraud", "--input", "{a}"], "--detectors names no known detector"),
        (["--detectors", "ecod", "--input", "{a}", "--set", "hbos.bins=3"], "--set names no detector"),
        (["--detectors", "ecod", "--input", "{a}", "--set", "ecod.bin=3"], "has no parameter 'bin'"),
        (["--detectors", "ecod", "--input", "{a}", "--set", "ecod.bins=3"], "bins is out of its domain"),
        (["--detectors", "ecod", "--input", "{a}", "--output", "x.pdf"], "of an unknown kind"),
    ],
)
def test_wrong_comparisons_are_usage_errors(banks: Path, arguments: list[str], told: str) -> None:
    filled = [argument.format(a=banks / "a.csv") for argument in arguments]
    done = invoke("compare", "--schema", banks / "schema.toml", *filled)
    assert done.code == 2
    assert told in done.err


def test_fit_takes_plain_parameters_of_any_detector(banks: Path, tmp_path: Path) -> None:
    command = ["fit", "--schema", banks / "schema.toml", *parties(banks), "--policy", banks / "policy.toml"]
    command += ["--home", tmp_path / "run", "--output", tmp_path / "m", "--exact"]
    done = invoke(*command, "--detector", "hbos", "--set", "bins=12", "--json")
    assert done.code == 0, done.err
    model = load(tmp_path / "m")
    assert type(model).name == "HBOS"
    assert model.get_params()["bins"] == 12
    for wrong, told in (
        (["--set", "bins"], "--set cannot be read"),
        (["--set", "bins=1", "--set", "bins=2"], "twice"),
        (["--set", "training.rounds=2"], "has no parameter 'training.rounds'"),
    ):
        refused = invoke(*command, "--detector", "hbos", *wrong)
        assert refused.code == 2
        assert told in refused.err


def test_parts_of_training_are_set_by_name() -> None:
    detector = choose_detector("autoencoder", read_settings(["training.rounds=3", "hidden=[4,2]"]), contamination=0.1)
    parameters = detector.get_params(deep=False)
    assert parameters["training"].rounds == 3
    assert tuple(parameters["hidden"]) == (4, 2)
    with pytest.raises(ParameterError, match=r"There is no 'training\.round'"):
        choose_detector("autoencoder", {"training.round": 3}, contamination=0.1)


@pytest.mark.parametrize("text", ["8,4", "(8,4)", "[8,4]", "8, 4"])
def test_a_list_is_set_as_people_write_it(text: str) -> None:
    detector = choose_detector("auto-encoder", read_settings([f"hidden={text}"]), contamination=0.1)
    assert detector.get_params()["hidden"] == (8, 4)
    alone = choose_detector("AUTO_ENCODER", read_settings(["hidden=8"]), contamination=0.1)
    assert alone.get_params()["hidden"] == (8,)


@pytest.mark.parametrize(
    ("name", "setting", "told"),
    [
        ("hbos", "bin=8", "did you mean --set bins"),
        ("autoencoder", "training.round=8", r"did you mean --set training\.rounds"),
        ("autoencoder", "training=5", r"--set training\.rounds=5"),
        ("autoencoder", "training.rounds=1.5", "a whole number, 1 to 10000"),
        ("autoencoders", "hidden=8", "did you mean --detector autoencoder"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(name: str, setting: str, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        choose_detector(name, read_settings([setting]), contamination=0.1)


def test_one_file_is_never_compared_under_a_privacy_that_nothing_gives(banks: Path) -> None:
    command = ["compare", "--schema", banks / "schema.toml", "--detectors", "ecod", "--input", banks / "a.csv"]
    done = invoke(*command, "--epsilon", 1)
    assert done.code == 2
    assert "--party" in done.err


def test_what_cannot_be_fitted_is_left_out_before_anything_is_charged(banks: Path, tmp_path: Path) -> None:
    command = ["compare", "--schema", banks / "schema.toml", *parties(banks), "--policy", banks / "policy.toml"]
    command += ["--home", tmp_path / "run", "--epsilon", 1]
    none = invoke(*command, "--detectors", "voting-forest")
    assert none.code == 2
    assert "None of these detectors" in none.err
    assert not (tmp_path / "run").exists()
    output = tmp_path / "compared.html"
    done = invoke(*command, "--detectors", "voting-forest,ecod", "--output", output, "--json")
    assert done.code == 0, done.err
    assert [entry["name"] for entry in done.value["detectors"]] == ["ECOD"]
    assert [entry["name"] for entry in done.value["left_out"]] == ["VotingForest"]
    assert "left out: This detector cannot be fitted with differential" in output.read_text()


def test_a_refused_detector_is_a_row_and_the_others_go_on(banks: Path, tmp_path: Path) -> None:
    """The policy names ECOD and HBOS alone of these; the page shows the same row."""
    command = ["compare", "--schema", banks / "schema.toml", *parties(banks), "--policy", banks / "policy.toml"]
    command += ["--home", tmp_path / "run", "--epsilon", 3]
    output = tmp_path / "compared.html"
    done = invoke(*command, "--detectors", "ecod,iforest,hbos", "--output", output)
    assert done.code == 0, done.err
    lines = [line.strip() for line in done.out.splitlines()]
    (row,) = [line for line in lines if line.startswith("IForest")]
    assert re.match(r"IForest +refused: [abc]: The policy does not allow the detector 'IForest'", row)
    assert "nothing was charged for it" in re.sub(r"\s+", " ", done.out)
    assert {line.split()[0] for line in lines if line.startswith(("ECOD", "HBOS"))} == {"ECOD", "HBOS"}
    (shown,) = re.findall(r"<tr><td>IForest</td>(.*)</tr>", output.read_text())
    assert re.search("refused: [abc]: The policy does not allow the detector", shown)
    releases = invoke("ledger", "show", "--home", tmp_path / "run", "--json").value["accounts"]
    assert {len(account["releases"]) for account in releases} == {0, 6}, (
        "three sums for each of two, none for the third"
    )
    none = invoke(*command, "--detectors", "iforest,loda")
    assert none.code == 3
    assert "Every detector was refused" in none.err
    assert "LODA" in none.err


def test_what_a_refusal_in_the_middle_has_cost_is_said(banks: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('purposes = ["fit", "evaluation"]\n')
    command = ["compare", "--schema", banks / "schema.toml", *parties(banks), "--home", tmp_path / "run"]
    command += ["--policy", tmp_path / "policy.toml", "--detectors", "ecod,hbos", "--epsilon", 1]
    none = invoke(*command)
    assert none.code == 3, "of every detector the threshold is refused"
    assert "does not allow 'threshold'" in none.err
    ledger = invoke("ledger", "show", "--home", tmp_path / "run", "--json").value["accounts"]
    assert {len(account["releases"]) for account in ledger} == {0, 2}, "both fits were charged"
    wide = ["compare", "--schema", banks / "schema.toml", *parties(banks), "--home", tmp_path / "wide", "--epsilon", 4]
    (tmp_path / "wide.toml").write_text("maximum_epsilon = 7.0\n")
    done = invoke(*wide, "--policy", tmp_path / "wide.toml", "--detectors", "ecod,hbos,loda,copod", "--json")
    assert done.code == 0, done.err
    assert [entry["name"] for entry in done.value["detectors"]][:2] == ["ECOD", "HBOS"]
    refused = done.value["refused"]
    assert {entry["name"] for entry in refused} >= {"COPOD"}
    counted = sum(entry["sums"] for entry in [*done.value["detectors"], *refused])
    ledger = invoke("ledger", "show", "--home", tmp_path / "wide", "--json").value["accounts"]
    accounts = [account for account in ledger if account["releases"]]
    assert {len(account["releases"]) for account in accounts} == {counted}
    assert all(account["spent"] == pytest.approx(done.value["epsilon_total"], rel=1e-3) for account in accounts)


def test_a_schema_leaves_number_detectors_out_of_a_comparison(tmp_path: Path) -> None:
    MIXED_SCHEMA.write(tmp_path / "schema.toml")
    make_table(300, 1).write_csv(tmp_path / "a.csv")
    command = ["compare", "--schema", tmp_path / "schema.toml", "--input", tmp_path / "a.csv"]
    done = invoke(*command, "--detectors", "mahalanobis,hbos")
    assert done.code == 0, done.err
    assert re.search(r"Mahalanobis +left out: ", done.out)
    assert invoke(*command, "--detectors", "mahalanobis").code == 2


def test_the_catalogue_says_where_privacy_is_refused(banks: Path, tmp_path: Path) -> None:
    entries = invoke("detectors", "--schema", banks / "schema.toml", "--epsilon", 1, "--json").value["detectors"]
    assert {e["name"] for e in entries if e["epsilon"] == "refused"} == {"VotingForest"}
    MIXED_SCHEMA.write(tmp_path / "schema.toml")
    entries = invoke("detectors", "--schema", tmp_path / "schema.toml", "--epsilon", 1, "--json").value["detectors"]
    unsuitable = [e for e in entries if e["note"]]
    assert "Mahalanobis" in {e["name"] for e in unsuitable}
    assert all(e["epsilon"] == "" and e["blind"] == "" for e in unsuitable)


def test_doctor_looks_at_what_networks_need(tmp_path: Path) -> None:
    findings = invoke("doctor", "--home", tmp_path, "--json").value["findings"]
    assert "torch" in next(f["told"] for f in findings if f["what"] == "extra 'deep'")


def test_a_partys_log_is_named_where_its_records_fail(banks: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("age,amount,balance,fraud\n1,none,3,0\n")
    command = ["fit", "--schema", banks / "schema.toml", "--policy", banks / "policy.toml", "--exact"]
    for name, folder in (("a", banks), ("b", tmp_path), ("c", banks)):
        command += ["--party", f"{name}={folder / name}.csv"]
    done = invoke(*command, "--home", tmp_path / "run", "--output", tmp_path / "m")
    assert done.code != 0
    assert str(tmp_path / "run" / "b" / "party.log") in done.err
    assert str(tmp_path / "run" / "a" / "party.log") not in done.err


def test_fit_says_what_is_kept_for_an_evaluation_and_what_the_least_noise_caps(banks: Path, tmp_path: Path) -> None:
    command = ["fit", "--schema", banks / "schema.toml", *parties(banks)]
    done = invoke(*command, "--home", tmp_path / "run", "--output", tmp_path / "m", "--epsilon", 1)
    assert done.code == 0, done.err
    assert "20% of the budget is kept for an evaluation" in done.out
    assert f"The model is set to alert on {describe_alerts(read_run(tmp_path / 'run').model)}." in done.out
    assert "in about nineteen fits of twenty" in done.out
    assert "could not spend more" not in done.out
    (tmp_path / "wide.toml").write_text("maximum_epsilon = 900.0\n")
    more = ["--policy", tmp_path / "wide.toml", "--epsilon", 100]
    for name in "abc":
        more += ["--evaluate", f"{name}={banks / 'test.csv'}"]
    done = invoke(*command, *more, "--home", tmp_path / "wide", "--output", tmp_path / "m")
    assert done.code == 0, done.err
    assert "is kept for an evaluation" not in done.out
    assert "could not spend more" in done.out


def test_few_records_are_warned_of_in_one_line(banks: Path, tmp_path: Path) -> None:
    make_table(30, 1).write_csv(tmp_path / "few.csv")
    done = invoke(
        "compare", "--schema", banks / "schema.toml", "--detectors", "ecod", "--input", tmp_path / "few.csv",
        "--test", banks / "test.csv",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err.count("warning: 'few.csv' has about 30 records in all, fewer than 50") == 1


def test_one_class_gives_no_figures(banks: Path, tmp_path: Path) -> None:
    pl.read_csv(banks / "test.csv").with_columns(fraud=pl.lit(0)).write_csv(tmp_path / "normal.csv")
    command = ["compare", "--schema", banks / "schema.toml", "--detectors", "ecod", "--input", banks / "a.csv"]
    done = invoke(*command, "--test", tmp_path / "normal.csv", "--output", tmp_path / "c.html")
    assert done.code == 0, done.err
    assert "Measuring 1 detector\n" in done.err
    assert "not measurable" in done.out
    assert "0.000" not in done.out
    assert "nan" not in done.out
    page = (tmp_path / "c.html").read_text()
    assert "one class only" in page
    assert "<figure>" not in page


def test_test_records_of_some_parties_are_refused_before_anything_is_charged(banks: Path, tmp_path: Path) -> None:
    command = ["fit", "--schema", banks / "schema.toml", *parties(banks), "--epsilon", 1, "--home", tmp_path / "run"]
    done = invoke(*command, "--output", tmp_path / "m", "--evaluate", f"a={banks / 'test.csv'}")
    assert done.code == 2
    assert "none from b, c: their training records would be used" in done.err
    assert "Fitting" not in done.err
    assert not (tmp_path / "run").exists()


def test_names_are_refused_before_anything_is_begun(banks: Path, tmp_path: Path) -> None:
    command = ["fit", "--schema", banks / "schema.toml", "--epsilon", 1, "--home", tmp_path / "run"]
    files = [word for name in ("Bank A", "b", "c") for word in ("--party", f"{name}={banks / 'a.csv'}")]
    done = invoke(*command, *files, "--output", tmp_path / "m")
    assert done.code == 2
    assert "fix:  Bank-A" in done.err
    assert "Fitting" not in done.err
    done = invoke(*command, *files[2:], "--output", tmp_path / "m")
    assert "at least three parties" in done.err
    assert "Fitting" not in done.err


def test_a_partys_remarks_and_shared_files_are_told(banks: Path, tmp_path: Path) -> None:
    pl.read_csv(banks / "b.csv").with_columns(age=pl.col("age") + 100).write_csv(tmp_path / "b.csv")
    command = ["fit", "--schema", banks / "schema.toml", "--epsilon", 1, "--home", tmp_path / "run"]
    files = ["--party", f"a={banks / 'a.csv'}", "--party", f"b={tmp_path / 'b.csv'}", "--party", f"c={banks / 'a.csv'}"]
    done = invoke(*command, *files, "--output", tmp_path / "m")
    assert done.code == 0, done.err
    assert f"b has remarks on its records: see {tmp_path / 'run' / 'b' / 'party.log'}" in done.out
    log = (tmp_path / "run" / "b" / "party.log").read_text()
    assert "BlindsightWarning: Values lie outside the declared ranges" in log
    assert ".py" not in log, "where in our code tells a data owner nothing"
    assert "a, c have the same file" in done.err
    assert done.err.index("have the same file") < done.err.index("Fitting") + 200
    done = invoke(*command, *parties(banks), "--output", tmp_path / "m")
    assert "The folder of b held other records before ('b.csv', now 'b.csv')" in done.err
    assert "The folder of a" not in done.err


def test_a_local_party_says_what_is_wrong_with_its_records(banks: Path, tmp_path: Path) -> None:
    pl.read_csv(banks / "b.csv").drop("amount").write_csv(tmp_path / "b.csv")
    command = ["fit", "--schema", banks / "schema.toml", "--epsilon", 1, "--home", tmp_path / "run"]
    files = ["--party", f"a={banks / 'a.csv'}", "--party", f"b={tmp_path / 'b.csv'}", "--party", f"c={banks / 'c.csv'}"]
    done = invoke(*command, *files, "--output", tmp_path / "m")
    assert done.code == 2
    assert "b's log says: Column 'amount' is missing" in done.err
    check = f"blindsight schema check {tmp_path / 'run' / 'b' / 'schema.toml'} {tmp_path / 'b.csv'}"
    assert check in done.err
    assert "Column 'amount' is missing" in invoke(*check.split()[1:]).out or "amount" in invoke(*check.split()[1:]).out


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as a full disk would")
def test_a_full_disk_is_named_once_and_can_be_tried_again(banks: Path, tmp_path: Path) -> None:
    """Whose store meets the limit first depends on what each writes: the parties', or the coordinator's journal."""
    words = ["fit", "--schema", banks / "schema.toml", *parties(banks), "--epsilon", 1]
    words += ["--home", tmp_path / "run", "--output", tmp_path / "m"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 40; exec "$@"', "-", sys.executable, "-m", "blindsight", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert re.search(
        r"error: (a, b, c: the|The store 'coordinator.db' could not be written: the) disk is full", done.stderr
    )
    assert done.stderr.count("disk is full") == 1


def test_the_wrong_file_is_named_for_what_it_is(fitted, tmp_path: Path) -> None:
    for path in (fitted.model, tmp_path / "plain"):
        if path != fitted.model:
            load(fitted.model, sealer=Sealer.from_key_file(fitted.key_file)).save(path)
        done = invoke("report", path, "--output", tmp_path / "r.html")
        assert done.code == 2
        assert "This is a model file, not a run" in done.err
    assert "--key-file" in invoke("ledger", "show", "--home", fitted.home).err
    assert not (fitted.home / "hospital-a" / "keys" / "home.key").exists()


def test_a_misspelt_parameter_of_a_comparison_is_found(banks: Path) -> None:
    done = invoke("compare", "--schema", banks / "schema.toml", "--detectors", "hbos", "--input", banks / "a.csv",
                  "--set", "hbos.binz=3")  # fmt: skip
    assert "did you mean --set hbos.bins?" in done.err
