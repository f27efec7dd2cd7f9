"""The planner: sizes and bits against real messages, refusals, bounds, what a network adds; never its times."""

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import blindsight as bs
from blind._models import StandInModel, quadratic_model, records, table_model
from blind._networks import NetworkModel, dense, network_model, rows_of
from blindsight.blind import Connection, RecordOwner, Scorer, survey
from blindsight.blind._planner_rounds import he_rounds, mpc_rounds
from blindsight.blind._planner_times import bfv_times
from blindsight.circuits import Activation, InnerProduct, Lstm, Network, Standardised, Windowed
from blindsight.errors import NotFittedError, ParameterError


def option(model, engine, reveal="score", rows=1000, connection=None):
    found = survey(model, rows=rows, reveal=[reveal], connection=connection)
    return next(o for o in found.options if o.engine == engine)


# -- sizes and bits


@pytest.mark.parametrize("packing", ["rows", "columns"])
@pytest.mark.parametrize("n", [1, 3, 16, 17])
def test_sizes_of_encrypted_scores_are_those_of_the_messages(packing, n):
    model = table_model(4, 60 if packing == "rows" else 12)
    check_scores(model, packing, records(model, n))


def test_sizes_of_an_encoding_longer_than_a_ciphertext():
    model = table_model(70, 64)
    check_scores(model, "rows", records(model, 3))


@pytest.mark.parametrize("kind", ["quadratic", "square"])
def test_sizes_of_approximate_scores_are_those_of_the_messages(kind):
    model = network_model(kind)
    planned = check_scores(model, "columns", rows_of(model, 5))
    assert planned.error == planned.parameters.error(model.threshold_) > 0


def check_scores(model, packing, X):
    planned = option(model, packing, rows=len(X))
    scorer = Scorer(model, packing=packing)
    owner = RecordOwner(scorer.offer())
    with_registration, sealed = owner.seal(X), owner.seal(X, register=False)
    answer = scorer.score(with_registration)
    assert planned.parameters == scorer.parameters
    assert planned.cost.messages == 1
    assert planned.cost.bytes_up == len(sealed)
    assert planned.cost.bytes_down == len(answer)
    assert planned.cost.registration_bytes == len(with_registration) - len(sealed) == scorer.registration_bytes
    assert planned.bits == scorer.parameters.answer_bits
    assert planned.rows_to_extract == scorer.rows_to_extract
    return planned


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_sizes_of_verdicts_are_those_of_the_messages(packing):
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    from blind._verdicts import both, ends

    model = table_model(4, 10)
    X = records(model, 11)
    planned = option(model, packing, "verdict", rows=11)
    scorer = Scorer(model, packing=packing, reveal="verdict", thresholds=[12.0])
    owner = RecordOwner(scorer.offer())
    scorer.score(owner.seal(X))
    sealed = owner.seal(X, register=False)
    answer = scorer.score(sealed)
    pair = ends()
    sent = [Recorded(end) for end in pair]
    both(lambda: scorer.compare(sent[0]), lambda: owner.verdicts(answer, sent[1], sealed=sealed))
    assert planned.parameters == scorer.parameters
    assert planned.cost.bytes_up == len(sealed) + sent[1].bytes
    assert planned.cost.bytes_down == len(answer) + sent[0].bytes
    assert planned.bits == 1


class Recorded:
    """A comparison's end that counts what is sent beside the comparison."""

    def __init__(self, end):
        self.end, self.bytes, self.rank = end, 0, end.rank

    def send(self, message):
        self.bytes += len(message)
        self.end.send(message)

    def __getattr__(self, name):
        return getattr(self.end, name)


