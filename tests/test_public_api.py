"""The public face: about twenty names, sorted, lazy; every error says what, got, rule, fix."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import blindsight
from blindsight import errors
from blindsight.detectors import known_detectors

MODULES = sorted(info.name for info in pkgutil.walk_packages(blindsight.__path__, "blindsight."))
PACKAGES = [
    "channels",
    "circuits",
    "data",
    "detectors",
    "errors",
    "federation",
    "keys",
    "modelfile",
    "privacy",
    "securesum",
    "store",
    "testing",
]
RUN_AS_PROGRAMS = {"worker", "scorer", "verdict_worker"}


def ordered(names: list[str]) -> list[str]:
    """As ruff sorts ``__all__``: constants, classes, the rest."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert blindsight.__all__ == ordered(blindsight.__all__)
    detectors = {cls.__name__ for cls in known_detectors().values()}
    assert len(set(blindsight.__all__) - detectors) < 30
    for name in blindsight.__all__:
        assert getattr(blindsight, name) is not None
    assert set(dir(blindsight)) == set(blindsight.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Fraud'"):
        _ = blindsight.Fraud


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_keep_a_sorted_all(name: str) -> None:
    module = importlib.import_module(f"blindsight.{name}")
    assert list(module.__all__) == ordered(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        assert not inspect.ismodule(value)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public} has no docstring"


def test_modules_are_private_or_one_of_the_named() -> None:
    # one file a detector, by its name in small letters
    detectors = {cls.__module__.rsplit(".", 1)[1] for cls in known_detectors().values()}
    named = {*PACKAGES, *RUN_AS_PROGRAMS, *detectors, "blind", "cli", "he", "kits", "mpc", "report", "service"}
    for module in MODULES:
        last = module.rsplit(".", 1)[1]
        assert "._" in module or last in named, module


def test_import_is_light() -> None:
    """``import blindsight`` loads nothing heavy; a detector loads no cryptography for blind scoring and no plots."""
    script = (
        "import sys, blindsight; "
        "heavy = {'numpy', 'sklearn', 'polars', 'tenseal', 'matplotlib', 'dp_accounting', 'torch', 'numba'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "blindsight.ECOD; "
        "late = {'tenseal', 'matplotlib', 'torch', 'numba', 'blindsight.testing'}; "
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_tree_of_errors_is_the_one_drawn() -> None:
    drawn = [name for name in errors.__all__ if name in (errors.__doc__ or "")]
    assert set(drawn) == set(errors.__all__) - {"BlindsightWarning"}
    for name in drawn:
        cls = getattr(errors, name)
        assert issubclass(cls, errors.BlindsightError)
        error = cls("Something is wrong.", got="7", rule="less than 5.", fix="less")
        assert str(error) == "Something is wrong. Got: 7. Rule: less than 5. Fix: less."
        assert (error.what, error.got, error.rule, error.fix) == ("Something is wrong.", "7", "less than 5.", "less")
    assert issubclass(errors.NotFittedError, ValueError)
    assert issubclass(errors.NotFittedError, AttributeError)
    assert issubclass(errors.NotKeptError, AttributeError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_the_names_of_the_design_are_there() -> None:
    bs = blindsight
    assert {"allow_exact_sums", "maximum_epsilon", "units"} <= set(inspect.signature(bs.Policy).parameters)
    for call, wanted in {
        bs.ECOD: {"contamination", "bins", "schema"},
        bs.Mahalanobis: {"contamination", "schema"},
        bs.DifferentialPrivacy: {"epsilon", "delta", "unit", "max_records_per_person"},
        bs.Federation.embedded: {"data", "schema"},
        bs.Federation.fit: {"self", "detector", "privacy"},
        bs.Federation.evaluate: {"self", "model", "data", "privacy"},
        bs.Federation.describe: {"self", "privacy"},
    }.items():
        assert wanted <= set(inspect.signature(call).parameters)
    assert inspect.signature(bs.Federation.fit).parameters["privacy"].default is inspect.Parameter.empty
