"""A module that somebody else wrote, from a package that is installed for the occasion."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from blindsight import modelfile
from blindsight.detectors import (
    TableStudent,
    Training,
    detector_from_json,
    detector_to_json,
    known_detectors,
    module_detector,
)
from blindsight.errors import BlindsightError, ParameterError, UnknownDetectorError
from blindsight.federation import Federation, Policy
from blindsight.testing import detector_checks
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

SOURCE = '''
import torch

LOADED = True

class Halves(torch.nn.Module):
    """Predict the second half of the inputs from the first."""
    def __init__(self, n_inputs, width):
        super().__init__()
        self.split = n_inputs // 2 or 1
        self.net = torch.nn.Sequential(
            torch.nn.Linear(self.split, width), torch.nn.LayerNorm(width), torch.nn.Tanh(),
            torch.nn.Linear(width, n_inputs - self.split or 1))
    def forward(self, z):
        return self.net(z[:, :self.split])
    def losses(self, z):
        return ((self(z) - z[:, self.split:]) ** 2).mean(dim=1)

def make(n_inputs, width=4):
    return Halves(n_inputs, width)

def plain(n_inputs):
    return torch.nn.Linear(n_inputs, 1)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "halves_package.py").write_text(SOURCE)
    info = tmp_path / "halves_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halves-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[blindsight.modules]\nHalves = halves_package:make\nNoLosses = halves_package:plain\n"
        "AutoEncoder = halves_package:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("halves_package", None)


@pytest.mark.usefixtures("installed")
class TestBrought:
    def test_it_is_loaded_only_where_its_name_is_allowed(self) -> None:
        assert "Halves" not in known_detectors()
        assert "Halves" not in known_detectors(allowed=frozenset({"ECOD"}))
        assert "halves_package" not in sys.modules
        assert "Halves" in known_detectors(allowed=frozenset({"Halves"}))

    def test_it_cannot_take_the_name_of_ours(self) -> None:
        assert known_detectors(allowed=frozenset({"AutoEncoder"}))["AutoEncoder"] is known_detectors()["AutoEncoder"]

    @pytest.mark.parametrize("check", ["parameters", "unfitted", "batches", "pyod", "federated"])
    def test_conformance(self, check: str) -> None:
        cls = module_detector("Halves")
        checks = detector_checks(cls)
        checks[check](lambda: cls(arguments=("width", 3), training=Training(**SMALL)), NUMBER_SCHEMA)

    def test_it_is_saved_and_loaded_by_who_allows_it(self) -> None:
        X = make_table(60, 0)
        model = module_detector("Halves")(training=Training(**SMALL), schema=NUMBER_SCHEMA).fit(X)
        data = modelfile.dumps(model)
        with pytest.raises(UnknownDetectorError, match=r"which an installed package brings.*--allow Halves"):
            modelfile.loads(data)
        with pytest.raises(UnknownDetectorError, match="check the spelling"):
            detector_from_json({"name": "Thirds", "parameters": {}})
        again = modelfile.loads(data, allowed=frozenset({"Halves"}))
        assert np.array_equal(again.decision_function(X), model.decision_function(X))

    def test_a_student_learns_from_it_where_the_policy_names_both(self) -> None:
        tables = {name: make_table(80, place) for place, name in enumerate("abc")}
        teacher = module_detector("Halves")(training=Training(**SMALL), schema=NUMBER_SCHEMA).fit(tables["a"])
        student = TableStudent(teacher=teacher, rounds=2)

        def fitted(*names: str) -> TableStudent:
            policy = Policy(detectors=names, allow_exact_sums=True)
            with Federation.embedded(tables, schema=NUMBER_SCHEMA, policy=policy) as federation:
                return federation.fit(student, privacy=None)

        model = fitted("TableStudent", "Halves")
        X = make_table(200, 9)
        assert spearmanr(model.decision_function(X), teacher.decision_function(X))[0] > 0.5
        assert np.array_equal(modelfile.loads(modelfile.dumps(model)).decision_function(X), model.decision_function(X))
        with pytest.raises(BlindsightError, match="Halves"):
            fitted("TableStudent")

    def test_norm_weights_begin_at_one(self) -> None:
        model = module_detector("Halves")()
        model.begin(NUMBER_SCHEMA)
        assert (model.parameters_["net.1.weight"] == 1).all()
        assert not model.parameters_["net.1.bias"].any()

    def test_arguments_travel_and_bad_ones_are_named(self) -> None:
        cls = module_detector("Halves")
        described = detector_to_json(cls(arguments=("width", 7)))
        assert detector_from_json(described, allowed=frozenset({"Halves"})).arguments == ("width", 7)
        for bad in (("width",), ("wi dth", 3), (3, 4), {"width": 3}):
            with pytest.raises(ParameterError, match="arguments"):
                cls(arguments=bad).fit(np.zeros((9, 2)))
        with pytest.raises(ParameterError, match="cannot be made"):
            cls(arguments=("depth", 3)).begin(NUMBER_SCHEMA)
        with pytest.raises(ParameterError, match="no module with losses"):
            module_detector("NoLosses")().begin(NUMBER_SCHEMA)
        with pytest.raises(ParameterError, match="No installed package"):
            module_detector("Absent")
