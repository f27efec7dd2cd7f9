"""plan blind, plan sums, and score --explain."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import polars as pl
import pytest

import blindsight as bs
from blindsight.blind import Connection, Scorer, survey
from blindsight.securesum import choose_sum

from .conftest import invoke


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    banks, schema = bs.simulate_card_payments(n=2_000)
    folder = tmp_path_factory.mktemp("models")
    model = bs.ECOD(schema=schema, bins=16).fit(banks["bank-a"])
    model.save(folder / "ecod.blindsight")
    banks["bank-b"][:12].write_csv(folder / "in.csv")
    bs.VotingForest(trees=3, depth=3).fit(np.random.default_rng(0).normal(size=(300, 3))).save(
        folder / "forest.blindsight"
    )
    return folder, model


def test_the_table_names_every_engine_and_the_recommendation(saved):
    folder, model = saved
    done = invoke("plan", "blind", folder / "ecod.blindsight", "--rows", 500)
    assert done.code == 0, done.err
    found = survey(model, rows=500)
    for option in found.revealing("score"):
        assert option.name in done.out
        assert " ".join(option.trust.collusion.split()[:4]) in done.out
    assert "HE rows *" in done.out
    assert "not secret" not in done.out
    assert found.why("score") in done.out
    assert f"{found.recommended().cost.bytes_up / 500:,.0f}" in done.out
    for option in found.revealing("score"):
        assert f"{option.name}: {option.describe()}." in done.out


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off_on_a_terminal(saved, width):
    """A real one of that width, since what is printed elsewhere is wider."""
    folder, model = saved
    command = [sys.executable, "-m", "blindsight", "plan", "blind", str(folder / "ecod.blindsight")]
    shown = on_a_terminal(command, width)
    lines = shown.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for option in survey(model).revealing("score"):
        for value in (
            f"{option.cost.bytes_up / 1000:,.0f}",
            f"{option.rows_to_extract:,}",
            f"{option.cost.batch_s:.3g}",
        ):
            assert value in shown.split()
    head = next(line for line in lines if "MPC 3PC" in line)
    assert head.split() == ["HE", "rows", "*", "HE", "columns", "MPC", "3PC", "MPC", "2PC"]
    assert "128-bit security" in " ".join(shown.split())


def on_a_terminal(command, width):
    """What a command shows on a terminal of so many columns, without its colours."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    with subprocess.Popen(
        command, stdout=follower, stderr=subprocess.STDOUT, stdin=follower, env=environment
    ) as process:
        os.close(follower)
        found = b""
        while True:
            try:
                data = os.read(leader, 1 << 16)
            except OSError:  # its other end is closed
                break
            found += data
            if not data:
                break
    os.close(leader)
    assert process.returncode == 0, found
    return re.sub(r"\x1b\[[0-9;]*m", "", found.decode()).replace("\r\n", "\n")


def test_the_connection_is_an_option(saved):
    folder, model = saved
    done = invoke("plan", "blind", folder / "ecod.blindsight", "--round-trip-ms", 80, "--mbit", 20, "--json")
    found = survey(model, reveal=["score"], connection=Connection(round_trip_ms=80, mbit=20))
    assert done.value["connection"] == {"round_trip_ms": 80, "mbit": 20}
    for told, option in zip(done.value["options"], found.options, strict=True):
        assert told["cost"]["batch_s"] == option.cost.batch_s
        assert told["cost"]["rounds"] == dataclasses.asdict(option.cost.rounds)
    wrong = invoke("plan", "blind", folder / "ecod.blindsight", "--mbit", 0)
    assert wrong.code == 2
    assert "mbit" in wrong.err


def test_json_holds_what_the_planner_says(saved):
    folder, model = saved
    value = invoke("plan", "blind", folder / "ecod.blindsight", "--verdict", "--json").value
    found = survey(model).revealing("verdict")
    assert value["recommended"] == "rows"
    assert value["secret"] is True
    assert [o["engine"] for o in value["options"]] == ["rows", "columns", "aby3", "cheetah"]
    for told, option in zip(value["options"], found, strict=True):
        assert told["bits"] == 1
        assert told["cost"]["bytes_up"] == option.cost.bytes_up
        assert told["rows_to_extract"] == option.rows_to_extract
        assert told["trust"]["post_quantum"] is False
    assert value["options"][0]["parameters"]["prime_bits"] == [46, 46]
    assert value["options"][0]["parameters"]["flood_bits"] == found[0].parameters.flood_bits


