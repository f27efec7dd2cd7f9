"""The ledger: what was spent on one data set, charged before any noise is drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, get_args

import msgspec

from blindsight.errors import BudgetError, FormatError, ParameterError, ReleaseError, StoreError
from blindsight.store import Store

from ._accountant import MIN_EPSILON, epsilon_of, rho_total
from ._chain import GENESIS, Line, line_hash, now_utc, walk
from ._event import Event, Unit

__all__ = ["Budget", "Ledger", "LedgerEntry", "Position"]

MAX_RELEASE_ID_CHARS = 200
WRITTEN_OFF = "~written-off~"
"""Begins the id of no release: a step's id has no tilde."""
WRITTEN_OFF_VARIANCE = 2.0**40
"""So much noise costs next to nothing: what a line of this kind charges is in its rho alone."""


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a ledger has come.

    Attributes
    ----------
    written_off : int
        Times that an old copy was put back and all that was left of the budget written off for it.
    count : int
        Lines.
    head : str
        Hash of the last line, and through it of all before.
    """

    written_off: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    count: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    head: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent on one data set in its life.

    Parameters
    ----------
    epsilon, delta : float
        As in :class:`DifferentialPrivacy`.
    unit : {"record", "person", "party"}
        Only events of the same unit are admitted: their costs do not add up with those of another.
    """

    epsilon: float
    delta: float
    unit: Unit = "record"

    def __post_init__(self) -> None:
        rho_total(self.epsilon, self.delta)  # checks both
        if self.unit not in get_args(Unit):
            raise ParameterError(
                "The unit of a budget is unknown", got=repr(self.unit)[:80], rule=", ".join(get_args(Unit))
            )


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One charged release.

    Attributes
    ----------
    release_id : str
    event : Event
    sequence : int
        Line of the charge in the ledger.
    time_utc : str
    output_sha256 : str or None
        Digest of the noisy output; None where it was charged and never stored. It is spent all the same.
    """

    release_id: str
    event: Event
    sequence: int
    time_utc: str
    output_sha256: str | None


class Ledger:
    """Append-only account of the releases made from one data set.

    The order is fixed: :meth:`reserve` commits the charge; then noise is drawn; :meth:`record_output` stores
    the noisy output; then it may leave. After a crash at any point the same calls with the same arguments
    continue: a charge is made once, a stored output is returned instead of a second draw, and nothing is ever
    refunded.

    Parameters
    ----------
    store : Store
        Sealed or not; several processes may share its file.
    budget : Budget or None
        None: everything is recorded and nothing refused here.
    name : str
        Which ledger of the store; one per data set.

    Security
    --------
    Lines form a hash chain, so that no line can be changed, removed from the middle or inserted unnoticed.
    Lines cut off the end, or an old copy of the file put back, are noticed by whoever keeps :meth:`head`:
    parties countersign it and pass what they saw to :meth:`verify`.
    """

    def __init__(self, store: Store, budget: Budget | None = None, *, name: str = "ledger") -> None:
        self._store = store
        self._budget = budget
        self._log = store.log(name)
        self._outputs = store.table(f"{name}.outputs")

    @property
    def budget(self) -> Budget | None:
        """What may be spent."""
        return self._budget

    def reserve(self, release_id: str, event: Event) -> LedgerEntry:
        """Charge a release; on disk when this returns. Noise may be drawn only afterwards.

        Parameters
        ----------
        release_id : str
            Names the release: run, step, survivor set and data version. At most 200 characters.
        event : Event

        Returns
        -------
        LedgerEntry
            The charge; the earlier one if the same release was charged before.

        Raises
        ------
        BudgetError
            The budget does not carry it; the message names the largest epsilon that it does. Nothing is
            charged.
        ReleaseError
            The id is bound to another event.
        StoreError
            The charge could not be written, or a transaction is open, so that it would not be on disk in
            time.
        FormatError
            The ledger is damaged.
        """
        _check_release_id(release_id)
        if self._store.in_transaction:
            raise StoreError(
                "A release cannot be charged inside an open transaction",
                rule="the charge is on disk before noise is drawn",
                fix="call reserve on its own",
            )
        with self._store.transaction():
            payloads = self._log.read()
            entries = _entries(walk(payloads))
            present = entries.get(release_id)
            if present is not None:
                if present.event != event:
                    raise ReleaseError(
                        f"Release {release_id!r} is already bound to another request",
                        got=_in_words(event),
                        rule=f"charged as {_in_words(present.event)}",
                        fix="use a new release id; it is charged anew",
                    )
                return present
            self._check_budget([entry.event for entry in entries.values()], event)
            line = self._append(payloads, "charge", release_id, event=event)
            return LedgerEntry(
                release_id=release_id,
                event=event,
                sequence=line.sequence,
                time_utc=line.time_utc,
                output_sha256=None,
            )

    def check(self, event: Event) -> None:
        """Raise BudgetError if the budget would not carry this event now; nothing is charged.

        For refusing a request before work begins; :meth:`reserve` checks again and is what counts.
        """
        self._check_budget([entry.event for entry in self.entries()], event)

    def record_output(self, release_id: str, output: bytes) -> None:
        """Store the noisy output of a charged release, so that a retry returns it instead of drawing again.

        Parameters
        ----------
        release_id : str
        output : bytes
            Kept in the store, sealed if the store is.

        Raises
        ------
        ReleaseError
            The release was not charged, or another output is stored under its id.
        StoreError
            It could not be written; it must not leave.
        """
        _check_release_id(release_id)
        digest = hashlib.sha256(output).hexdigest()
        with self._store.transaction():
            payloads = self._log.read()
            entry = _entries(walk(payloads)).get(release_id)
            if entry is None:
                raise ReleaseError(
                    f"Release {release_id!r} was never charged",
                    rule="charge, draw, store, publish",
                    fix="reserve first",
                )
            if entry.output_sha256 is None:
                self._outputs.put_once(release_id, output)
                self._append(payloads, "output", release_id, output_sha256=digest)
            elif entry.output_sha256 != digest:
                raise ReleaseError(
                    f"Release {release_id!r} already has another output",
                    rule="one release, one output: two noisy copies could be averaged",
                    fix="publish the stored one: ledger.output(release_id)",
                )

    def output(self, release_id: str) -> bytes | None:
        """Return the stored output of a release, or None.

        Raises
        ------
        FormatError
            What is stored is not what the chain says was stored.
        """
        entry = _entries(walk(self._log.read())).get(release_id)
        if entry is None or entry.output_sha256 is None:
            return None
        return self._checked_output(entry)

    def entries(self) -> list[LedgerEntry]:
        """Return all charged releases in order."""
        return list(_entries(walk(self._log.read())).values())

    def spent(self, delta: float | None = None) -> float:
        """Epsilon of everything charged, at ``delta`` (the budget's if not given). Exact sums are not in it.

        Raises
        ------
        ParameterError
            Neither a delta nor a budget is given, or units are mixed.
        """
        if delta is None:
            if self._budget is None:
                raise ParameterError("An epsilon needs a delta", got="no delta and no budget")
            delta = self._budget.delta
        events = [entry.event for entry in self.entries()]
        units = {event.unit for event in events if not event.exact}
        if len(units) > 1:
            raise ParameterError(
                "Releases per record, per person and per party do not add up to one epsilon",
                got=", ".join(sorted(units)),
            )
        return epsilon_of(events, delta)

    def remaining(self) -> float:
        """Largest epsilon, at the budget's delta, of one more release; ``inf`` without a budget."""
        if self._budget is None:
            return float("inf")
        return _affordable(self._budget, [entry.event for entry in self.entries()])

    def head(self) -> str:
        """Hash of the last line, hexadecimal; what parties countersign."""
        payloads = self._log.read()
        walk(payloads)
        return line_hash(payloads[-1]) if payloads else GENESIS

    def position(self) -> Position:
        """How far this ledger has come; what parties sign and countersign."""
        payloads = self._log.read()
        entries = _entries(walk(payloads))
        return Position(
            written_off=sum(release.startswith(WRITTEN_OFF) for release in entries),
            count=len(payloads),
            head=line_hash(payloads[-1]) if payloads else GENESIS,
        )

    def lines(self) -> list[bytes]:
        """Every line in its canonical form, once the chain holds."""
        payloads = self._log.read()
        walk(payloads)
        return payloads

    def head_at(self, count: int) -> str | None:
        """Hash of the line that was the last one when there were ``count``; None if there were never so many."""
        payloads = self._log.read()
        if count > len(payloads):
            return None
        return line_hash(payloads[count - 1]) if count else GENESIS

    def write_off(self, what: str) -> float:
        """Charge all that is left of the budget, for charges that are lost with a newer copy; return that epsilon.

        What was lost cannot be known, so that nothing less is safe: whatever it was, it was within the budget. A line
        is written even where nothing is left.

        Parameters
        ----------
        what : str
            For the reader: why.

        Raises
        ------
        ParameterError
            There is no budget.
        """
        budget = self._budget
        if budget is None:
            raise ParameterError("Without a budget there is nothing to write off")
        with self._store.transaction():
            payloads = self._log.read()
            entries = _entries(walk(payloads))
            left = _affordable(budget, [entry.event for entry in entries.values()])
            number = sum(release.startswith(WRITTEN_OFF) for release in entries) + 1
            event = Event(
                query=what,
                purpose="fit",
                mechanism="local-discrete-gaussian",
                unit=budget.unit,
                max_records_per_person=1 if budget.unit == "person" else None,
                neighbouring="add-or-remove-one",
                coordinates=1,
                threshold=3,
                colluders=0,
                sensitivity_l2=1.0,
                local_variance=WRITTEN_OFF_VARIANCE,
                grid=1.0,
                rho=max(rho_total(max(left, MIN_EPSILON), budget.delta), 1.0 / WRITTEN_OFF_VARIANCE),
                noise_source="secure",
                trust="nobody: charges that are lost with a newer copy, taken to be all that was left",
            )
            self._append(payloads, "charge", f"{WRITTEN_OFF}{number}", event=event)
        return left

    def verify(self, seen_head: str | None = None) -> int:
        """Check the whole chain and every stored output; return the number of lines.

        Parameters
        ----------
        seen_head : str, optional
            A head seen earlier. It must still be in the chain: otherwise the ledger was rolled back or
            rewritten.

        Raises
        ------
        FormatError
            A line or output was changed, is missing, or the ledger is older than ``seen_head``.
        """
        payloads = self._log.read()
        entries = _entries(walk(payloads))
        for entry in entries.values():
            if entry.output_sha256 is not None:
                self._checked_output(entry)
        stray = sorted(set(self._outputs.keys()) - {e.release_id for e in entries.values() if e.output_sha256})
        if stray:
            raise FormatError("An output is stored that the ledger does not know", got=repr(stray[0]))
        if seen_head is not None and seen_head not in {GENESIS, *map(line_hash, payloads)}:
            raise FormatError(
                "The ledger does not contain a head that was seen before",
                got=f"{len(payloads)} lines, without {seen_head[:16]}...",
                rule="a ledger only grows",
                fix="an old copy was put back: restore the newest one before anything is released",
            )
        return len(payloads)

    # -- private

    def _append(
        self,
        payloads: list[bytes],
        kind: str,
        release_id: str,
        *,
        event: Event | None = None,
        output_sha256: str | None = None,
    ) -> Line:
        line = Line(
            sequence=len(payloads),
            kind="charge" if kind == "charge" else "output",
            release_id=release_id,
            event=event,
            output_sha256=output_sha256,
            time_utc=now_utc(),
            previous=line_hash(payloads[-1]) if payloads else GENESIS,
        )
        self._log.append(line.to_json())
        return line

    def _check_budget(self, charged: list[Event], event: Event) -> None:
        budget = self._budget
        if budget is None or event.exact:
            return
        if event.unit != budget.unit:
            raise BudgetError(
                "A release protects another unit than the budget counts",
                got=f"unit {event.unit!r}",
                rule=f"unit {budget.unit!r}",
                fix=f"ask for DifferentialPrivacy(unit={budget.unit!r}, ...)",
            )
        total = epsilon_of([*charged, event], budget.delta)
        if total > budget.epsilon:
            raise BudgetError(
                f"The privacy budget does not carry {event.query!r}",
                got=f"epsilon {total:.4g} in all, {epsilon_of(charged, budget.delta):.4g} of it spent before",
                rule=f"{budget.epsilon:g} at delta {budget.delta:g} per {budget.unit}; nothing was charged",
                fix=f"the largest affordable epsilon is {_floor4(_affordable(budget, charged))}",
            )

    def _checked_output(self, entry: LedgerEntry) -> bytes:
        output = self._outputs.get(entry.release_id)
        if output is None or hashlib.sha256(output).hexdigest() != entry.output_sha256:
            raise FormatError(
                f"The stored output of release {entry.release_id!r} is not the one the ledger names",
                got="nothing" if output is None else "other bytes",
                fix="restore the store from a copy",
            )
        return output


def _entries(lines: list[Line]) -> dict[str, LedgerEntry]:
    """Charged releases by id, in order; FormatError where lines contradict each other."""
    entries: dict[str, LedgerEntry] = {}
    for line in lines:
        before = entries.get(line.release_id)
        if line.event is not None and before is None:
            entries[line.release_id] = LedgerEntry(
                release_id=line.release_id,
                event=line.event,
                sequence=line.sequence,
                time_utc=line.time_utc,
                output_sha256=None,
            )
        elif line.event is None and before is not None and before.output_sha256 is None:
            entries[line.release_id] = LedgerEntry(
                release_id=before.release_id,
                event=before.event,
                sequence=before.sequence,
                time_utc=before.time_utc,
                output_sha256=line.output_sha256,
            )
        else:
            raise FormatError(
                f"Ledger line {line.sequence} contradicts an earlier one",
                got=f"{line.kind} of {line.release_id!r}",
            )
    return entries


def _affordable(budget: Budget, charged: list[Event]) -> float:
    """Largest epsilon of one more release, from what is left of the budget; 0.0 when nothing is."""
    low, high = 0.0, budget.epsilon
    for _ in range(40):
        middle = 0.5 * (low + high)
        if middle < MIN_EPSILON or _carries(budget, charged, rho_total(middle, budget.delta)):
            low = middle
        else:
            high = middle
    return low if low >= MIN_EPSILON else 0.0


def _carries(budget: Budget, charged: list[Event], rho: float) -> bool:
    return epsilon_of(charged, budget.delta, rho_more=rho) <= budget.epsilon


def _in_words(event: Event) -> str:
    cost = f"{event.steps} steps" if event.sampled else f"rho {event.rho:.6g}"
    return f"{event.query}, {event.purpose}, {event.coordinates} coordinates, {cost}"


def _floor4(epsilon: float) -> str:
    return f"{int(epsilon * 1e4) / 1e4:g}"


def _check_release_id(release_id: str) -> None:
    if (
        not isinstance(release_id, str)
        or not 0 < len(release_id) <= MAX_RELEASE_ID_CHARS
        or not release_id.isprintable()
    ):
        raise ParameterError(
            "A release id is unusable",
            got=repr(release_id)[:80],
            rule=f"1 to {MAX_RELEASE_ID_CHARS} printable characters",
        )
