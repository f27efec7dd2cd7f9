"""Checks of single parameters: what passes, what is refused, and what the refusal says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import blindsight
from blindsight.detectors import PCA, Detector, Training, VotingForest
from blindsight.detectors._domains import choice, flag, number, out_of_domain, seed_number, whole_number
from blindsight.errors import ParameterError
from sample_tables import NUMBER_SCHEMA, make_table


@pytest.mark.parametrize("value", [4, 1024, 100])
def test_whole_numbers_within(value: int) -> None:
    whole_number("bins", value, 4, 1024)


@pytest.mark.parametrize("value", [3, 1025, 4.0, True, "8", None, np.int64(8), math.nan])
def test_whole_numbers_outside(value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        whole_number("bins", value, 4, 1024)
    assert caught.value.what == "bins is out of its domain"
    assert caught.value.got == repr(value)
    assert caught.value.rule == "a whole number, 4 to 1024"
    assert caught.value.fix == "leave bins out for its default"
    with pytest.raises(ParameterError, match="Fix: count again"):
        whole_number("bins", value, 4, 1024, fix="count again")


def test_ends_of_numbers() -> None:
    for value in (0, 1, 0.5, np.float32(0.25), np.int64(1)):
        number("x", value, 0.0, 1.0)
    number("x", 0.5, 0.0, 1.0, open_low=True, open_high=True)
    for value in (-1e-9, 1.0 + 1e-9, math.nan, math.inf, True, "0.5", None, 10**400):
        with pytest.raises(ParameterError, match="0 <= x <= 1"):
            number("x", value, 0.0, 1.0)
    with pytest.raises(ParameterError, match="0 < x <= 1"):
        number("x", 0, 0.0, 1.0, open_low=True)
    with pytest.raises(ParameterError, match=r"0 <= x < 1.*Fix: take less"):
        number("x", 1, 0.0, 1.0, open_high=True, fix="take less")


def test_words_flags_and_seeds() -> None:
    choice("scales", "local", ("learned", "declared", "local"))
    flag("aligned", False)
    for seed in (0, 2**63 - 1):
        seed_number(seed)
    for wrong in ("Local", None, 3, np.array(["local", "local"])):
        with pytest.raises(ParameterError, match="Rule: 'learned', 'declared' or 'local'"):
            choice("scales", wrong, ("learned", "declared", "local"))
    for wrong in (1, 0, None, "yes"):
        with pytest.raises(ParameterError, match="aligned is out of its domain"):
            flag("aligned", wrong)
    for wrong in (-1, 2**63, 1.0, True):
        with pytest.raises(ParameterError, match=r"0 <= seed < 2\*\*63"):
            seed_number(wrong)


def test_a_long_value_is_cut() -> None:
    assert len(out_of_domain("x", "y" * 10_000, "short").got or "") == 60


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PCA(whitening=2.0), "whitening"),
        (lambda: PCA(norm_clip=0.0), "norm_clip"),
        (lambda: PCA(contamination=0.6), "contamination"),
        (lambda: VotingForest(samples=1), "samples"),
    ],
)
def test_detectors_name_the_parameter(make: Callable[[], Detector], name: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name} is out of its domain"):
        make().fit(make_table(50, 0))


def test_numbers_out_of_an_array_survive_a_file(tmp_path: Path) -> None:
    half = np.full(1, 0.5, dtype=np.float32)[0]
    model = PCA(whitening=half, schema=NUMBER_SCHEMA).fit(make_table(50, 0))
    model.save(tmp_path / "model.blindsight")
    loaded = blindsight.load(tmp_path / "model.blindsight")
    assert type(loaded.whitening) is float
    assert loaded.whitening == 0.5
    assert Training(learning_rate=half).learning_rate == 0.5
