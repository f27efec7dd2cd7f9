"""Networks on the command line: smaller copies, modules of other packages, and students."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import blindsight as bs
from sample_tables import NUMBER_SCHEMA, make_table

from .conftest import invoke

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

SHORT = bs.Training(rounds=2, clip_norm=10.0)
SOURCE = """
import torch

class Line(torch.nn.Module):
    def __init__(self, n_inputs):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(n_inputs, 1), torch.nn.Linear(1, n_inputs))
    def losses(self, z):
        return ((self.net(z) - z) ** 2).mean(dim=1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    NUMBER_SCHEMA.write(folder / "schema.toml")
    for place, name in enumerate("abc"):
        make_table(200, place).write_csv(folder / f"{name}.csv")
    make_table(400, 9).write_csv(folder / "test.csv")
    bs.AutoEncoder(training=SHORT, schema=NUMBER_SCHEMA).fit(make_table(200, 0)).save(folder / "net.blindsight")
    return folder


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "line_package.py").write_text(SOURCE)
    info = tmp_path / "line_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: line-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[blindsight.modules]\nLine = line_package:Line\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("line_package", None)


def test_a_smaller_copy_says_what_it_costs(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.blindsight"
    arguments = ("export", "--model", folder / "net.blindsight", "--output", small, "--prune", 0.9)
    done = invoke(*arguments, "--test", folder / "test.csv", "--json")
    assert done.code == 0, done.err
    test = make_table(400, 9)
    areas = [
        roc_auc_score(test["fraud"].to_numpy(), bs.load(path).decision_function(test))
        for path in (folder / "net.blindsight", small)
    ]
    assert areas[0] != areas[1]
    assert done.value["model"]["auroc"] == areas[0]
    assert done.value["copy"]["auroc"] == areas[1]
    assert done.value["auroc_cost"] == areas[0] - areas[1]
    assert done.value["copy"]["bytes"] == small.stat().st_size < (folder / "net.blindsight").stat().st_size
    said = invoke(*arguments, "--test", folder / "test.csv")
    assert f"It costs {areas[0] - areas[1]:+.4f} of AUROC on the 400 records of 'test.csv'." in said.out
    assert "was not measured" in invoke(*arguments).out


def test_wrong_exports_are_usage_errors(folder: Path, tmp_path: Path) -> None:
    bs.ECOD(schema=NUMBER_SCHEMA).fit(make_table(99, 0)).save(tmp_path / "table.blindsight")
    for model, more, told in (
        (folder / "net.blindsight", ("--float32",), "Nothing would become smaller"),
        (folder / "net.blindsight", ("--prune", 1.5), "prune is out of its domain"),
        (tmp_path / "table.blindsight", (), "Only a network has weights"),
    ):
        done = invoke("export", "--model", model, "--output", tmp_path / "small.blindsight", *more)
        assert done.code == 2, done.out
        assert told in done.err
    assert not (tmp_path / "small.blindsight").exists()


def test_the_planner_measures_an_error(folder: Path) -> None:
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    plan = ("plan", "blind", folder / "net.blindsight")
    found = {o["engine"]: o for o in invoke(*plan, "--measure", 4, "--json").value["options"]}
    assert found["rows"]["measured"] is None
    for engine in ("aby3", "cheetah"):
        assert 0 < found[engine]["measured"] <= found[engine]["error"]
    said = invoke(*plan, "--measure", 4).out
    assert "error, measured" in said
    assert "Measured, not proved" in said
    assert "measured" not in invoke(*plan).out
    assert invoke(*plan, "--measure", -1).code == 2


@pytest.mark.usefixtures("line")
def test_another_packages_module_is_used_where_its_name_is_allowed(folder: Path, tmp_path: Path) -> None:
    from blindsight.detectors import module_detector

    model = module_detector("Line")(training=SHORT, schema=NUMBER_SCHEMA).fit(make_table(200, 0))
    model.save(tmp_path / "line.blindsight")
    score = ("score", "--model", tmp_path / "line.blindsight", "--input", folder / "test.csv")
    refused = invoke(*score, "--output", tmp_path / "scores.csv")
    assert refused.code == 2
    assert "--allow Line" in refused.err
    done = invoke(*score, "--output", tmp_path / "scores.csv", "--allow", "Line", "--json")
    assert done.code == 0, done.err
    assert done.value["alerts"] == int(model.predict(make_table(400, 9)).sum())
    planned = invoke("plan", "blind", tmp_path / "line.blindsight", "--allow", "Line")
    assert planned.code == 3, "no engine carries it"
    assert "TableStudent" in planned.out
    assert "Installed by other packages, and shown where --allow names them: Line." in invoke("detectors").out
    listed = invoke("detectors", "--allow", "Line", "--json").value
    assert listed["brought"] == []
    assert next(e for e in listed["detectors"] if e["name"] == "Line")["kind"] == "rounds"


def test_a_student_is_fitted_from_a_teachers_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('allow_exact_sums = true\ndetectors = ["TableStudent", "ECOD"]\n')
    arguments = [
        "fit", "--schema", folder / "schema.toml", "--home", tmp_path / "run", "--output", tmp_path / "s.blindsight",
        "--exact", "--policy", tmp_path / "policy.toml",
    ]  # fmt: skip
    arguments += [word for name in "abc" for word in ("--party", f"{name}={folder / name}.csv")]
    student = ("--detector", "tablestudent", "--set", "rounds=2")
    bs.ECOD(schema=NUMBER_SCHEMA).fit(make_table(200, 0)).save(tmp_path / "teacher.blindsight")
    lacking = invoke(*arguments, *student)
    assert lacking.code == 2
    assert "--teacher MODEL" in lacking.err
    other = invoke(*arguments, "--detector", "ecod", "--teacher", tmp_path / "teacher.blindsight")
    assert other.code == 2
    assert "takes no teacher" in other.err
    done = invoke(*arguments, *student, "--teacher", tmp_path / "teacher.blindsight")
    assert done.code == 0, done.err
    tables = {name: make_table(200, place) for place, name in enumerate("abc")}
    policy = bs.Policy(allow_exact_sums=True, detectors=("TableStudent", "ECOD"))
    teacher = bs.load(tmp_path / "teacher.blindsight")
    with bs.Federation.embedded(tables, schema=NUMBER_SCHEMA, policy=policy) as federation:
        model = federation.fit(bs.TableStudent(teacher=teacher, rounds=2, contamination=0.02), privacy=None)
    fitted = bs.load(tmp_path / "s.blindsight")
    assert np.array_equal(fitted.circuit_.weights, model.circuit_.weights)
    assert fitted.threshold_ == model.threshold_
