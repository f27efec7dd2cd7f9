"""Words of others, before they are shown or logged."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text with a space for whatever moves the cursor of who reads it, or begins another line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
