"""What the checks share: making, fitting, comparing, and walking through every state of a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight import modelfile
from blindsight.data import Records, Schema
from blindsight.detectors import Detector, Query, SumQuery, Total, local_total

__all__ = ["ROWS", "Check", "Make", "add", "expect", "fitted", "reload", "same_state", "walk"]

Make = Callable[[], Detector]
Check = Callable[[Make, Schema], None]
Ints = npt.NDArray[np.int64]

ROWS = 120


def fitted(make: Make, schema: Schema, table: Any) -> Detector:
    """Fit a new detector under the schema."""
    detector: Detector = make().set_params(schema=schema)
    return detector.fit(table)


def reload(detector: Detector) -> Detector:
    """Through bytes and back, as a step carries it."""
    return modelfile.loads(modelfile.dumps(detector), allowed=frozenset({detector.name}))


def walk(make: Make, schema: Schema, table: Any) -> Iterator[tuple[Detector, Query | None, Total | None]]:
    """Yield (detector, its next query, that query's total) for every state of a local fit; None, None at the end.

    The detector goes on from the total after each yield.
    """
    detector = make()
    detector.begin(schema)
    memory: dict[str, bytes] = {}
    cache: dict[str, object] = {}
    while (query := detector.next_query()) is not None:
        total = local_total(query, schema, table, memory=memory, cache=cache)
        yield detector, query, total
        detector.advance(query, total)
    yield detector, None, None


def same_state(one: Detector, other: Detector, what: str, *, without: frozenset[str] = frozenset()) -> None:
    """Hold two detectors' states against each other, to the last bit."""
    a, b = one.dump(), other.dump()
    values = [{k: v for k, v in state.values.items() if k not in without} for state in (a, b)]
    for key in sorted(set(values[0]) | set(values[1])):
        assert values[0].get(key) == values[1].get(key), f"{what}: '{key}' differs"
    names = [set(state.arrays) - without for state in (a, b)]
    assert names[0] == names[1], f"{what}: other tensors"
    for name in sorted(names[0]):
        assert a.arrays[name].dtype == b.arrays[name].dtype, f"{what}: the type of '{name}' differs"
        assert np.array_equal(a.arrays[name], b.arrays[name]), f"{what}: the tensor '{name}' differs"


def add(query: SumQuery, chunk: Records) -> Ints:
    """What a chunk adds to a sum."""
    accumulator = np.zeros(query.length, dtype=np.int64)
    query.add(accumulator, chunk)
    assert accumulator.dtype == np.int64, f"{query.name}: the accumulator is no longer of integers"
    return accumulator


def expect(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object], what: str) -> str:
    """Return the message of the error that a call must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    raise AssertionError(f"{what} does not raise {names}")
