"""Models of windows and images under MPC: descriptions, bounds, the owner's windows, and blind equals clear."""

import math
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import blindsight as bs
from blindsight.blind.mpc import Program, program_of
from blindsight.blind.mpc._bounds import bounds_of
from blindsight.blind.mpc._functions import gelu, norm, softmax, tanh
from blindsight.blind.mpc._offer import MpcOffer
from blindsight.blind.mpc._program import MAX_ELEMENTS, RUN_CURVED, Step
from blindsight.blind.mpc._records import records_of
from blindsight.blind.mpc._shares import join
from blindsight.circuits import Activation, Block, Dense, Lstm, Network, Repeat, Standardised, Windowed
from blindsight.data import Column, Schema
from blindsight.errors import CapacityError, DataError, ParameterError, WireError

from ._threads import Threads

SCHEMA = Schema(
    (
        Column(name="when", role="time", type="number"),
        Column(name="machine", role="entity", type="text"),
        Column(name="speed", low=-2, high=2),
        Column(name="heat", low=-2, high=2),
    )
)
SMALL: dict[str, dict[str, Any]] = {
    "LSTMAutoEncoder": {"hidden": 4},
    "TransformerAutoEncoder": {"width": 4, "heads": 2},
}


def turning(rows: int = 96) -> pl.DataFrame:
    """Two machines, interleaved; the first stands still for a while, and the second misses a part of the time."""
    rng = np.random.default_rng(0)
    step, which = np.repeat(np.arange(rows // 2), 2), np.tile([0, 1], rows // 2)
    speed, heat = (np.asarray(f(step / (3.0 + which))) + rng.normal(0, 0.05, rows) for f in (np.sin, np.cos))
    speed[(which == 0) & (step > rows // 2 - 12)] = 1.5
    table = pl.DataFrame(
        {"when": step.astype(float), "machine": np.array(["a", "b"])[which], "speed": speed, "heat": heat}
    )
    return table.filter(~((pl.col("machine") == "b") & pl.col("when").is_between(20, 24)))


def trained(kind: str, **options: Any) -> Any:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    training = bs.Training(rounds=2, learning_rate=0.2, clip_norm=10.0)
    made = {"window": 6, "training": training, "interval": 1.0, "schema": SCHEMA, **SMALL[kind], **options}
    return getattr(bs, kind)(**made).fit(turning())


def offer_of(model: Any, program: Program) -> MpcOffer:
    offer = MpcOffer(
        program=program, inputs=model.inputs_, schema=model.schema_.to_json(), score_scale=1.0, secret=True
    )
    assert MpcOffer.decode(offer.encode()) == offer
    return offer


def blind(threads: Threads, model: Any, table: Any, answer: Any = "score") -> np.ndarray:
    """What an owner of a table gets, but for the network between it and the operators."""
    protocol: Any = "aby3" if threads.operators == 3 else "cheetah"
    program, secrets = program_of(model, protocol=protocol, answer=answer)
    threads.load("deep", program, secrets)
    n, pieces = records_of(offer_of(model, program), table, 256)
    found = np.full(n, np.nan)
    for number, (place, encoded) in enumerate(pieces):
        found[place] = join(program, len(encoded), threads.run("deep", program, encoded, f"run-{number}"))
    return found


# -- blind equals clear


def check(threads: Threads, model: Any, table: Any, *, verdicts: bool = True) -> None:
    clear, threshold = model.decision_function(table), model.threshold_
    scores = blind(threads, model, table)
    assert np.abs(scores - clear).max() <= 1e-3 * threshold
    if verdicts:
        decided = np.abs(clear - threshold) > 1e-3 * threshold
        found = blind(threads, model, table, "verdict")
        assert np.array_equal(found[decided] == 1, model.predict(table)[decided] == 1)
        assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("kind", list(SMALL))
def test_windows_of_several_series_under_aby3(three: Threads, kind: str) -> None:
    check(three, trained(kind), turning().tail(40))


@pytest.mark.parametrize("kind", list(SMALL))
def test_forecasts_of_windows_by_themselves_under_aby3(three: Threads, kind: str) -> None:
    model = trained(kind, horizon=2, normalise="window", point="last")
    check(three, model, turning()[:20], verdicts=False)


def images() -> tuple[Any, np.ndarray]:
    pytest.importorskip("torch", reason="the extra 'deep' is not installed")
    from sklearn.datasets import load_digits

    X, _ = load_digits(return_X_y=True)
    schema = Schema(tuple(Column(name=f"x{i}", low=0, high=16) for i in range(64)))
    made = bs.ConvAutoEncoder(shape=(8, 8), filters=2, code=4, schema=schema, training=bs.Training(rounds=1))
    return made.fit(X[:600]), X[600:640]


def test_images_under_aby3(three: Threads) -> None:
    check(three, *images())


def test_cheetah_takes_small_recurrent_models(two: Threads) -> None:
    check(two, trained("LSTMAutoEncoder", hidden=2, window=3), turning()[:3], verdicts=False)


@pytest.mark.slow
def test_cheetah_takes_small_images_and_attention(two: Threads) -> None:
    model, X = images()
    check(two, model, X[:2], verdicts=False)
    check(two, trained("TransformerAutoEncoder", width=2, heads=1, window=3), turning()[:2], verdicts=False)


# -- the owner's side


@pytest.mark.parametrize("options", [{}, {"horizon": 3}, {"normalise": "window", "interval": None}, {"point": "last"}])
@pytest.mark.parametrize("kind", list(SMALL))
def test_an_owner_makes_the_windows_of_decision_function(kind: str, options: dict[str, Any]) -> None:
    """Several series, a gap, pieces: with the network in the clear, the scores are the same for every row."""
    model, table = trained(kind, **options), turning()
    n, pieces = records_of(offer_of(model, program_of(model)[0]), table, 17)
    found = np.full(n, np.nan)
    for place, encoded in pieces:
        found[place] = model.network_.scores(encoded)
    assert n == table.height
    np.testing.assert_allclose(found, model.decision_function(table), atol=1e-5)


def test_an_owner_is_told_what_is_wrong_with_its_table() -> None:
    model, table = trained("LSTMAutoEncoder"), turning()
    offer = offer_of(model, program_of(model)[0])
    with pytest.raises(DataError, match="The time goes back"):
        records_of(offer, table.reverse(), 10)
    with pytest.raises(DataError):
        records_of(offer, table.drop("heat"), 10)
    narrow = msgspec.structs.replace(offer, schema=Schema(SCHEMA.columns[:3]).to_json())
    with pytest.raises(ParameterError, match="another number of features"):
        records_of(narrow, table, 10)
    plain = bs.ECOD(schema=SCHEMA).fit(turning())
    program, _ = program_of(plain)
    offer = MpcOffer(program=program, inputs=plain.encoder_, schema={}, score_scale=1.0, secret=True)
    with pytest.raises(ParameterError, match="finite"):
        records_of(offer, np.full((2, 2), np.nan), 10)


# -- descriptions


def small_program(**changes: Any) -> Program:
    model: Any = type("M", (), {"inputs_": WINDOWS, "network_": small_network()})
    return msgspec.structs.replace(program_of(model)[0], **changes)


WINDOWS = Windowed(
    rows=Standardised(offsets=(0.0,) * 2, scales=(1.0,) * 2, slots=(0,) * 2, bound=20.0),
    window=4, horizon=1, by_window=False, interval=None, tolerance=0.1,
)  # fmt: skip


def small_network(gain: float = 1.0) -> Network:
    rng = np.random.default_rng(0)
    lstm = Lstm(inputs=gain * rng.normal(size=(12, 2)), states=rng.normal(size=(12, 3)), bias=rng.normal(size=12))
    out = Dense(weights=rng.normal(size=(2, 3)), bias=rng.normal(size=2))
    return Network(layers=(lstm, Repeat(rows=1), out), target="inputs", shape=(4, 2), following=2)


VECTOR = (
    b'{"protocol":"aby3","answer":"score","form":"network","inputs":10,"steps":[{"kind":"lstm","outputs":3},'
    b'{"kind":"repeat","outputs":1},{"kind":"dense","outputs":2}],"target":"inputs","ring_bits":128,'
    b'"fraction_bits":36,"shape":[4,2]}'
)
"""Of docs/wire-blind.md."""


def test_the_description_is_that_of_the_document() -> None:
    program = small_program()
    assert program.encode() == VECTOR
    assert Program.decode(VECTOR) == program
    assert [a.shape for a in program.secrets()] == [(12, 2), (12, 3), (12,), (2, 3), (2,)]


def test_descriptions_of_plain_networks_are_what_they_were() -> None:
    steps = (Step("dense", 2), Step("relu"), Step("dense", 3))
    program = Program(protocol="aby3", answer="score", form="network", inputs=3, steps=steps, target="inputs")
    assert program.encode() == (
        b'{"protocol":"aby3","answer":"score","form":"network","inputs":3,"steps":[{"kind":"dense","outputs":2},'
        b'{"kind":"relu","outputs":0},{"kind":"dense","outputs":3}],"target":"inputs","ring_bits":64,"fraction_bits":20}'
    )


def test_every_kind_of_step_survives_and_says_what_it_has() -> None:
    good: list[tuple[Step, tuple[int, ...], tuple[int, ...]]] = [
        (Step("lstm", 3), (4, 2), (4, 3)),
        (Step("repeat", 5), (4, 2), (5, 2)),
        (Step("reshape", shape=(8,)), (4, 2), (8,)),
        (Step("shift"), (4, 2), (4, 2)),
        (Step("block", 6, heads=2), (4, 2), (4, 2)),
        (Step("convolution", 3, stride=2), (2, 5, 4), (3, 3, 2)),
        (Step("enlarge", shape=(9, 8)), (2, 5, 4), (2, 9, 8)),
    ]
    for step, before, outputs in good:
        size = math.prod(before)
        program = Program(
            protocol="aby3", answer="score", form="network", inputs=size, steps=(step,), target="centre", shape=before
        )
        assert program.outputs == outputs
        assert Program.decode(program.encode()) == program
        program.secrets()


BAD_STEPS: list[list[dict[str, Any]]] = [
    [{"kind": "lstm", "outputs": 0}],
    [{"kind": "lstm", "outputs": 3, "heads": 1}],
    [{"kind": "lstm", "outputs": 1 << 17}],
    [{"kind": "gru", "outputs": 3}],
    [{"kind": "reshape", "outputs": 0}],
    [{"kind": "reshape", "outputs": 0, "shape": [9]}],
    [{"kind": "reshape", "outputs": 0, "shape": []}],
    [{"kind": "reshape", "outputs": 0, "shape": [2, 2, 2, 1]}],
    [{"kind": "reshape", "outputs": 0, "shape": [-2, -4]}],
    [{"kind": "repeat", "outputs": 0}],
    [{"kind": "block", "outputs": 4, "heads": 3}],
    [{"kind": "block", "outputs": 4}],
    [{"kind": "block", "outputs": 4, "heads": 0}],
    [{"kind": "convolution", "outputs": 4, "stride": 3}],
    [{"kind": "enlarge", "outputs": 0, "shape": [9]}],
    [{"kind": "shift", "outputs": 1}],
    [{"kind": "tanh", "outputs": 0, "stride": 1}],
    [],
]


@pytest.mark.parametrize("steps", BAD_STEPS)
def test_steps_that_do_not_fit_are_refused(steps: list[dict[str, Any]]) -> None:
    good = msgspec.json.decode(VECTOR)
    with pytest.raises(WireError):
        Program.decode(msgspec.json.encode({**good, "steps": steps}))


@pytest.mark.parametrize(
    "change",
    [{"shape": [5, 2]}, {"shape": [6, 2]}, {"shape": [8]}, {"shape": []}, {"shape": None}, {"compared": 0},
     {"compared": 3}, {"compared": None}, {"target": "centre"}, {"inputs": 11}, {"protocol": "cheetah"}],
)  # fmt: skip
def test_other_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        Program.decode(msgspec.json.encode({**msgspec.json.decode(VECTOR), **change}))


def test_what_would_take_all_memory_or_time_is_refused() -> None:
    good = msgspec.json.decode(VECTOR)
    long = {"shape": [2048, 2], "inputs": 4096, "target": "centre"}
    attention = [{"kind": "block", "outputs": 4, "heads": 2}]
    with pytest.raises(WireError, match="too much"):  # eight million exponentials
        Program.decode(msgspec.json.encode({**good, **long, "steps": attention}))
    wide = [{"kind": "dense", "outputs": 1 << 16}, {"kind": "reshape", "outputs": 0, "shape": [1 << 17]}]
    with pytest.raises(WireError):
        Program.decode(msgspec.json.encode({**good, "steps": wide}))
    with pytest.raises(WireError):
        Program.decode(msgspec.json.encode({**good, "steps": [{"kind": "reshape", "outputs": 0, "shape": [8]}] * 33}))
    program = small_program()
    assert program.peak == 48
    with pytest.raises(ParameterError, match="too many records"):
        program.records(16_384 * 32)
    huge = Program(
        protocol="aby3", answer="score", form="network", inputs=2048, target="centre", shape=(1024, 2),
        steps=(Step("lstm", 100),), ring_bits=128, fraction_bits=36,
    )  # fmt: skip
    with pytest.raises(ParameterError, match="too many records"):
        huge.records(MAX_ELEMENTS // huge.peak + 1)
    assert huge.rows_per_run == RUN_CURVED["aby3"] // (5 * 1024 * 100)


# -- bounds


def test_numbers_stay_within_their_bounds() -> None:
    """Of layers whose inputs lie anywhere inside the public bounds, also at the corners."""
    rng = np.random.default_rng(1)
    network = small_network()
    width, heads = 4, 2
    sides = {"into": (12, 4), "out": (4, 4), "up": (6, 4), "down": (4, 6)}
    given = {name: rng.normal(size=shape) for name, shape in sides.items()}
    given |= {f"{name}_bias": rng.normal(size=shape[0]) for name, shape in sides.items()}
    block = Block(heads=heads, **given)
    attention = Network(
        layers=(block, Dense(weights=np.eye(width), bias=np.zeros(width))), target="inputs", shape=(5, width)
    )
    Z = rng.uniform(-20, 20, size=(400, 20))
    Z[:200] = 20 * np.sign(Z[:200])
    found = bounds_of(attention, np.full(20, 20.0))
    outputs = attention.outputs(Z)
    assert np.abs(outputs).max() <= max(value for value, name in found.products if name.startswith("layer 2"))
    x = Z.reshape(400, 5, 4)
    normed = (x - x.mean(axis=2, keepdims=True)) / np.sqrt(x.var(axis=2, keepdims=True) + 1e-5)
    mixed = normed @ block.into.T + block.into_bias
    q, k, _ = (part.reshape(400, 5, heads, 2).transpose(0, 2, 1, 3) for part in np.split(mixed, 3, axis=2))
    logits = np.abs(q @ k.transpose(0, 1, 3, 2)).max()
    assert 0.1 * max(found.logits)[0] < logits <= max(found.logits)[0]
    assert 0.1 * found.variances[0][0] < x.var(axis=2).max() <= found.variances[0][0]
    most = bounds_of(network, WINDOWS.reach)
    gates = Z[:, :8].reshape(400, 4, 2) @ network.layers[0].secrets[0].T
    assert np.abs(gates).max() < max(value for value, name in most.products if "lstm" in name)


@pytest.mark.parametrize(
    ("gain", "what"), [(1e30, "a product"), (300.0, "the logarithm of an attention"), (1.0, "a variance")]
)
def test_a_layer_whose_numbers_are_too_large_is_named(gain: float, what: str) -> None:
    sides = {"into": (6, 2), "out": (2, 2), "up": (4, 2), "down": (2, 4)}
    given = {name: np.full(shape, gain if name == "into" else 1.0) for name, shape in sides.items()}
    given |= {f"{name}_bias": np.zeros(shape[0]) for name, shape in sides.items()}
    into = Dense(weights=np.array([[1e4, 0.0], [0.0, 1.0]]) if gain == 1.0 else np.eye(2), bias=np.zeros(2))
    layers = (into, Block(heads=1, **given), Dense(weights=np.eye(2), bias=np.zeros(2)))
    network = Network(layers=layers, target="inputs", shape=(5, 2))
    inputs = Windowed(rows=WINDOWS.rows, window=5, horizon=0, by_window=False, interval=None, tolerance=0.1)
    model: Any = type("M", (), {"inputs_": inputs, "network_": network})
    with pytest.raises(CapacityError, match=r"layer 2 \(block\)") as caught:
        program_of(model)
    assert what in str(caught.value)


def test_a_recurrent_layer_that_is_too_large_is_named() -> None:
    with pytest.raises(CapacityError, match=r"layer 1 \(lstm\)"):
        program_of(type("M", (), {"inputs_": WINDOWS, "network_": small_network(1e15)}))


def test_what_cheetah_cannot_do_in_time_is_refused_by_its_layer() -> None:
    rng = np.random.default_rng(0)
    lstm = Lstm(inputs=rng.normal(size=(400, 2)), states=rng.normal(size=(400, 100)), bias=np.zeros(400))
    layers = (lstm, Dense(weights=rng.normal(size=(2, 100)), bias=np.zeros(2)))
    rows = Windowed(rows=WINDOWS.rows, window=64, horizon=0, by_window=False, interval=None, tolerance=0.1)
    model: Any = type("M", (), {"inputs_": rows, "network_": Network(layers=layers, target="inputs", shape=(64, 2))})
    with pytest.raises(CapacityError, match=r"Layer 1 \(lstm\) of the network is too much for cheetah"):
        program_of(model, protocol="cheetah")
    assert program_of(model)[0].rows_per_run == RUN_CURVED["aby3"] // (5 * 64 * 100)


# -- functions


def test_functions_are_within_what_is_stated_of_them() -> None:
    """The approximations by themselves; what fixed point adds is in the models above."""
    import jax
    from scipy.special import erf

    with jax.experimental.enable_x64():
        z = np.linspace(-30, 30, 20_001)
        assert np.abs(np.asarray(tanh(z)) - np.tanh(z)).max() < 2e-5
        assert np.abs(np.asarray(gelu(z)) - z * (1 + erf(z / np.sqrt(2))) / 2).max() < 1e-5
        rows = np.random.default_rng(2).normal(size=(50, 7)) * np.geomspace(1e-3, 1e5, 50)[:, None]
        centred = rows - rows.mean(axis=1, keepdims=True)
        expected = centred / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(np.asarray(norm(rows)), expected, atol=1e-9)
        logits = np.random.default_rng(3).normal(size=(40, 9)) * np.geomspace(0.1, 250, 40)[:, None]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        for ring, most in ((128, 2e-6), (64, 1e-5)):
            found = np.asarray(softmax(logits, ring))
            assert np.abs(found - powers / powers.sum(axis=1, keepdims=True)).max() < most


def test_an_activation_beside_other_layers_keeps_its_bounds() -> None:
    layers = (Dense(weights=np.eye(2), bias=np.zeros(2)), Activation("square", 0.5), Repeat(rows=4))
    network = Network(layers=layers, target="inputs", shape=(4, 2))
    found = bounds_of(network, np.full(8, 3.0))
    assert max(found.products) == ((3 + 0.5 * 9 + 3) ** 2, "the squared distance")
