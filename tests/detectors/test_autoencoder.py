"""The autoencoder: conformance, quality beside PyOD's published behaviour, square activations, hostile files."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from blindsight import modelfile
from blindsight.data import Schema, records
from blindsight.detectors import AutoEncoder, Detector, State, Training
from blindsight.detectors._own_records import held_out
from blindsight.errors import BlindsightWarning, CapacityError, FormatError, MissingExtraError, ParameterError
from blindsight.testing import detector_checks
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL, totals_of

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)


def make() -> Detector:
    return AutoEncoder(hidden=(8, 4), training=Training(**SMALL))


@pytest.mark.parametrize("check", detector_checks(make))
def test_conformance(check: str, mixed_schema: Schema) -> None:
    detector_checks(make)[check](make, mixed_schema)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky", "square"])
def test_every_activation_finds_what_breaks_a_linear_relation(activation: str) -> None:
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(600, 2))
    X = np.concatenate([latent, latent @ np.array([[1.0, 0.5], [-0.5, 1.0]])], axis=1)
    odd = X[:100].copy()
    odd[:, 2:] = odd[generator.permutation(100), 2:]
    model = AutoEncoder(activation=activation, hidden=(16, 4)).fit(X[100:])
    both = np.concatenate([X[:100], odd])
    assert auroc(model.decision_function(both), np.repeat([0, 1], 100)) > 0.85


def test_a_second_fit_is_the_same_and_another_seed_is_not() -> None:
    X = make_table(200, 1)
    a, b = (AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(X) for _ in range(2))
    assert np.array_equal(a.decision_function(X), b.decision_function(X))
    c = AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL), seed=1).fit(X)
    assert not np.array_equal(a.decision_function(X), c.decision_function(X))


def test_initial_weights_do_not_depend_on_torch() -> None:
    """Fixed numbers: whatever library trains them, every party begins with these."""
    model = AutoEncoder(hidden=(2,))
    model.begin(NUMBER_SCHEMA)
    first = model.parameters_["net.0.weight"]
    expected = (np.random.Philox(key=0).random_raw(6) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    assert np.allclose(first.ravel(), expected * np.sqrt(6.0 / 5.0), atol=1e-7)
    assert not model.parameters_["net.0.bias"].any()


def test_scores_do_not_depend_on_the_batch_size_of_the_scorer() -> None:
    X = make_table(9000, 2)
    model = AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(X)
    assert np.array_equal(model.decision_function(X)[8990:], model.decision_function(X[8990:]))


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"hidden": ()}, "hidden"),
        ({"hidden": (0,)}, "hidden"),
        ({"hidden": (100_000,)}, "hidden"),
        ({"hidden": (8,) * 9}, "hidden"),
        ({"hidden": 8}, "hidden"),
        ({"activation": "gelu"}, "activation"),
        ({"scales": "all"}, "scales"),
        ({"seed": -1}, "seed"),
        ({"training": {"rounds": 3}}, "training"),
    ],
)
def test_parameters_out_of_their_domain_are_named(parameters: dict[str, object], word: str) -> None:
    with pytest.raises(ParameterError, match=word):
        AutoEncoder(**parameters).fit(make_table(20, 0).select("age", "amount"))


def test_a_blind_scorer_refuses_it_by_name() -> None:
    blind = pytest.importorskip("blindsight.blind")
    model = AutoEncoder(schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(make_table(50, 0))
    with pytest.raises(CapacityError, match=r"AutoEncoder.*TableStudent"):
        blind.Scorer(model)


def test_importing_blindsight_does_not_import_torch() -> None:
    code = "import sys, blindsight as bs, blindsight.detectors as d; d.AutoEncoder(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_torch_the_message_names_the_extra() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import numpy as np, blindsight.detectors as d\n"
        "from blindsight.errors import MissingExtraError\n"
        "try: d.AutoEncoder().fit(np.random.default_rng(0).normal(size=(30, 2)))\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'blindsight[deep]'" in done.stdout, done.stderr
    assert issubclass(MissingExtraError, ImportError)


# -- hostile files


def fitted() -> AutoEncoder:
    return AutoEncoder(hidden=(4,), schema=NUMBER_SCHEMA, training=Training(**SMALL)).fit(make_table(80, 3))


def reloaded(state: State) -> None:
    model = AutoEncoder(hidden=(4,), training=Training(**SMALL))
    model.load_state(NUMBER_SCHEMA, state)


@pytest.mark.parametrize(
    "change",
    [
        lambda v, a: v.update(round=10**6),
        lambda v, a: v.update(round=-1),
        lambda v, a: v.update(round=2.0),
        lambda v, a: v.update(stopped=1),
        lambda v, a: v.update(mean_rows=float("nan")),
        lambda v, a: v.update(best_loss="low"),
        lambda v, a: v.update(noise_variance=-1.0),
        lambda v, a: v.update(scales={"net.9.weight": 1.0}),
        lambda v, a: v.update(scales={"net.0.weight": 1.0}),
        lambda v, a: v.update(extra=1),
        lambda v, a: v.pop("personal"),
        lambda v, a: a.pop("p.net.0.weight"),
        lambda v, a: a.pop("preparation"),
        lambda v, a: a.update({"p.net.9.weight": a["p.net.0.weight"]}),
        lambda v, a: a.update({"p.net.0.weight": a["p.net.0.weight"].T.copy()}),
        lambda v, a: a.update({"p.net.0.weight": a["p.net.0.weight"].astype(np.float64)}),
        lambda v, a: a.update({"p.net.0.bias": np.full(4, np.nan, dtype=np.float32)}),
        lambda v, a: a.update({"p.net.0.bias": np.full(4, 1e30, dtype=np.float32)}),
        lambda v, a: a.update(control=np.zeros(35, dtype=np.float32)),
        lambda v, a: v.update(local_centres=[0.0], local_scales=[1.0]),
        lambda v, a: v.update(local_centres=[0.0] * 3),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: object) -> None:
    state = fitted().dump()
    reloaded(state)
    values, arrays = dict(state.values), dict(state.arrays)
    change(values, arrays)
    with pytest.raises((ValueError, TypeError, KeyError)):
        reloaded(State(values=values, arrays=arrays))


def test_a_file_of_another_network_is_refused() -> None:
    data = modelfile.dumps(fitted())
    assert isinstance(modelfile.loads(data), AutoEncoder)
    with pytest.raises(FormatError):
        modelfile.loads(data.replace(b'hidden\\":[4]', b'hidden\\":[5]'))


def test_every_intermediate_state_can_be_sent_and_asks_the_same() -> None:
    """What a party loads asks the very query that the coordinator is about to ask."""
    X = make_table(60, 4)
    training = Training(**{**SMALL, "scaffold": True, "patience": 1})
    model = AutoEncoder(hidden=(4,), schema=NUMBER_SCHEMA, training=training)
    total_of = totals_of({"a": X[:30], "b": X[30:]}, NUMBER_SCHEMA)
    model.begin(NUMBER_SCHEMA)
    names = []
    while (query := model.next_query()) is not None:
        if not model.is_blank:
            there = modelfile.loads(modelfile.dumps(model)).next_query()
            assert (there.name, there.length, there.sensitivity_l2, there.fraction) == (
                query.name,
                query.length,
                query.sensitivity_l2,
                query.fraction,
            )
        names.append(query.name)
        model.advance(query, total_of(query))
    assert names[:4] == ["prepare", "round/0", "loss/0", "round/1"]
    assert names[-1] == "threshold"
    assert np.isfinite(modelfile.loads(modelfile.dumps(model)).decision_function(X)).all()


# -- real data

DATA = Path(os.environ.get("BLINDSIGHT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "adbench"


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder with the adbench sets is absent; set BLINDSIGHT_DATA")
def test_square_activations_train_stably_on_real_tables() -> None:
    """Trained on half of the normal rows: near the usual activation, and far from chance."""
    found: dict[str, list[float]] = {"relu": [], "square": []}
    for name in ("42_WBC", "4_breastw", "38_thyroid", "43_WDBC", "18_Ionosphere", "6_cardio"):
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as data:
            X, y = data["X"].astype(np.float64), data["y"]
        normal = np.random.default_rng(0).permutation(np.flatnonzero(y == 0))
        train, rest = normal[: len(normal) // 2], np.setdiff1d(np.arange(len(y)), normal[: len(normal) // 2])
        for activation, values in found.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BlindsightWarning)
                scores = AutoEncoder(activation=activation).fit(X[train]).decision_function(X[rest])
            assert np.isfinite(scores).all()
            values.append(auroc(scores, y[rest]))
    assert np.mean(found["relu"]) > 0.93
    assert np.mean(found["square"]) > np.mean(found["relu"]) - 0.03


def test_a_network_that_is_too_large_is_refused_before_memory_is_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its widths are another party's word: 236 million parameters were two gigabytes on the way to a refusal."""
    from blindsight.detectors import _torch

    drawn: list[object] = []
    monkeypatch.setattr(_torch, "initial_uniform", lambda shapes, *_, **__: drawn.append(shapes))
    with pytest.raises(ParameterError, match="too many parameters"):
        AutoEncoder(hidden=(4096, 4096)).begin(NUMBER_SCHEMA)
    assert not drawn


def test_a_party_all_of_whose_records_are_held_out_trains_on_them() -> None:
    training = Training(rounds=1, patience=1, validation=0.3, learning_rate=0.1)
    model = AutoEncoder(hidden=(3,), scales="declared", training=training, schema=NUMBER_SCHEMA)
    table = make_table(60, 0)
    whole = np.concatenate([chunk.X for chunk in records(NUMBER_SCHEMA, table, warn=False)])
    (some,) = np.nonzero(held_out(whole, 0.3))
    only = table[int(some[0]) : int(some[0]) + 1]
    assert 0 < len(some) < 60
    start = model._initial(NUMBER_SCHEMA)
    fitted = model.fit(only)
    assert fitted.round_ == 1
    assert any(not np.array_equal(fitted.parameters_[name], array) for name, array in start.items())
