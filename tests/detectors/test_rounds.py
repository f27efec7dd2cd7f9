"""Rounds of training: every remedy against a plain re-implementation, bounds, dropouts, tampering, early stop."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from blindsight.data import Records, Schema
from blindsight.detectors import AutoEncoder, Local, SumQuery, Total, Training, UpdateQuery, detector_from_json
from blindsight.detectors._own_records import held_out
from blindsight.detectors._round_vector import MAX_ROWS, RoundVector, Trained, clipped, on_grid
from blindsight.errors import BlindsightWarning, DataError, ParameterError
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL, totals_of

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

from ._linear import SQUARE_SCHEMA, LineDetector  # noqa: E402 (needs torch)

RATE, CLIP = 0.05, 2.0
GRID = 1 << 16


def sides() -> dict[str, np.ndarray]:
    """Two parties that pull in different directions, of different size."""
    generator = np.random.default_rng(0)
    return {
        "a": np.round(generator.normal([1.0, 0.0], 0.2, size=(12, 2)), 3),
        "b": np.round(generator.normal([-0.5, 2.0], 0.2, size=(30, 2)), 3),
    }


def gradient(w: np.ndarray, Z: np.ndarray) -> np.ndarray:
    g = (2 * (Z @ w - 1.0)[:, None] * Z).mean(axis=0)
    return g * min(1.0, 1.0 / (np.linalg.norm(g) + 1e-6))


def start() -> np.ndarray:
    model = LineDetector()
    model.begin(SQUARE_SCHEMA)
    return model.parameters_["layer.weight"][0].astype(np.float64)


def trained(rounds: int = 4, **more: object) -> np.ndarray:
    training = Training(
        **{
            "rounds": rounds,
            "local_epochs": 3,
            "sampling_rate": 1.0,
            "learning_rate": RATE,
            "clip_norm": CLIP,
            **more,
        }
    )
    model = LineDetector(training=training).run(SQUARE_SCHEMA, totals_of(sides(), SQUARE_SCHEMA))
    return model.parameters_["layer.weight"][0]


@pytest.mark.parametrize("proximal", [0.0, 0.7])
@pytest.mark.parametrize("weighting", ["rows", "equal"])
def test_fedavg_and_fedprox_by_hand(proximal: float, weighting: str) -> None:
    w = start()
    for _ in range(4):
        total, mass = np.zeros(2), 0.0
        for Z in sides().values():
            mine, speed = w.copy(), np.zeros(2)
            for _ in range(3):
                speed = 0.9 * speed + gradient(mine, Z) + proximal * (mine - w)
                mine = mine - RATE * speed
            share = len(Z) if weighting == "rows" else 1
            total, mass = total + share * (mine - w), mass + share
        w = w + total / mass
    assert np.allclose(trained(proximal=proximal, weighting=weighting), w, atol=3e-4)


def test_scaffold_by_hand() -> None:
    """Karimireddy et al. 2020, algorithm 1, option II."""
    w, c = start(), np.zeros(2)
    own = {name: np.zeros(2) for name in sides()}
    for _ in range(6):
        deltas, changes, mass = np.zeros(2), np.zeros(2), 0
        for name, Z in sides().items():
            mine = w.copy()
            for _ in range(3):
                mine = mine - RATE * (gradient(mine, Z) + c - own[name])
            change = -c + (w - mine) / (3 * RATE)
            own[name] = own[name] + change
            deltas, changes, mass = deltas + len(Z) * (mine - w), changes + change, mass + len(Z)
        w, c = w + deltas / mass, c + changes / 2
    found = trained(rounds=6, scaffold=True)
    assert np.allclose(found, w, atol=5e-4)
    assert not np.allclose(trained(rounds=6), w, atol=5e-3), "plain averaging goes elsewhere"


def test_a_control_variate_of_another_length_is_not_believed() -> None:
    training = Training(rounds=1, scaffold=True, sampling_rate=1.0)
    memories = {name: {"scaffold": b"\0\0\0"} for name in sides()}
    model = LineDetector(training=training)
    model.run(SQUARE_SCHEMA, totals_of(sides(), SQUARE_SCHEMA, memories=memories))
    assert all(len(memory["scaffold"]) == 4 * 2 for memory in memories.values())


def test_identical_parties_are_as_good_as_one() -> None:
    X = make_table(120, 0)
    training = Training(**SMALL)
    alone = AutoEncoder(training=training).run(NUMBER_SCHEMA, totals_of({"a": X}, NUMBER_SCHEMA))
    four = AutoEncoder(training=training).run(NUMBER_SCHEMA, totals_of(dict.fromkeys("abcd", X), NUMBER_SCHEMA))
    for name, array in alone.parameters_.items():
        assert np.allclose(array, four.parameters_[name], atol=2e-3), name


def test_the_local_fit_is_a_federation_of_one() -> None:
    X = make_table(80, 1)
    a = AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(X)
    b = AutoEncoder(training=Training(**SMALL)).run(NUMBER_SCHEMA, totals_of({"only": X}, NUMBER_SCHEMA))
    assert np.array_equal(a.decision_function(X), b.decision_function(X))


# -- bounds


def test_the_grid_never_lengthens_a_vector() -> None:
    generator = np.random.default_rng(1)
    for length, grid in ((1, GRID), (7, GRID), (3000, GRID), (3000, 1 << 4)):
        for scale in (1e-9, 0.5, 1.0, 1e9):
            vector = generator.normal(size=length) * scale
            norm = 1.7
            short = clipped(vector, norm)
            assert np.linalg.norm(short) <= norm
            whole = on_grid(vector, norm, grid)
            assert sum(int(v) ** 2 for v in whole) <= grid**2
            assert np.abs(whole / grid * norm - short).max() <= 1.01 * norm / grid


def test_weights_by_rows_are_capped() -> None:
    model = AutoEncoder(training=Training(rounds=1))
    model.begin(NUMBER_SCHEMA)
    query = model._round_query()
    assert query.max_abs == MAX_ROWS * GRID
    assert query.max_abs < 2**37, "ten thousand parties' totals stay far inside 64 bits"


def test_validation_weights_favour_training_that_helps() -> None:
    vector = RoundVector(training=Training(rounds=1, weighting="validation"), size=1)

    def weight(before: float, after: float) -> int:
        return vector.weight(Trained(flat=np.zeros(1), rows=9, steps=1, before=before, after=after))

    assert weight(1.0, 0.1) > weight(1.0, 1.0) == 500 > weight(1.0, 9.0) > 0
    assert weight(float("nan"), 1.0) == 500


def test_held_out_records_are_a_public_function_of_their_content() -> None:
    X = np.random.default_rng(2).normal(size=(5000, 3))
    mask = held_out(X, 0.2)
    assert 0.18 < mask.mean() < 0.22
    order = np.random.default_rng(3).permutation(5000)
    assert np.array_equal(held_out(X[order], 0.2), mask[order])
    assert np.array_equal(held_out(X[:10], 0.2), mask[:10])
    assert not held_out(X, 0.0).any()
    assert np.array_equal(held_out(np.array([[0.0]]), 0.5), held_out(np.array([[-0.0]]), 0.5))


def test_the_fractions_of_a_run_fit_into_one_share() -> None:
    for scales in ("learned", "declared"):
        for patience in (0, 7):
            training = Training(rounds=7, patience=patience, sampling_rate=0.5)
            seen: list[object] = []
            model = AutoEncoder(training=training, scales=scales, hidden=(2,))
            data = {"a": make_table(40, 5)}
            model.run(NUMBER_SCHEMA, totals_of(data, NUMBER_SCHEMA, seen=seen))
            fit = [query for query in seen if query.name != "threshold"]
            sums = sum(query.fraction for query in fit if isinstance(query, SumQuery))
            rounds = [query for query in fit if isinstance(query, UpdateQuery)]
            assert 0.95 < sums + rounds[0].fraction <= 1.0
            assert sum(query.steps for query in rounds) <= rounds[0].total_steps


def test_the_loss_sum_states_what_a_record_adds() -> None:
    model = AutoEncoder(hidden=(2,), training=Training(rounds=2, patience=1, validation=0.5))
    data = {"a": make_table(200, 6)}
    total_of = totals_of(data, NUMBER_SCHEMA)
    model.begin(NUMBER_SCHEMA)
    while (query := model.next_query()) is not None and not query.name.startswith("loss/"):
        model.advance(query, total_of(query))
    assert query is not None
    X = np.random.default_rng(7).normal(size=(300, 3)) * 1e4
    counted = 0
    for row in X:
        accumulator = np.zeros(2, dtype=np.int64)
        query.add(accumulator, Records(X=row[None]))
        assert np.linalg.norm(accumulator) <= query.sensitivity_l2
        counted += bool(accumulator.any())
    assert counted == held_out(X, 0.5).sum() > 0


# -- early stop


def test_training_stops_when_the_loss_rises_and_keeps_the_best_round() -> None:
    training = Training(rounds=50, patience=2, validation=0.3, sampling_rate=0.5, learning_rate=0.2, clip_norm=5.0)
    seen: list[object] = []
    model = AutoEncoder(hidden=(8,), training=training)
    real = totals_of({"a": make_table(300, 8)}, NUMBER_SCHEMA, seen=seen)
    parameters: list[dict[str, np.ndarray]] = []

    def total_of(query: object) -> Total:
        total = real(query)
        if query.name.startswith("loss/"):
            parameters.append(model.parameters_)
            # the losses of a run that gets worse after its third round
            loss = (9, 5, 3, 4, 4, 4, 4)[len(parameters) - 1]
            return Total(values=np.array([loss * 100, 1000]), parties=("a",))
        return total

    model.run(NUMBER_SCHEMA, total_of)
    assert model.round_ == 5
    assert model.best_loss_ == pytest.approx(0.3)
    assert all(np.array_equal(model.parameters_[name], array) for name, array in parameters[2].items())


# -- who breaks the rules


def test_a_mean_that_no_honest_parties_could_reach_is_refused() -> None:
    def tamper(query: UpdateQuery, name: str, values: np.ndarray) -> np.ndarray:
        return values * 10**4 if name == "b" else values

    model = LineDetector(training=Training(rounds=2, sampling_rate=1.0, clip_norm=0.01, weighting="equal"))
    with pytest.raises(ParameterError, match="Round 0 was refused") as caught:
        model.run(SQUARE_SCHEMA, totals_of(sides(), SQUARE_SCHEMA, tamper=tamper))
    assert "median" in str(caught.value)


def test_in_the_open_the_offender_is_named_and_left_out() -> None:
    def tamper(query: UpdateQuery, name: str, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:2] * 10**6, values[2:]]) if name == "b" else values

    data = {"a": sides()["a"], "b": sides()["b"], "c": sides()["a"]}
    model = LineDetector(training=Training(rounds=1, sampling_rate=1.0, aggregation="median"))
    with pytest.warns(BlindsightWarning, match="update of b is longer"):
        model.run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA, tamper=tamper))
    alone = LineDetector(training=Training(rounds=1, sampling_rate=1.0, aggregation="median"))
    alone.run(SQUARE_SCHEMA, totals_of({"a": sides()["a"], "c": sides()["a"]}, SQUARE_SCHEMA))
    assert np.array_equal(model.parameters_["layer.weight"], alone.parameters_["layer.weight"])


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean", "krum"])
def test_a_sign_flipped_update_does_less_harm_with_robust_aggregation(aggregation: str) -> None:
    def tamper(query: UpdateQuery, name: str, values: np.ndarray) -> np.ndarray:
        flipped = values.copy()
        flipped[:2] = -5 * values[:2]
        return flipped if name == "e" else values

    # within the norm bound, so that nothing but robustness can help
    training = {"rounds": 5, "sampling_rate": 1.0, "clip_norm": 1.0, "learning_rate": 0.02, "weighting": "equal"}
    data = dict.fromkeys("abcde", sides()["a"])
    want = LineDetector(training=Training(**training)).run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA))

    def distance(how: str) -> float:
        model = LineDetector(training=Training(**training, aggregation=how))
        model.run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA, tamper=tamper))
        return float(np.abs(model.parameters_["layer.weight"] - want.parameters_["layer.weight"]).max())

    assert distance(aggregation) < 0.01 < 0.02 < distance("mean")


def test_a_diverging_party_adds_nothing_and_says_so() -> None:
    class Diverging(LineDetector):
        name = "Diverging"

        def _train(self, local, start, correction):
            done = super()._train(local, start, correction)
            return type(done)(flat=done.flat * np.nan if done.rows == 30 else done.flat, rows=done.rows, steps=1)

    notices: dict[str, str] = {}
    training = Training(rounds=3, sampling_rate=1.0)
    model = Diverging(training=training).run(SQUARE_SCHEMA, totals_of(sides(), SQUARE_SCHEMA, notices=notices))
    assert "diverged" in notices["b"]
    assert "a" not in notices
    alone = LineDetector(training=training).run(SQUARE_SCHEMA, totals_of({"a": sides()["a"]}, SQUARE_SCHEMA))
    assert np.allclose(model.parameters_["layer.weight"], alone.parameters_["layer.weight"])
    # where every party diverges in the first round there is nothing to go on with
    for data in ({"b": sides()["b"]}, {"b": sides()["b"], "c": sides()["b"]}):
        with pytest.raises(DataError, match=r"Nothing was added in round 0.*training that diverged"):
            Diverging(training=training).run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA))


def test_a_later_round_to_which_nobody_adds_leaves_the_model_as_it_is() -> None:
    class Tiring(LineDetector):
        name = "Tiring"

        def _train(self, local, start, correction):
            done = super()._train(local, start, correction)
            return type(done)(flat=done.flat * (np.nan if self.round_ else 1.0), rows=done.rows, steps=1)

    totals = totals_of(sides(), SQUARE_SCHEMA)
    model = Tiring(training=Training(rounds=3, sampling_rate=1.0)).run(SQUARE_SCHEMA, totals)
    once = LineDetector(training=Training(rounds=1, sampling_rate=1.0)).run(SQUARE_SCHEMA, totals)
    assert model.round_ == 3
    assert np.array_equal(model.parameters_["layer.weight"], once.parameters_["layer.weight"])


def test_a_party_without_records_adds_nothing() -> None:
    model = LineDetector(training=Training(rounds=1))
    model.begin(SQUARE_SCHEMA)
    model.advance(model.next_query(), Total(values=np.array([10]), parties=("a",)))
    update = model.next_query().update(Local(records=lambda: iter(())))
    assert not update.values.any()
    assert "no records" in update.notice


@pytest.mark.parametrize("augment", ["jitter", "mixup"])
def test_small_parties_are_augmented_and_large_ones_are_not(augment: str) -> None:
    X = make_table(100, 9)

    def parameters(**more: object) -> np.ndarray:
        model = AutoEncoder(hidden=(2,), training=Training(**SMALL, **more), schema=NUMBER_SCHEMA)
        return model.fit(X).parameters_["net.0.weight"]

    plain = parameters()
    assert not np.array_equal(parameters(augment=augment), plain)
    assert np.array_equal(parameters(augment=augment, augment_below=100), plain)


@pytest.mark.parametrize("server", ["fedavgm", "fedadam", "fedyogi", "reptile"])
def test_server_optimisers_train(server: str) -> None:
    rate = {"fedadam": 0.1, "fedyogi": 0.1}.get(server, 1.0)
    training = Training(rounds=40, sampling_rate=1.0, learning_rate=0.05, server=server, server_rate=rate)
    data = sides()
    model = LineDetector(training=training).run(SQUARE_SCHEMA, totals_of(data, SQUARE_SCHEMA))
    plain = LineDetector(training=training)
    plain.begin(SQUARE_SCHEMA)
    Z = np.concatenate(list(data.values()))
    assert model._losses(Z).mean() < 0.5 * plain._losses(Z).mean()


def test_training_out_of_its_domain_is_named() -> None:
    for bad in (
        {"rounds": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": float("nan")},
        {"learning_rate": -1.0},
        {"clip_norm": float("inf")},
        {"server": "adam"},
        {"weighting": "size"},
        {"aggregation": "mode"},
        {"trimmed": 0.5},
        {"scaffold": 1},
        {"patience": 3, "validation": 0.0},
        {"parties": 0.0},
    ):
        with pytest.raises(ParameterError):
            Training(**bad)


def test_a_module_with_buffers_is_refused() -> None:
    class Normed(LineDetector):
        name = "Normed"

        def _module(self, schema: Schema) -> torch.nn.Module:
            module = super()._module(schema)
            module.norm = torch.nn.BatchNorm1d(2)
            return module

    with pytest.raises(ParameterError, match="LayerNorm"):
        Normed().fit(np.random.default_rng(0).normal(size=(20, 2)))


def test_no_warning_while_training() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(make_table(50, 1))


def test_a_round_has_a_bounded_number_of_steps() -> None:
    """Each number by itself may be large; a coordinator that asks for both would keep a party busy for weeks."""
    Training(local_epochs=1, sampling_rate=1e-6)
    Training(local_epochs=1000, sampling_rate=1e-3)
    with pytest.raises(ParameterError, match=r"too many steps.*1,001,000"):
        Training(local_epochs=1000, sampling_rate=1 / 1001)
    with pytest.raises(ParameterError, match="too many steps"):
        detector_from_json(
            {"name": "AutoEncoder", "parameters": {"training": {"local_epochs": 1000, "sampling_rate": 1e-6}}}
        )
