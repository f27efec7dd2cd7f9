"""Smaller copies: int8 weights, pruned weights, and what the file says of them."""

from __future__ import annotations

import numpy as np
import pytest

from blindsight import modelfile
from blindsight.detectors import ECOD, AutoEncoder, DeepSVDD, Training, export
from blindsight.detectors._export import pruned, quantised
from blindsight.errors import NotFittedError, ParameterError
from sample_tables import NUMBER_SCHEMA, make_table

from ._rounds import SMALL

torch = pytest.importorskip("torch", reason="the extra 'deep' is not installed")
torch.set_num_threads(1)


@pytest.fixture(scope="module", params=[AutoEncoder, DeepSVDD])
def model(request: pytest.FixtureRequest):
    return request.param(training=Training(**SMALL), schema=NUMBER_SCHEMA, hidden=(128, 128)).fit(make_table(200, 0))


def test_rounding_is_at_most_half_a_step() -> None:
    array = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    whole, scale = quantised(array)
    assert whole.dtype == np.int8
    assert np.abs(whole).max() == 127
    assert np.abs(whole * scale - array).max() <= scale / 2 * (1 + 1e-6)
    zeros, _ = quantised(np.zeros((2, 2), dtype=np.float32))
    assert not zeros.any()


def test_pruning_takes_the_smallest() -> None:
    array = np.random.default_rng(1).normal(size=(10, 10)).astype(np.float32)
    left = pruned(array, 0.3)
    assert (left == 0).sum() == 30
    assert np.abs(array[left == 0]).max() <= np.abs(left[left != 0]).min()
    assert np.array_equal(left[left != 0], array[left != 0])


def test_a_small_copy_ranks_alike_and_survives_the_file(model) -> None:
    from scipy.stats import spearmanr

    X = make_table(300, 2)
    scores = model.decision_function(X)
    small = export(model)
    assert spearmanr(small.decision_function(X), scores).statistic > 0.98
    assert not np.array_equal(small.decision_function(X), scores)
    assert np.array_equal(model.decision_function(X), scores), "the original stays"
    data = modelfile.dumps(small)
    assert len(data) < 0.75 * len(modelfile.dumps(model))
    again = modelfile.loads(data)
    assert np.array_equal(again.decision_function(X), small.decision_function(X))
    assert again.describe_state()["int8"] is True
    assert model.describe_state()["int8"] is False


def test_pruned_weights_are_zero_in_the_file(model) -> None:
    for int8 in (True, False):
        small = modelfile.loads(modelfile.dumps(export(model, int8=int8, prune=0.5)))
        matrices = [array for array in small.parameters_.values() if array.ndim > 1]
        assert all((array == 0).mean() >= 0.5 - 1 / array.size for array in matrices)


def test_the_certificate_stands(model) -> None:
    model.certificate_ = {"differential_privacy": True}
    assert export(model).certificate_ == {"differential_privacy": True}


def test_what_cannot_be_exported_is_named(model) -> None:
    with pytest.raises(ParameterError, match="prune"):
        export(model, prune=1.0)
    with pytest.raises(NotFittedError):
        export(AutoEncoder())
    with pytest.raises(ParameterError, match="ECOD"):
        export(ECOD(schema=NUMBER_SCHEMA).fit(make_table(50, 1)))
