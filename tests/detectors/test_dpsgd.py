"""DP-SGD as executed: clipping, noise, sampling and persons against what the ledger charges for."""

from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Records, Schema, records
from blindsight.detectors import AutoEncoder, Local, Total, Training
from blindsight.errors import DataError, ParameterError
from blindsight.privacy import SampledNoise
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA, make_table

from ._rounds import totals_of

pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

from ._linear import SQUARE_SCHEMA, LineDetector  # noqa: E402 (needs torch)

RATE, CLIP, ROWS = 0.1, 0.5, 40


def started(**more: object) -> LineDetector:
    """Just before its first round, at parties of 40 records each."""
    training = Training(**{"rounds": 5, "learning_rate": RATE, "clip_norm": CLIP, "sampling_rate": 1.0, **more})
    model = LineDetector(training=training)
    model.begin(SQUARE_SCHEMA)
    model.advance(model.next_query(), Total(values=np.array([ROWS]), parties=("a",)))
    return model


def change(model: LineDetector, X: np.ndarray, noise: SampledNoise, *, person: np.ndarray | None = None, **more):
    """What one round moves the parameters by, before it is put on the grid."""
    local = Local(records=lambda: iter([Records(X=X, person=person)] if len(X) else []), noise=noise, **more)
    done = model._train(local, model.parameters_, None)
    return done.flat - model._layout.flat(model.parameters_)


def plain(**more: object) -> SampledNoise:
    return SampledNoise(**{"sampling_rate": 1.0, "noise_multiplier": 0.0, **more})


def clipped_gradients(model: LineDetector, Z: np.ndarray) -> np.ndarray:
    w = model._layout.flat(model.parameters_)
    g = 2 * (Z @ w - 1.0)[:, None] * Z
    return g * np.minimum(1.0, CLIP / (np.linalg.norm(g, axis=1) + 1e-6))[:, None]


def test_one_step_without_noise_is_the_sum_of_clipped_gradients() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = started()
    expected = -RATE * clipped_gradients(model, X).sum(axis=0) / ROWS
    assert np.allclose(change(model, X, plain()), expected, atol=1e-6)


def test_one_record_moves_a_step_by_no_more_than_the_clip_norm() -> None:
    X = np.random.default_rng(1).normal(size=(20, 2)) * 3
    model = started()
    whole = change(model, X, plain())
    for i in range(5):
        without = change(model, np.delete(X, i, axis=0), plain())
        assert np.linalg.norm(whole - without) <= RATE * CLIP / ROWS * (1 + 1e-4)


def test_the_step_is_divided_by_a_released_number_not_by_the_partys_own() -> None:
    X = np.random.default_rng(2).normal(size=(60, 2))
    model = started()
    both = change(model, X[:30], plain()) + change(model, X[30:], plain())
    assert np.allclose(change(model, X, plain()), both, atol=1e-6)


@pytest.mark.parametrize("persons", [False, True])
def test_an_empty_batch_has_noise_like_any_other(persons: bool) -> None:
    """Sampling so rare that every batch is empty: what is left is the noise, at the multiplier asked for."""
    n_inputs = 400
    columns = tuple(Column(name=f"x{i}", low=-4, high=4) for i in range(n_inputs))
    training = Training(rounds=1, learning_rate=RATE, clip_norm=CLIP, sampling_rate=1.0)
    model = LineDetector(training=training)
    model.begin(Schema(columns))
    model.advance(model.next_query(), Total(values=np.array([ROWS]), parties=("a",)))
    noise = SampledNoise(
        sampling_rate=1e-12, noise_multiplier=3.0, records_per_unit=4 if persons else 1, by_person=persons
    )
    X = np.zeros((10, n_inputs))
    local = Local(records=lambda: iter([Records(X=X, person=np.arange(10))]), noise=noise)
    moved = model._train(local, model.parameters_, None).flat - model._layout.flat(model.parameters_)
    assert np.isfinite(moved).all()
    # the expected batch is empty too; a step is divided by at least 1
    wanted = RATE * 3.0 * CLIP * (4 if persons else 1)
    assert moved.std() == pytest.approx(wanted, rel=5 / math.sqrt(2 * n_inputs))
    assert abs(moved.mean()) < 5 * wanted / math.sqrt(n_inputs)


