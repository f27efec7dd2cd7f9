"""Models fitted on real records, and operators that are started once."""

from typing import Any

import numpy as np
import pytest

import blindsight as bs
from blindsight.circuits import Activation, Dense, Network, Standardised
from blindsight.data import load_hospitals

pytest.importorskip("spu", reason="the extra 'mpc' is not installed")

from ._nodes import Nodes
from ._threads import Threads


class NetworkModel:
    """What a fitted network offers, with weights drawn at random; the inputs are those of real records."""

    is_secret_ = True
    score_scale_ = 2.0**-30

    def __init__(self, schema: Any, X: np.ndarray, kind: Any, target: Any, *, gain: float = 1.0) -> None:
        rng = np.random.default_rng(0)
        d, hidden = X.shape[1], 8
        centre, scale = X.mean(axis=0), X.std(axis=0)
        self.schema_ = schema
        self.inputs_ = Standardised(
            offsets=tuple(map(float, centre)), scales=tuple(map(float, scale)), slots=(0,) * d, bound=20.0
        )
        layers = (
            Dense(weights=gain * rng.normal(size=(hidden, d)) / d**0.5, bias=rng.normal(size=hidden) * 0.2),
            Activation(kind, 0.1),
            Dense(weights=gain * rng.normal(size=(d, hidden)) / hidden**0.5, bias=rng.normal(size=d) * 0.2),
        )
        heart = rng.normal(size=d) if target == "centre" else None
        self.network_ = Network(layers=layers, target=target, centre=heart)
        self.threshold_ = float(np.quantile(self.decision_function(X), 0.98))

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return self.network_.scores(self.inputs_.encode(X))


@pytest.fixture(scope="session")
def hospital() -> tuple[Any, np.ndarray, Any]:
    """Real breast cancer records: table, the same as an array of features, schema."""
    import polars as pl

    tables, schema = load_hospitals()
    table = pl.concat(tables.values())
    return table, table.select([c.name for c in schema.features]).to_numpy().astype(np.float64), schema


@pytest.fixture(scope="session")
def detectors(hospital: Any) -> dict[str, Any]:
    """One detector for each public encoding."""
    table, _, schema = hospital
    kinds = {
        "ecod": bs.ECOD(schema=schema),
        "iforest": bs.IForest(trees=12, depth=6, schema=schema),
        "loda": bs.LODA(schema=schema),
        "mahalanobis": bs.Mahalanobis(schema=schema),
        "random_features": bs.RandomFeatures(schema=schema),
    }
    return {name: detector.fit(table) for name, detector in kinds.items()}


@pytest.fixture(scope="session")
def three() -> Threads:
    return Threads(3)


@pytest.fixture(scope="session")
def two() -> Threads:
    return Threads(2)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    started = Nodes(tmp_path_factory.mktemp("aby3"), 3)
    yield started
    assert started.close() == [0, 0, 0]  # asked to end, they end by themselves
