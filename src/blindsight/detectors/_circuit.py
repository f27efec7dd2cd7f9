"""Detectors whose score is one secret integer inner product on a public encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Encoder, InnerProduct, encoder_from_json, encoder_to_json, evaluate

from ._base import EXACT_SCORE_BINS, NOISY_SCORE_BINS, Detector, State, nonnegative
from ._scores import score_edges

__all__ = ["CircuitDetector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class CircuitDetector(Detector):
    """Base of the detectors that can be scored blind: encoder and circuit.

    Attributes
    ----------
    encoder_, circuit_, score_scale_
        ``decision_function = score_scale_ * (<encoder_(x), circuit_.weights> + circuit_.bias)``.
    """

    def _first_score(self) -> tuple[int, int]:
        """Return (low, first) for the score grid: where ordinary scores begin; see :func:`score_edges`."""
        low, high = self.circuit_.bounds(self.encoder_)
        return low, max((high - low) // 1000, 1)

    def _expected_encoder(self) -> Encoder:
        """The encoder that follows from schema, parameters and state: what a loaded one must be."""
        raise NotImplementedError

    def _adopt(self, encoder: Encoder, circuit: InnerProduct, scale: float) -> None:
        circuit.check(encoder)
        self.encoder_, self.circuit_, self.score_scale_ = encoder, circuit, float(scale)

    def _can_score(self) -> bool:
        return hasattr(self, "circuit_")

    def _score_grid(self) -> Ints:
        low, first = self._first_score()
        high = self.circuit_.bounds(self.encoder_)[1]
        bins = EXACT_SCORE_BINS if self.noise_variance_ == 0 else NOISY_SCORE_BINS
        return score_edges(low, first, high, bins)

    def _integer_scores(self, X: Floats) -> Ints:
        return evaluate(self.encoder_, self.circuit_, X)

    def _dump_circuit(self) -> State:
        if not self._can_score():
            return State(values={"noise_variance": self.noise_variance_})
        return State(
            values={
                "encoder": encoder_to_json(self.encoder_),
                "bias": self.circuit_.bias,
                "score_scale": self.score_scale_,
                "noise_variance": self.noise_variance_,
            },
            arrays={"weights": np.array(self.circuit_.weights)},
        )

    def _load_circuit(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take encoder and circuit out of ``values`` and ``arrays``; what is left is the subclass's."""
        self.noise_variance_ = nonnegative(values.pop("noise_variance"))
        if "weights" not in arrays:
            return
        bias, weights = values.pop("bias"), arrays.pop("weights")
        if type(bias) is not int or weights.dtype != np.int64:
            raise ValueError("the circuit is not made of integers")
        encoder = encoder_from_json(values.pop("encoder"))
        if not encoder.same_form(self._expected_encoder()):
            raise ValueError("the encoder does not follow from schema and detector")
        scale = nonnegative(values.pop("score_scale"), low=1e-100)
        self._adopt(encoder, InnerProduct(weights=weights, bias=bias), scale)

    def describe_state(self) -> dict[str, Any]:
        """Form of encoding and score; no weight."""
        low, high = self.circuit_.bounds(self.encoder_)
        return {
            "encoding": self.encoder_.kind.replace("_", " ").replace("one hot", "one-hot"),
            "encoding_length": self.encoder_.length,
            "score_bits": max(abs(low), abs(high)).bit_length(),
        }
