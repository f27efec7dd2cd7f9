"""Several parties' rounds without a federation: what the tests of training share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blindsight.data import Schema, records
from blindsight.detectors import Local, Query, SumQuery, Total, TotalOf, UpdateQuery, local_total
from blindsight.privacy import SampledNoise

# small, and the same for every test that does not look at training itself
SMALL = {"rounds": 3, "sampling_rate": 0.25, "learning_rate": 0.1, "clip_norm": 5.0}


def totals_of(
    data: Mapping[str, Any],
    schema: Schema,
    *,
    noise: SampledNoise | None = None,
    tamper: Any = None,
    seen: list[Query] | None = None,
    notices: dict[str, str] | None = None,
    memories: dict[str, dict[str, bytes]] | None = None,
) -> TotalOf:
    """Sum every party's vector, as a federation would; every bound that a query states is checked on the way."""
    memories = {name: {} for name in data} if memories is None else memories
    caches: dict[str, dict[str, object]] = {name: {} for name in data}

    def vector(query: UpdateQuery, name: str) -> np.ndarray:
        local = Local(
            records=lambda: records(schema, data[name], warn=False),
            memory=memories[name],
            cache=caches[name],
            noise=noise,
        )
        update = query.update(local)
        assert update.values.dtype == np.int64
        assert update.values.shape == (query.length,)
        assert np.abs(update.values).max() <= query.max_abs
        assert np.sqrt(sum(int(v) ** 2 for v in update.values)) <= query.sensitivity_l2
        if update.notice and notices is not None:
            notices[name] = update.notice
        return update.values if tamper is None else tamper(query, name, update.values)

    def total_of(query: Query) -> Total:
        if seen is not None:
            seen.append(query)
        names = tuple(sorted(data))
        if isinstance(query, SumQuery):
            return Total(values=sum(local_total(query, schema, data[n]).values for n in names), parties=names)
        rows = np.stack([vector(query, name) for name in names])
        return Total(values=rows.sum(axis=0) if query.masked else rows, parties=names)

    return total_of
