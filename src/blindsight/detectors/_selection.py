"""Which features to keep, from private sums alone: spread-out or heavy-tailed ones, and none twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, Schema

from ._domains import whole_number
from ._preparation import PREPARATION_BINS, SHARE, Preparation, preparation_query
from ._queries import SumQuery, Total, TotalOf
from .pca import PCA

__all__ = [
    "FeatureRank",
    "feature_weights",
    "moments_query",
    "number_columns",
    "pairwise_correlations",
    "select_features",
]

Floats = npt.NDArray[np.float64]

COARSE = 16
"""Fine bins that make a coarse one: a feature's worth is read from 16 counts, not from 256 noisy ones."""

NIL = 0.05
"""Weight below which a feature is as good as constant."""

REDUNDANT = 0.95
"""Absolute correlation from which on the second of two features tells nothing new."""


@dataclass(frozen=True, kw_only=True)
class FeatureRank:
    """One feature, as it was taken or left.

    Parameters
    ----------
    name : str
    weight : float
        See :func:`feature_weights`; nats.
    redundant_with : str
        The feature, taken before, of which this one is a copy; "" for none.
    """

    name: str
    weight: float
    redundant_with: str = ""


def feature_weights(schema: Schema, preparation: Preparation) -> Floats:
    """What each feature can tell: the mean of -log of its smaller tail (numbers) or of its share (categories).

    A constant has 0. A number spread over many bins has about 1; a heavy tail adds to it. It is the mean score that
    ECOD gives the feature, from coarse bins so that noise counts little.

    Parameters
    ----------
    schema : Schema
    preparation : Preparation

    Returns
    -------
    ndarray of shape (d,), float64
        Nonnegative, in nats.
    """
    weights = np.empty(len(schema.features))
    for f, column in enumerate(schema.features):
        share = preparation.shares[f]
        if column.type != "category":
            share = np.add.reduceat(share, np.arange(0, PREPARATION_BINS, COARSE))
            left, right = np.cumsum(share), np.cumsum(share[::-1])[::-1]
            # a constant's one bin holds everything, and its smaller tail with it
            smaller = np.minimum(left, right)
        else:
            smaller = share
        held = share > 1e-9
        weights[f] = float(share[held] @ -np.log(np.clip(smaller[held], 1e-9, 1.0)))
    return np.maximum(weights, 0.0)


def number_columns(schema: Schema) -> tuple[int, ...]:
    """Positions of the number features."""
    return tuple(f for f, column in enumerate(schema.features) if column.type == "number")


def moments_query(schema: Schema, *, norm_clip: float = 1.0) -> SumQuery:
    """Moments of the number features, as PCA sums them, for what the histogram leaves of the budget.

    Parameters
    ----------
    schema : Schema
        With at least one number feature.
    norm_clip : float in (0, 1]
        As for :class:`PCA`.

    Privacy
    -------
    L2 sensitivity 5 * (127**2 + R**2) with R = norm_clip * sqrt(numbers) * 127; add or remove one record.
    """
    columns = list(number_columns(schema))
    query = PCA(norm_clip=norm_clip).fit_query(_numbers(schema))

    def add(accumulator: npt.NDArray[np.int64], chunk: Records) -> None:
        query.add(accumulator, Records(X=np.ascontiguousarray(chunk.X[:, columns])))

    return replace(query, name="moments", add=add, fraction=1.0 - SHARE)


def _numbers(schema: Schema) -> Schema:
    return Schema(tuple(schema.features[f] for f in number_columns(schema)), ranges=schema.ranges)


def pairwise_correlations(schema: Schema, total: Total) -> Floats:
    """Absolute correlations of all features from released moments of the numbers; shape (d, d), float64.

    A correlation with a category, with a constant, or with what noise alone could have made, is taken as 0.
    """
    detector = PCA()
    _, _, covariance, noise = detector.moments(detector.encoder(_numbers(schema)), total)
    variances = np.maximum(np.diag(covariance), 0.0)
    known = variances > 1.0 / 12.0 + 3.0 * noise
    deviations = np.sqrt(np.where(known, variances, np.inf))
    numbers = list(number_columns(schema))
    correlations = np.eye(len(schema.features))
    correlations[np.ix_(numbers, numbers)] = np.abs(np.clip(covariance / np.outer(deviations, deviations), -1.0, 1.0))
    np.fill_diagonal(correlations, 1.0)
    return correlations


def select_features(schema: Schema, k: int, total_of: TotalOf) -> tuple[tuple[str, ...], tuple[FeatureRank, ...]]:
    """Choose k features by two private sums: one histogram, and the moments of the number features.

    Features are taken by falling weight; one whose correlation with a feature taken before exceeds .95 comes after
    all that are not copies, and constants come last.

    Parameters
    ----------
    schema : Schema
    k : int in [1, d]
    total_of : callable Query -> Total
        How to get a total: a local sum or a federation's private one. The queries are named ``"prepare"`` and
        ``"moments"``; their fractions add up to 1.

    Returns
    -------
    names : tuple of str
        The k chosen, in the schema's order.
    ranks : tuple of FeatureRank
        All features, in the order in which they would be taken.

    Privacy
    -------
    Releases counts per feature and fine bin (L2 sensitivity sqrt(d)), a quarter of the budget, and moments (see
    :func:`moments_query`), the rest; add or remove one record. The choice is post-processing.
    """
    names = schema.feature_names
    whole_number("k", k, 1, len(names), fix=f"choose from the schema's {len(names)} features")
    preparation = Preparation.from_total(schema, total_of(preparation_query(schema)))
    weights = feature_weights(schema, preparation)
    correlations = np.eye(len(names))
    if len(number_columns(schema)) > 1:
        correlations = pairwise_correlations(schema, total_of(moments_query(schema)))
    ranks = _ranked(names, weights, correlations)
    chosen = {rank.name for rank in ranks[:k]}
    return tuple(name for name in names if name in chosen), ranks


def _ranked(names: tuple[str, ...], weights: Floats, correlations: Floats) -> tuple[FeatureRank, ...]:
    taken: list[int] = []
    fresh: list[FeatureRank] = []
    copies: list[FeatureRank] = []
    nil: list[FeatureRank] = []
    # stable: equal weights keep the schema's order
    for f in np.argsort(-weights, kind="stable"):
        twin = next((t for t in taken if correlations[f, t] > REDUNDANT), None)
        rank = FeatureRank(name=names[f], weight=float(weights[f]), redundant_with="" if twin is None else names[twin])
        if twin is None:
            taken.append(int(f))
        (nil if weights[f] < NIL else fresh if twin is None else copies).append(rank)
    return tuple(fresh + copies + nil)
