"""Durable state behind one small interface: append-only logs and key-value tables that commit together.

Ledger, journal and budgets are written through this. What was committed survives SIGKILL and a full disk;
what was not committed was never there. One SQLite file by default, or a PostgreSQL database by URL.
"""

from ._sealing import Sealing
from ._store import Log, Store, Table
from ._url import open_store

__all__ = ["Log", "Sealing", "Store", "Table", "open_store"]
