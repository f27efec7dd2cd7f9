"""What names may be, wherever they are read; import-free, so that every package may ask.

Patterns without anchors, for ``re.fullmatch``. Where a library searches instead, anchor them with ``\\A`` and ``\\Z``:
Python's ``$`` lets a newline through.
"""

from __future__ import annotations

__all__ = ["MODEL_NAME", "PARTY_NAME"]

PARTY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Parties, coordinators, approvers: names of folders and certificates, and lines of a list."""

MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""Models and accounts: parts of addresses, and names of files where capitals may not count."""
