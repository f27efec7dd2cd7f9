"""Bits and rows released, counted for each owner and over all of them."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from blindsight.errors import BudgetError, ParameterError, StoreError

from ._engine import Priced

__all__ = ["BitBudget", "BitLedger", "KeyValue", "MemoryTable"]


class KeyValue(Protocol):
    """What is asked of a table: ``store.table(name)`` fits, and so does :class:`MemoryTable`."""

    def get(self, key: str) -> bytes | None:
        """Value of a key, or None."""

    def put(self, key: str, value: bytes) -> None:
        """Set a value; durable when this returns, or when the transaction does."""

    def delete(self, key: str) -> None:
        """Remove a value, if there is one."""

    def transaction(self) -> AbstractContextManager[None]:
        """All writes of the block or none, and no other writer, thread or process, between them."""


class MemoryTable:
    """A table that lives as long as the process, and is of no use in one that was forked off."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._values: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._undo: list[dict[str, bytes | None]] = []

    def get(self, key: str) -> bytes | None:
        """Value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Set a value."""
        with self._lock:
            self._remember(key)
            self._values[key] = bytes(value)

    def delete(self, key: str) -> None:
        """Remove a value, if there is one."""
        with self._lock:
            self._remember(key)
            self._values.pop(key, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block or none, and no other thread's between them.

        Raises
        ------
        StoreError
            In a forked process: it would spend again what its parent spends, budgets and masks of verdicts.
        """
        if self._process != os.getpid():
            raise StoreError(
                "A table in memory was copied by a fork",
                rule="each count and each mask is spent by one process",
                fix="give table=store.table(...), which processes share, or make the Scorer after the fork",
            )
        with self._lock:
            self._undo.append({})
            try:
                yield
            except BaseException:
                for key, value in self._undo[-1].items():
                    if value is None:
                        self._values.pop(key, None)
                    else:
                        self._values[key] = value
                raise
            finally:
                done = self._undo.pop()
                if self._undo:
                    self._undo[-1] = done | self._undo[-1]

    def _remember(self, key: str) -> None:
        if self._undo:
            self._undo[-1].setdefault(key, self._values.get(key))


@dataclass(frozen=True, kw_only=True)
class BitBudget:
    """How many bits of answers, and answers to how many rows, a model's holder is willing to release.

    Parameters
    ----------
    bits_per_owner : int, optional
        Limit for each key id. None: counted, not limited.
    bits_total : int, optional
        Limit over all key ids together. Anyone who may register may register again under a new key id, so without an
        allow-list (``Scorer(admit=...)``) or accounts this is the limit that holds.
    rows_per_owner, rows_total : int, optional
        The same in answered records.
    """

    bits_per_owner: int | None = None
    bits_total: int | None = None
    rows_per_owner: int | None = None
    rows_total: int | None = None

    def __post_init__(self) -> None:
        for name in ("bits_per_owner", "bits_total", "rows_per_owner", "rows_total"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise ParameterError(f"{name} is out of its domain", got=repr(value), rule="None or an integer >= 0")


class BitLedger:
    """Running totals of bits and rows in a table; charged and written before an answer is computed, never refunded.

    Parameters
    ----------
    budget : BitBudget
    table : KeyValue
    scope : str
        Names the model; totals of different scopes are separate.

    Notes
    -----
    Limits are compared and totals written in one transaction of the table, so that several processes may share it.
    """

    def __init__(self, budget: BitBudget, table: KeyValue, scope: str) -> None:
        self.budget = budget
        self._table, self._scope = table, scope

    def spent(self, owner: str | None = None) -> int:
        """Bits released so far to one owner (key id, or account), or to all."""
        return self._count("bits", owner)

    def rows(self, owner: str | None = None) -> int:
        """Records answered so far to one owner, or to all."""
        return self._count("rows", owner)

    def charge(self, owner: str, rows: int, parameters: Priced) -> int:
        """Charge for answering ``rows`` records; returns the bits charged.

        Raises
        ------
        BudgetError
            A limit does not carry it; nothing was charged. Of an owner's own limit the message names the largest number
            of records that is carried; of a limit over all owners no figure, which would tell what others have asked.
        StoreError
            The count could not be written; nothing may be answered.
        """
        bits, counted, budget = parameters.charge_bits(rows), parameters.charge_rows(rows), self.budget
        with self._table.transaction():
            spent = {(kind, who): self._count(kind, who) for kind in ("bits", "rows") for who in (None, owner)}
            for who, words, bits_limit, rows_limit in (
                (None, "in all", budget.bits_total, budget.rows_total),
                (owner, f"to owner {owner}", budget.bits_per_owner, budget.rows_per_owner),
            ):
                if bits_limit is not None and spent["bits", who] + bits > bits_limit:
                    left = max(0, bits_limit - spent["bits", who])
                    raise BudgetError(
                        f"The bit budget does not carry {rows} more records {words}",
                        got=None if who is None else f"{bits} bits asked, {left} of {bits_limit} left",
                        rule="every answered record releases up to "
                        f"{parameters.answer_bits:.2f} bits, charged before it is computed",
                        fix=_fix(0 if who is None else parameters.rows_for(left)),
                    )
                if rows_limit is not None and spent["rows", who] + counted > rows_limit:
                    left = max(0, rows_limit - spent["rows", who])
                    raise BudgetError(
                        f"The row budget does not carry {rows} more records {words}",
                        got=None if who is None else f"{left} of {rows_limit} left",
                        rule="every answered record counts, charged before it is computed",
                        fix=_fix(0 if who is None else _most_rows(left, parameters)),
                    )
            for who in (None, owner):
                self._table.put(self._key(who), str(spent["bits", who] + bits).encode())
                self._table.put(self._key(who, "rows"), str(spent["rows", who] + counted).encode())
        return bits

    def _count(self, kind: str, owner: str | None) -> int:
        value = self._table.get(self._key(owner, kind))
        if value is None:
            return 0
        if not 1 <= len(value) <= 20 or not value.isdigit():
            raise StoreError(f"A count of {kind} released is damaged", rule="nothing is answered until it is restored")
        return int(value)

    def _key(self, owner: str | None, kind: str = "bits") -> str:
        who = "all" if owner is None else f"owner/{owner}"  # no owner's name reads as the total's
        return f"{kind}/{self._scope}/{who}"


def _most_rows(left: int, parameters: Priced) -> int:
    """Largest number of records that counts as at most ``left``."""
    return bisect.bisect_right(range(left + 1), left, key=parameters.charge_rows) - 1


def _fix(most: int) -> str:
    return f"ask for at most {most} records" if most else "ask the model's holder for a new budget"
