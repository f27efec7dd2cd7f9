"""Networks and their inputs as values: what they compute, what they refuse, and that a trained detector is one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blindsight.circuits import (
    Activation,
    Dense,
    Network,
    Standardised,
    standardised_from_json,
    standardised_to_json,
)
from blindsight.data import records
from blindsight.errors import CapacityError, FormatError, ParameterError
from sample_tables import MIXED_SCHEMA, make_table

INPUTS = Standardised(offsets=(1.0, 0.0, -2.0), scales=(2.0, 1.0, 0.1), slots=(0, 3, 0), bound=4.0)


def dense(outputs: int, inputs: int, seed: int = 0) -> Dense:
    rng = np.random.default_rng(seed)
    return Dense(weights=rng.normal(size=(outputs, inputs)), bias=rng.normal(size=outputs))


def test_inputs_are_numbers_first_then_slots() -> None:
    X = np.array([[3.0, 2.0, -2.1], [1e300, -5.0, 0.0], [1.0, 99.0, -2.0]])
    expected = [[1.0, -1.0, 0, 0, 1], [4.0, 4.0, 1, 0, 0], [0.0, 0.0, 0, 0, 1]]
    np.testing.assert_allclose(INPUTS.encode(X), expected, atol=1e-12)
    assert INPUTS.width == 5
    assert standardised_from_json(json.loads(json.dumps(standardised_to_json(INPUTS)))) == INPUTS


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "one_hot_bins"},
        {"offsets": [1.0, 0.0]},
        {"scales": [2.0, 0.0, 1.0]},
        {"scales": [2.0, float("nan"), 1.0]},
        {"slots": [0, -1, 0]},
        {"slots": [0, 1 << 17, 0]},
        {"slots": [0, True, 0]},
        {"bound": 0.0},
        {"bound": 1e9},
        {"more": 1},
        {"offsets": "abc"},
        {"offsets": [], "scales": [], "slots": []},
    ],
)
def test_malformed_inputs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        standardised_from_json({**standardised_to_json(INPUTS), **change})


@pytest.mark.parametrize("kind", ["square", "relu", "leaky", "tanh"])
@pytest.mark.parametrize("target", ["inputs", "centre"])
def test_scores_are_what_the_formula_says(kind: str, target: str) -> None:
    first, second = dense(3, 5), dense(5, 3, 1)
    layers = (first, Activation(kind, 0.07), second)  # type: ignore[arg-type]
    centre = None if target == "inputs" else np.arange(5.0)
    network = Network(layers=layers, target=target, centre=centre)  # type: ignore[arg-type]
    for z in np.random.default_rng(2).normal(size=(7, 5)):
        hidden = [sum(first.weights[i, j] * z[j] for j in range(5)) + first.bias[i] for i in range(3)]
        act = {
            "square": lambda v: v + 0.07 * v**2,
            "relu": lambda v: max(v, 0.0),
            "leaky": lambda v: v if v > 0 else 0.1 * v,
            "tanh": np.tanh,
        }[kind]
        active = [act(v) for v in hidden]
        output = [sum(second.weights[i, j] * active[j] for j in range(3)) + second.bias[i] for i in range(5)]
        goal = z if target == "inputs" else np.arange(5.0)
        total = sum((o - g) ** 2 for o, g in zip(output, goal, strict=True))
        expected = total / 5 if target == "inputs" else total
        assert network.scores(z[None])[0] == pytest.approx(expected, rel=1e-12)
    assert network.is_polynomial == (kind == "square")
    assert network.squares == 2
    assert "secret" in repr(network)
    assert f"{first.weights[0, 0]:.3f}" not in repr(network)


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match="do not fit"):
        Network(layers=(dense(3, 5), dense(5, 4)), target="inputs")
    with pytest.raises(ParameterError, match="Two activations"):
        Network(layers=(dense(3, 5), Activation("relu"), Activation("relu")), target="centre")
    with pytest.raises(ParameterError, match="width of its inputs"):
        Network(layers=(dense(3, 5),), target="inputs")
    with pytest.raises(ParameterError, match="centre has the wrong shape"):
        Network(layers=(dense(3, 5),), target="centre", centre=np.zeros(4))
    with pytest.raises(ParameterError, match="Dense first"):
        Network(layers=(), target="centre")
    with pytest.raises(ParameterError, match="not finite"):
        Dense(weights=np.full((1, 1), np.inf), bias=np.zeros(1))
    with pytest.raises(ParameterError, match="not known"):
        Activation("sigmoid")  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["relu", "leaky", "square"])
@pytest.mark.parametrize("name", ["AutoEncoder", "DeepSVDD"])
@pytest.mark.parametrize("scales", ["declared", "learned"])
def test_a_trained_detector_is_its_network(name: str, activation: str, scales: str) -> None:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    import blindsight as bs

    table = make_table(200, 3)
    training = bs.Training(rounds=2, learning_rate=0.01)
    made = getattr(bs, name)(
        hidden=(6, 3), activation=activation, scales=scales, schema=MIXED_SCHEMA, training=training
    )
    model = made.fit(table)
    X = np.concatenate([chunk.X for chunk in records(MIXED_SCHEMA, table, for_scoring=True)])
    got = model.network_.scores(model.inputs_.encode(X))
    np.testing.assert_allclose(got, model.decision_function(table), rtol=1e-9, atol=2.0**-20)
    assert model.network_.is_polynomial == (activation == "square")


def test_a_sequence_model_says_that_it_is_no_such_network() -> None:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    from torch import nn

    from blindsight.detectors._network import network_of

    with pytest.raises(CapacityError, match="TableStudent"):
        network_of(nn.Linear(2, 2))
