"""Hand-made networks with the attributes that a Scorer asks for."""

from dataclasses import dataclass, field

import numpy as np

from blindsight.circuits import Activation, Dense, Network, Standardised

from ._models import StandInSchema


@dataclass(frozen=True)
class NetworkModel:
    inputs_: Standardised
    network_: Network
    threshold_: float = 1.0
    schema_: StandInSchema = field(default_factory=StandInSchema)
    is_secret_: bool = True

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return self.network_.scores(self.inputs_.encode(X))


def dense(rng: np.random.Generator, outputs: int, inputs: int) -> Dense:
    return Dense(weights=rng.normal(size=(outputs, inputs)) / np.sqrt(inputs), bias=rng.normal(size=outputs) * 0.1)


def network_model(kind: str = "quadratic", features: int = 4, *, seed: int = 0, bound: float = 8.0) -> NetworkModel:
    """Kinds: quadratic (3 outputs), wide (more outputs than inputs), reconstruction, square, square-centre."""
    rng = np.random.default_rng(seed)
    inputs = Standardised(offsets=(0.0,) * features, scales=(1.0,) * features, slots=(0,) * features, bound=bound)
    if kind == "quadratic":
        network = Network(layers=(dense(rng, 3, features),), target="centre", centre=rng.normal(size=3))
    elif kind == "wide":
        network = Network(layers=(dense(rng, 3 * features, features),), target="centre")
    elif kind == "reconstruction":
        layers = (dense(rng, 2, features), dense(rng, features, 2))
        network = Network(layers=layers, target="inputs")
    elif kind == "square":
        layers = (dense(rng, 3, features), Activation("square", -0.1), dense(rng, features, 3))
        network = Network(layers=layers, target="inputs")
    else:
        layers = (dense(rng, 3, features), Activation("square", 0.3))
        network = Network(layers=layers, target="centre", centre=rng.normal(size=3))
    scores = network.scores(inputs.encode(rng.normal(size=(500, features))))
    return NetworkModel(inputs, network, float(np.quantile(scores, 0.95)))


def rows_of(model: NetworkModel, n: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, model.inputs_.n_features))