def test_the_mean_squared_error_of_an_empty_batch_never_becomes_nan() -> None:
    training = Training(rounds=2, sampling_rate=0.25, clip_norm=1.0)
    noise = SampledNoise(sampling_rate=1e-9, noise_multiplier=1.0)
    model = AutoEncoder(hidden=(4,), training=training)
    model.run(MIXED_SCHEMA, totals_of({"a": make_table(30, 1), "b": make_table(30, 2)}, MIXED_SCHEMA, noise=noise))
    assert np.isfinite(model.decision_function(make_table(20, 3))).all()
    assert model.sampled_noise_


def test_noise_is_fresh_in_every_step_and_every_round() -> None:
    model = started()
    noise = SampledNoise(sampling_rate=1e-12, noise_multiplier=1.0)
    cache: dict[str, object] = {}
    X = np.zeros((5, 2))
    moves = [change(model, X, noise, cache=cache) for _ in range(6)]
    assert len({move.tobytes() for move in moves}) == 6
    assert list(cache) == ["data", "engine"], "one engine for the whole run"


def test_neither_noise_nor_samples_come_from_a_generator_of_torch() -> None:
    """On a CPU it takes 32 bits of its seed, which whoever sees an update can try one by one."""
    first, other = (torch.Generator().manual_seed(7 + (high << 32)) for high in (0, 1))
    assert torch.equal(torch.randn(100, generator=first), torch.randn(100, generator=other))
    X = np.random.default_rng(9).normal(size=(40, 2))
    cache: dict[str, object] = {}
    change(started(augment="jitter"), X, SampledNoise(sampling_rate=0.5, noise_multiplier=1.0), cache=cache)
    engine = cache["engine"]
    held = [*vars(engine).values(), *vars(engine.optimiser).values()]
    assert not any(isinstance(value, torch.Generator) for value in held)
    assert engine.source.is_secure
    moves = []
    for _ in range(2):
        torch.manual_seed(0)
        moves.append(change(started(), X, SampledNoise(sampling_rate=1.0, noise_multiplier=1.0)))
    assert not np.array_equal(*moves), "torch's own seed has no part in it"


def test_the_noise_is_gaussian() -> None:
    from scipy.stats import kstest

    model = started()
    cache: dict[str, object] = {}
    change(model, np.zeros((3, 2)), plain(), cache=cache)
    drawn = cache["engine"]._normal(torch.Size((20_001,))).numpy()
    assert drawn.shape == (20_001,)
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(drawn[:10_000], drawn[10_000:20_000])[0, 1]) < 0.06


def test_the_sampling_rate_is_executed() -> None:
    """Every record adds one unit gradient: how far a step goes counts the records in its batch."""
    X = np.tile([[3.0, 0.0]], (2000, 1))
    model = started()
    single = np.linalg.norm(change(model, X[:1], plain()))
    rate = 0.2
    noise = plain(sampling_rate=rate)
    cache: dict[str, object] = {}
    counts = [
        np.linalg.norm(change(model, X, noise, cache=cache)) / single * max(rate * ROWS, 1) / ROWS for _ in range(20)
    ]
    assert np.mean(counts) == pytest.approx(2000 * rate, rel=0.03)
    assert 5 < np.std(counts) < 40, "Poisson sampling: about sqrt(2000 * .2 * .8) = 18"


def test_persons_are_sampled_whole_with_a_bounded_number_of_records() -> None:
    X = np.tile([[3.0, 0.0]], (60, 1))
    model = started()
    single = np.linalg.norm(change(model, X[:1], plain()))
    person = np.repeat(np.arange(6), 10)
    noise = plain(by_person=True, records_per_unit=3)
    moved = np.linalg.norm(change(model, X, noise, person=person))
    assert moved / single == pytest.approx(6 * 3, rel=1e-3)
    half = SampledNoise(sampling_rate=0.5, noise_multiplier=0.0, by_person=True, records_per_unit=10)
    cache: dict[str, object] = {}
    sizes = [np.linalg.norm(change(model, X, half, person=person, cache=cache)) / single * 0.5 for _ in range(10)]
    assert all(abs(size / 10 - round(size / 10)) < 1e-3 for size in sizes), "always all ten records of a person"
    assert len({round(size) for size in sizes}) > 1