def test_wide_quadratics_are_offered_under_ckks_beside_the_exact_engine():
    X = np.random.default_rng(0).normal(size=(400, 40)).clip(-3, 3)
    schema = bs.Schema.infer(X).declare()
    wide, small = bs.Mahalanobis(schema=schema).fit(X), bs.Mahalanobis().fit(X[:, :3])
    found = survey(wide, connection=Connection(round_trip_ms=10, mbit=20))
    exact = next(o for o in found.options if o.engine == "columns" and o.reveal == "score")
    other = exact.approximate
    assert exact.error == 0
    scorer = Scorer(wide, packing="columns", scheme="ckks")
    assert other.parameters == scorer.parameters
    assert other.cost.bytes_up < exact.cost.bytes_up / 5
    assert 0 < other.error <= 1e-3 * wide.threshold_
    assert other.cost.connection == exact.cost.connection == found.connection
    assert found.recommended().error == 0
    assert "--scheme ckks" in found.why()
    assert "--scheme ckks" not in found.why("verdict")
    assert "--scheme ckks" not in survey(small).why()
    assert all(o.approximate is None for o in found.options if o is not exact)


@pytest.mark.parametrize("engine", ["aby3", "cheetah"])
@pytest.mark.parametrize("reveal", ["score", "verdict"])
def test_sizes_of_mpc_are_those_of_the_messages(engine, reveal):
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    from blind.mpc._threads import Threads
    from blindsight.blind.mpc import program_of
    from blindsight.blind.mpc._shares import split
    from blindsight.blind.mpc._wire import RunHeader, pack

    base = table_model(3, 5)
    model = SimpleNamespace(**{**vars(base), "threshold_": 10.0})
    planned = option(model, engine, reveal, rows=6)
    program, values = program_of(model, protocol=engine, answer=reveal)
    assert planned.parameters == program
    encoded = base.encoder_.encode(records(base, 6))
    header = RunHeader(id="ab" * 16, model="cd" * 16, rows=6)
    sent = [pack(header, [share]) for share in split(program, program.records(6), encoded)]
    threads = Threads(program.operators)
    threads.load("m", program, values)
    answers = threads.run("m", program, encoded)
    assert planned.cost.bytes_up == sum(map(len, sent))
    assert planned.cost.bytes_down == sum(map(len, answers))
    assert planned.bits == program.bits_per_row
    assert planned.error == 0


def test_many_records_go_in_several_messages():
    few, many = (option(table_model(20, 60), "columns", rows=rows) for rows in (4096, 60_000))
    assert few.cost.messages == 1
    assert many.cost.messages == 2  # 15 groups of 118 MB, at most nine of them in a message of 1 GiB
    assert many.cost.bytes_up > 14 * few.cost.bytes_up
    runs = option(table_model(20, 60), "aby3", rows=60_000)
    assert runs.cost.messages == 18  # 19.2 kB a record to each operator, 64 MiB a run


@pytest.mark.parametrize("kind", ["relu", "leaky", "square", "tanh"])
@pytest.mark.parametrize("engine", ["aby3", "cheetah"])
def test_fixed_point_errors_stay_within_what_is_planned(kind, engine):
    """Also in the arithmetic of the program itself, rounded at random, for records at the edge of the domain."""
    rng = np.random.default_rng(7)
    layers = (dense(rng, 3, 4), Activation(kind, -0.2) if kind == "square" else Activation(kind), dense(rng, 4, 3))
    base = network_model("reconstruction")
    model = NetworkModel(base.inputs_, Network(layers=layers, target="inputs"), 0.5)
    planned = option(model, engine)
    f = planned.parameters.fraction_bits

    def cut(values):
        scaled = values * 2.0**f
        return (np.floor(scaled) + (rng.random(values.shape) < scaled % 1)) / 2.0**f

    Z = rng.uniform(-8, 8, size=(20_000, 4)) * rng.uniform(0, 1, size=(20_000, 1))
    z = goal = cut(Z)
    for layer in layers:
        if isinstance(layer, Activation):
            z = cut(Activation(kind, float(cut(np.array(layer.coefficient))))(z))
        else:
            z = cut(z @ cut(layer.weights).T + cut(layer.bias))
    difference = z - goal
    found, exact = cut((difference * difference).mean(axis=1)), model.network_.scores(Z)
    low = exact <= model.threshold_
    assert low.sum() > 5
    worst = np.abs(found - exact)[low].max()
    assert 0 < worst <= planned.error < 0.05


