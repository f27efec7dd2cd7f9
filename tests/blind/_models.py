"""Hand-made models with the attributes that a Scorer asks for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blindsight.circuits import Encoder, InnerProduct, Monomials, OneHotBins, evaluate


@dataclass(frozen=True)
class StandInSchema:
    ranges: str = "declared"
    feature_names: tuple[str, ...] = ()

    def digest(self) -> str:
        return "0" * 64

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "ranges": self.ranges, "columns": [{"name": name} for name in self.feature_names]}


@dataclass(frozen=True)
class StandInModel:
    encoder_: Encoder
    circuit_: InnerProduct
    score_scale_: float = 2.0**-10
    schema_: StandInSchema = field(default_factory=StandInSchema)
    is_secret_: bool = True

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return evaluate(self.encoder_, self.circuit_, X) * self.score_scale_


def table_model(features: int, bins: int, *, seed: int = 0, high: int = 1 << 13, bias: int = 0) -> StandInModel:
    rng = np.random.default_rng(seed)
    edges = tuple(tuple(float(v) for v in np.linspace(-2, 2, bins - 1)) for _ in range(features))
    encoder = OneHotBins(edges=edges)
    return StandInModel(encoder, InnerProduct(weights=rng.integers(0, high, encoder.length), bias=bias))


def quadratic_model(
    features: int, *, seed: int = 0, high: int = 1 << 11, bias: int = 0, levels: int = 127
) -> StandInModel:
    rng = np.random.default_rng(seed)
    encoder = Monomials(lows=(-3.0,) * features, highs=(3.0,) * features, logs=(False,) * features, levels=levels)
    return StandInModel(encoder, InnerProduct(weights=rng.integers(-high, high, encoder.length), bias=bias), 0.1)


def distance_model(features: int, *, seed: int = 0, bias: int = 0) -> StandInModel:
    """A random positive form around a random centre."""
    rng = np.random.default_rng(seed)
    encoder = Monomials(lows=(-3.0,) * features, highs=(3.0,) * features, logs=(False,) * features)
    root, centre = rng.normal(size=(features, features)), rng.uniform(-0.5, 0.5, features)
    form = np.empty((features + 1, features + 1))
    form[1:, 1:] = root.T @ root + 0.1 * np.eye(features)
    form[0, 1:] = form[1:, 0] = -form[1:, 1:] @ centre
    form[0, 0] = centre @ form[1:, 1:] @ centre
    upper = np.triu_indices(features + 1)
    weights = form[upper] * np.where(upper[0] == upper[1], 1, 2)
    return StandInModel(
        encoder, InnerProduct(weights=np.rint(weights * 2**10).astype(np.int64), bias=bias), 2.0**-10 / 127**2
    )


def records(model: StandInModel, n: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, model.encoder_.n_features)) * 1.5
