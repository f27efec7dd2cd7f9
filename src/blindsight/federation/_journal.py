"""What a coordinator must remember to be killed at any point and go on with the same runs.

A run is a function of its totals: whoever has them computes the same model again without asking anybody. So the journal
keeps, of every run, what was asked for; of every sum that is done, its total; and of a sum under way, the coordinator's
state after each phase, written *before* the next phase's requests leave. Asked the same again, parties answer with the
same bytes and charge nothing (``securesum.SumClient``): a release has one survivor set and one charge however often its
coordinator dies.

A run has one owner: the process that began it, or that resumed it last. A coordinator that was killed has left no lock
to break; one that was only slow finds at its next write that the run is not its own any more, and leaves it as it is.
Two that both went on with a run would end each other's sums at the parties.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import numpy as np

from blindsight.detectors import Total
from blindsight.errors import FormatError, ParameterError, ReleaseError, StoreError
from blindsight.store import Store

from ._run import StepRecord

__all__ = ["Journal", "RunHeader", "SumJournal"]

Outcome = Literal["open", "done", "failed"]


class RunHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run, as it was asked for, and what became of it.

    Parameters
    ----------
    run, kind : str
    federation : bytes
        SHA-256 of name, participants, threshold and schema: a run goes on in the same federation only.
    detector : dict, optional
        Description of the detector to fit.
    privacy : bytes, optional
        JSON of the privacy asked for; None asks for exact sums.
    model : bytes, optional
        Model file of the model to evaluate, until the run has ended.
    count : int, optional
        Features to select.
    started_utc, ended_utc : str
    outcome : {"open", "done", "failed"}
    error : str
        Why it failed.
    record : dict, optional
        The run's record, once it has ended.
    """

    run: str
    kind: str
    federation: bytes
    detector: dict[str, Any] | None = None
    privacy: bytes | None = None
    model: bytes | None = None
    count: int | None = None
    started_utc: str = ""
    ended_utc: str = ""
    outcome: Outcome = "open"
    error: str = ""
    record: dict[str, Any] | None = None


class _Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: tuple[int, ...]
    values: bytes
    noise_variance: float
    parties: tuple[str, ...]
    record: dict[str, Any]


class _Sum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sum: the digest of the request that it is bound to, whom it was put to, where it is."""

    request: bytes
    asked: tuple[str, ...] = ()
    state: bytes = b""
    done: _Done | None = None
    ledgers: bytes = b""


_header_decoder = msgspec.msgpack.Decoder(RunHeader)
_sum_decoder = msgspec.msgpack.Decoder(_Sum)


class SumJournal:
    """The journal's part of one sum; made by :meth:`Journal.sum`."""

    def __init__(self, journal: Journal, run: str, step: str, owner: bytes, kept: _Sum) -> None:
        self._journal, self._run, self._key, self._owner, self._kept = journal, run, f"{run}/{step}", owner, kept

    @property
    def asked(self) -> tuple[str, ...]:
        """Parties that were asked before this coordinator was killed."""
        return self._kept.asked

    @property
    def state(self) -> bytes:
        """The coordinator's state in a masked sum, as of the last phase that it closed; empty before the first."""
        return self._kept.state

    @property
    def ledgers(self) -> bytes:
        """What parties have told each other of their ledgers, as of the last phase that was closed."""
        return self._kept.ledgers

    @property
    def done(self) -> tuple[Total, StepRecord] | None:
        """Total and record, once it is open."""
        done = self._kept.done
        if done is None:
            return None
        values = np.frombuffer(done.values, dtype="<i8").astype(np.int64).reshape(done.shape)
        total = Total(values=values, noise_variance=done.noise_variance, parties=done.parties)
        return total, StepRecord(**done.record)

    def ask(self, asked: set[str]) -> None:
        """Remember whom the next requests go to; durable when this returns."""
        if set(self._kept.asked) != asked:
            self._write(asked=tuple(sorted(asked)))

    def keep(self, state: bytes, ledgers: bytes = b"") -> None:
        """Remember a closed phase; durable when this returns, and so before the next requests leave."""
        self._write(state=state, ledgers=ledgers)

    def finish(self, total: Total, record: StepRecord) -> None:
        """Remember the total; the state is not needed any more."""
        done = _Done(
            total.values.shape,
            np.ascontiguousarray(total.values, dtype="<i8").tobytes(),
            total.noise_variance,
            total.parties,
            json.loads(json.dumps(asdict(record))),
        )
        self._write(state=b"", ledgers=b"", done=done)

    def _write(self, **changes: Any) -> None:
        kept = msgspec.structs.replace(self._kept, **changes)
        with self._journal._owned(self._run, self._owner):
            self._journal._sums.put(self._key, msgspec.msgpack.encode(kept))
        self._kept = kept


