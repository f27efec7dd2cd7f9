"""Which database a URL or a path means."""

from __future__ import annotations

import os

from blindsight.errors import ParameterError

from ._sealing import Sealing
from ._store import Store

__all__ = ["open_store"]


def open_store(where: str | os.PathLike[str], sealer: Sealing | None = None, *, timeout_s: float = 10.0) -> Store:
    """Open a store by path or URL.

    Parameters
    ----------
    where : str or path-like
        A path or ``sqlite:///path`` (``sqlite:////absolute/path``): one SQLite file.
        ``postgresql://user@host/database``: PostgreSQL (extra: serve).
    sealer : Sealing, optional
        Seals every value at rest.
    timeout_s : float
        How long a write waits for another process.

    Raises
    ------
    ParameterError
        The URL is of another kind.
    StoreError, FormatError, AuthenticationError
        As for :class:`Store`.
    """
    text = os.fspath(where)
    kind, colon, rest = text.partition("://")
    if not colon:
        return Store(where, sealer, timeout_s=timeout_s)
    if kind in ("postgresql", "postgres"):
        from ._postgres import PostgresStore

        return PostgresStore(text, sealer, timeout_s=timeout_s)
    if kind == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return Store(rest[1:], sealer, timeout_s=timeout_s)
    raise ParameterError(
        "The store's URL cannot be used",
        got=f"{kind}://...",
        rule="a path, sqlite:///path or postgresql://user@host/database",
    )
