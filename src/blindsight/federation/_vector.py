"""A party's own vector: its records, bounded by person where asked, summed by the query."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, Schema, records
from blindsight.detectors import SumQuery
from blindsight.errors import DataError
from blindsight.privacy import DifferentialPrivacy, NoiseSource, bound_contributions

__all__ = ["check_first_rows", "own_vector"]

Ints = npt.NDArray[np.int64]


def check_first_rows(schema: Schema, source: object) -> None:
    """Read the first chunk and forget it: a wrong file or column is found before anything is charged.

    Raises
    ------
    DataError
    """
    next(iter(records(schema, source, warn=False)), None)


def own_vector(
    schema: Schema,
    source: object,
    query: SumQuery,
    privacy: DifferentialPrivacy | None,
    noise_source: NoiseSource | None,
) -> Ints:
    """Sum the query over the party's records, exactly; noise is added elsewhere.

    Privacy
    -------
    Under ``unit="person"`` at most ``records_per_unit`` records of each person are used, chosen uniformly at random.
    """
    warn = query.name != "threshold"  # what lies outside the ranges is said once, when it is first read
    chosen: npt.NDArray[np.bool_] | None = None
    if privacy is not None and privacy.unit == "person":
        chosen = _choose_records(schema, source, privacy.records_per_unit, noise_source)
    vector = np.zeros(query.length, dtype=np.int64)
    for chunk in records(schema, source, warn=warn):
        if chosen is None:
            query.add(vector, chunk)
            continue
        keep = chosen[chunk.row0 : chunk.row0 + len(chunk)]
        if len(keep) != len(chunk):
            raise DataError("The records changed while they were read", fix="start a new run when they are at rest")
        label = None if chunk.label is None else chunk.label[keep]
        query.add(vector, Records(X=chunk.X[keep], label=label, row0=chunk.row0))
    return vector


def _choose_records(
    schema: Schema, source: object, max_records: int, noise_source: NoiseSource | None
) -> npt.NDArray[np.bool_]:
    """Choose each person's records uniformly at random; keeps one identifier a row in memory.

    Not the first ones of each person: where rows are in order of time, first records are not like the others.
    """
    people = []
    for chunk in records(schema, source, warn=False):
        if chunk.person is None:
            raise DataError(
                "The person column is missing from the data",
                rule="unit='person' counts records by person",
                fix="give tables with that column, not arrays",
            )
        people.append(chunk.person)
    return bound_contributions(np.concatenate(people), max_records, noise_source)
