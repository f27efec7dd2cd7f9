"""Schemas and records that several packages' tests share."""

from __future__ import annotations

import numpy as np
import polars as pl

from blindsight.data import Column, Schema

NUMBERS = (
    Column(name="age", low=0, high=120),
    Column(name="amount", low=0, high=10_000, scale="log"),
    Column(name="balance", low=-500, high=500),
)
CATEGORY = Column(name="country", type="category", categories=("DE", "FR", "GB", "US"))
PERSON = Column(name="customer", role="person", type="number")
LABEL = Column(name="fraud", role="label")

NUMBER_SCHEMA = Schema((*NUMBERS, LABEL))
MIXED_SCHEMA = Schema((*NUMBERS, CATEGORY, PERSON, LABEL))


def make_table(rows: int, seed: int, *, persons: int | None = None) -> pl.DataFrame:
    """Ordinary records inside the declared ranges, one in ten of them anomalous and labelled."""
    generator = np.random.default_rng(seed)
    fraud = generator.random(rows) < 0.1
    return pl.DataFrame(
        {
            "age": np.clip(generator.normal(45, 12, rows) + 30 * fraud, 0, 120),
            "amount": np.clip(generator.lognormal(4, 1, rows) * np.where(fraud, 10, 1), 0, 10_000),
            "balance": np.clip(generator.normal(0, 80, rows) - 150 * fraud, -500, 500),
            "country": np.array(["DE", "FR", "GB", "US"])[generator.integers(4, size=rows)],
            "customer": generator.integers(persons or rows, size=rows),
            "fraud": fraud.astype(np.int64),
        }
    )
