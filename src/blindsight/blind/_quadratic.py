"""A secret quadratic form as a squared distance, for CKKS: d inputs in place of all their products.

``u' P u + 2 g' u + c`` with P = V diag(l) V' is ``sum_i l_i (v_i' u + g_i / l_i)**2`` and a constant, where g_i is
``v_i' g``: one dense layer, whose squared length is the score but for that constant.
"""

from __future__ import annotations

import numpy as np

from blindsight.circuits import Dense, InnerProduct, Monomials, Network, Quantised
from blindsight.errors import CapacityError

__all__ = ["squared_distance"]

NEGLIGIBLE = 1e-9
"""Of the largest eigenvalue: a direction that weighs less is left out, if the tolerance allows it."""

SHARE_OF_TOLERANCE = 1 / 64
"""What directions that are left out may cost, and rounding in float64."""


def squared_distance(
    encoder: Monomials, circuit: InnerProduct, score_scale: float, tolerance: float
) -> tuple[Quantised, Network, float]:
    """Complete the square of a fitted quadratic form.

    Parameters
    ----------
    encoder : Monomials
        Public.
    circuit : InnerProduct
        Secret.
    score_scale : float
        ``decision_function`` is the integer score times this.
    tolerance : float
        Of the whole computation, in units of ``decision_function``.

    Returns
    -------
    inputs : Quantised
    network : Network
        One layer.
    offset : float
        ``decision_function(X) = network.scores(inputs.encode(X)) + offset``, within a 64th of the tolerance for every
        record. Secret.

    Raises
    ------
    CapacityError
        The form is no squared distance: it falls along some direction, or slopes along one that has no square.
    """
    d = encoder.n_features
    upper = np.triu_indices(d + 1)
    form = np.zeros((d + 1, d + 1))
    form[upper] = np.asarray(circuit.weights, dtype=np.float64)
    form = (form + form.T) / 2 * (score_scale * encoder.levels**2)
    values, vectors = np.linalg.eigh(form[1:, 1:])
    slopes = vectors.T @ form[1:, 0]
    kept = values > NEGLIGIBLE * max(float(values.max()), 0.0)
    roots = np.sqrt(values[kept])
    weights, bias = roots[:, None] * vectors[:, kept].T, slopes[kept] / roots
    # no coordinate of a record is beyond 1 in the box: what was left out, and what float64 rounds, moves no score more
    left = np.abs(weights.T @ weights - form[1:, 1:]).sum() + 2 * np.abs(weights.T @ bias - form[0, 1:]).sum()
    if not kept.any() or left > tolerance * SHARE_OF_TOLERANCE:
        raise CapacityError(
            "The quadratic form is no squared distance, to this tolerance",
            got=f"{int((~kept).sum())} of {d} directions without a square, and {left:.2g} that squares do not explain",
            rule=f"at most {tolerance * SHARE_OF_TOLERANCE:.2g}",
            fix="score it under BFV (scheme='bfv'), which multiplies the form out and is exact",
        )
    offset = form[0, 0] + score_scale * circuit.bias - float(bias @ bias)
    return (
        Quantised(monomials=encoder),
        Network(layers=(Dense(weights=weights, bias=bias),), target="centre"),
        float(offset),
    )