@pytest.mark.parametrize("engine", ["aby3", "cheetah"])
def test_errors_that_are_measured_are_within_those_that_are_proved(engine):
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    rng = np.random.default_rng(3)
    layers = (dense(rng, 2, 4), Activation("relu"), dense(rng, 4, 2))
    model = NetworkModel(network_model().inputs_, Network(layers=layers, target="inputs"), 1.0)
    found = survey(model, reveal=["score"], measure=20)
    measured = next(o for o in found.options if o.engine == engine)
    assert 0 < measured.measured <= measured.error
    assert math.isnan(option(model, engine).measured)
    assert math.isnan(next(o for o in found.options if o.engine == "columns").measured)


def test_a_coarser_fixed_point_is_found_to_be_off_by_more():
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    from blindsight.blind._planner_mpc import _measured_error
    from blindsight.blind.mpc import program_of
    from blindsight.blind.mpc._program import FRACTION_BITS

    model = windows_model()
    program, secrets = program_of(model)
    coarse = msgspec.structs.replace(program, ring_bits=64, fraction_bits=min(FRACTION_BITS[64]))
    fine, rough = (_measured_error(model, p, secrets, 6) for p in (program, coarse))
    assert 0 < fine < 1e-3 * model.threshold_
    assert rough > 5 * fine


@pytest.mark.parametrize("measure", [-1, 1025, 2.5, True])
def test_an_impossible_number_of_records_to_measure(measure):
    with pytest.raises(ParameterError, match="measure"):
        survey(table_model(3, 5), measure=measure)


def test_fixed_point_errors_of_a_real_run():
    pytest.importorskip("spu", reason="needs the extra 'mpc'")
    from blind.mpc._threads import Threads
    from blindsight.blind.mpc import program_of
    from blindsight.blind.mpc._shares import join

    rng = np.random.default_rng(3)
    layers = (dense(rng, 2, 4), Activation("relu"), dense(rng, 4, 2))
    model = NetworkModel(network_model().inputs_, Network(layers=layers, target="inputs"), 1.0)
    planned = option(model, "aby3")
    program, values = program_of(model)
    threads = Threads(3)
    threads.load("m", program, values)
    Z = model.inputs_.encode(rng.normal(size=(64, 4)))
    scores = join(program, 64, threads.run("m", program, Z))
    exact = model.network_.scores(Z)
    low = exact <= model.threshold_
    assert low.sum() > 10
    assert np.abs(scores - exact)[low].max() <= planned.error


# -- refusals


def refusals(model, reveal="score"):
    return {o.engine: o.refusal for o in survey(model, reveal=[reveal]).options}


def test_every_engine_carries_a_table_and_encryption_is_recommended():
    found = survey(table_model(10, 30), rows=100)
    assert [(o.engine, o.reveal) for o in found.options] == [
        (engine, reveal) for reveal in ("score", "verdict") for engine in ("rows", "columns", "aby3", "cheetah")
    ]
    assert not any(o.refusal for o in found.options)
    assert found.recommended("score").engine == "rows"
    assert "no operators have to be trusted" in found.why()
    assert found.recommended("verdict").engine == "rows"


def test_full_batches_of_a_short_encoding_go_in_columns():
    assert survey(table_model(4, 8), rows=4096 * 4, reveal=["score"]).recommended().engine in ("rows", "columns")
    model = quadratic_model(29)
    assert survey(model, rows=4096, reveal=["score"]).recommended().engine == "columns"
    assert survey(model, rows=1, reveal=["score"]).recommended().engine == "rows"


def test_an_inner_product_too_wide_for_128_bits_is_refused_by_its_layer():
    base = table_model(3, 8)
    weights = np.full(base.encoder_.length, 1 << 40)
    model = StandInModel(base.encoder_, InnerProduct(weights=weights))
    wide = quadratic_model(20, high=1 << 30, levels=2047)
    found = refusals(wide)
    for engine in ("rows", "columns"):
        assert found[engine].startswith("Layer 1, the inner product with 231 weights")
        assert "128-bit security" in found[engine]
    assert not any(refusals(model).values())


