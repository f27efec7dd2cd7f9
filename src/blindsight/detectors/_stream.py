"""One record at a time, at the party that owns it: the same integers as ``decision_function``, in microseconds.

Where the encoder is one-hot bins, a score is one search and one table look-up per feature, in plain Python: for one
record that is a hundred times faster than arrays are. Other encoders are evaluated as a table of one row would be.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Monomials, OneHotBins, spread
from blindsight.data import Column, RollingState, Schema, moment
from blindsight.errors import DataError

from ._circuit import CircuitDetector

if TYPE_CHECKING:
    from ._base import Detector
    from ._sequences import SequenceDetector

__all__ = ["RecordReader", "SeriesStream", "Stream"]

Floats = npt.NDArray[np.float64]


class RecordReader:
    """Reads one record by schema, as ``records`` reads a table: the same values, the same refusals.

    Parameters
    ----------
    schema : Schema
    """

    def __init__(self, schema: Schema) -> None:
        self.names = schema.feature_names
        self._columns = schema.features
        self._codes = [
            None if c.type != "category" else {name: float(code) for code, name in enumerate(c.categories or ())}
            for c in schema.features
        ]

    def __call__(self, record: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]) -> list[float]:
        """Return the features in the schema's order, finite; a category as its code.

        Parameters
        ----------
        record : mapping of name to value, sequence, or ndarray of shape (d,)
            In an array a category is its code, as in ``Records.X``; elsewhere it is itself.

        Raises
        ------
        DataError
            A column is missing, or a value is of the wrong type, infinite, or missing without a rule.
        """
        values = self.pick(record)
        is_code = isinstance(record, np.ndarray) and record.dtype.kind in "biuf"
        return [self.value(at, value, is_code=is_code) for at, value in enumerate(values)]

    def pick(self, record: Any) -> Sequence[Any]:
        """Return the raw features in the schema's order."""
        if isinstance(record, Mapping):
            try:
                return [record[name] for name in self.names]
            except KeyError as error:
                raise DataError(
                    f"Column {error} is missing from the record", rule="the schema names it as feature"
                ) from error
        if isinstance(record, np.ndarray) and record.ndim == 1:
            record = record.tolist()
        if not isinstance(record, Sequence) or isinstance(record, str | bytes) or len(record) != len(self.names):
            raise DataError(
                "The record has another number of values than the schema features",
                got=f"{len(record)} values" if isinstance(record, Sequence) else type(record).__name__,
                rule=f"a mapping by name, or {len(self.names)} values in the schema's order",
            )
        return record

    def value(self, at: int, value: Any, *, is_code: bool = False) -> float:
        """Return one feature's value as a finite float."""
        codes, column = self._codes[at], self._columns[at]
        if codes is None:
            return _number(column, value)
        if is_code:
            return _code(column, codes, value)
        if isinstance(value, bool | np.bool_):
            value = "true" if value else "false"
        elif isinstance(value, int | np.integer):
            value = str(int(value))
        elif isinstance(value, float | np.floating):
            if math.isnan(value):
                value = None
            elif value != round(value):
                raise DataError(
                    f"Column '{column.name}' is neither text nor a whole number", rule="type = 'category' in the schema"
                )
            else:
                value = str(int(value))
        if value is None or (value == "" and "" not in codes):
            return codes[str(_missing(column))]
        if not isinstance(value, str):
            raise DataError(f"Column '{column.name}' holds no category", got=type(value).__name__)
        return codes.get(value, float(len(codes)))


class Stream:
    """Scores one record at a time with a fitted model, on its owner's machine.

    Parameters
    ----------
    model : Detector
        Fitted; later changes of it are not followed.
    rolling : RollingState, optional
        Adds rolling features to each record before it is scored. Records are mappings then.

    Notes
    -----
    Nothing is released: scores stay where the records are. A model that must stay secret from them is scored blind.
    """

    def __init__(self, model: Detector, rolling: RollingState | None = None) -> None:
        model._check_fitted()
        self._rolling = rolling
        self._reader = RecordReader(model.schema_)
        self._scale, self._threshold = model.score_scale_, model.threshold_
        self._integer = (
            _look_ups(model, self._reader) or _quadratic(model, self._reader) or _by_row(model, self._reader)
        )

    def integer_score(self, record: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]) -> int:
        """Return the score in units of ``score_scale_``: what the circuit returns."""
        if self._rolling is not None:
            if not isinstance(record, Mapping):
                raise DataError("A record without names has no entity", got=type(record).__name__, fix="give a mapping")
            record = {**record, **self._rolling.push(record)}
        return self._integer(record)

    def score(self, record: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]) -> float:
        """Return the anomaly score; equal to ``decision_function`` of this record.

        Parameters
        ----------
        record : mapping of name to value, sequence, or ndarray of shape (d,)
            See :class:`RecordReader`.
        """
        return self.integer_score(record) * self._scale

    def predict(self, record: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any]) -> int:
        """Return 1 where the score exceeds the model's threshold, else 0."""
        return int(self.score(record) > self._threshold)


def _look_ups(model: Detector, reader: RecordReader) -> Callable[[Any], int] | None:
    """A search and a look-up per feature; None where the encoder is another one."""
    if not isinstance(model, CircuitDetector) or type(model.encoder_) is not OneHotBins:
        return None
    encoder, bias = model.encoder_, int(model.circuit_.bias)
    tables = [part.tolist() for part in np.split(model.circuit_.weights, encoder.offsets[1:])]
    plan = list(zip(range(len(tables)), [list(edges) for edges in encoder.edges], tables, strict=True))
    numbers = [column.type == "number" for column in model.schema_.features]
    pick, value = reader.pick, reader.value
    low, high = -math.inf, math.inf

    def integer(record: Any) -> int:
        is_code = isinstance(record, np.ndarray) and record.dtype.kind in "biuf"
        total = bias
        for (at, edges, table), number, raw in zip(plan, numbers, pick(record), strict=True):
            # the comparison also tells a NaN from a number
            x = raw if number and raw.__class__ is float and low < raw < high else value(at, raw, is_code=is_code)
            total += table[bisect_right(edges, x)]
        return total

    return integer


