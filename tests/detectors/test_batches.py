"""Batches in parts: what a step holds does not grow with a party's rows, and its gradient is the whole batch's."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)

from blindsight.data import Column, Schema, records  # noqa: E402 (needs torch)
from blindsight.detectors import (  # noqa: E402
    AutoEncoder,
    Detector,
    Local,
    LSTMAutoEncoder,
    Total,
    Training,
    TransformerAutoEncoder,
    _batches,
)
from blindsight.detectors._round_vector import Trained  # noqa: E402
from blindsight.privacy import SampledNoise  # noqa: E402

SCHEMA = Schema((Column(name="t", role="time", type="number"), *(Column(name=c, low=-2, high=2) for c in "xyz")))
MAKES = {
    "rows": lambda **more: AutoEncoder(scales="declared", hidden=(4,), **more),
    "LSTM": lambda **more: LSTMAutoEncoder(scales="declared", hidden=4, window=8, interval=1.0, aligned=True, **more),
    "Transformer": lambda **more: TransformerAutoEncoder(
        scales="declared", width=4, heads=2, window=8, interval=1.0, aligned=True, **more
    ),
}


def table(rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"t": np.arange(float(rows)), **{c: generator.normal(0, 0.5, rows) for c in "xyz"}}


def trained(model: Detector, rows: int, *, noise: SampledNoise | None = None, **more: object) -> Trained:
    """One round at a party of so many rows."""
    training = {"rounds": 1, "sampling_rate": 1.0, "learning_rate": 0.2, "clip_norm": 5.0, **more}
    model.set_params(training=Training(**training))
    model.begin(SCHEMA)
    model.advance(model.next_query(), Total(values=np.array([rows])))
    local = Local(records=lambda: records(SCHEMA, table(rows), warn=False), noise=noise)
    return model._train(local, model.parameters_, None)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("more", [{}, {"augment": "mixup"}, {"weighting": "validation", "validation": 0.3}])
def test_the_parts_add_up_to_the_whole_batch(
    make: type, more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    whole = trained(model, 240, local_epochs=8, **more)
    monkeypatch.setattr(_batches, "MAX_VALUES", 1000)
    parts = trained(make(), 240, local_epochs=8, **more)
    moved = np.abs(whole.flat - model._layout.flat(model.parameters_)).max()
    apart = np.abs(parts.flat - whole.flat).max()
    assert 0 < apart < 1e-4 * moved, "other sums of float32, and nothing else"
    assert parts.rows == whole.rows
    assert np.allclose([parts.before, parts.after], [whole.before, whole.after], equal_nan=True)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("private", [False, True])
def test_what_goes_through_the_module_does_not_grow_with_the_rows(
    make: type, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = 2000 if make is MAKES["rows"] else 250
    monkeypatch.setattr(_batches, "MAX_VALUES", 5000 if units == 2000 else 20_000)
    sizes: list[int] = []
    noise = SampledNoise(sampling_rate=1.0, noise_multiplier=0.1) if private else None

    def most(rows: int) -> int:
        sizes.clear()
        model = make()
        build = model._module

        def watched(schema: Schema) -> torch.nn.Module:
            module = build(schema)
            module.register_forward_pre_hook(lambda _, z: sizes.append(len(z[0])))
            through = module.losses
            module.losses = lambda z: (sizes.append(len(z)), through(z))[1]
            return module

        model._module = watched
        trained(model, rows, noise=noise, **({} if private else {"weighting": "validation"}))
        return max(sizes)

    few, many = most(2000), most(8000)
    assert 1 < few == many < 0.8 * units


def test_a_longer_window_means_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters are as many: what counts is what its activations take."""
    monkeypatch.setattr(_batches, "MAX_VALUES", 1 << 20)

    def fit_in(window: int) -> int:
        model = LSTMAutoEncoder(window=window, hidden=8)
        model.begin(SCHEMA)
        return _batches.rows_at_once(model._module(SCHEMA), torch.zeros((5, window * 3)))

    assert fit_in(16) / fit_in(64) == pytest.approx(4, rel=0.2)
    module = torch.nn.Linear(3, 1)
    module.losses = lambda z: (module(z) ** 2).mean(dim=1)
    assert _batches.rows_at_once(module, torch.zeros((0, 3))) == 1
    alone = _batches.rows_at_once(module, torch.zeros((1, 3)))
    assert _batches.rows_at_once(module, torch.zeros((1, 3)), besides=1000) < alone
    assert _batches.rows_at_once(module, torch.zeros((1, 3)), passes=2) < alone


def test_a_tuned_copy_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(rounds=1, sampling_rate=1.0, learning_rate=0.1, clip_norm=5.0)
    model = LSTMAutoEncoder(window=8, hidden=4, schema=SCHEMA, training=training).fit(table(200))
    whole = model.personalise(table(100), distil=0.5).parameters_
    monkeypatch.setattr(_batches, "MAX_VALUES", 5000)
    parts = model.personalise(table(100), distil=0.5).parameters_
    assert any(not np.array_equal(whole[name], parts[name]) for name in whole)
    assert all(np.allclose(whole[name], parts[name], atol=1e-5) for name in whole)
