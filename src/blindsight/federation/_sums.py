"""The sums that a party has begun: what each is bound to, its state while it may have to answer, and that it is over.

A state holds private keys, others' shares, the key that all parties of a BFV or Paillier sum hold, and every answer
that was given. Once a sum is over, a mark takes its place, in the transaction of whatever ended it.

*For privacy any moment is good.* Of a sum that is over nothing is answered, under its id, ever: no first message, no
vector, no second survivor set, no share of either kind, no total. The mark outlives restarts and is never taken away.

*For an honest coordinator it has to be one at which it cannot need an answer again.* A coordinator that was killed asks
the same again, from what it had written down. It writes down a phase before the next one's requests leave, and a total
before the run goes on. So the last answer itself ends nothing: a coordinator may be killed between getting it and
writing the total down, and would lose a run that everybody has paid for. What does end a sum:

* a later step of its run begins: the totals before it are written down, or there is no journal and nobody asks again;
* the model of its run is delivered: so are all totals of the run;
* its coordinator says with a later run that it has written down how this one ended (``Begin.ended``), also where it
  failed and where this party was never asked for its last answer. That another run begins says nothing by itself: a
  coordinator may leave a run, do another, and come back;
* a person here has refused the run, or its approval has expired: none of its messages is answered any more;
* :data:`OPEN_DAYS` have passed since it began. Nobody has said that this one is not needed; a coordinator that comes
  back later has to start a new run. A clock may jump, and what is over stays over: so the sum has to be seen to be
  old, and not younger at any look from then until :data:`SURE_DAYS` later.

No refusal of a message ends a sum, since an honest request may follow a bad one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import msgspec

from blindsight.errors import ReleaseError
from blindsight.store import Store

from ._heads import let_go
from ._wire import Step

__all__ = ["OPEN_DAYS", "Sums"]

OPEN_DAYS = 30
"""How long a sum that nobody ends may be gone on with."""
SURE_DAYS = 1
"""How long it has to have been seen to be that old: a clock that is wrong for less than this ends nothing."""
_KEPT = "/threshold"
"""The step of a fit against which a delivered model is held, whenever it comes: see ``_received``."""


class _Opened(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run: str
    time: float
    old: float | None = None
    """When it was first seen to be old."""


_opened = msgspec.msgpack.Decoder(_Opened)
_steps = msgspec.msgpack.Decoder(Step)


class Sums:
    """What a party keeps of its sums, in its store.

    Parameters
    ----------
    store : Store

    Security
    --------
    States are secret: the store is sealed where the party's folder is. Deleting one frees its place in the file, and
    SQLite writes over it when it needs the place.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs, self._steps, self._states = (store.table(name) for name in ("runs", "steps", "clients"))
        self._opened, self._over, self._notices = (
            store.table(name) for name in ("sums.opened", "sums.over", "notices")
        )

    # -- what a sum is bound to

    def begun(self, step: Step) -> bool:
        """Whether this very step has begun here."""
        return self._steps.get(step.release_id) == _encoded(step)

    def check_bound(self, step: Step) -> None:
        """Hold a release to its first request, and a run to the detector and the privacy of its first step.

        What a party keeps from round to round (noise, tensors, control variates) was made under these; another round
        of the run under other ones would be charged for noise that it does not have.

        Raises
        ------
        ReleaseError
        """
        if self._steps.get(step.release_id) not in (None, _encoded(step)):
            raise ReleaseError(
                f"Release {step.release_id} is already bound to another request",
                rule="a release id is used once",
                fix="start a new run: a new release, freshly charged",
            )
        if self._runs.get(step.run) not in (None, _terms_digest(step)):
            raise ReleaseError(
                f"Run {step.run} is already bound to another request",
                rule="one run, one detector and one privacy",
                fix="start a new run",
            )

    def begin(self, step: Step, now: datetime) -> None:
        """Bind release and run to this step; to be called inside a transaction, and without effect where they are.

        Raises
        ------
        ReleaseError
            Another request has come first, or the sum is over.
        """
        self.check_open(step.release_id)
        self._runs.put_once(step.run, _terms_digest(step))
        self._steps.put_once(step.release_id, _encoded(step))
        if self._opened.get(step.release_id) is None:
            self._opened.put(step.release_id, msgspec.msgpack.encode(_Opened(step.run, now.timestamp())))

    def step(self, release: str) -> Step:
        """The step that a release is bound to, while it is open.

        Raises
        ------
        ReleaseError
            It was never begun here, or is over.
        """
        self.check_open(release)
        encoded = self._steps.get(release)
        if encoded is None:
            raise ReleaseError(f"Release {release} was never begun here", fix="start a new run")
        return _steps.decode(encoded)

    # -- while it is open

    def state(self, release: str) -> bytes | None:
        """The protocol's state as of the last answer; None before the first."""
        return self._states.get(release)

    def keep(self, release: str, state: bytes) -> None:
        """Keep the state, before the answer leaves.

        Raises
        ------
        ReleaseError
            Another process has ended the sum meanwhile: the answer must not leave.
        """
        with self._store.transaction():
            self.check_open(release)
            self._states.put(release, state)

    def notice(self, release: str) -> str:
        """Why this party added nothing to a round; empty where it did."""
        stored = self._notices.get(release)
        return stored.decode() if stored else ""

    def keep_notice(self, release: str, notice: str) -> None:
        """Keep it with the round's vector: it goes with the answer, also where that is given again."""
        self._notices.put(release, notice.encode())

    # -- and once it is over

    def over(self, release: str) -> str | None:
        """The run of a sum of which nothing is answered any more; None of any other."""
        run = self._over.get(release)
        return None if run is None else run.decode()

    def check_open(self, release: str) -> None:
        """Refuse a sum that is over.

        Raises
        ------
        ReleaseError
        """
        if self.over(release) is not None:
            raise ReleaseError(
                f"Release {release} is over at this party",
                rule="once its run has gone on or ended, nothing of a sum is answered again: its keys are forgotten",
                fix="start a new run: a new release, freshly charged",
            )

    def end_runs(self, runs: Iterable[str], *, but: str | None = None) -> None:
        """End all sums of these runs except one, once and for all."""
        ended = frozenset(runs)
        with self._store.transaction():
            for release, opened in self._all_opened():
                if opened.run in ended and release != but:
                    self._end(release, opened.run)

    def end_old(self, now: datetime) -> None:
        """End the sums that began more than :data:`OPEN_DAYS` ago, and of which that was seen :data:`SURE_DAYS` ago."""
        today = now.timestamp()
        with self._store.transaction():
            for release, opened in self._all_opened():
                old = None
                if today - opened.time > OPEN_DAYS * 86_400:
                    old = today if opened.old is None else min(opened.old, today)
                if old is not None and today - old >= SURE_DAYS * 86_400:
                    self._end(release, opened.run)
                elif old != opened.old:
                    self._opened.put(release, msgspec.msgpack.encode(msgspec.structs.replace(opened, old=old)))

    def _all_opened(self) -> list[tuple[str, _Opened]]:
        rows = [(release, self._opened.get(release)) for release in self._opened.keys("")]
        return [(release, _opened.decode(row)) for release, row in rows if row is not None]

    def _end(self, release: str, run: str) -> None:
        self._over.put(release, run.encode())
        for table in (self._opened, self._states, self._notices):
            table.delete(release)
        if not release.endswith(_KEPT):
            self._steps.delete(release)
        let_go(self._store, release)


def _encoded(step: Step) -> bytes:
    return msgspec.msgpack.encode(step)


def _terms_digest(step: Step) -> bytes:
    """What a run is held to."""
    return hashlib.sha256(msgspec.msgpack.encode((step.detector, step.privacy))).digest()
