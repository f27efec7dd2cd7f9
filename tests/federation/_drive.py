"""Small federations for tests, and totals computed by NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from blindsight.data import Schema
from blindsight.federation import Federation, Policy
from blindsight.privacy import DifferentialPrivacy
from blindsight.testing import FaultyChannel
from sample_tables import make_table

EXACT = Policy(allow_exact_sums=True)
PHASES = ("advertise", "share", "mask", "confirm", "unmask")


def tables(n: int, rows: int = 40, **options: Any) -> dict[str, pl.DataFrame]:
    """One table a party, of uneven sizes."""
    return {f"bank-{i:02d}": make_table(max(1, rows * (i + 1) // 2), 100 + i, **options) for i in range(n)}


def stacked(data: Mapping[str, pl.DataFrame], names: object = None) -> pl.DataFrame:
    return pl.concat([data[name] for name in sorted(data if names is None else names)])  # type: ignore[call-overload]


def embedded(
    data: Mapping[str, Any], schema: Schema, policy: Policy | Mapping[str, Policy] = EXACT, **options: Any
) -> Federation:
    return Federation.embedded(data, schema=schema, policy=policy, **options)


def faulty(federation: Federation, **faults: Any) -> FaultyChannel:
    """Put a channel with faults under a federation."""
    channel = FaultyChannel(federation._channel, **faults)
    federation._channel = channel
    return channel


def dp(epsilon: float = 1.0, **options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(**{"epsilon": epsilon, "delta": 1e-6, **options})


def charges(federation: Federation) -> dict[str, int]:
    """Charged releases of every party, all units together; every ledger's chain is verified on the way."""
    counts = {}
    for name, party in federation.parties.items():
        for ledger in party.ledgers.values():
            ledger.verify()
        counts[name] = sum(len(ledger.entries()) for ledger in party.ledgers.values())
    return counts


def nothing_charged(federation: Federation) -> bool:
    return not any(charges(federation).values())


def numpy_counts(table: pl.DataFrame, bins: int = 64) -> np.ndarray:
    """ECOD's totals for the number columns of the shared schema, from np.histogram alone."""
    log = np.expm1(np.linspace(0, 1, bins - 1) * np.log1p(1000)) / 1000
    edges = {
        "age": np.linspace(0, 120, bins - 1),
        "amount": log * 10_000,
        "balance": -500 + np.linspace(0, 1, bins - 1) * 1000,
    }
    blocks = []
    for name, inner in edges.items():
        # one value on the last edge belongs to the open outer bin: np.histogram's last bin is closed, ours is open
        outer = np.concatenate([[-np.inf], inner, [np.inf]])
        blocks.append(np.histogram(table[name].to_numpy(), outer)[0])
    return np.concatenate(blocks)
