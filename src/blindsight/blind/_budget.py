"""Bits released, counted for each owner and over all of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from blindsight.errors import BudgetError, ParameterError, StoreError

from ._plan import BlindParameters

__all__ = ["BitBudget", "BitLedger", "KeyValue", "MemoryTable"]


class KeyValue(Protocol):
    """What is asked of a table: ``store.table(name)`` fits, and so does :class:`MemoryTable`."""

    def get(self, key: str) -> bytes | None:
        """Value of a key, or None."""

    def put(self, key: str, value: bytes) -> None:
        """Set a value; durable when this returns."""


class MemoryTable:
    """A table that lives as long as the process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """Value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Set a value."""
        self._values[key] = bytes(value)


@dataclass(frozen=True, kw_only=True)
class BitBudget:
    """How many bits of answers a model's holder is willing to release.

    Parameters
    ----------
    bits_per_owner : int, optional
        Limit for each key id. None: counted, not limited.
    bits_total : int, optional
        Limit over all key ids together. Anyone who may register may register again under a new key id, so without an
        allow-list (``Scorer(admit=...)``) this is the limit that holds.
    """

    bits_per_owner: int | None = None
    bits_total: int | None = None

    def __post_init__(self) -> None:
        for name in ("bits_per_owner", "bits_total"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise ParameterError(f"{name} is out of its domain", got=repr(value), rule="None or an integer >= 0")


class BitLedger:
    """Running totals in a table; charged and written before an answer is computed, never refunded.

    Parameters
    ----------
    budget : BitBudget
    table : KeyValue
    scope : str
        Names the model; totals of different scopes are separate.

    Notes
    -----
    The overall total is written first: a crash in between charges too much there, never too little. One process may
    use a table at a time.
    """

    def __init__(self, budget: BitBudget, table: KeyValue, scope: str) -> None:
        self.budget = budget
        self._table, self._scope = table, scope
        self._lock = threading.Lock()

    def spent(self, owner: str | None = None) -> int:
        """Bits released so far to one key id (hexadecimal), or to all."""
        value = self._table.get(self._key(owner))
        if value is None:
            return 0
        if not 1 <= len(value) <= 20 or not value.isdigit():
            raise StoreError("A count of bits released is damaged", rule="nothing is answered until it is restored")
        return int(value)

    def charge(self, owner: str, rows: int, parameters: BlindParameters) -> int:
        """Charge for answering ``rows`` records; returns the bits charged.

        Raises
        ------
        BudgetError
            A limit does not carry it; nothing was charged. The message names the largest number of records that is.
        StoreError
            The count could not be written; nothing may be answered.
        """
        bits = parameters.charge_bits(rows)
        limits = (("in all", None, self.budget.bits_total), (f"to owner {owner}", owner, self.budget.bits_per_owner))
        with self._lock:
            spent = {who: self.spent(who) for _, who, _ in limits}
            for words, who, limit in limits:
                if limit is not None and spent[who] + bits > limit:
                    left = max(0, limit - spent[who])
                    most = int(left / parameters.answer_bits)
                    raise BudgetError(
                        f"The bit budget does not carry {rows} more records {words}",
                        got=f"{bits} bits asked, {left} of {limit} left",
                        rule="every answered record releases up to "
                        f"{parameters.answer_bits:.2f} bits, charged before it is computed",
                        fix=f"ask for at most {most} records" if most else "ask the model's holder for a new budget",
                    )
            for _, who, _ in limits:
                self._table.put(self._key(who), str(spent[who] + bits).encode())
        return bits

    def _key(self, owner: str | None) -> str:
        return f"bits/{self._scope}/{owner or 'total'}"
