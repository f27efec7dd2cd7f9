"""Reading a parcel whose sender nobody knows yet: its header first, and of the rest no more than that is good for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._parcels import HEADER_BYTES

__all__ = ["read_parcel"]

PIECE_BYTES = 1 << 20


async def read_parcel(
    reader: asyncio.StreamReader, length: int, room: Callable[[bytes], int], *, piece_s: float | None = None
) -> tuple[bytes, bytes | None]:
    """Read a parcel of a known length.

    Parameters
    ----------
    reader : asyncio.StreamReader
    length : int
    room : callable (bytes) -> int
        How long a parcel with this header may be, or with so much of one as there is.
    piece_s : float, optional
        How long each of its pieces may take.

    Returns
    -------
    header, rest : bytes, bytes or None
        None where it is longer: it was read to its end, so that its carrier can go on, and not kept.

    Raises
    ------
    asyncio.IncompleteReadError, TimeoutError, OSError
    """
    async with asyncio.timeout(piece_s):
        header = await reader.readexactly(min(length, HEADER_BYTES))
    length -= len(header)
    parts: list[bytes] | None = [] if length + len(header) <= room(header) else None
    while length:
        async with asyncio.timeout(piece_s):
            part = await reader.read(min(length, PIECE_BYTES))
        if not part:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(part)
        if parts is not None:
            parts.append(part)
    return header, None if parts is None else b"".join(parts)
