"""The demo, smaller: the main job from end to end."""

from __future__ import annotations

import polars as pl
import pytest

from blindsight import load
from blindsight.report import read_run

from .conftest import invoke


@pytest.mark.slow
def test_demo(tmp_path):
    pytest.importorskip("tenseal")
    folder = tmp_path / "demo"
    done = invoke("demo", "--quick", "--output", folder, "--json")
    assert done.code == 0, done.err
    value = done.value
    assert value["hospitals"]["auroc"]["exact"] == value["hospitals"]["auroc"]["centralised"]
    assert value["hospitals"]["equal_to_centralised"]
    assert value["banks"]["blind_equals_clear"]
    assert value["banks"]["simulated"]
    assert value["banks"]["epsilon_spent"] <= 1.0

    run = read_run(folder)
    assert run.simulated
    assert run.blind is not None
    assert run.blind.max_difference == 0
    assert run.blind.records == 100
    assert {curve.kind for curve in run.comparison.curves} == {"federated", "centralised", "local"}
    assert run.privacy.unit == "person"
    assert all(budget.spent <= 1.0 for budget in run.budgets)

    page = (folder / "report.html").read_text()
    assert len(page) < 300_000
    assert "simulated data" in page
    model = load(folder / "fraud.blindsight")
    scores = pl.read_csv(folder / "scores.csv")
    expected = model.decision_function(folder / "banks" / "data" / "to-score.csv")
    assert scores["score"].to_list() == expected.tolist()

    train = pl.read_csv(folder / "banks" / "data" / "train" / "bank-a.csv")["person_id"]
    test = pl.read_csv(folder / "banks" / "data" / "test" / "bank-a.csv")["person_id"]
    assert not set(train) & set(test)


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    done = invoke("demo", "--quick", "--output", tmp_path)
    assert done.code == 2
    assert "something else" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
