"""The coordinator's side of one run: every sum that it asks for, opened, recorded and certified."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from blindsight.detectors import Query, Total
from blindsight.errors import BlindsightError, BlindsightWarning, DataError, PendingError, ReleaseError, StoreError
from blindsight.privacy import DifferentialPrivacy
from blindsight.securesum import Method, choose_sum, names_shared_key

from ._certificate import UNMASKED, certificate_of
from ._coordinator import private_total
from ._journal import RunHeader
from ._run import RunRecord
from ._steps import check_query, is_masked, step_digest, terms_of, trust_of
from ._wire import MAX_ENDED, Step

if TYPE_CHECKING:
    from ._federation import Federation

__all__ = ["Run", "in_step"]

log = logging.getLogger(__name__)


class Run:
    """One fit, evaluation or description: its sums under one privacy, and the record of them.

    Parameters
    ----------
    federation : Federation
        Whose channel, participants and history are used.
    kind : str
        What the record is called: "fit", "evaluate", "describe" or "select".
    detector : dict or None
        As ``detector_to_json`` describes it.
    privacy : DifferentialPrivacy or None
        Of every sum of this run.
    again : str, optional
        Id of a run in the federation's journal that this one is; what it opened before is taken from there.
    model : bytes, optional
        The model that the run is about, for the journal.
    count : int, optional
        How many features it selects, for the journal.

    Attributes
    ----------
    record : RunRecord
        In the federation's history from the start, so that a run that fails leaves what it released.
    """

    def __init__(
        self,
        federation: Federation,
        kind: str,
        detector: dict[str, Any] | None,
        privacy: DifferentialPrivacy | None,
        *,
        again: str | None = None,
        model: bytes | None = None,
        count: int | None = None,
    ) -> None:
        self._federation = federation
        self._privacy = privacy
        self.record = RunRecord(
            run=again or secrets.token_hex(8),
            kind=kind,
            federation=federation.name,
            detector=detector,
            privacy=None if privacy is None else json.loads(privacy.to_json()),
            trust="",
        )
        federation.history.append(self.record)
        journal = federation.journal
        self._owner = b""
        if journal is not None and again is not None:
            self._owner = journal.claim(again)
        elif journal is not None:
            self._owner = journal.begin(
                RunHeader(
                    run=self.record.run,
                    kind=kind,
                    federation=federation.digest,
                    detector=detector if model is None else None,
                    privacy=None if privacy is None else privacy.to_json(),
                    model=model,
                    count=count,
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write down how the run ended. What is no error of ours (Ctrl-C, a full disk here) leaves it unfinished."""
        journal = self._federation.journal
        if journal is None:
            self._federation._ended.append(self.record.run)
            return
        if error is not None and not _final(error):
            return
        # what is wrong with records is for their owner's eyes; in a federation of one process it comes as far as here
        words = "" if error is None else type(error).__name__ if isinstance(error, DataError) else str(error)
        journal.end(self.record.run, self._owner, self.record.to_json(), error=words)

    def total(
        self,
        query: Query,
        *,
        purpose: Literal["fit", "threshold", "evaluation", "describe"],
        detector: dict[str, Any] | None = None,
        model: bytes | None = None,
    ) -> Total:
        """Open one sum over the parties that survive; what it released is in the record.

        Parameters
        ----------
        query : Query
            Which every party rebuilds from ``detector`` and ``model``.
        purpose : {"fit", "threshold", "evaluation", "describe"}
        detector : dict, optional
        model : bytes, optional
            The detector's state, as a model file; None where it has just begun.

        Raises
        ------
        BlindsightError
            As ``private_total``; of parties in this process with what is wrong with their records.
        """
        check_query(query, self._privacy)
        federation, record = self._federation, self.record
        step = self._step(query, purpose, detector, model)
        if not is_masked(query):
            record.trust = UNMASKED
        elif UNMASKED not in record.trust and not (names_shared_key(record.trust) and step.sums == "masked"):
            record.trust = trust_of(step)  # the weakest of the run's sums is what the run can promise
        exact = self._privacy is None and is_masked(query)
        journal = federation.journal
        kept = None
        if journal is not None:
            kept = journal.sum(record.run, self._owner, step.step, step_digest(step).encode())
        if kept is not None and (before := kept.done) is not None:
            record.steps.append(before[1])
            return before[0]
        told = {name for step in record.steps for name in step.notices}
        try:
            with _parties_warn_afterwards(federation):
                total, done = private_total(
                    federation._channel,
                    step,
                    query,
                    timeout_s=federation._timeout_s,
                    only=federation.exact_survivors if exact else None,
                    progress=federation.progress,
                    journal=kept,
                    approval_timeout_s=federation._approval_timeout_s,
                    recall=federation._recalls,
                    ended=[] if record.steps else self._ended(),
                )
                federation._recalls = federation._recalls and not is_masked(query)
                record.steps.append(done)
                if exact:
                    # parties sign exact totals over one survivor set only: whoever was absent stays out of the next
                    federation.exact_survivors = frozenset(done.survivors)
                if kept is not None:
                    kept.finish(total, done)
        except BlindsightError as error:
            # parties in this process have nothing to hide from their caller: say what is wrong with the records
            for party in federation.parties.values():
                if isinstance(party.last_error, DataError | ReleaseError):
                    raise party.last_error from error
            raise
        for name, notice in done.notices.items():
            if name not in told:
                where = done.step.replace("/", " ", 1)
                warnings.warn(f"{name} added nothing in {where}: {notice}", BlindsightWarning, stacklevel=4)
        return total

    def certificate(self) -> dict[str, Any]:
        """What was released so far, at what cost; see ``certificate_of``."""
        return certificate_of(self.record, self._privacy, [name for name, _ in self._federation._participants])

    def _ended(self) -> list[str]:
        """Earlier runs that nobody will go on with: those that the journal let go of; without a journal, those that
        are over in this process, since another may be under way in it."""
        federation = self._federation
        if federation.journal is not None:
            return federation.journal.ended(federation.digest, MAX_ENDED)
        return list(federation._ended)

    def _sums(self, query: Query) -> Method:
        """What hides the vectors of a query: what the federation says, or the chooser where it says "auto"."""
        federation = self._federation
        if federation.sums != "auto" or not is_masked(query):
            return "masked" if federation.sums == "auto" else federation.sums
        choice = choose_sum(
            len(federation._participants),
            query.length,
            threshold=federation._threshold,
            colluders=1 if self._privacy is None else self._privacy.colluders,
        )
        log.info("%s: %s", query.name, choice.why)
        return choice.method

    def _step(self, query: Query, purpose: Any, detector: dict[str, Any] | None, model: bytes | None) -> Step:
        federation, part = self._federation, query.name
        return Step(
            federation=federation.name,
            run=self.record.run,
            step=part,
            purpose=purpose,
            part=part,
            dataset="evaluation" if purpose == "evaluation" else "training",
            participants=federation._participants,
            threshold=federation._threshold,
            schema_digest=federation.schema.digest(),
            detector=detector,
            model=model,
            privacy=terms_of(self._privacy),
            sums=self._sums(query),
        )


@contextlib.contextmanager
def _parties_warn_afterwards(federation: Federation) -> Iterator[None]:
    """Give the warnings of parties in this process when their sum is done; each once, where filters say no other.

    A filter that makes an error of a warning (``python -W error``) would otherwise end the party's work in the middle,
    and a party that failed is a dropout.
    """
    if not federation.parties:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BlindsightWarning)
        yield
    for warning in caught:
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, registry=federation._warned
        )


def _final(error: BaseException) -> bool:
    """Whether an error ends a run for good: a refusal, or a sum that cannot be opened; not a person's delay."""
    return isinstance(error, BlindsightError) and not isinstance(error, StoreError | PendingError)


def in_step(error: BlindsightError, step: str) -> BlindsightError:
    """The error of a detector that refused a total, with the step after which it did."""
    return type(error)(
        f"The run stops after '{step}': {error.what}",
        got=error.got,
        rule=error.rule,
        fix=error.fix or "the sums until then are in federation.history; what they cost is spent",
    )
