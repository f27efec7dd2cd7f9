"""What a party answers in a sum: each message checked, computed once, and kept before it leaves."""

from __future__ import annotations

from typing import Any

from blindsight.detectors import Query, UpdateQuery
from blindsight.errors import ReleaseError, StoreError, WireError
from blindsight.securesum import Phase, PhasedClient, SumSpec, load_client, make_client

from ._exact import ExactTotals
from ._gate import Gate
from ._heads import Heads
from ._jobs import Jobs
from ._own import Own
from ._received import keep_survivors
from ._releases import Releases
from ._rules import Asker
from ._steps import is_masked, spec_of
from ._sums import Sums
from ._wire import Begin, Continue, Ledgers, Reply, Step

__all__ = ["Answers"]

MAX_OPEN_SUMS = 8
"""Sums kept in memory; a coordinator that begins more makes the party read its disk, not fill its memory."""


class Answers:
    """The party's side of the protocol, from a sum's first message to its last.

    Parameters
    ----------
    own : Own
    gate : Gate
    releases : Releases
    sums : Sums
    heads : Heads
    jobs : Jobs
    exact : ExactTotals
    """

    def __init__(
        self,
        own: Own,
        *,
        gate: Gate,
        releases: Releases,
        sums: Sums,
        heads: Heads,
        jobs: Jobs,
        exact: ExactTotals,
    ) -> None:
        self._own, self._gate, self._releases = own, gate, releases
        self._sums, self._heads, self._jobs, self._exact = sums, heads, jobs, exact
        self._clients: dict[str, tuple[Step, Query, PhasedClient[Any]]] = {}

    def begin(self, message: Begin, asker: Asker | None) -> Reply:
        """Begin a sum, or answer again what began it; an update in the clear is all in this one answer."""
        step = message.step
        self._sums.end_old(self._own.now())
        self._check_open(step.release_id)
        begun = self._sums.begun(step)
        if not begun and self._own.policy.hours is not None:
            self._own.policy.hours.check(self._own.now())
        privacy = self._gate.check(step, begun=begun)
        self._sums.check_bound(step)
        known = self._clients.get(step.release_id)
        # a round's model is read once, not once a message; what the policy says is asked every time
        query = known[1] if known is not None and known[0] == step else self._gate.query(step)
        self._gate.check_query(step, query, privacy)
        if not begun:
            self._heads.check_own()
            # once it has begun, a release goes on even where its own charge has taken the rest of the budget
            self._gate.check_budget(step, query)
            self._gate.admit(step, asker)
            self._releases.check_first_rows(step)
            self._heads.begin(step.release_id)  # once, before this sum's keys are known to anybody
        else:
            self._jobs.check(self._jobs.get(step.run))
        # a step that is new shows that the run's earlier totals are written down
        over = self._jobs.of(asker, message.ended if begun else [step.run, *message.ended])
        with self._own.store.transaction():
            self._sums.begin(step, self._own.now())
            self._sums.end_runs(over, but=step.release_id)
        self.forget_ended()
        if not is_masked(query):
            return self._reply(step, self._releases.vector(step, query).astype("<i8").tobytes())
        client = self._client(step, spec_of(step, query))
        body = client.advertise()
        self._persist(step.release_id, client)
        self._remember(step, query, client)
        return Reply(body, ledgers=Ledgers(recalled=self._heads.kept()) if message.recall else None)

    def proceed(self, message: Continue) -> Reply:
        """The next answer of a sum that has begun, or an earlier one again."""
        step, query, client = self._resume(message.release_id)
        self._jobs.check(self._jobs.get(step.run))
        unsigned = not client.survivors
        told = self._ledgers_before(message, step, client)
        try:
            shares = client.phase is Phase.SHARE
            body = client.handle(message.body, lambda: self._releases.vector(step, query))
            with self._own.store.transaction():
                if shares:
                    self._heads.state(step.release_id, message.body)
                if client.survivors and step.privacy is None:
                    self._exact.sign(step.release_id, client.survivors)
                if unsigned and client.survivors:
                    self._heads.check_survivors(step.release_id, client.survivors)
                    keep_survivors(self._own.store, step.release_id, client.survivors)
                    self._heads.done(step.release_id)
                self._persist(step.release_id, client)
            if unsigned and client.survivors:
                self._own.note("signed", release=step.release_id, survivors=client.survivors)
        except BaseException:
            # its reply was never given: back to what is on disk, also where somebody pressed Ctrl-C
            self._clients.pop(step.release_id, None)
            raise
        if client.phase is Phase.DONE:
            self._clients.pop(step.release_id, None)
        statement = self._heads.answers(step.release_id, message.body)
        if statement is not None:
            told = Ledgers(heads={self._own.name: statement})
        return self._reply(step, body, told) if isinstance(query, UpdateQuery) else Reply(body, ledgers=told)

    def forget_ended(self) -> None:
        """Drop from memory what is gone from the disk."""
        for release_id in [release_id for release_id in self._clients if self._sums.over(release_id) is not None]:
            del self._clients[release_id]

    def _check_open(self, release_id: str) -> None:
        """Refuse a sum that is over, and say why where a person ended it."""
        run = self._sums.over(release_id)
        if run is not None:
            self._clients.pop(release_id, None)
            self._jobs.check(self._jobs.get(run))
            self._sums.check_open(release_id)

    def _ledgers_before(self, message: Continue, step: Step, client: PhasedClient[Any]) -> Ledgers | None:
        """Hold what came of ledgers against what is known of them, before anything is charged; what to answer."""
        told = message.ledgers or Ledgers()
        if told.recalled:
            self._heads.remind(told.recalled)
            self._heads.check_own()
        if told.signatures:
            self._heads.cosigned(step.release_id, step.participants, told.signatures)
        if told.heads:
            return Ledgers(signatures=self._heads.witness(step.release_id, step.participants, told.heads))
        if client.phase is Phase.MASK and self._heads.answers(step.release_id, message.body) is None:
            raise WireError(
                "The request for the vector holds no heads of ledgers",
                rule="parties see each other's ledgers before they add to a sum",
                fix="check versions",
            )
        return None

    def _reply(self, step: Step, body: bytes, told: Ledgers | None = None) -> Reply:
        """A reply, with the notice that was committed with this round's vector; without privacy alone."""
        return Reply(body, self._sums.notice(step.release_id) if step.privacy is None else "", told)

    def _resume(self, release_id: str) -> tuple[Step, Query, PhasedClient[Any]]:
        self._check_open(release_id)
        if release_id in self._clients:
            step, query, client = self._clients[release_id]
            self._gate.check_query(step, query, self._gate.check(step, begun=True))
            return step, query, client
        step = self._sums.step(release_id)
        privacy = self._gate.check(step, begun=True)
        query = self._gate.query(step)
        self._gate.check_query(step, query, privacy)
        if not is_masked(query):
            raise ReleaseError(f"Release {release_id} has no further message", rule="an update in the clear is one")
        client = self._client(step, spec_of(step, query))
        self._remember(step, query, client)
        return step, query, client

    def _remember(self, step: Step, query: Query, client: PhasedClient[Any]) -> None:
        """Keep a few sums open in memory; the others are on disk."""
        self._clients[step.release_id] = (step, query, client)
        while len(self._clients) > MAX_OPEN_SUMS:
            self._clients.pop(next(iter(self._clients)))

    def _client(self, step: Step, spec: SumSpec) -> PhasedClient[Any]:
        state = self._sums.state(step.release_id)
        if state is not None:
            return load_client(state, spec=spec, name=self._own.name, signer=self._own.identity)
        return make_client(spec, self._own.name, self._own.identity)

    def _persist(self, release_id: str, client: PhasedClient[Any]) -> None:
        try:
            self._sums.keep(release_id, client.dump())
        except (ReleaseError, StoreError):
            # what this process remembers is now ahead of the disk: forget it, so that the next request starts
            # again from what was committed, or is told that another process has ended the sum
            self._clients.pop(release_id, None)
            raise
