"""Durable state behind one small interface: append-only logs and key-value tables that commit together.

Ledger, journal and budgets are written through this. What was committed survives SIGKILL and a full disk;
what was not committed was never there.
"""

from ._sealing import Sealing
from ._store import Log, Store, Table

__all__ = ["Log", "Sealing", "Store", "Table"]
