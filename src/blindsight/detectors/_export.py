"""A smaller copy of a fitted network: pruned and in eight-bit weights, for a device or a narrow link."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._domains import number
from ._parameters import Weights, dequantised
from ._rounds import RoundDetector

__all__ = ["export"]

D = TypeVar("D", bound=RoundDetector)


def export(model: D, *, int8: bool = True, prune: float = 0.0) -> D:
    """Return a smaller copy of a fitted model that was trained by rounds.

    Parameters
    ----------
    model : RoundDetector
        Fitted; it stays as it is.
    int8 : bool
        Keep every matrix as int8 with one scale per tensor (symmetric, as in Jacob et al. 2018, arXiv 1712.05877);
        vectors stay float32. A matrix takes a quarter of
        its room in the file (histograms stay as they are), and scores are those of the rounded weights.
    prune : float in [0, 1)
        Fraction of each matrix's weights, the smallest ones, that become zero (Han et al. 2015, arXiv 1506.02626);
        they take no room in a compressed file.

    Returns
    -------
    RoundDetector
        Its score histogram, hence its threshold, is still the original's: ``calibrate(X)`` reads a new one. The privacy
        certificate stands, since nothing but the released model was looked at.

    Raises
    ------
    ParameterError, NotFittedError
    """
    if not isinstance(model, RoundDetector):
        raise ParameterError(
            "Only a network has weights to make smaller",
            got=type(model).__name__,
            rule="export takes what was trained by rounds",
            fix="save the model as it is: a table is small already",
        )
    model._check_fitted()
    number("prune", prune, 0.0, 1.0, open_high=True)
    small = copy.deepcopy(model)
    small.quantised_ = {}
    found = {}
    for name, array in model.parameters_.items():
        weights = pruned(array, prune) if array.ndim > 1 else array
        if int8 and array.ndim > 1:
            whole, scale = quantised(weights)
            small.quantised_[name] = (whole, scale)
            weights = dequantised(whole, scale)
        found[name] = weights
    small.parameters_ = found
    return small


def pruned(array: Weights, fraction: float) -> Weights:
    """The array with its smallest ``floor(fraction * size)`` absolute values at zero."""
    count = int(fraction * array.size)
    flat = array.copy().ravel()
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0.0
    return flat.reshape(array.shape)


def quantised(array: Weights) -> tuple[npt.NDArray[np.int8], float]:
    """Round to -127 .. 127 times one scale; the error is at most half a scale."""
    scale = max(float(np.abs(array).max(initial=0.0)) / 127.0, 1e-12)
    return np.rint(array / scale).astype(np.int8), scale
