"""How a vector leaves: charged, computed, noised, kept; in this order, each committed before the next."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from blindsight.data import Schema
from blindsight.detectors import Query, UpdateQuery
from blindsight.errors import DataError
from blindsight.privacy import DifferentialPrivacy, Event, discrete_gaussian

from ._breakdown import keep_own_figures
from ._exact import ExactTotals, version_of
from ._forgotten import Forgotten
from ._jobs import Jobs
from ._memory import RunMemory
from ._own import Own
from ._steps import event_of, privacy_of
from ._sums import Sums
from ._vector import check_first_rows, own_sum, own_update
from ._wire import Step

__all__ = ["Releases"]

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


class Releases:
    """What leaves one party of its records.

    Parameters
    ----------
    own : Own
    jobs : Jobs
    sums : Sums
    exact : ExactTotals
    forgotten : Forgotten

    Attributes
    ----------
    memory : RunMemory
        What rounds of training keep for the next ones.
    has_read : bool
        Whether the records were read since somebody set this to False: an error may name one then.
    """

    def __init__(self, own: Own, *, jobs: Jobs, sums: Sums, exact: ExactTotals, forgotten: Forgotten) -> None:
        self._own, self._jobs, self._sums, self._exact, self._forgotten = own, jobs, sums, exact, forgotten
        self.memory = RunMemory(own.store)
        self.has_read = False
        self._left_out: frozenset[str] = frozenset()

    def check_first_rows(self, step: Step) -> None:
        """Refuse what the first rows of the records already show to be wrong, before a sum begins."""
        check_first_rows(self._own.schema, self._source(step))

    def vector(self, step: Step, query: Query) -> Ints:
        """The noisy vector of one sum: the stored one where it was made before, else a new one, which is charged."""
        self.has_read = True
        privacy = privacy_of(step.privacy) if step.privacy is not None else None
        ledger = self._own.ledger(step)
        event = event_of(step, query, self._own.noise_source)
        stored = ledger.output(step.release_id)
        if stored is not None:
            return np.frombuffer(stored, dtype="<i8").astype(np.int64)
        source, dataset = self._source(step), self._own.dataset(step)
        version = version_of(source, self._own.schema) if event.exact else ""
        if event.exact:
            self._exact.check_version(dataset, version)
        ledger.reserve(step.release_id, event)
        memory = self.memory.load(step.run) if isinstance(query, UpdateQuery) else {}
        notice = ""
        if isinstance(query, UpdateQuery):
            vector, notice = self._train(step, query, event, privacy, memory)
        else:
            vector = own_sum(self._own.schema, source, query, privacy, self._own.noise_source)
            if step.purpose == "threshold":
                self.memory.finish(step.run)  # its rounds are over
        if event.exact and version != version_of(source, self._own.schema):
            raise DataError("The records changed while they were read", fix="start a new run when they are at rest")
        if event.local_variance > 0:
            vector += discrete_gaussian(event.local_variance, query.length, self._own.noise_source)
        if event.exact:
            # first: a vector that may leave is remembered, even where this process ends between the two
            self._exact.contribute(step.release_id, dataset, version)
            self._forgotten.was_left_out(step.run)
        self._own.note(
            "released",
            release=step.release_id,
            query=event.query,
            coordinates=event.coordinates,
            mechanism=event.mechanism,
            unit=None if event.exact else event.unit,
            rho=event.rho or None,
            noise_multiplier=event.noise_multiplier,
            steps=event.steps,
        )
        output = vector.astype("<i8").tobytes()
        if isinstance(query, UpdateQuery):  # a sum of losses in between leaves the memory as it is
            with self._own.store.transaction():
                self.memory.save(step.run, memory)
                if notice and step.privacy is None:
                    self._sums.keep_notice(step.release_id, notice)
                ledger.record_output(step.release_id, output)
        else:
            ledger.record_output(step.release_id, output)
        self._jobs.released(step, last=_ends_run(step, self._own.schema))
        if step.purpose == "evaluation":
            keep_own_figures(
                self._own.store,
                step,
                self._own.schema,
                source,
                party=self._own.name,
                allowed=self._own.policy.detectors,
            )
        return vector

    def _train(
        self,
        step: Step,
        query: UpdateQuery,
        event: Event,
        privacy: DifferentialPrivacy | None,
        memory: dict[str, bytes],
    ) -> tuple[Ints, str]:
        """One round of local training: the party's vector, and why it is all zeros if it is."""
        try:
            update = own_update(
                self._own.schema,
                self._source(step),
                query,
                privacy,
                event,
                memory=memory,
                cache=self.memory.cache(step.run),
                noise_source=self._own.noise_source,
            )
        except BaseException:
            self.memory.drop_cache(step.run)  # it may be ahead of what was committed
            raise
        if update.notice:
            log.warning("%s adds nothing in %s: %s", self._own.name, query.name, update.notice)
        return update.values, update.notice

    def _source(self, step: Step) -> object:
        """The records that a sum may read: without those of persons who are forgotten."""
        marks = self._forgotten.marks()
        if marks != self._left_out:  # what earlier rounds of a run have prepared in memory may be of them
            self.memory.drop_cache(step.run)
            self._left_out = marks
        return self._forgotten.leave_out(self._own.schema, self._own.sources[self._own.dataset(step)])


def _ends_run(step: Step, schema: Schema) -> bool:
    """Whether no sum follows this one in its run."""
    if step.part == "describe/histogram":
        return all(column.type == "category" for column in schema.features)
    return step.purpose in ("threshold", "evaluation") or step.part in ("describe/moments", "select/moments")
