"""A party's own vector: its records, bounded by unit where asked, summed or trained on by the query."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from blindsight._text import printable
from blindsight.data import Records, Schema, records
from blindsight.detectors import Local, SumQuery, Update, UpdateQuery
from blindsight.errors import DataError, ParameterError
from blindsight.privacy import DifferentialPrivacy, Event, NoiseSource, SampledNoise, bound_contributions

__all__ = ["check_first_rows", "own_sum", "own_update"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
MAX_NOTICE_CHARS = 200


def check_first_rows(schema: Schema, source: object) -> None:
    """Read the first chunk and forget it: a wrong file or column is found before anything is charged.

    Raises
    ------
    DataError
    """
    next(iter(records(schema, source, warn=False)), None)


def own_sum(
    schema: Schema,
    source: object,
    query: SumQuery,
    privacy: DifferentialPrivacy | None,
    noise_source: NoiseSource | None,
) -> Ints:
    """Sum the query over the party's records, exactly; noise is added elsewhere.

    Privacy
    -------
    Under the units "person" and "party" at most ``records_per_unit`` records of each unit are used, chosen uniformly
    at random.
    """
    vector = np.zeros(query.length, dtype=np.int64)
    warn = query.name != "threshold"  # what lies outside the ranges is said once, when it is first read
    for chunk in _bounded(schema, source, privacy, noise_source, warn=warn)():
        query.add(vector, chunk)
    return vector


def own_update(
    schema: Schema,
    source: object,
    query: UpdateQuery,
    privacy: DifferentialPrivacy | None,
    event: Event,
    *,
    memory: dict[str, bytes],
    cache: dict[str, object],
    noise_source: NoiseSource | None,
) -> Update:
    """Train for one round; integer noise, where there is any, is added elsewhere.

    Raises
    ------
    ParameterError
        The detector broke the bounds that its query states: the vector must not leave.

    Privacy
    -------
    Under unit "person" at most ``records_per_unit`` records of each person are handed to training, chosen uniformly at
    random in each round; DP-SGD samples persons whole and its noise is stated over that many clipped gradients.
    Under unit "party" all records are used: what protects is the bound on the whole vector, checked here.
    """
    bounded = None if privacy is None or privacy.unit == "party" else privacy
    noise = None
    if event.sampling_rate is not None and event.noise_multiplier is not None:
        noise = SampledNoise(
            sampling_rate=event.sampling_rate,
            noise_multiplier=event.noise_multiplier,
            records_per_unit=event.max_records_per_person or 1,
            by_person=event.unit == "person",
        )
    read = _bounded(schema, source, bounded, noise_source, warn=False)
    update = query.update(Local(records=read, memory=memory, cache=cache, noise=noise))
    _check_bounds(query, update)
    return Update(values=np.array(update.values, dtype=np.int64), notice=_printable(update.notice))


def _check_bounds(query: UpdateQuery, update: Update) -> None:
    values = update.values
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (query.length,):
        raise ParameterError(f"The update of '{query.name}' has another form than its query says")
    largest = max(int(values.max()), -int(values.min()))
    norm = math.sqrt(math.fsum((values.astype(np.float64) ** 2).tolist()))
    if largest > query.max_abs or norm > query.sensitivity_l2 * (1.0 + 1e-12):
        raise ParameterError(
            f"The update of '{query.name}' breaks its query's bound",
            rule="at most max_abs in a coordinate and sensitivity_l2 in the L2 norm",
            fix="this is a fault of the detector: report it",
        )


def _printable(notice: str) -> str:
    return printable(str(notice)[:MAX_NOTICE_CHARS])


def _bounded(
    schema: Schema,
    source: object,
    privacy: DifferentialPrivacy | None,
    noise_source: NoiseSource | None,
    *,
    warn: bool,
) -> Callable[[], Iterator[Records]]:
    """A reader of the party's records, each unit's bounded where the privacy asked for says so.

    Which records are used is drawn once, when they are first read.
    """
    drawn: list[Mask] = []

    def read() -> Iterator[Records]:
        if privacy is None or privacy.unit == "record":
            yield from records(schema, source, warn=warn)
            return
        if not drawn:
            drawn.append(_choose_records(schema, source, privacy, noise_source))
        (chosen,) = drawn
        for chunk in records(schema, source, warn=warn):
            keep = chosen[chunk.row0 : chunk.row0 + len(chunk)]
            if len(keep) != len(chunk):
                raise DataError("The records changed while they were read", fix="start a new run when they are at rest")
            yield chunk.only(keep)

    return read


def _choose_records(
    schema: Schema, source: object, privacy: DifferentialPrivacy, noise_source: NoiseSource | None
) -> Mask:
    """Choose each unit's records uniformly at random; keeps one identifier a row in memory.

    Not the first ones of each unit: where rows are in order of time, first records are not like the others.
    """
    units = []
    for chunk in records(schema, source, warn=False):
        if privacy.unit == "party":
            units.append(np.zeros(len(chunk), dtype=np.int64))
        elif chunk.person is not None:
            units.append(chunk.person)
        else:
            raise DataError(
                "The person column is missing from the data",
                rule="unit='person' counts records by person",
                fix="give tables with that column, not arrays",
            )
    return bound_contributions(np.concatenate(units), privacy.records_per_unit, noise_source)