def test_an_encoding_too_long_for_a_message_in_columns():
    found = refusals(table_model(200, 64))
    assert "12,800 weights" in found["columns"]
    assert "too long for one message" in found["columns"]
    assert not found["rows"]


def test_networks_that_are_no_polynomial_go_to_mpc():
    rng = np.random.default_rng(0)
    layers = (dense(rng, 3, 4), Activation("relu"), dense(rng, 4, 3))
    model = NetworkModel(network_model().inputs_, Network(layers=layers, target="inputs"), 0.5)
    found = refusals(model)
    assert "Layer 2 of the network, relu" in found["columns"]
    assert "Layer 1, dense 4 to 3" in found["rows"]
    assert not found["aby3"]
    assert not found["cheetah"]
    best = survey(model).recommended()
    assert best.engine == "aby3"
    assert not best.trust.post_quantum


def test_verdicts_of_networks_go_to_mpc():
    model = network_model("square")
    assert survey(model).recommended("score").engine == "columns"
    found = refusals(model, "verdict")
    assert "Layer 4, the squared distance" in found["columns"]
    assert survey(model).recommended("verdict").engine == "aby3"


def test_a_network_too_large_for_every_engine_names_its_layers():
    rng = np.random.default_rng(0)
    huge = dense(rng, 3, 4)
    layers = (type(huge)(weights=huge.weights * 1e16, bias=huge.bias), Activation("tanh"), dense(rng, 4, 3))
    model = NetworkModel(network_model().inputs_, Network(layers=layers, target="inputs"), 0.5)
    found = survey(model)
    assert all(o.refusal for o in found.options)
    assert "layer 1 (dense)" in next(o for o in found.options if o.engine == "aby3").refusal
    assert found.recommended() is None
    assert "TableStudent" in found.why()


def test_a_detector_that_is_no_circuit_is_refused_by_every_engine():
    rng = np.random.default_rng(0)
    model = bs.VotingForest(trees=3, depth=3).fit(rng.normal(size=(300, 3)))
    assert all("VotingForest" in refusal for refusal in refusals(model).values())


def windows_model():
    rng = np.random.default_rng(0)
    lstm = Lstm(inputs=rng.normal(size=(12, 2)), states=rng.normal(size=(12, 3)), bias=np.zeros(12))
    network = Network(layers=(lstm, dense(rng, 2, 3)), target="inputs", shape=(4, 2))
    rows = Standardised(offsets=(0.0,) * 2, scales=(1.0,) * 2, slots=(0,) * 2, bound=20.0)
    inputs = Windowed(rows=rows, window=4, horizon=0, by_window=False, interval=None, tolerance=0.1)
    return NetworkModel(inputs, network, 1.0)


def test_a_network_of_windows_is_for_operators_alone():
    model = windows_model()
    found = {o.engine: o for o in survey(model, rows=10, reveal=["score"]).options}
    assert "Layer 1, lstm 8 to 12, is not the only one" in found["rows"].refusal
    assert "Layer 1 of the network, lstm, is not dense" in found["columns"].refusal
    for engine, pieces, ring in (("aby3", 2, 16), ("cheetah", 1, 8)):
        option_ = found[engine]
        assert option_.parameters.ring_bits == 8 * ring
        assert math.isnan(option_.error)
        assert option_.cost.bytes_down == option_.parameters.operators * 10 * pieces * ring
        assert option_.rows_to_extract == 12 * 2 + 12 * 3 + 12 + 2 * 3 + 2
        assert option_.cost.times.server_ms > 0
        assert option_.cost.times.link_bytes > 0
    assert "MPC 3PC" in survey(model).why()


