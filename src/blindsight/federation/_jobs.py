"""Jobs of a party: what each run asks for, who must approve it, what became of it. In the party's store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from blindsight.errors import (
    AuthenticationError,
    ParameterError,
    PendingError,
    PolicyError,
    ReleaseError,
)
from blindsight.keys import Identity, PublicIdentity
from blindsight.store import Store

from ._rules import Approval, Asker
from ._steps import step_digest
from ._sums import Sums
from ._wire import Step, Terms

__all__ = ["Decision", "Job", "Jobs"]

MAX_WAITING = 200
"""Jobs that may wait at a time: whoever asks more often fills no disk."""
EYES: dict[Approval, int] = {"automatic": 0, "by-hand": 1, "four-eyes": 2}
CONTEXT = b"blindsight job decision v1"


class _Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an approver signs."""

    party: str
    job: str
    digest: str
    decision: Literal["approve", "refuse"]
    approver: str
    note: Annotated[str, msgspec.Meta(max_length=500)]
    time: float
    expires: float

    def to_bytes(self) -> bytes:
        return CONTEXT + b"|" + msgspec.json.encode(self, order="sorted")


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One approver's signed decision on exactly one job."""

    said: _Said
    public_key: str
    signature: str

    def counts(self, job: Job, party: str, approvers: Mapping[str, str], now: float | None) -> bool:
        """Whether it is an approval of this job by somebody who may approve now.

        Parameters
        ----------
        job : Job
        party : str
        approvers : mapping of name to public key
        now : float or None
            None: it has been used already, and does not expire any more.
        """
        said = self.said
        if (
            said.decision != "approve"
            or (said.party, said.job, said.digest) != (party, job.id, job.digest)
            or approvers.get(said.approver, approvers.get("")) != self.public_key
            or (now is not None and now >= said.expires)
        ):
            return False
        try:
            PublicIdentity(bytes.fromhex(self.public_key)).verify(bytes.fromhex(self.signature), said.to_bytes())
        except (AuthenticationError, ParameterError, ValueError):
            return False
        return True


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as its first step asked for it.

    Attributes
    ----------
    id : str
        The run's.
    digest : str
        SHA-256 over everything that the first step says, and who asked: what a decision is bound to.
    state : {"waits", "running", "done", "refused", "expired"}
    rule : {"automatic", "by-hand", "four-eyes"}
        Of the policy, when it was asked for.
    released : int
        Sums that this party's vector went into.
    """

    id: str
    digest: str
    federation: str
    asker: str
    purpose: str
    detector: dict[str, Any] | None
    privacy: Terms | None
    participants: list[str]
    threshold: int
    columns: list[str]
    terms: str
    rule: Approval
    state: Literal["waits", "running", "done", "refused", "expired"]
    created: float
    expires: float
    decisions: list[Decision] = []
    released: int = 0

    @property
    def created_utc(self) -> str:
        """When it was asked for."""
        return datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Job)


class Jobs:
    """The jobs of one party; the party's process and ``blindsight jobs`` share them.

    Parameters
    ----------
    store : Store
    party : str
    own_key : str
        The party's own Ed25519 public key, hexadecimal: the approver where the policy names none.
    """

    def __init__(self, store: Store, party: str, own_key: str) -> None:
        self._store, self._party, self._own_key = store, party, own_key
        self._table = store.table("jobs")
        self._waiting = store.table("jobs.waiting")
        self._parts = store.table("jobs.parts")
        self._sums = Sums(store)

    def get(self, job: str) -> Job | None:
        """Return a job."""
        stored = self._table.get(job)
        return None if stored is None else _decoder.decode(stored)

    def all(self) -> list[Job]:
        """Return every job, oldest first."""
        found = [job for name in self._table.keys("") if (job := self.get(name)) is not None]
        return sorted(found, key=lambda job: job.created)

    def of(self, asker: Asker | None, runs: Iterable[str]) -> list[str]:
        """Which of these runs this asker asked for: what is said of another's is passed over."""
        known = ((run, self.get(run)) for run in runs)
        return [run for run, job in known if job is not None and job.asker == _who(asker)]

    # -- the party's process

    def admit(
        self,
        step: Step,
        *,
        asker: Asker | None,
        columns: tuple[str, ...],
        rule: Approval,
        approvers: Mapping[str, str],
        hours: float,
        now: datetime,
    ) -> tuple[Job, bool]:
        """Let a step begin if nobody has to approve its run, or enough have; return the job, and whether it is new.

        Raises
        ------
        PendingError
            Somebody has yet to approve. The job is in the store.
        PolicyError
            It was refused, has expired, or too many wait.
        ReleaseError
            The step is not of the job that was approved, or its sum was released under this approval before.
        """
        with self._store.transaction():
            job = self.get(step.run)
            fresh = job is None
            if job is None:
                job = self._new(step, asker, columns, rule, hours, now)
                if rule != "automatic":
                    self._check_room()
            elif job.state in ("waits", "running") and EYES[rule] > 0:
                job = self._counted(job, step, asker, rule, approvers, hours, now)
            if job.state == "running" and EYES[rule] > 0:
                self._use(step)
            self._keep(job)
        if job.state == "done" and EYES[rule] > 0:
            raise ReleaseError(
                f"Job {job.id} is done",
                rule="an approval is used once",
                fix="start a new run: a new job, approved anew",
            )
        self.check(job)
        if job.state == "waits":
            raise PendingError(
                f"Job {job.id} waits for approval at {self._party}",
                got=f"{self._count(job, approvers, now.timestamp())} of {EYES[rule]} approvals",
                rule=f"approval of {'a description' if job.detector is None else job.detector.get('name')}: {rule}",
                fix=f"ask again; there: blindsight jobs approve {job.id}",
            )
        return job, fresh

    def check(self, job: Job | None) -> None:
        """Raise PolicyError where a job may not go on."""
        if job is not None and job.state == "refused":
            note = next((one.said.note for one in reversed(job.decisions) if one.said.decision == "refuse"), "")
            raise PolicyError(
                f"Job {job.id} was refused by a person at {self._party}",
                got=note or None,
                fix="talk to them; a new run is a new job",
            )
        if job is not None and job.state == "expired":
            raise PolicyError(
                f"Job {job.id} has expired at {self._party} before it was approved",
                rule="approval_hours in the policy",
                fix="start a new run when somebody there is ready to look at it",
            )

    def released(self, step: Step, *, last: bool) -> None:
        """Count a sum that this party's vector went into."""
        with self._store.transaction():
            job = self.get(step.run)
            if job is not None:
                state = "done" if last and job.state == "running" else job.state
                self._keep(msgspec.structs.replace(job, released=job.released + 1, state=state))

    # -- a person

    def decide(
        self,
        job_id: str,
        decision: Literal["approve", "refuse"],
        *,
        approver: str,
        identity: Identity,
        approvers: Mapping[str, str],
        note: str = "",
        hours: float,
        now: datetime,
    ) -> Job:
        """Sign a decision and keep it; return the job as it stands then.

        Parameters
        ----------
        job_id : str
        decision : {"approve", "refuse"}
            A job that runs can be refused as well: its next message is.
        approver : str
        identity : Identity
            Whose key the policy names for this approver; the party's own where it names none.
        approvers : mapping of name to public key
        note : str
            Told to the coordinator with a refusal.
        hours : float
            How long an approval is good before it is used.
        now : datetime

        Raises
        ------
        ParameterError
            There is no such job, or it no longer waits.
        AuthenticationError
            The key is not this approver's, or the approver is not named in the policy.
        """
        key = identity.public.raw.hex()
        allowed = dict(approvers) or {"": self._own_key}
        if allowed.get(approver, allowed.get("")) != key:
            raise AuthenticationError(
                f"'{approver[:64]}' may not decide with this key",
                got=identity.public.fingerprint,
                rule="approvers in the policy: " + (", ".join(approvers) or "none, hence the party's own identity"),
                fix="give --as and --key of one of them, or have the data owner add the line of 'blindsight jobs key'",
            )
        with self._store.transaction():
            job = self.get(job_id)
            if job is None:
                raise ParameterError(f"There is no job '{job_id[:120]}' here", fix="blindsight jobs list")
            if now.timestamp() >= job.expires and job.state == "waits":
                job = self._keep(msgspec.structs.replace(job, state="expired"))
            elif job.state in (("waits",) if decision == "approve" else ("waits", "running")):
                said = _Said(
                    party=self._party,
                    job=job.id,
                    digest=job.digest,
                    decision=decision,
                    approver=approver,
                    note=note[:500],
                    time=now.timestamp(),
                    expires=now.timestamp() + hours * 3600,
                )
                signed = Decision(said=said, public_key=key, signature=identity.sign(said.to_bytes()).hex())
                others = [one for one in job.decisions if one.public_key != key]  # a later word counts
                state = "refused" if decision == "refuse" else job.state
                return self._keep(msgspec.structs.replace(job, decisions=[*others, signed], state=state))
        raise ParameterError(
            f"Job {job.id} no longer waits", got=job.state, rule="a decision is made once, while the job waits"
        )

    # -- inside

    def _new(
        self,
        step: Step,
        asker: Asker | None,
        columns: tuple[str, ...],
        rule: Approval,
        hours: float,
        now: datetime,
    ) -> Job:
        who = _who(asker)
        terms = _terms_of(step, who)
        return Job(
            id=step.run,
            digest=_digest_of(terms, step),
            federation=step.federation,
            asker=who,
            purpose="fit" if step.purpose == "threshold" else step.purpose,
            detector=step.detector,
            privacy=step.privacy,
            participants=[name for name, _ in step.participants],
            threshold=step.threshold,
            columns=list(columns),
            terms=terms,
            rule=rule,
            state="running" if rule == "automatic" else "waits",
            created=now.timestamp(),
            expires=now.timestamp() + hours * 3600,
        )

    def _counted(
        self,
        job: Job,
        step: Step,
        asker: Asker | None,
        rule: Approval,
        approvers: Mapping[str, str],
        hours: float,
        now: datetime,
    ) -> Job:
        """The job as its approvals make it; under a policy that was tightened meanwhile it may wait again."""
        if job.terms != _terms_of(step, job.asker if asker is None else asker.name):
            raise ReleaseError(
                f"Job {job.id} is bound to another request",
                rule="an approval is for exactly what was shown",
                fix="start a new run: a new job, approved anew",
            )
        used = job.state == "running"
        digest = _digest_of(job.terms, step)
        if not used and job.digest != digest:
            raise ReleaseError(
                f"Job {job.id} waits for another first step", rule="an approval is for exactly what was shown"
            )
        if self._count(job, approvers, None if used else now.timestamp()) >= EYES[rule]:
            return msgspec.structs.replace(job, state="running", rule=rule)
        if used:  # the policy asks for more than it did when this began: what is approved now is this step
            expires = now.timestamp() + hours * 3600
            return msgspec.structs.replace(
                job, state="waits", rule=rule, digest=digest, decisions=[], created=now.timestamp(), expires=expires
            )
        return msgspec.structs.replace(job, state="expired" if now.timestamp() >= job.expires else "waits", rule=rule)

    def _count(self, job: Job, approvers: Mapping[str, str], now: float | None) -> int:
        """Different persons, by their keys, who have approved."""
        allowed = dict(approvers) or {"": self._own_key}
        return len({one.public_key for one in job.decisions if one.counts(job, self._party, allowed, now)})

    def _use(self, step: Step) -> None:
        """One approval lets each sum of the run through once; the same sum under another name is a second release."""
        try:
            self._parts.put_once(
                f"{step.run}|{step.purpose}|{step.part}", f"{step.release_id}|{step_digest(step)}".encode()
            )
        except ReleaseError as error:
            raise ReleaseError(
                f"'{step.part}' of job {step.run} was released under this approval before",
                rule="an approval is used once",
                fix="start a new run: a new job, approved anew",
            ) from error

    def _keep(self, job: Job) -> Job:
        self._table.put(job.id, _encoder.encode(job))
        if job.state in ("refused", "expired"):
            self._sums.end_runs([job.id])
        if job.state == "waits":
            self._waiting.put(job.id, b"")
        else:
            self._waiting.delete(job.id)
        return job

    def _check_room(self) -> None:
        if len(self._waiting.keys(most=MAX_WAITING)) >= MAX_WAITING:
            raise PolicyError(
                "Too many jobs wait for approval here",
                got=str(MAX_WAITING),
                fix="have them decided: blindsight jobs list",
            )


def _who(asker: Asker | None) -> str:
    return asker.name if asker is not None else "whoever the channel admits"


def _digest_of(terms: str, step: Step) -> str:
    return hashlib.sha256(f"{terms}|{step_digest(step)}".encode()).hexdigest()


def _terms_of(step: Step, asker: str) -> str:
    """What all steps of a run have in common, and who asks; hexadecimal SHA-256."""
    purpose = "fit" if step.purpose == "threshold" else step.purpose
    common = (step.federation, step.run, purpose, step.dataset, step.participants, step.threshold)
    more = (step.schema_digest, step.detector, step.privacy, asker)
    return hashlib.sha256(msgspec.msgpack.encode((common, more))).hexdigest()
