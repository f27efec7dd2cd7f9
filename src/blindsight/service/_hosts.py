"""Which addresses nobody else reaches."""

from __future__ import annotations

import ipaddress

__all__ = ["is_loopback"]


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback address; names are not, whatever they resolve to."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
