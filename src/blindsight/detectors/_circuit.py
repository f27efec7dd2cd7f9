"""Detectors whose score is one secret integer inner product on a public encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Encoder, InnerProduct, OneHot, encoder_from_json, encoder_to_json, evaluate
from blindsight.errors import CapacityError

from ._base import Detector
from ._scores import score_edges
from ._state import State, nonnegative

__all__ = ["CircuitDetector", "whole_weights"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SCORE_BITS = 35
"""|score| stays below 2**35: one bit under the plaintext modulus 2**36 of the encrypted packings."""

WEIGHT_SUM_BITS = 25
"""The weights' absolute sum stays below 2**25, so that float64 products with 27-bit residues are exact."""


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
        return score_edges(low, first, high, self._score_bins)

    def _integer_scores(self, X: Floats) -> Ints:
        return evaluate(self.encoder_, self.circuit_, X)

    def contributions(self, X: Any) -> Floats:
        """What each block of the encoding adds to each record's score.

        Parameters
        ----------
        X : as in :meth:`fit`

        Returns
        -------
        ndarray of shape (n, blocks), float64
            A block is a feature (ECOD, COPOD, HBOS, TableStudent), a projection (LODA) or a tree (IForest); see
            ``contribution_names``. Whole numbers of ``score_scale_`` that add up to ``decision_function``, but for
            the circuit's bias.

        Raises
        ------
        CapacityError
            The encoding is not one-hot: no block has a part of the score to itself.
        """
        self._check_fitted()
        encoder = self._one_hot()
        parts = [
            encoder.contributions(chunk.X, self.circuit_.weights)
            for chunk in self._chunks(self.schema_, X, for_scoring=True)
        ]
        return np.concatenate(parts) * self.score_scale_

    @property
    def contribution_names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`contributions`: of features, where blocks are features."""
        self._check_fitted()
        return self._one_hot().block_names(self.schema_.feature_names)

    def _one_hot(self) -> OneHot:
        if not isinstance(self.encoder_, OneHot):
            raise CapacityError(
                f"{type(self).__name__} has no contributions",
                got=f"an encoding of kind {self.encoder_.kind}",
                rule="one-hot encodings: each block adds one number to the score",
                fix="teach its scores to a table, TableStudent, and explain that",
            )
        return self.encoder_

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


def whole_weights(direction: Floats, encoder: Encoder) -> tuple[InnerProduct, float]:
    """Round a direction to integers as large as blind scoring carries.

    Parameters
    ----------
    direction : ndarray of shape (m,), float64
        The score is ``<encoder(x), direction>``.
    encoder : Encoder

    Returns
    -------
    InnerProduct, float
        Circuit and score scale.
    """
    mass = max(float(np.abs(direction).sum()), 1e-9)
    limit = min(2.0**SCORE_BITS / encoder.max_abs, 2.0**WEIGHT_SUM_BITS) - direction.size
    scale = mass / limit
    return InnerProduct(weights=np.rint(direction / scale).astype(np.int64)), scale
