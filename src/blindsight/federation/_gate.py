"""What a party asks before it reads a record: who takes part, what the policy allows, who approves, what is left."""

from __future__ import annotations

import msgspec

from blindsight.detectors import Query, UpdateQuery
from blindsight.errors import PendingError
from blindsight.privacy import DifferentialPrivacy

from ._admission import admitted, check_federation, check_participants, check_policy, columns_of
from ._following import Participants
from ._jobs import Jobs
from ._own import Own
from ._rules import Asker
from ._steps import check_query, detector_name, event_of, is_masked, query_of, run_event_of, step_digest
from ._wire import Step

__all__ = ["Gate"]


class Gate:
    """Every question that a step has to answer; each of them raises where it may not go on.

    Parameters
    ----------
    own : Own
    participants : Participants
    jobs : Jobs
    """

    def __init__(self, own: Own, participants: Participants, jobs: Jobs) -> None:
        self._own, self._participants, self._jobs = own, participants, jobs

    def check(self, step: Step, *, begun: bool) -> DifferentialPrivacy | None:
        """Check a step against participant list, schema and policy as they are now; return the privacy asked for.

        Asked again for every message: a policy that the owner has tightened since holds at once.
        """
        pinned = self._participants.current()
        listing = self._participants.listing
        check_federation(step, listing.federation if listing is not None else None)
        # a newer list may have come since: what was begun goes on where everybody in it is still who they were
        if not (begun and set(step.participants) <= set(pinned)):
            check_participants(step, pinned)
        return admitted(step, self._own.schema, self._own.policy)

    def query(self, step: Step) -> Query:
        """Rebuild what the step asks for, of a detector that the policy allows."""
        return query_of(step, self._own.schema, allowed=frozenset(self._own.policy.detectors))

    def check_query(self, step: Step, query: Query, privacy: DifferentialPrivacy | None) -> None:
        """Check what only the rebuilt query says against the policy as it is now."""
        check_query(query, privacy)
        check_policy(self._own.policy, self._own.schema, step, privacy, masked=is_masked(query))
        self._own.policy.check_noise(event_of(step, query, self._own.noise_source))

    def check_budget(self, step: Step, query: Query) -> None:
        """Refuse before any work what the budget does not carry: at a run's first round, the whole run."""
        ledger = self._own.ledger(step)
        ledger.check(event_of(step, query, self._own.noise_source))
        begun = f"{step.run}/"
        if isinstance(query, UpdateQuery) and not any(
            entry.release_id.startswith(begun) and entry.event.sampled for entry in ledger.entries()
        ):
            ledger.check(run_event_of(step, query))

    def admit(self, step: Step, asker: Asker | None) -> None:
        """Ask whether a person has to approve, and write down that a sum begins; before any record is read."""
        name = detector_name(step)
        before = self._jobs.get(step.run)
        try:
            self._jobs.admit(
                step,
                asker=asker,
                columns=columns_of(step, self._own.schema),
                rule=self._own.policy.approval_of(name),
                approvers=self._own.policy.approvers,
                hours=self._own.policy.approval_hours,
                now=self._own.now(),
            )
        except PendingError:
            job = self._jobs.get(step.run)
            if before is None and job is not None:
                self._own.note("waits", job=job.id, digest=job.digest, rule=job.rule, asker=job.asker, detector=name)
            raise
        self._own.note(
            "began",
            release=step.release_id,
            purpose=step.purpose,
            part=step.part,
            detector=name,
            digest=step_digest(step),
            asker=asker.name if asker is not None else None,
            privacy="exact" if step.privacy is None else msgspec.to_builtins(step.privacy),
            participants=len(step.participants),
        )