class Journal:
    """Runs and sums of one coordinator, in its store.

    Parameters
    ----------
    store : Store
        The coordinator's. Whoever reads it learns every released total, as the coordinator does, and no more; seal it
        where the disk is not trusted with that.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs, self._sums = store.table("journal-runs"), store.table("journal-sums")
        self._exact, self._owners = store.table("journal-exact"), store.table("journal-owners")

    # -- runs

    def begin(self, header: RunHeader) -> bytes:
        """Write a run down before anybody is asked anything; return what shows that it is the caller's."""
        with self._store.transaction():
            self._runs.put_once(header.run, msgspec.msgpack.encode(msgspec.structs.replace(header, started_utc=_now())))
            return self._own(header.run)

    def claim(self, run: str) -> bytes:
        """Take a run over, from a process that is dead or slow; return what shows that it is the caller's.

        Raises
        ------
        ParameterError
            There is no such run, or it has ended.
        """
        with self._store.transaction():
            if (outcome := self.header(run).outcome) != "open":
                raise ParameterError(f"Run {run[:64]} has ended", got=outcome, fix="start a new run")
            return self._own(run)

    def _own(self, run: str) -> bytes:
        owner = secrets.token_bytes(16)
        self._owners.put(run, owner)
        return owner

    @contextmanager
    def _owned(self, run: str, owner: bytes) -> Iterator[None]:
        """A transaction in which the run is this owner's."""
        with self._store.transaction():
            if self._owners.get(run) != owner:
                raise StoreError(
                    f"Run {run} was taken over by another coordinator on this journal",
                    rule="a run goes on where it was resumed last; here it is neither ended nor gone on with",
                    fix="let the other coordinator go on; run one a journal",
                )
            yield

    def header(self, run: str) -> RunHeader:
        """Read what a run was asked for.

        Raises
        ------
        ParameterError
            There is no such run.
        """
        raw = self._runs.get(run)
        if raw is None:
            known = ", ".join(header.run for header in self.headers() if header.outcome == "open")
            raise ParameterError("The journal has no such run", got=run[:64], rule=f"unfinished: {known or 'none'}")
        try:
            return _header_decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FormatError(
                "The journal is of another version, or damaged", got=str(error)[:120], fix="finish its runs there"
            ) from error

    def headers(self) -> list[RunHeader]:
        """Every run, the oldest first."""
        return sorted((self.header(run) for run in self._runs.keys("")), key=lambda header: header.started_utc)

    def ended(self, federation: bytes, most: int) -> list[str]:
        """Runs of a federation that have ended and will not be gone on with, the newest first."""
        ended = (h for h in self.headers() if h.outcome != "open" and h.federation == federation)
        return [h.run for h in sorted(ended, key=lambda h: h.ended_utc, reverse=True)][:most]

    def end(self, run: str, owner: bytes, record: dict[str, Any], *, error: str = "") -> None:
        """Write down how a run ended, and let go of its totals, which have become what they were asked for or never
        will, and of the model that it was about: every run's header is read when another begins.

        Raises
        ------
        StoreError
            It is another process's by now.
        """
        header = self.header(run)
        outcome: Outcome = "failed" if error else "done"
        ended = msgspec.structs.replace(
            header, model=None, outcome=outcome, error=error[:2000], ended_utc=_now(), record=record
        )
        with self._owned(run, owner):
            self._runs.put(run, msgspec.msgpack.encode(ended))
            self._owners.delete(run)
            for key in self._sums.keys(f"{run}/"):
                self._sums.delete(key)

    # -- sums

    def sum(self, run: str, owner: bytes, step: str, request: bytes) -> SumJournal:
        """Bind a step of a run to its request, by its digest, or find what is known of it.

        Raises
        ------
        ReleaseError
            The step was put to the parties in another form: code, schema or options have changed since.
        StoreError
            The run is another process's by now. So this one asks the parties for no further step, which would end the
            other's sum.
        """
        key = f"{run}/{step}"
        with self._owned(run, owner):
            raw = self._sums.get(key)
            if raw is None:
                kept = _Sum(request)
                self._sums.put(key, msgspec.msgpack.encode(kept))
                return SumJournal(self, run, step, owner, kept)
        try:
            kept = _sum_decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FormatError("The journal is of another version, or damaged", got=str(error)[:120]) from error
        if kept.request != request:
            raise ReleaseError(
                f"Step {step} of run {run} was asked in another form before",
                rule="a run goes on with the request that the parties have seen",
                fix="go on with the version of Blindsight that began it, or start a new run, which is charged anew",
            )
        return SumJournal(self, run, step, owner, kept)

    # -- exact totals

    def exact_survivors(self, federation: bytes) -> frozenset[str] | None:
        """Parties that every exact total of a federation is over; None while there is none."""
        raw = self._exact.get(federation.hex())
        return None if raw is None else frozenset(msgspec.msgpack.decode(raw, type=list[str]))

    def keep_exact_survivors(self, federation: bytes, names: frozenset[str]) -> None:
        """Remember them."""
        self._exact.put(federation.hex(), msgspec.msgpack.encode(sorted(names)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
