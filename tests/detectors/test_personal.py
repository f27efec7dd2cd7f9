"""What a party does with a shared model for itself: fine-tuning, its own scales, its own threshold."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight import modelfile
from blindsight.detectors import ECOD, AutoEncoder, Mahalanobis, Training
from blindsight.errors import NotFittedError, ParameterError
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL, totals_of

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shared() -> AutoEncoder:
    model = AutoEncoder(training=Training(**SMALL), schema=NUMBER_SCHEMA).fit(make_table(300, 0))
    model.certificate_ = {"differential_privacy": True, "epsilon": 1.0}
    return model


def own_table():
    """A party whose balances are twice what the others' are."""
    import polars as pl

    return make_table(300, 1).with_columns((pl.col("balance") * 2).clip(-500, 500))


def test_a_personal_model_fits_its_party_better_and_the_shared_one_stays(shared: AutoEncoder) -> None:
    X = own_table()
    before = shared.decision_function(X)
    mine = shared.personalise(X, epochs=10, learning_rate=0.1)
    assert np.array_equal(shared.decision_function(X), before)
    assert mine.decision_function(X).mean() < 0.9 * before.mean()
    flagged = float(mine.predict(X).mean())
    assert 0.05 < flagged <= 0.1, "the threshold is the party's own"


def test_it_is_marked_and_stays_marked(shared: AutoEncoder) -> None:
    mine = shared.personalise(own_table())
    for model in (mine, modelfile.loads(modelfile.dumps(mine))):
        assert model.is_personal_
        assert model.describe_state()["personal"] is True
        assert model.certificate_["differential_privacy"] is False
        assert "must stay with that party" in model.certificate_["statement"]
        assert model.certificate_["earlier"] == [shared.certificate_]
    assert not shared.is_personal_


def test_distillation_holds_the_copy_to_the_shared_model(shared: AutoEncoder) -> None:
    X = own_table()
    Z = shared._inputs(shared._matrix(X))
    from blindsight.detectors import _loop

    def distance(distil: float) -> float:
        mine = shared.personalise(X, epochs=10, learning_rate=0.1, distil=distil)
        answers = [_loop.outputs(model._net(model.parameters_), Z) for model in (mine, shared)]
        return float(np.abs(answers[0] - answers[1]).mean())

    assert distance(100.0) < 0.5 * distance(0.0)


def test_own_scales_never_leave_and_are_needed_to_score() -> None:
    tables = {"a": make_table(120, 2), "b": own_table()}
    model = AutoEncoder(training=Training(**SMALL), scales="local").run(NUMBER_SCHEMA, totals_of(tables, NUMBER_SCHEMA))
    assert model.preparation_ is None
    assert model.local_scaling_ is None
    with pytest.raises(ParameterError, match="localise"):
        model.decision_function(tables["a"])
    mine = model.localise(tables["b"])
    assert mine.is_personal_
    assert np.isfinite(mine.decision_function(tables["b"])).all()
    again = modelfile.loads(modelfile.dumps(mine))
    assert np.array_equal(again.decision_function(tables["b"]), mine.decision_function(tables["b"]))
    assert mine.threshold_ > 0


def test_the_shared_threshold_of_local_scales_is_over_every_partys_own() -> None:
    tables = {"a": make_table(120, 2), "b": own_table()}
    model = AutoEncoder(training=Training(**SMALL), scales="local").run(NUMBER_SCHEMA, totals_of(tables, NUMBER_SCHEMA))
    counts = sum(model.localise(table).score_histogram_.counts for table in tables.values())
    assert np.array_equal(model.score_histogram_.counts, counts)


def test_alone_it_scores_on_its_own_scales_at_once() -> None:
    X = make_table(100, 3)
    model = AutoEncoder(training=Training(**SMALL), scales="local", schema=NUMBER_SCHEMA).fit(X)
    assert np.isfinite(model.decision_function(X)).all()


def test_parties_of_other_scales_become_alike() -> None:
    """A party whose columns are shifted scores as the other does, once each has its own scales."""
    import polars as pl

    X = make_table(200, 4)
    shifted = X.with_columns((pl.col("balance") - 100).alias("balance"))
    training = Training(**{**SMALL, "rounds": 8})
    tables = {"a": X, "b": shifted}
    model = AutoEncoder(training=training, scales="local").run(NUMBER_SCHEMA, totals_of(tables, NUMBER_SCHEMA))
    a, b = (model.localise(table).decision_function(table) for table in tables.values())
    assert np.allclose(a, b, rtol=0.05, atol=0.01)


def test_bad_options_are_named(shared: AutoEncoder) -> None:
    X = own_table()
    for bad in ({"epochs": 0}, {"epochs": 1.5}, {"learning_rate": -1.0}, {"distil": float("nan")}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            shared.personalise(X, **bad)
    with pytest.raises(NotFittedError):
        AutoEncoder().personalise(X)


@pytest.mark.parametrize("cls", [ECOD, Mahalanobis])
def test_what_is_no_network_says_that_it_cannot_be_tuned(cls: type) -> None:
    model = cls(schema=NUMBER_SCHEMA).fit(make_table(60, 0))
    with pytest.raises(ParameterError, match=f"A {cls.__name__} cannot be personalised.*calibrate"):
        model.personalise(make_table(60, 1), epochs=3)
    with pytest.raises(ParameterError, match=f"A {cls.__name__} cannot be localised.*calibrate"):
        model.localise(make_table(60, 1))


@pytest.mark.parametrize("make", [ECOD, lambda **given: AutoEncoder(training=Training(**SMALL), **given)])
def test_a_threshold_of_ones_own_is_exact_and_ends_the_certificate(make) -> None:
    model = make(contamination=0.05, schema=NUMBER_SCHEMA).fit(make_table(300, 0))
    model.certificate_ = {"differential_privacy": True, "epsilon": 1.0}
    X, shared = own_table(), model.threshold_
    scores = model.decision_function(X)
    assert model.calibrate(X) is model
    assert np.array_equal(model.decision_function(X), scores), "only the threshold moves"
    assert model.threshold_ != shared
    assert model.n_records_ == 300
    assert 0.03 < float(model.predict(X).mean()) <= 0.05
    for one in (model, modelfile.loads(modelfile.dumps(model))):
        assert one.certificate_["differential_privacy"] is False
        assert "a threshold of that party's own" in one.certificate_["statement"]
        assert one.certificate_["earlier"] == [{"differential_privacy": True, "epsilon": 1.0}]


def test_a_model_of_local_scales_is_evaluated_with_each_partys_own() -> None:
    """The shared model cannot score alone; its evaluation counts what each party's localised copy would."""
    from blindsight.federation import Federation, Policy

    tables = {name: make_table(120, seed) for seed, name in enumerate("abc")}
    federation = Federation.embedded(tables, schema=NUMBER_SCHEMA, policy=Policy(allow_exact_sums=True))
    model = federation.fit(AutoEncoder(training=Training(**SMALL), scales="local"), privacy=None)
    evaluation = federation.evaluate(model, privacy=None)
    labels = [table["fraud"].to_numpy() != 0 for table in tables.values()]
    assert evaluation.anomalous == sum(int(label.sum()) for label in labels)
    assert evaluation.normal == sum(int((~label).sum()) for label in labels)
