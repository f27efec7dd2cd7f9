"""From feature rows to a network's inputs: standardised and bounded numbers, one-hot categories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import unspread
from blindsight.data import Schema

from ._features import category_names, public_range
from ._preparation import Preparation, Scaling

__all__ = ["INPUT_BOUND", "Inputs", "declared_scaling", "learned_scaling", "local_scaling", "own_scaling"]

Floats = npt.NDArray[np.float64]

INPUT_BOUND = 20.0
"""Standardised numbers are clipped to this many deviations: bounded inputs keep square activations stable."""

FLOOR = 1.0 / 256.0
"""Smallest scale of a number, as a part of its declared range: constant columns stay finite."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Numbers first, in the schema's order, then every category's slots.

    Parameters
    ----------
    scaling : Scaling
        Of all features; that of a category is not used.
    categories : tuple of (feature, slots)
        Position of each categorical feature and its number of slots: one per declared category and one more.
    """

    scaling: Scaling
    categories: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, schema: Schema, scaling: Scaling) -> Self:
        """Build them for a schema."""
        slots = tuple((f, len(category_names(c)) + 1) for f, c in enumerate(schema.features) if c.type == "category")
        return cls(scaling=scaling, categories=slots)

    @staticmethod
    def width(schema: Schema) -> int:
        """Number of inputs m."""
        return sum(len(category_names(c)) + 1 if c.type == "category" else 1 for c in schema.features)

    def __call__(self, X: Floats) -> Floats:
        """Map (n, d) feature rows to (n, m) inputs, float64, every one within ``INPUT_BOUND``."""
        with np.errstate(over="ignore"):  # a value of 1e300 becomes infinite and is clipped
            z = np.clip(self.scaling.standardise(X), -INPUT_BOUND, INPUT_BOUND)
        if not self.categories:
            return z
        codes = dict(self.categories)
        parts = [z[:, [f for f in range(X.shape[1]) if f not in codes]]]
        for f, slots in self.categories:
            code = np.clip(X[:, f], 0, slots - 1).astype(np.int64)
            parts.append((code[:, None] == np.arange(slots)).astype(np.float64))
        return np.concatenate(parts, axis=1)


def declared_scaling(schema: Schema) -> Scaling:
    """Scaling by the declared ranges alone."""
    return _linear(Scaling.declared(schema))


def learned_scaling(schema: Schema, preparation: Preparation) -> Scaling:
    """Mean and deviation of every number as its private histogram tells them.

    On the plain scale, also where the schema says "log": what lies far out in a tail shall be reconstructed badly.
    """
    centres, scales = [], []
    for column, share in zip(schema.features, preparation.shares, strict=True):
        if column.type == "category":
            centres.append(0.0)
            scales.append(1.0)
            continue
        low, high = public_range(column)
        ends = np.linspace(0.0, 1.0, share.size - 1)
        middles = np.concatenate([[0.0], (ends[1:] + ends[:-1]) / 2.0, [1.0]])
        positions = (unspread(middles, low, high, log=column.scale == "log") - low) / (high - low)
        centre = float(share @ positions)
        centres.append(centre)
        scales.append(max(float(np.sqrt(share @ (positions - centre) ** 2)), FLOOR))
    return _linear(Scaling.of(schema, centres=tuple(centres), scales=tuple(scales)))


def local_scaling(schema: Schema, X: Floats) -> Scaling:
    """Mean and deviation of one party's own rows, as positions in the declared ranges. They never leave the party."""
    unit = _linear(Scaling.of(schema, centres=(0.0,) * schema.n_features, scales=(1.0,) * schema.n_features))
    # a margin of one range on each side, so that a single wild value does not decide the scale
    with np.errstate(over="ignore"):
        positions = np.clip(unit.standardise(X), -1.0, 2.0)
    centres, scales = positions.mean(axis=0), np.maximum(positions.std(axis=0), FLOOR)
    return own_scaling(schema, tuple(float(c) for c in centres), tuple(float(s) for s in scales))


def own_scaling(schema: Schema, centres: tuple[float, ...], scales: tuple[float, ...]) -> Scaling:
    """Scaling with given centres and scales, in positions on the plain scale."""
    return _linear(Scaling.of(schema, centres=centres, scales=scales))


def _linear(scaling: Scaling) -> Scaling:
    return replace(scaling, logs=(False,) * len(scaling.logs))
