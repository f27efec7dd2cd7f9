"""Secret integer layers, with static bounds on what they can return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._encoding import Encoder

__all__ = ["InnerProduct"]

Ints = npt.NDArray[np.int64]

MAX_WEIGHT = 1 << 40
"""Largest absolute weight or bias."""

MAX_SCORE = 1 << 62
"""No score, and no partial sum of one, reaches this: every engine may compute in int64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InnerProduct:
    """The secret circuit ``score = <e, weights> + bias`` over the integers.

    Parameters
    ----------
    weights : ndarray of shape (m,), int64
        One per slot of the encoder. Copied and made read-only.
    bias : int

    Security
    --------
    The weights are the model. ``repr`` does not show them.
    """

    weights: Ints
    bias: int = 0

    def __post_init__(self) -> None:
        given = np.asarray(self.weights)
        if given.ndim != 1 or given.size == 0:
            raise ParameterError("Circuit weights have the wrong shape", got=str(given.shape), rule="(m,), m >= 1")
        if given.dtype.kind not in "iu":
            raise ParameterError(
                "Circuit weights are not integers", got=str(given.dtype), fix="round them to a scale of your choice"
            )
        if max(int(given.max()), -int(given.min()), abs(self.bias)) > MAX_WEIGHT:
            raise ParameterError("A circuit weight is too large", rule=f"|weight| <= {MAX_WEIGHT}")
        weights = np.array(given, dtype=np.int64, copy=True)
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)

    @property
    def length(self) -> int:
        """Number of weights m."""
        return int(self.weights.size)

    def bounds(self, encoder: Encoder) -> tuple[int, int]:
        """Smallest and largest score that any record at all can have under ``encoder``; inclusive.

        See the encoder's ``reach``.
        """
        self.check(encoder)
        low, high = encoder.reach(self.weights)
        return self.bias + low, self.bias + high

    def check(self, encoder: Encoder) -> None:
        """Raise ParameterError unless the encoder's length is this circuit's and no score can overflow int64."""
        if encoder.length != self.length:
            raise ParameterError(
                "Encoder and circuit do not fit",
                got=f"{encoder.length} slots, {self.length} weights",
                rule="equal",
            )
        largest = int(np.abs(self.weights).sum()) * encoder.max_abs + abs(self.bias)
        if largest >= MAX_SCORE:
            raise ParameterError(
                "The circuit's scores can overflow 64 bits",
                got=f"up to {largest.bit_length()} bits",
                rule=f"below {MAX_SCORE.bit_length() - 1} bits under this encoder",
                fix="scale the weights down",
            )

    def __repr__(self) -> str:
        return f"InnerProduct(weights=<{self.length} secret integers>)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InnerProduct):
            return NotImplemented
        return self.bias == other.bias and np.array_equal(self.weights, other.weights)

    __hash__ = None  # type: ignore[assignment]
