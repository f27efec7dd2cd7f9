"""fit, report and ledger: what they write, and what they refuse with which exit code."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from blindsight import load
from blindsight.errors import FormatError
from blindsight.keys import Sealer
from blindsight.report import read_run

from .conftest import invoke


def test_fit_writes_model_and_run(fitted):
    assert fitted.done.code == 0, fitted.done.err
    value = fitted.done.value
    run = read_run(fitted.home)
    model = load(fitted.model, sealer=Sealer.from_key_file(fitted.key_file))
    assert value["records"] == run.model.records
    assert run.model.threshold == model.threshold_ == value["threshold"]
    low, high = value["alert_interval"]
    assert (low, high) == run.model.alert_interval == model.score_histogram_.alert_interval(model.contamination)
    assert low <= model.contamination <= high
    assert run.parties == ("hospital-a", "hospital-b", "hospital-c")
    assert [s.purpose for s in run.stages] == ["fit", "threshold", "evaluation"]
    assert 0 < run.privacy.epsilon_spent <= 1.0
    assert [b.spent for b in run.budgets] == pytest.approx([run.privacy.epsilon_spent] * 3)
    assert {b.limit for b in run.budgets} == {5.0}
    assert len(run.ledger) == 9
    assert all(c.this_run and c.output_stored for c in run.ledger)
    assert run.evaluation is not None
    assert not run.evaluation.in_sample
    assert any("usable records" in note for note in run.notes)
    assert "warning: The federation has about" in fitted.done.err
    assert not run.simulated


def test_model_is_sealed_at_rest(fitted):
    with pytest.raises(FormatError, match="sealed"):
        load(fitted.model)
    assert b"blindsight-model" not in fitted.model.read_bytes()


def test_report_from_folder_and_file(fitted, tmp_path):
    for source in (fitted.home, fitted.home / "run.json"):
        done = invoke("report", source, "--output", tmp_path / "r.html", "--json")
        assert done.code == 0, done.err
        assert "No record left its party" in done.value["verdict"]["Did records move?"]
        assert (tmp_path / "r.html").stat().st_size < 300_000


def test_ledger_show_and_verify(fitted):
    shown = invoke("ledger", "show", "--home", fitted.home, "--key-file", fitted.key_file, "--json")
    assert shown.code == 0, shown.err
    accounts = shown.value["accounts"]
    assert len(accounts) == 6  # two units at each of three parties
    used = [a for a in accounts if a["unit"] == "record"]
    assert all(len(a["releases"]) == 3 for a in used)
    assert all(0 < a["spent"] <= 1.0 for a in used)
    heads = [option for a in used for option in ("--seen-head", a["head"])]
    verified = invoke("ledger", "verify", "--home", fitted.home, "--key-file", fitted.key_file, *heads, "--json")
    assert verified.code == 0, verified.out
    assert verified.value["intact"]
    text = invoke("ledger", "show", "--home", fitted.home / "hospital-a", "--key-file", fitted.key_file)
    assert "hospital-a, per record" in text.out
    assert "hospital-b" not in text.out


def test_a_party_reads_its_own_figures(fitted):
    """Kept in the party's folder by the evaluation, exact, and those of the model on the party's own records."""
    model = load(fitted.model, sealer=Sealer.from_key_file(fitted.key_file))
    done = invoke("ledger", "figures", "--home", fitted.home, "--key-file", fitted.key_file, "--json")
    assert done.code == 0, done.err
    assert [own["party"] for own in done.value["figures"]] == ["hospital-a", "hospital-b", "hospital-c"]
    for own in done.value["figures"]:
        table = pl.read_csv(fitted.folder / f"{own['party']}.csv")
        labels = table[model.schema_.label.name].to_numpy() != 0
        scores = model.decision_function(table)
        assert own["records"] == len(table)
        assert own["auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert own["false_positive_rate"] == pytest.approx((scores > model.threshold_)[~labels].mean())
        assert own["time_utc"].startswith("20")
        assert own["left_party"] is False
    text = invoke("ledger", "figures", "--home", fitted.home / "hospital-a", "--key-file", fitted.key_file)
    assert "hospital-a, on its own records" in text.out
    assert "hospital-b" not in text.out


def test_figures_of_a_party_that_evaluated_nothing(fitted, tmp_path):
    command = [part for i, part in enumerate(fitted.command) if "--evaluate" not in (part, fitted.command[i - 1])]
    done = invoke(*command, "--epsilon", "1", "--home", tmp_path / "run", "--output", tmp_path / "m.blindsight")
    assert done.code == 0, done.err
    told = invoke("ledger", "figures", "--home", tmp_path / "run", "--key-file", fitted.key_file)
    assert told.code == 0
    assert told.out.count("no model was evaluated here") == 3


def test_fit_by_party_with_local_trust(fitted, tmp_path):
    """The policy refuses the unit by name; where it allows it, model, screen and report say what it means."""
    options = ["--epsilon", "40", "--unit", "party", "--max-records-per-party", "25", "--trust", "local"]
    refused = invoke(*fitted.command, *options, "--home", tmp_path / "a", "--output", tmp_path / "m.blindsight")
    assert refused.code == 3
    assert "does not accept the privacy unit 'party'" in refused.err
    assert "units = record, person" in refused.err
    assert "add 'party' to the policy" in refused.err
    (tmp_path / "p.toml").write_text('units = ["party"]\nmaximum_epsilon = 50.0\n')
    home = tmp_path / "run"
    options += ["--policy", tmp_path / "p.toml"]
    done = invoke(*fitted.command, *options, "--home", home, "--output", tmp_path / "m.blindsight")
    assert done.code == 0, done.err
    assert "per party at delta 1e-06" in done.out
    assert "At most 25 records of each party" in done.out
    assert "need not be trusted" in done.out
    run = read_run(home)
    assert run.privacy is not None
    assert (run.privacy.unit, run.privacy.trust, run.privacy.max_records_per_party) == ("party", "local", 25)
    assert run.privacy.max_records_per_person is None
    report = invoke("report", home, "--output", tmp_path / "r.html", "--json")
    said = report.value["verdict"]
    assert "per party at delta" in said["What did it cost in privacy?"]
    assert "Of the epsilon 40 asked for, this run" in said["What did it cost in privacy?"]
    assert "of each party at most 25 are used" in said["What was trained?"]
    assert "enough by itself" in said["Did records move?"]
    assert "that a party takes part, which is public" in said["What is not protected?"]
    wrong = invoke(*fitted.command, "--epsilon", "1", "--max-records-per-party", "25", "--home", tmp_path / "b")
    assert wrong.code == 2
    assert "max_records_per_party is given for unit 'record'" in wrong.err
    wrong = invoke(*fitted.command, "--epsilon", "1", "--trust", "nobody", "--home", tmp_path / "b")
    assert wrong.code == 2
    assert "--trust is unknown" in wrong.err


def test_ledger_verify_finds_damage(fitted_copy):
    home = fitted_copy.home / "hospital-b"
    database = sqlite3.connect(home / "ledger.db")
    (position, payload), *_ = database.execute(
        "SELECT position, payload FROM log WHERE stream = 'ledger.record' ORDER BY position"
    ).fetchall()
    spoiled = payload[:-1] + bytes([payload[-1] ^ 1])
    database.execute("UPDATE log SET payload = ? WHERE stream = 'ledger.record' AND position = ?", (spoiled, position))
    database.commit()
    database.close()
    done = invoke("ledger", "verify", "--home", fitted_copy.home, "--key-file", fitted_copy.key_file, "--json")
    assert done.code == 4
    damaged = [entry["party"] for entry in done.value["ledgers"] if entry["problem"]]
    assert damaged == ["hospital-b"]


def test_ledger_verify_finds_a_rollback(fitted):
    done = invoke("ledger", "verify", "--home", fitted.home, "--key-file", fitted.key_file, "--seen-head", "ab" * 32)
    assert done.code == 4
    assert "rolled back" in done.out


def test_exact_sums_need_every_policy(fitted, tmp_path):
    (tmp_path / "strict.toml").write_text("allow_exact_sums = false\n")
    command = [*fitted.command, "--exact", "--policy", tmp_path / "strict.toml", "--home", tmp_path / "run"]
    done = invoke(*command, "--output", tmp_path / "m.blindsight")
    assert done.code == 3
    assert "allow_exact_sums = false" in done.err
    assert "fix:" in done.err
    assert not (tmp_path / "m.blindsight").exists()


def test_sums_under_a_shared_key_need_every_policy_and_are_named(fitted, tmp_path):
    command = [*fitted.command, "--exact", "--sums", "he", "--output", tmp_path / "m.blindsight"]
    (tmp_path / "masks.toml").write_text("allow_exact_sums = true\n")
    refused = invoke(*command, "--policy", tmp_path / "masks.toml", "--home", tmp_path / "a")
    assert refused.code == 3
    assert "allow_shared_key_sums = false" in refused.err
    (tmp_path / "shared.toml").write_text("allow_exact_sums = true\nallow_shared_key_sums = true\n")
    done = invoke(*command, "--policy", tmp_path / "shared.toml", "--home", tmp_path / "b")
    assert done.code == 0, done.err
    assert "any one of them together open every party's sums" in done.out
    assert load(tmp_path / "m.blindsight", sealer=Sealer.from_key_file(fitted.key_file)).n_records_ > 0
    wrong = invoke(*command[:-4], "--sums", "plain", "--output", tmp_path / "n.blindsight", "--home", tmp_path / "c")
    assert wrong.code == 2
    assert "masked, he, paillier, auto" in wrong.err


def test_a_budget_that_does_not_carry_is_refused(fitted, tmp_path):
    (tmp_path / "tight.toml").write_text("maximum_epsilon = 0.5\n")
    done = invoke(
        *fitted.command, "--epsilon", "4", "--policy", tmp_path / "tight.toml", "--home", tmp_path / "run",
        "--output", tmp_path / "m.blindsight", "--json",
    )  # fmt: skip
    assert done.code == 3
    assert done.out == ""
    assert '"kind": "BudgetError"' in done.err
    assert "largest affordable epsilon" in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--epsilon", "1", "--exact"], "both --epsilon and --exact"),
        ([], "neither --epsilon nor --exact"),
        (["--epsilon", "1", "--unit", "household"], "record, person or party"),
        (["--epsilon", "1", "--detector", "oracle"], "blindsight detectors lists them"),
        (["--epsilon", "-1"], "epsilon"),
        (["--epsilon", "1", "--party", "nowhere"], "--party NAME=PATH"),
        (["--epsilon", "1", "--party", "x=/nowhere/x.csv"], "does not exist"),
        (["--epsilon", "1", "--party", "hospital-a=pyproject.toml"], "twice"),
        (["--epsilon", "1", "--output", "/nowhere/m.blindsight"], "a folder that exists"),
        (["--epsilon", "1", "--contamination", "0.9"], "contamination"),
    ],
)
def test_bad_options_exit_with_two(fitted, tmp_path, change, words):
    done = invoke(*fitted.command, "--home", tmp_path / "run", *change)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_two_parties_are_refused(fitted, tmp_path):
    command = ["fit", "--schema", fitted.folder / "schema.toml", "--epsilon", "1", "--home", tmp_path / "run",
               "--output", tmp_path / "m.blindsight"]  # fmt: skip
    for name in ("hospital-a", "hospital-b"):
        command += ["--party", f"{name}={fitted.folder / name}.csv"]
    done = invoke(*command)
    assert done.code == 3
    assert "at least three parties" in done.err
    assert "third party" in done.err


def test_a_wrong_key_file_is_refused(fitted, tmp_path):
    from blindsight.keys import create_key_file

    create_key_file(tmp_path / "other")
    done = invoke("ledger", "show", "--home", fitted.home, "--key-file", tmp_path / "other")
    assert done.code == 2
    assert done.err.startswith("error: ")


@pytest.mark.parametrize("command", [["report"], ["ledger", "show", "--home"], ["ledger", "verify", "--home"]])
def test_an_empty_folder_is_bad_input(tmp_path, command):
    done = invoke(*command, tmp_path)
    assert done.code == 2
    assert "fix:" in done.err


def test_ledger_shows_dp_sgd_by_its_own_terms(tmp_path):
    from blindsight import load_hospitals
    from blindsight.detectors import AutoEncoder, Training
    from blindsight.federation import Federation
    from blindsight.privacy import DifferentialPrivacy

    pytest.importorskip("opacus")
    tables, schema = load_hospitals()
    for name, table in tables.items():
        table.write_csv(tmp_path / f"{name}.csv")
    model = AutoEncoder(hidden=(2,), scales="declared", training=Training(rounds=1, sampling_rate=0.5))
    data = {name: tmp_path / f"{name}.csv" for name in tables}
    with Federation.processes(data, schema=schema, home=tmp_path / "run") as federation:
        federation.fit(model, privacy=DifferentialPrivacy(epsilon=5, delta=1e-6))
    value = invoke("ledger", "show", "--home", tmp_path / "run", "--json").value
    used = [account for account in value["accounts"] if account["releases"]]
    rounds = [r for account in used for r in account["releases"] if r["mechanism"] == "sampled-gaussian"]
    assert len(rounds) == len(tables)
    assert all(r["sampling_rate"] == 0.5 and r["steps"] == 2 and r["noise_multiplier"] > 0 for r in rounds)
    shown = "".join(invoke("ledger", "show", "--home", tmp_path / "run").out.split())
    assert "DP-SGD" in shown
    assert "0.00000" not in shown


KILLED = """
import os, signal, sys
from blindsight.cli import main
from blindsight.federation._journal import SumJournal

left, original = [int(sys.argv.pop(1))], SumJournal.keep

def keep(self, *state):
    original(self, *state)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

SumJournal.keep = keep
sys.exit(main())
"""


@pytest.mark.parametrize("phase", [4, 13], ids=["in the fit", "in the evaluation"])
def test_the_same_command_goes_on_where_it_was_killed(fitted, tmp_path, phase):
    """SIGKILL after so many closed phases: of the fit's sum, of the third one."""
    command = list(fitted.command)
    for option, value in (("--home", tmp_path / "run"), ("--output", tmp_path / "m.blindsight")):
        command[command.index(option) + 1] = str(value)
    command += ["--epsilon", "1", "--contamination", "0.05", "--json"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(phase), *command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = invoke(*command)
    assert done.code == 0, done.err
    assert "was interrupted: it goes on" in done.err
    run = read_run(tmp_path / "run")
    assert [s.purpose for s in run.stages] == ["fit", "threshold", "evaluation"]
    assert 0 < run.privacy.epsilon_spent <= 1.0
    assert [b.spent for b in run.budgets] == pytest.approx([run.privacy.epsilon_spent] * 3)
    assert len(run.ledger) == 9  # each of three sums charged once to each of three parties
    assert done.value["auroc"] is not None