def test_persons_need_their_column() -> None:
    model = started()
    with pytest.raises(DataError, match="person column"):
        change(model, np.zeros((3, 2)), plain(by_person=True))


def test_a_large_batch_is_taken_in_parts_with_one_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    from blindsight.detectors import _batches

    X = np.random.default_rng(5).normal(size=(50, 2))
    model = started()
    whole = change(model, X, plain())
    monkeypatch.setattr(_batches, "MAX_VALUES", 2 * 7)
    assert np.allclose(change(model, X, plain()), whole, atol=1e-6)
    noise = SampledNoise(sampling_rate=1.0, noise_multiplier=5.0)
    moves = np.array([change(model, X, noise) - whole for _ in range(300)])
    assert moves.std() == pytest.approx(RATE * CLIP * 5.0 / ROWS, rel=0.15)


def test_the_update_tells_nothing_of_a_party_without_records_or_with_bad_ones() -> None:
    model = started()
    noise = SampledNoise(sampling_rate=0.5, noise_multiplier=1.0)
    empty = model.next_query().update(Local(records=lambda: iter(()), noise=noise))
    full = model.next_query().update(
        Local(records=lambda: iter([Records(X=np.random.default_rng(6).normal(size=(30, 2)))]), noise=noise)
    )
    for update in (empty, full):
        assert update.notice == ""
        assert tuple(update.values[-2:]) == (1, 1)
        assert update.values[:-2].any(), "noise alone moves the parameters"


def test_fedprox_and_scaffold_go_with_it() -> None:
    """What is added after the noise does not depend on records of this round."""
    X = np.random.default_rng(7).normal(size=(30, 2))
    for more in ({"proximal": 0.5, "local_epochs": 2}, {"scaffold": True}):
        model = started(**more)
        memory: dict[str, bytes] = {}
        noise = plain()
        update = model.next_query().update(Local(records=lambda: iter([Records(X=X)]), noise=noise, memory=memory))
        assert update.values.any()
        assert ("scaffold" in memory) == ("scaffold" in more)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"scales": "local"}, "own scales"),
        ({"training": Training(rounds=1, weighting="rows")}, "weight"),
        ({"training": Training(rounds=1, weighting="validation")}, "weight"),
        ({"training": Training(rounds=1, augment="mixup")}, "Mixed"),
    ],
)
def test_what_cannot_be_had_privately_is_refused(parameters: dict[str, object], word: str) -> None:
    model = AutoEncoder(**parameters)
    with pytest.raises(ParameterError, match=word):
        model._under_privacy()
    model.begin(NUMBER_SCHEMA)
    local = Local(records=lambda: records(NUMBER_SCHEMA, make_table(20, 0)), noise=plain())
    with pytest.raises(ParameterError, match=word):
        model._update(local)


def test_in_a_federation_the_ledgers_hold_what_was_asked_for() -> None:
    from blindsight import DifferentialPrivacy
    from blindsight.federation import Federation, Policy

    data = {name: make_table(120, i, persons=40) for i, name in enumerate("abcd")}
    policy = Policy(detectors=("AutoEncoder",), maximum_epsilon=100.0, units=("record", "person", "party"))
    training = Training(rounds=4, sampling_rate=0.25, patience=3, validation=0.2)
    for unit in ("record", "person", "party"):
        federation = Federation.embedded(data, schema=MIXED_SCHEMA, policy=policy)
        more = {"max_records_per_person": 2} if unit == "person" else {}
        if unit == "party":
            more = {"max_records_per_party": 120}
        privacy = DifferentialPrivacy(epsilon=20.0, delta=1e-6, unit=unit, **more)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = federation.fit(AutoEncoder(hidden=(4,), training=training), privacy=privacy)
        # four parties are far too few to hide one of them; the count is noisy too, so ask what it said
        few = model.n_records_ < model.noise_floor(model.noise_variance_)
        assert any("usable records" in str(warning.message) for warning in caught) == few
        assert model._training.weighting == "equal"
        assert np.isfinite(model.decision_function(pl.concat(data.values()))).all()
        assert 0 < model.certificate_["epsilon_spent"] <= 20.0