def test_a_network_without_a_threshold():
    base = network_model()
    model = NetworkModel(base.inputs_, base.network_, math.nan)
    found = {o.engine: o for o in survey(model, reveal=["score"]).options}
    assert "no threshold" in found["columns"].refusal
    assert math.isnan(found["aby3"].error)


def test_what_is_not_fitted_and_impossible_batches():
    with pytest.raises(NotFittedError):
        survey(bs.ECOD())
    for rows in (0, 1 << 21, 1.5):
        with pytest.raises(ParameterError, match="rows"):
            survey(table_model(2, 4), rows=rows)


# -- the network


@pytest.mark.parametrize("engine", ["rows", "columns", "aby3", "cheetah"])
@pytest.mark.parametrize("reveal", ["score", "verdict"])
def test_round_trips_and_bytes_add_up_to_the_time(engine, reveal):
    model = table_model(4, 10)
    near, far, thin = (
        option(model, engine, reveal, connection=Connection(round_trip_ms=rtt, mbit=mbit)).cost
        for rtt, mbit in ((0, 100), (50, 100), (0, 1))
    )
    assert near.rounds == far.rounds == thin.rounds
    assert math.isclose(far.batch_s - near.batch_s, 0.05 * far.rounds.batch)
    assert math.isclose(far.set_up_s - near.set_up_s, 0.05 * far.rounds.set_up)
    sent = near.bytes_up + near.bytes_down + near.times.link_bytes
    assert math.isclose(thin.batch_s - near.batch_s, sent * 8 * (1e-6 - 1e-8))
    once = near.registration_bytes + near.rounds.set_up_bytes
    assert math.isclose(thin.set_up_s - near.set_up_s, once * 8 * (1e-6 - 1e-8))
    assert math.isclose(near.seconds, near.set_up_s + near.batch_s)


def test_scores_under_encryption_take_a_round_trip_a_message():
    few, many = (option(table_model(20, 60), "columns", rows=rows).cost for rows in (4096, 60_000))
    assert few.rounds.batch == few.messages == 1
    assert many.rounds.batch == many.messages == 2
    assert few.rounds.set_up == many.rounds.set_up > 0


def test_a_verdict_takes_a_comparison_for_every_sixteen_thousand_records():
    p = option(table_model(4, 10), "columns", "verdict").parameters
    one, two, apart = (he_rounds(p, messages).batch for messages in ([16_384], [32_768], [16_384, 16_384]))
    assert he_rounds(p, [10]).batch == one
    assert one < two < apart == 2 * one
    scores = option(table_model(4, 10), "columns").parameters
    assert he_rounds(scores, [16_384]).batch == 1 < one


@pytest.mark.parametrize("engine", ["aby3", "cheetah"])
def test_round_trips_of_a_network_grow_with_its_depth_alone(engine):
    rng = np.random.default_rng(0)

    def rounds(*kinds, width=4, reveal="score", rows=1000):
        layers = [dense(rng, width, 4)]
        for kind in kinds:
            layers += [Activation(kind), dense(rng, width, width)]
        layers.append(dense(rng, 4, width))
        model = NetworkModel(network_model().inputs_, Network(layers=tuple(layers), target="inputs"), 0.5)
        return option(model, engine, reveal, rows=rows).cost.rounds.batch

    none, one, two = rounds(), rounds("relu"), rounds("relu", "relu")
    assert math.isclose(two - one, one - none)
    assert none < one < rounds("leaky") < rounds("tanh")
    assert rounds("relu", width=30) == one
    assert rounds("relu", rows=10) == one
    assert rounds("relu", rows=4097) == 2 * one  # in two runs
    assert rounds("relu", reveal="verdict") > one
    p = option(table_model(4, 10), engine).parameters
    assert mpc_rounds(p, 1).batch < none
    assert mpc_rounds(p, 3).batch == 3 * mpc_rounds(p, 1).batch