def _quadratic(model: Detector, reader: RecordReader) -> Callable[[Any], int] | None:
    """All features quantised at once, and one exact quadratic form; None where the encoder is another one."""
    if not isinstance(model, CircuitDetector) or type(model.encoder_) is not Monomials:
        return None
    encoder, weights, bias = model.encoder_, model.circuit_.weights, int(model.circuit_.bias)
    if int(np.abs(weights).sum()) * encoder.max_abs >= 2**53:
        return None  # beyond what float64 adds exactly
    low, logs = np.asarray(encoder.lows), np.flatnonzero(encoder.logs)
    span, levels = np.asarray(encoder.highs) - low, encoder.levels
    size = encoder.n_features + 1
    upper = np.zeros((size, size))
    upper[np.triu_indices(size)] = weights
    z = np.full(size, float(encoder.one))

    def integer(record: Any) -> int:
        # the same operations in the same order as Monomials.quantise, for all features together
        position = (np.array(reader(record)) - low) / span
        if len(logs):
            position[logs] = spread(position[logs], 0.0, 1.0, log=True)
        scaled = levels * (2.0 * position - 1.0)
        np.rint(np.minimum(np.maximum(scaled, -levels), levels), out=z[1:])
        return int(z @ upper @ z) + bias

    return integer


def _by_row(model: Detector, reader: RecordReader) -> Callable[[Any], int]:
    """Score a table of one row."""

    def integer(record: Any) -> int:
        return int(model._integer_scores(np.array([reader(record)]))[0])

    return integer


def _number(column: Column, value: Any) -> float:
    if value is None:
        return float(_missing(column))
    if not isinstance(value, int | float | np.number | np.bool_):
        raise DataError(f"Column '{column.name}' is not a number", got=type(value).__name__, rule="type = 'number'")
    number = float(value)
    if math.isnan(number):
        return float(_missing(column))
    if math.isinf(number):
        raise DataError(f"Column '{column.name}' has an infinite value", rule="every number is finite")
    return number


def _code(column: Column, codes: dict[str, float], value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        return codes[str(_missing(column))]
    if not 0 <= number <= len(codes) or number != math.floor(number):
        raise DataError(
            f"Column '{column.name}' has no such category code",
            got=repr(number),
            rule=f"an array holds 0 .. {len(codes)}",
        )
    return number


def _missing(column: Column) -> str | float:
    if column.missing == "refuse":
        raise DataError(
            f"Column '{column.name}' has a missing value",
            rule="the schema says missing = 'refuse'",
            fix="leave the record out, or set a missing rule in the schema",
        )
    return column.middle if column.type == "number" and column.missing == "middle" else column.missing


class SeriesStream(Stream):
    """Scores one record of a series at a time; keeps the last ones of every series.

    Parameters
    ----------
    model : SequenceDetector
    rolling : RollingState, optional

    Notes
    -----
    Records are mappings where the schema has time, entity or person columns; a column that the first record lacks is
    taken to be absent, as it would be from a table. Memory grows with the number of series: ``span`` rows each.
    """

    def __init__(self, model: SequenceDetector, rolling: RollingState | None = None) -> None:
        model._check_fitted()
        self._rolling = rolling
        self._model = model
        self._reader = RecordReader(model.schema_)
        self._scale, self._threshold = model.score_scale_, model.threshold_
        schema = model.schema_
        self._time = schema.time
        self._keys = (*schema.entities, *([schema.person] if schema.person is not None else []))
        self._series: dict[tuple[str, ...], _Ring] = {}
        self._integer = self._push

    def _push(self, record: Any) -> int:
        model = self._model
        named = isinstance(record, Mapping)
        row = model._inputs(np.array([self._reader(record)]))[0]
        now = (
            moment(record[self._time.name]) if named and self._time is not None and self._time.name in record else None
        )
        if now is None and model.interval is not None:
            raise DataError("An interval is declared and the record has no time", fix="give the time column")
        key = tuple(str(record[c.name]) for c in self._keys if c.name in record) if named else ()
        ring = self._series.get(key)
        if ring is None:
            ring = self._series[key] = _Ring(model.span, len(row))
        if ring.last is not None and now is not None:
            step = now - ring.last
            if step < 0:
                raise DataError("The time goes back", got=f"{now:.15g} after {ring.last:.15g}", fix="push in order")
            if model.interval is not None and abs(step - model.interval) > model.tolerance * model.interval:
                ring.clear()
        ring.last = now
        return int(model._scored(ring.push(row)[None])[0])


class _Ring:
    """The last rows of one series."""

    __slots__ = ("_empty", "_rows", "last")

    def __init__(self, span: int, width: int) -> None:
        self._rows = np.zeros((span, width))
        self._empty = True
        self.last: float | None = None

    def clear(self) -> None:
        self._empty = True

    def push(self, row: Floats) -> Floats:
        """Take a row in; return the window that ends with it, flattened. The first row stands for those before it."""
        if self._empty:
            self._rows[:] = row
            self._empty = False
        else:
            self._rows[:-1] = self._rows[1:]
            self._rows[-1] = row
        return self._rows.reshape(-1)
