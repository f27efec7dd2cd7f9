"""Layers of windows and images: each against its formula, modules against torch, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from blindsight.circuits import (
    NORM_FLOOR,
    Activation,
    Block,
    Convolution,
    Dense,
    Enlarge,
    Lstm,
    Network,
    Repeat,
    Reshape,
    Shift,
    Standardised,
    Windowed,
    inputs_from_json,
    inputs_to_json,
)
from blindsight.errors import CapacityError, FormatError, ParameterError

ROW = Standardised(offsets=(1.0, 0.0), scales=(2.0, 1.0), slots=(0, 3), bound=4.0)


def windowed(**changes: Any) -> Windowed:
    given = {"rows": ROW, "window": 4, "horizon": 2, "by_window": False, "interval": 0.5, "tolerance": 0.1}
    return Windowed(**{**given, **changes})


def lstm(hidden: int, inputs: int) -> Lstm:
    rng = np.random.default_rng(hidden)
    four = 4 * hidden
    return Lstm(
        inputs=rng.normal(size=(four, inputs)), states=rng.normal(size=(four, hidden)), bias=rng.normal(size=four)
    )


def block(width: int, heads: int, wide: int) -> Block:
    rng = np.random.default_rng(width)
    sides = {"into": (3 * width, width), "out": (width, width), "up": (wide, width), "down": (width, wide)}
    given = {name: rng.normal(size=shape) for name, shape in sides.items()}
    given |= {f"{name}_bias": rng.normal(size=shape[0]) for name, shape in sides.items()}
    return Block(heads=heads, **given)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_a_recurrent_layer_is_the_usual_one_with_halved_gates() -> None:
    layer, x = lstm(3, 2), np.random.default_rng(0).normal(size=(5, 2))
    h, c, expected = np.zeros(3), np.zeros(3), []
    for row in x:
        z = layer.inputs @ row + layer.states @ h + layer.bias
        i, f, o = ([sigmoid(2 * v) for v in z[at : at + 3]] for at in (0, 3, 9))
        c = np.array(f) * c + np.array(i) * np.tanh(z[6:9])
        h = np.array(o) * np.tanh(c)
        expected.append(h)
    np.testing.assert_allclose(layer(x[None])[0], expected, atol=1e-12)
    assert layer.after((5, 2)) == (5, 3)


def test_a_block_is_what_its_formula_says() -> None:
    layer, x = block(4, 2, 6), np.random.default_rng(1).normal(size=(3, 4))

    def norm(row: np.ndarray) -> np.ndarray:
        return (row - row.mean()) / math.sqrt(row.var() + NORM_FLOOR)

    mixed = [layer.into @ norm(row) + layer.into_bias for row in x]
    attended: list[float] = []
    for head in range(2):
        at = slice(2 * head, 2 * head + 2)
        for i in range(3):
            weights = [math.exp(mixed[i][at] @ mixed[j][4:8][at]) for j in range(3)]
            values = sum(w * mixed[j][8:][at] for j, w in enumerate(weights)) / sum(weights)
            attended += list(values)  # head after head, and only then cut into rows: so Opacus lays them out
    first = [row + layer.out @ np.array(attended[4 * i : 4 * i + 4]) + layer.out_bias for i, row in enumerate(x)]
    expected = []
    for row in first:
        u = layer.up @ norm(row) + layer.up_bias
        gelu = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in u])
        expected.append(row + layer.down @ gelu + layer.down_bias)
    np.testing.assert_allclose(layer(x[None])[0], expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_a_sum_over_neighbours(stride: int) -> None:
    rng = np.random.default_rng(2)
    layer = Convolution(weights=rng.normal(size=(3, 2, 3, 3)), bias=rng.normal(size=3), stride=stride)
    x = rng.normal(size=(2, 5, 4))
    shape = layer.after(x.shape)
    assert shape == (3, math.ceil(5 / stride), math.ceil(4 / stride))
    got = layer(x[None])[0]
    for f, i, j in np.ndindex(*shape):
        total = layer.bias[f]
        for c, k, m in np.ndindex(2, 3, 3):
            a, b = i * stride + k - 1, j * stride + m - 1
            if 0 <= a < 5 and 0 <= b < 4:
                total += layer.weights[f, c, k, m] * x[c, a, b]
        assert got[f, i, j] == pytest.approx(total, abs=1e-12)
    np.testing.assert_allclose(layer.secrets[0][1], layer.weights[1].reshape(-1))


def test_public_steps() -> None:
    x = np.arange(12.0).reshape(1, 2, 2, 3)
    assert Enlarge(sides=(4, 5))(x)[0, 1].tolist() == [
        [6, 6, 7, 7, 8], [6, 6, 7, 7, 8], [9, 9, 10, 10, 11], [9, 9, 10, 10, 11],
    ]  # fmt: skip
    rows = np.arange(6.0).reshape(1, 3, 2)
    assert Repeat(rows=2)(rows).tolist() == [[[4, 5], [4, 5]]]
    assert Reshape(shape=(6,))(rows).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert Shift(values=np.ones((3, 2)))(rows)[0, 0].tolist() == [1, 2]


def test_a_forecast_is_compared_with_what_follows() -> None:
    layer = Dense(weights=np.ones((2, 2)), bias=np.zeros(2))
    layers = (Reshape(shape=(3, 2)), Repeat(rows=2), layer)
    for compared, expected in ((None, [5, 0, 3, 8]), (2, [3, 8])):
        network = Network(layers=layers, target="inputs", shape=(3, 2), following=4, compared=compared)
        record = np.array([[9.0, 9, 9, 9, 1, 2, -2, 3, 0, -5]])  # the last row read sums to 3
        assert network.n_inputs == 10
        assert network.scores(record)[0] == pytest.approx(np.mean(np.square(expected)))


def test_layers_that_do_not_fit_are_refused() -> None:
    wrong: list[Any] = [
        lambda: Network(layers=(lstm(3, 2),), target="centre"),
        lambda: Network(layers=(lstm(3, 2),), target="inputs", shape=(4, 2)),
        lambda: Network(layers=(lstm(3, 2),), target="centre", shape=(4, 3)),
        lambda: Network(layers=(Dense(weights=np.eye(2), bias=np.zeros(2)),), target="inputs", compared=3),
        lambda: Network(layers=(Dense(weights=np.eye(2), bias=np.zeros(2)),), target="inputs", following=-1),
        lambda: Lstm(inputs=np.ones((4, 2)), states=np.ones((4, 2)), bias=np.ones(4)),
        lambda: Lstm(inputs=np.full((4, 2), np.nan), states=np.ones((4, 1)), bias=np.ones(4)),
        lambda: block(4, 3, 2),
        lambda: Convolution(weights=np.ones((2, 1, 5)), bias=np.ones(2)),
        lambda: Convolution(weights=np.ones((2, 1, 3)), bias=np.ones(2), stride=3),
        lambda: Convolution(weights=np.ones((2, 1, 3)), bias=np.ones(2)).after((2, 8)),
        lambda: Enlarge(sides=(7,)).after((1, 3)),
        lambda: Reshape(shape=(0,)),
        lambda: Reshape(shape=(5,)).after((2, 3)),
        lambda: Repeat(rows=2).after((3,)),
        lambda: Shift(values=np.ones(3)).after((2,)),
        lambda: block(4, 2, 3).after((5, 3)),
    ]
    for make in wrong:
        with pytest.raises(ParameterError):
            make()


def test_no_weight_is_shown() -> None:
    layers: tuple[Any, ...] = (lstm(3, 2), block(4, 2, 6), Shift(values=np.full((3, 2), 0.12345)))
    shown = repr(layers)
    assert "secret" in shown
    assert not any(f"{layer.secrets[0].flat[0]:.3f}" in shown for layer in layers)


# -- windows


def test_windows_are_rows_side_by_side_and_by_themselves() -> None:
    rng = np.random.default_rng(3)
    X = np.stack([rng.normal(size=(7, 6)) * 50, rng.integers(4, size=(7, 6))], axis=2)
    plain = windowed().encode(X)
    assert plain.shape == (7, 6 * 4)
    np.testing.assert_array_equal(plain[2].reshape(6, 4), ROW.encode(X[2]))
    scaled = windowed(by_window=True)
    got = scaled.encode(X)[2].reshape(6, 4)
    seen = ROW.encode(X[2])[:4]
    np.testing.assert_allclose(got, (ROW.encode(X[2]) - seen.mean(axis=0)) / (seen.std(axis=0) + 0.05), atol=1e-12)
    assert (np.abs(scaled.encode(X)) <= scaled.reach).all()
    spike = np.zeros((1, 6, 2))
    spike[0, 3] = spike[0, 4] = 100.0  # the largest that a window by itself can be, and what follows it
    assert (np.abs(scaled.encode(spike)) <= scaled.reach).all()
    assert scaled.max_abs == 160.0


@pytest.mark.parametrize(
    "change",
    [
        {"window": 1}, {"window": 2.0}, {"window": True}, {"window": 2000}, {"horizon": -1}, {"horizon": 1 << 20},
        {"by_window": 1}, {"interval": 0.0}, {"interval": "1"}, {"interval": float("inf")}, {"tolerance": 0.5},
        {"tolerance": None}, {"more": 1}, {"rows": {}}, {"rows": inputs_to_json(windowed())}, {"kind": "window"},
    ],
)  # fmt: skip
def test_malformed_windows_are_refused(change: dict[str, object]) -> None:
    good = inputs_to_json(windowed())
    assert inputs_from_json(json.loads(json.dumps(good))) == windowed()
    assert inputs_from_json(inputs_to_json(ROW)) == ROW
    with pytest.raises(FormatError):
        inputs_from_json({**good, **change})


def test_windows_that_are_too_wide_are_refused() -> None:
    wide = Standardised(offsets=(0.0,) * 4096, scales=(1.0,) * 4096, slots=(0,) * 4096, bound=4.0)
    with pytest.raises(ParameterError, match="too wide"):
        windowed(rows=wide, window=1024)


# -- modules


@pytest.mark.parametrize("window", [4, 7])
@pytest.mark.parametrize(("horizon", "by_window"), [(0, False), (3, True)])
@pytest.mark.parametrize("kind", ["LSTMNet", "TransformerNet"])
def test_a_window_module_is_its_network(kind: str, horizon: int, by_window: bool, window: int) -> None:
    torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    from blindsight.detectors import _window_modules
    from blindsight.detectors._network import network_of

    torch.manual_seed(0)
    sizes = (5,) if kind == "LSTMNet" else (6, 3, 2)
    module = getattr(_window_modules, kind)(window, horizon, 4, *sizes, by_window=by_window)
    with torch.no_grad():
        for parameter in module.parameters():  # also biases and norms, which begin at constants
            parameter += 0.3 * torch.randn_like(parameter)
    module = module.double().eval()
    inputs = windowed(window=window, horizon=horizon, by_window=by_window)
    Z = np.random.default_rng(4).normal(size=(9, window + horizon, 4))
    with torch.no_grad():
        expected = module.losses(torch.from_numpy(Z.reshape(9, -1))).numpy()
    network = network_of(module)
    np.testing.assert_allclose(network.scores(inputs.joined(Z)), expected, rtol=1e-10)
    assert network.n_inputs == inputs.width


@pytest.mark.parametrize(("shape", "channels"), [((8, 8), 1), ((5, 7), 2), ((13,), 3), ((2,), 1)])
def test_a_convolutional_module_is_its_network(shape: tuple[int, ...], channels: int) -> None:
    torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    from blindsight.detectors._network import network_of
    from blindsight.detectors._window_modules import ConvNet

    torch.manual_seed(0)
    module = ConvNet(shape, channels, 3, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    module = module.double().eval()
    Z = np.random.default_rng(5).normal(size=(6, channels * math.prod(shape)))
    with torch.no_grad():
        expected = module.losses(torch.from_numpy(Z)).numpy()
    np.testing.assert_allclose(network_of(module).scores(Z), expected, rtol=1e-10)


def test_ckks_refuses_other_layers_by_name() -> None:
    from blindsight.blind._ckks_circuit import plan_network

    layers = (Reshape(shape=(2, 2)), lstm(2, 2))
    network = Network(layers=layers, target="inputs", shape=(4,))
    inputs = Standardised(offsets=(0.0,) * 4, scales=(1.0,) * 4, slots=(0,) * 4, bound=4.0)
    with pytest.raises(CapacityError, match="Layer 1 of the network, reshape, is not dense"):
        plan_network(inputs, network, 1.0)
    assert not network.is_polynomial
    assert (
        Network(layers=(Dense(weights=np.eye(4), bias=np.ones(4)), Activation("square")), target="inputs").squares == 2
    )