@pytest.mark.parametrize("engine", ["aby3", "cheetah"])
def test_round_trips_of_a_recurrent_layer_grow_with_its_window(engine):
    rng = np.random.default_rng(0)
    lstm = Lstm(inputs=rng.normal(size=(12, 2)), states=rng.normal(size=(12, 3)), bias=np.zeros(12))
    rows = Standardised(offsets=(0.0,) * 2, scales=(1.0,) * 2, slots=(0,) * 2, bound=4.0)

    def rounds(window):
        network = Network(layers=(lstm, dense(rng, 2, 3)), target="inputs", shape=(window, 2))
        inputs = Windowed(rows=rows, window=window, horizon=0, by_window=False, interval=None, tolerance=0.1)
        return option(NetworkModel(inputs, network, 1.0), engine, rows=1).cost.rounds.batch

    two, four, eight = rounds(2), rounds(4), rounds(8)
    assert math.isclose(eight - four, 2 * (four - two))
    assert four - two > 100  # a row waits for the one before it


def test_the_connection_changes_what_is_recommended():
    model = quadratic_model(29)

    def best(**connection):
        return survey(model, rows=3000, reveal=["score"], connection=Connection(**connection)).recommended().engine

    assert best(round_trip_ms=0, mbit=1000) == "columns"  # fewer calculations
    assert best(round_trip_ms=0, mbit=1) == "rows"  # fewer bytes
    verdicts = [
        {o.engine: o.cost.batch_s for o in survey(model, reveal=["verdict"], connection=line).options}
        for line in (Connection(round_trip_ms=0, mbit=1000), Connection(round_trip_ms=1000, mbit=1000))
    ]
    assert verdicts[0]["cheetah"] > verdicts[0]["rows"] + 1
    assert verdicts[1]["cheetah"] - verdicts[0]["cheetah"] > 10  # a comparison's round trips, a second each


@pytest.mark.parametrize(
    "wrong", [{"round_trip_ms": -1}, {"round_trip_ms": math.nan}, {"round_trip_ms": 1e9}, {"mbit": 0},
              {"mbit": math.inf}, {"mbit": "100"}, {"round_trip_ms": True}],
)  # fmt: skip
def test_impossible_connections(wrong):
    with pytest.raises(ParameterError, match="is out of its domain"):
        Connection(**wrong)


# -- what it says


def test_a_loose_bound_on_errors_is_called_so():
    base = network_model("square")
    said = survey(base).why("score")
    assert f"at the threshold of {base.threshold_:.2g}" in said
    assert "worst case" not in said
    rng = np.random.default_rng(0)
    layers = (dense(rng, 30, 4), Activation("relu"), dense(rng, 30, 30), Activation("relu"), dense(rng, 4, 30))
    deep = NetworkModel(base.inputs_, Network(layers=layers, target="inputs"), 0.01)
    found = survey(deep)
    assert found.recommended("verdict").error > 0.01 * deep.threshold_ == 0.01 * found.recommended("verdict").threshold
    assert "worst case over all records" in found.why("score")
    assert "a verdict may differ" in found.why("verdict")


def test_only_encrypted_scores_are_post_quantum():
    found = survey(table_model(3, 8)).options
    assert {(o.engine, o.reveal) for o in found if o.trust.post_quantum} == {("rows", "score"), ("columns", "score")}
    assert all((o.trust.operators_learn == "") == (o.engine in ("rows", "columns")) for o in found)


def test_a_verdict_takes_more_records_to_extract_than_a_score():
    model = table_model(5, 8)
    for engine in ("rows", "columns", "aby3", "cheetah"):
        score, verdict = option(model, engine), option(model, engine, "verdict")
        assert score.rows_to_extract == model.encoder_.freedom() == 36
        assert verdict.rows_to_extract >= 10 * score.rows_to_extract
        assert verdict.bits == 1 < score.bits


def test_times_grow_with_what_is_done():
    p = option(table_model(10, 30), "rows").parameters
    few, many = bfv_times(p, 130), bfv_times(p, 1300)
    assert math.isclose(many.server_ms, 10 * few.server_ms)
    assert math.isclose(many.owner_ms, 10 * few.owner_ms)
    assert many.set_up_s == few.set_up_s
