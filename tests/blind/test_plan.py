"""Parameters follow from public bounds, and say honestly what they hide."""

import math

import numpy as np
import pytest

from blindsight.blind import BlindParameters, plan
from blindsight.circuits import InnerProduct
from blindsight.errors import CapacityError, ParameterError
from blindsight.he import HeContext

from ._models import quadratic_model, table_model

MODELS = [table_model(21, 64), quadratic_model(29), table_model(3, 4, high=5), quadratic_model(2, high=1 << 30)]


@pytest.mark.parametrize("packing", ["rows", "columns"])
@pytest.mark.parametrize("model", MODELS)
def test_noise_and_score_fit_the_modulus_in_the_worst_case(model, packing):
    p = plan(model.encoder_, model.circuit_, packing=packing)
    modulus = HeContext(p.he).modulus
    weights = int(np.abs(model.circuit_.weights).sum())
    # every term at its largest at once: weights and multipliers against fresh noise, e against s, the flood
    worst = 22 * weights + p.zeros * p.degree * 2**15 * 22 + p.degree * 8 + 2 + p.flood_half_width
    assert worst < modulus / (2 * p.he.plain_modulus)
    low, high = model.circuit_.bounds(model.encoder_)
    assert -p.he.plain_modulus // 2 <= low <= high < p.he.plain_modulus // 2


@pytest.mark.parametrize("packing", ["rows", "columns"])
@pytest.mark.parametrize("model", MODELS)
def test_bits_charged_cover_the_score_and_the_capacity(model, packing):
    p = plan(model.encoder_, model.circuit_, packing=packing)
    low, high = model.circuit_.bounds(model.encoder_)
    assert p.charge_bits(1) >= math.ceil(math.log2(high - low + 1))
    capacity = math.log2(HeContext(p.he).modulus) - math.log2(2 * p.flood_half_width)
    assert capacity <= p.answer_bits < capacity + 0.01
    assert p.charge_bits(1000) >= 1000 * capacity


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_multipliers_carry_more_entropy_than_the_mask_takes(packing):
    p = plan(MODELS[0].encoder_, MODELS[0].circuit_, packing=packing)
    assert 16 * p.zeros >= p.modulus_bits + 8


def test_the_printed_line_has_flood_bits_minus_log2_answers():
    p = plan(MODELS[1].encoder_, MODELS[1].circuit_, packing="columns")
    assert p.hiding_bits_after(4096) == pytest.approx(p.hiding_bits - 12)
    assert p.hiding_bits == pytest.approx(p.flood_bits - math.log2(22) - p.weight_bits)
    assert f"{p.hiding_bits - 12:.1f} after 4096 answers" in p.describe(answers=4096)
    assert "128-bit" in p.describe()


def test_the_plan_sees_two_sizes_of_the_weights_only():
    model = table_model(8, 16)
    rng = np.random.default_rng(9)
    shuffled = InnerProduct(weights=rng.permutation(model.circuit_.weights))
    assert plan(model.encoder_, shuffled) == plan(model.encoder_, model.circuit_)


def test_a_circuit_that_does_not_fit_is_refused_with_a_fix():
    model = quadratic_model(29, high=1 << 40)
    with pytest.raises(CapacityError, match=r"coarser score scale"):
        plan(model.encoder_, model.circuit_)


def test_rows_are_never_unseeded():
    with pytest.raises(ParameterError, match="seeded"):
        plan(MODELS[0].encoder_, MODELS[0].circuit_, packing="rows", upload="unseeded")


@pytest.mark.parametrize(
    "change",
    [
        {"packing": "diagonal"},
        {"degree": 2048},
        {"plain_bits": 19},
        {"plain_bits": 57},
        {"weight_bits": 63},
        {"entries": 0},
        {"entries": (1 << 20) + 1},
        {"upload": "half"},
    ],
)
def test_parameters_out_of_their_domain(change):
    good = {
        "packing": "columns",
        "upload": "unseeded",
        "entries": 10,
        "degree": 4096,
        "plain_bits": 36,
        "weight_bits": 20,
    }
    BlindParameters(**good)
    with pytest.raises(ParameterError):
        BlindParameters(**{**good, **change})


def test_a_flood_that_does_not_fit_is_a_capacity_error():
    with pytest.raises(CapacityError):
        BlindParameters(packing="columns", upload="unseeded", entries=10, degree=4096, plain_bits=56, weight_bits=40)
