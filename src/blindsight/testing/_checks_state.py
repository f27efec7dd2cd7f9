"""What holds for every state of a fit: it travels, it is parsed strictly, and what it asks for is bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight import modelfile
from blindsight.data import Records, Schema
from blindsight.detectors import Local, Query, State, SumQuery, UpdateQuery
from blindsight.errors import BlindsightError
from blindsight.privacy import SampledNoise

from ._kit import ROWS, Check, Make, add, expect, reload, same_state, walk
from ._sample import sample_chunk, sample_records

__all__ = ["CHECKS"]

MOST_STATES = 5
"""States that are taken apart: the first ones and the last; a fit of many rounds has many that are alike."""
SLACK = 1 + 1e-12


def _check_states(make: Make, schema: Schema) -> None:
    """Dumped, sent and loaded, every state asks for the same sum and goes on to the same next state."""
    table = sample_records(schema, ROWS, 30)
    names: list[str] = []
    for detector, query, total in walk(make, schema, table):
        where = f"after {len(names)} sums"
        if detector.is_blank:
            blank = make()
            blank.begin(schema)
            same_state(detector, blank, f"{where}, is_blank")
        content = modelfile.dumps(detector)
        again = reload(detector)
        assert modelfile.dumps(again) == content, f"{where}: loaded and written again, the bytes differ"
        asked = again.next_query()
        if query is None or total is None:
            assert asked is None, f"{where}: fitted, but its copy asks for '{asked.name if asked else ''}'"
            break
        assert asked is not None, f"{where}: its copy takes itself for fitted"
        _same_query(query, asked, schema, where)
        assert query.name not in names, f"{where}: the name '{query.name}' is used twice"
        names.append(query.name)
        again.advance(asked, total)
        # the coordinator may be killed here and begin again from what was released
        copy = reload(detector)
        repeated = copy.next_query()
        assert repeated is not None
        copy.advance(repeated, total)
        same_state(again, copy, f"{where}, the state after a total depends on more than state and total")
    assert names, "nothing was summed"
    assert names[-1] == "threshold", "the last sum is the score histogram"
    assert all(0 < len(name) <= 64 and name.isascii() for name in names), "a query's name is no short ASCII text"


def _same_query(one: Query, other: Query, schema: Schema, where: str) -> None:
    assert type(one) is type(other), f"{where}: its copy asks for another kind of sum"
    fields = ["name", "length", "sensitivity_l2", "max_abs", "fraction"]
    if isinstance(one, UpdateQuery):
        fields += ["sampling_rate", "steps", "total_steps", "parties", "masked"]
    for field in fields:
        assert getattr(one, field) == getattr(other, field), f"{where}: its copy asks with another {field}"
    if isinstance(one, SumQuery) and isinstance(other, SumQuery) and not _wants_more(schema):
        chunk = sample_chunk(schema, sample_records(schema, 40, 31))
        assert np.array_equal(add(one, chunk), add(other, chunk)), f"{where}: its copy adds something else"


def _wants_more(schema: Schema) -> bool:
    return any(column.role in ("time", "entity") for column in schema.columns)


def _check_malformed_states(make: Make, schema: Schema) -> None:
    """A state from a stranger is refused unless every part is there, is known, and fits."""
    table = sample_records(schema, ROWS, 32)
    states = [detector.dump() for detector, _, _ in walk(make, schema, table)]
    if len(states) > MOST_STATES:
        states = [*states[: MOST_STATES - 2], *states[-2:]]
    for number, state in enumerate(states):
        copy = make()
        copy.load_state(schema, state)  # as it is, it is accepted
        for what, broken in _broken(state):
            fresh = make()
            expect(
                (TypeError, ValueError, KeyError, BlindsightError),
                lambda fresh=fresh, broken=broken: fresh.load_state(schema, broken),  # type: ignore[misc]
                f"state {number} with {what}",
            )


def _broken(state: State) -> Iterator[tuple[str, State]]:
    values, arrays = dict(state.values), dict(state.arrays)
    yield "an unknown value", State(values={**values, "unheard_of": 1}, arrays=arrays)
    yield "an unknown tensor", State(values=values, arrays={**arrays, "unheard_of": np.zeros(3, dtype=np.int64)})
    for key, value in values.items():
        yield f"no '{key}'", State(values={k: v for k, v in values.items() if k != key}, arrays=arrays)
        others: tuple[object, ...] = ("\0", [], {}, math.nan)
        for other in others:
            if type(other) is not type(value) or isinstance(other, float):
                yield f"'{key}' = {other!r}", State(values={**values, key: other}, arrays=arrays)
    for name, array in arrays.items():
        yield f"no tensor '{name}'", State(values=values, arrays={k: v for k, v in arrays.items() if k != name})
        for how, other_array in _misshapen(array).items():
            yield f"tensor '{name}' {how}", State(values=values, arrays={**arrays, name: other_array})


def _misshapen(array: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    flat = array.reshape(-1)
    shapes = {
        "too long": np.append(flat, flat[-1:] if flat.size else np.zeros(1, dtype=array.dtype)),
        "of one more axis": array[None],
        "of another type": array.astype(np.float32 if array.dtype != np.float32 else np.int64),
    }
    if flat.size:
        shapes["too short"] = flat[:-1]
    return shapes


def _check_bounds_of_sums(make: Make, schema: Schema) -> None:
    """What one record adds to any sum met on the way stays inside the stated bounds, whoever else is in the chunk."""
    table = sample_records(schema, ROWS, 10)
    fractions: dict[str, float] = {}
    for detector, query, _ in walk(make, schema, table):
        if not isinstance(query, SumQuery):
            continue
        purpose = "threshold" if query.name == "threshold" else "fit"
        fractions[purpose] = fractions.get(purpose, 0.0) + query.fraction
        if _wants_more(schema):
            continue
        assert query.length < 1 << 26, f"{query.name}: too long a sum"
        for extreme in (0.0, 0.3, 1.0):
            chunk = sample_chunk(schema, sample_records(schema, 40, 11, extreme=extreme))
            together = add(query, chunk)
            rows = [add(query, Records(X=chunk.X[i : i + 1])) for i in range(len(chunk))]
            assert np.array_equal(together, np.sum(rows, axis=0)), f"{query.name}: a sum of records is not their sum"
            worst = max(float(np.sqrt(sum(int(v) ** 2 for v in row[row != 0]))) for row in rows)
            assert worst <= query.sensitivity_l2 * SLACK, (
                f"{query.name}: a record adds {worst:g} in L2, stated is {query.sensitivity_l2:g}"
            )
            largest = max(int(np.abs(row).max()) for row in rows)
            assert largest <= query.max_abs, f"{query.name}: a record adds {largest}, stated is {query.max_abs}"
        assert detector.next_query() is not None
    for purpose, fraction in fractions.items():
        assert fraction <= SLACK, f"the sums of '{purpose}' take {fraction:g} of its share of the budget"


def _check_bounds_of_updates(make: Make, schema: Schema) -> None:
    """What one party adds to a round stays inside the stated bounds: with noise, without, and with nothing to add."""
    table = sample_records(schema, ROWS, 33)
    seen: list[UpdateQuery] = []
    for _, query, _ in walk(make, schema, table):
        if not isinstance(query, UpdateQuery) or len(seen) >= MOST_STATES:
            continue
        seen.append(query)
        noise = SampledNoise(sampling_rate=query.sampling_rate, noise_multiplier=1.0)
        for what, rows, extreme, sampled in (
            ("many records", ROWS, 0.0, None),
            ("records at the limits", 40, 1.0, None),
            ("DP-SGD", 40, 0.2, noise),
            ("ten records", 10, 0.0, None),
            ("no record", 0, 0.0, None),
        ):
            update = query.update(_local(schema, rows, extreme, sampled))
            values = update.values
            where = f"{query.name}, {what}"
            assert values.dtype == np.int64, f"{where}: not of integers"
            assert values.shape == (query.length,), f"{where}: shape {values.shape}, stated is {query.length}"
            assert int(np.abs(values).max()) <= query.max_abs, f"{where}: beyond max_abs = {query.max_abs}"
            norm = math.sqrt(float(np.sum(values.astype(np.float64) ** 2)))
            assert norm <= query.sensitivity_l2 * (1 + 1e-9), (
                f"{where}: {norm:g} in L2, stated is {query.sensitivity_l2:g}"
            )
            if rows == 0:
                assert not values.any(), f"{where}: a party without records adds something"
                assert update.notice, f"{where}: a party that adds nothing says why"
    rounds = {query.total_steps for query in seen}
    assert len(rounds) <= 1, "the number of steps of the whole run changes on the way"


def _local(schema: Schema, rows: int, extreme: float, noise: SampledNoise | None) -> Local:
    from blindsight.data import records

    table = sample_records(schema, rows, 34, extreme=extreme)
    return Local(records=lambda: records(schema, table, warn=False), noise=noise)


CHECKS: tuple[Check, ...] = (_check_states, _check_malformed_states, _check_bounds_of_sums, _check_bounds_of_updates)