def test_a_model_that_nothing_carries_is_exit_three(saved):
    folder, _ = saved
    done = invoke("plan", "blind", folder / "forest.blindsight")
    assert done.code == 3
    assert "refused: VotingForest" in " ".join(done.out.split())
    assert "TableStudent" in done.out
    assert "not secret" in done.out
    told = invoke("plan", "blind", folder / "forest.blindsight", "--json")
    assert told.code == 3
    assert told.value["recommended"] is None
    assert all(option["cost"] is None and option["refusal"] for option in told.value["options"])


def test_an_impossible_batch_is_a_usage_error(saved):
    folder, _ = saved
    done = invoke("plan", "blind", folder / "ecod.blindsight", "--rows", 0)
    assert done.code == 2
    assert "rows" in done.err


@pytest.mark.parametrize("blind", [False, True])
def test_scores_with_their_largest_contributions(saved, tmp_path, blind):
    pytest.importorskip("tenseal")
    folder, model = saved
    done = invoke(
        "score", "--model", folder / "ecod.blindsight", "--input", folder / "in.csv", "--output", tmp_path / "s.csv",
        "--explain", 3, "--json", *(["--blind"] if blind else []),
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pl.read_csv(tmp_path / "s.csv")
    parts = model.contributions(folder / "in.csv")
    names = np.array(model.contribution_names)
    order = np.argsort(-parts, axis=1, kind="stable")
    assert np.array_equal(table["score"], model.decision_function(folder / "in.csv"))
    for k in range(3):
        assert table[f"because_{k + 1}"].to_list() == names[order[:, k]].tolist()
        expected = np.take_along_axis(parts, order[:, k : k + 1], axis=1)[:, 0]
        assert np.array_equal(table[f"contribution_{k + 1}"], expected)
    assert len(table.columns) == 9
    if blind:
        p = Scorer(model).parameters
        explained = p.charge_bits(12 * len(names))
        assert done.value["bits_released"] == p.charge_bits(12) + explained
        assert done.value["rows_to_extract"] == max(model.encoder_.sizes)


def test_what_has_no_contributions_says_so(saved, tmp_path):
    folder, _ = saved
    X = np.random.default_rng(0).normal(size=(200, 3))
    bs.Mahalanobis().fit(X).save(tmp_path / "m.blindsight")
    pl.DataFrame(X[:3], schema=["x0", "x1", "x2"]).write_csv(tmp_path / "in.csv")
    for model in (tmp_path / "m.blindsight", folder / "forest.blindsight"):
        done = invoke(
            "score", "--model", model, "--input", tmp_path / "in.csv", "--output", tmp_path / "s.csv", "--explain", 1
        )
        assert done.code == 2
        assert "no contributions" in done.err
        assert not (tmp_path / "s.csv").exists()


def test_plan_sums_shows_each_way_and_says_why():
    done = invoke("plan", "sums", "--parties", 20, "--coordinates", 1000, "--dropouts", 2)
    assert done.code == 0, done.err
    choice = choose_sum(20, 1000, dropouts=2)
    assert "masked *" in done.out
    assert "tolerates 0 colluders, not 1" in done.out
    assert choice.why in " ".join(done.out.split())
    value = invoke(
        "plan", "sums", "--parties", 5, "--coordinates", 1000, "--colluders", 0, "--among", "he", "--json"
    ).value
    assert value["recommended"] == "he"
    assert [option["method"] for option in value["options"]] == ["masked", "he", "paillier"]
    assert "one that does opens every party's vector" in value["why"]


def test_plan_sums_refuses_what_no_sum_can_do():
    assert invoke("plan", "sums", "--parties", 5, "--coordinates", 10, "--dropouts", 2).code == 3
    assert invoke("plan", "sums", "--parties", 5, "--coordinates", 10, "--colluders", 4).code == 2
