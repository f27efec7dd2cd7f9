"""Feature selection by a federation: two private sums, and the schema that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from blindsight.data import Schema
from blindsight.detectors import FeatureRank, SumQuery, Total, moments_query, number_columns, preparation_query
from blindsight.detectors import select_features as choose
from blindsight.errors import ParameterError, WireError

__all__ = ["FeatureSelection", "check_count", "select", "selection_query"]


@dataclass(frozen=True, kw_only=True)
class FeatureSelection:
    """Features chosen by private sums over everybody's records.

    Parameters
    ----------
    names : tuple of str
        The chosen ones, best first.
    ranks : tuple of FeatureRank
        All features, in the order in which they would be taken, with what they weigh and what they copy.
    schema : Schema
        The federation's, reduced to the chosen features (in its order) and to the columns that are no features.
        Another schema makes another federation: every party has to be given it.
    certificate : dict
        Privacy of this release.
    """

    names: tuple[str, ...]
    ranks: tuple[FeatureRank, ...]
    schema: Schema
    certificate: dict[str, Any] | None = field(default=None, repr=False)


def check_count(schema: Schema, k: object) -> None:
    """Refuse a number of features that cannot be chosen, before anything is sent; ParameterError."""
    if type(k) is not int or not 1 <= k <= schema.n_features:
        raise ParameterError("k is out of its domain", got=repr(k)[:60], rule=f"1 to {schema.n_features} features")


def selection_query(schema: Schema, part: str) -> SumQuery:
    """Return one of the two sums behind ``select_features``, from schema and name alone.

    Parameters
    ----------
    schema : Schema
    part : {"select/prepare", "select/moments"}

    Raises
    ------
    WireError
        There is no such sum, or the schema has no two number features whose moments could be asked for.

    Privacy
    -------
    See :func:`preparation_query`, a quarter of the share, and :func:`moments_query`, the rest; add or remove one
    record.
    """
    if part == "select/prepare":
        return replace(preparation_query(schema), name=part)
    if part == "select/moments" and len(number_columns(schema)) > 1:
        return replace(moments_query(schema), name=part)
    raise WireError(
        "A step asks for no sum of feature selection",
        got=part,
        rule="select/prepare; select/moments where there are two number features or more",
    )


def select(schema: Schema, k: int, total_of: Callable[[SumQuery], Total]) -> FeatureSelection:
    """Choose k features; ``total_of`` is asked for the sums of :func:`selection_query`. No certificate yet."""
    chosen, ranks = choose(schema, k, lambda query: total_of(selection_query(schema, f"select/{query.name}")))
    columns = tuple(column for column in schema.columns if column.role != "feature" or column.name in chosen)
    return FeatureSelection(
        names=tuple(rank.name for rank in ranks[:k]), ranks=ranks, schema=Schema(columns, schema.ranges)
    )
