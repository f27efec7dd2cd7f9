"""The Python of the documentation does what it says: our side of each comparison, and the page on evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import blindsight as bs
from blindsight.data import Column
from sample_tables import NUMBER_SCHEMA, make_table

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = re.split(r"^## ", (DOCS / "coming-from.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def python_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def named() -> dict[str, Any]:
    """What the snippets take for granted."""
    tables = {name: make_table(120, place) for place, name in enumerate("abc")}
    policy = bs.Policy(detectors=("ECOD", "AutoEncoder"), maximum_epsilon=50.0)
    X = np.random.default_rng(0).normal(size=(200, 3))
    return {
        "bs": bs,
        **tables,
        "schema": NUMBER_SCHEMA,
        "policy": policy,
        "federation": bs.Federation.embedded(tables, schema=NUMBER_SCHEMA, policy=policy),
        "privacy": bs.DifferentialPrivacy(epsilon=8.0, delta=1e-5),
        "X": X,
        "T": X[:20],
    }


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
@pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")  # so few records are too few, rightly
def test_our_side_of_each_comparison_runs(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, theirs, ours = python_of(section)
    assert "bs." not in theirs
    if "AutoEncoder" in ours:
        pytest.importorskip("torch", reason="the extra 'deep' is not installed").set_num_threads(1)
        monkeypatch.setattr(bs.AutoEncoder, "default_training", bs.Training(rounds=2))
    names = named()
    exec(ours, names)
    if "privacy=" in ours and "fit" in ours:
        assert names["model"].certificate_["differential_privacy"] is True
    if "describe" in ours:
        assert len(names["columns"]) == 3


@pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")
def test_the_page_on_evaluation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tables = {
        name: make_table(3000, place).select("age", "amount", "balance", "fraud") for place, name in enumerate("abc")
    }
    names = {
        "bs": bs, "Column": Column, "features": NUMBER_SCHEMA.features, **tables,
        **{f"t{name}": make_table(2000, 9 + place) for place, name in enumerate("abc")},
        "public_records": make_table(500, 20),
    }  # fmt: skip
    for block in python_of((DOCS / "evaluation.md").read_text(encoding="utf-8")):
        exec(block, names)
    found, model = names["found"], names["model"]
    low, high = found.intervals["auroc"]
    assert low < found.auroc < high
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert set(found.breakdown) == {"a", "b", "c"}
    everybody = pl.concat([names[f"t{name}"] for name in "abc"]).filter(pl.col("fraud") == 0)
    assert abs(float(model.predict(everybody).mean()) - 0.01) < 0.01, "the threshold now gives the rate asked for"
