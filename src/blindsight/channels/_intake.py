"""Reading a parcel whose sender nobody knows yet: its header first, and of the rest no more than that is good for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._parcels import HEADER_BYTES

__all__ = ["read_parcel"]

PIECE_BYTES = 1 << 20


async def read_parcel(
    reader: asyncio.StreamReader, length: int, room: Callable[[bytes], int], *, piece_s: float | None = None
) -> tuple[bytearray, bool]:
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
    parcel, whole : bytearray, bool
        Not whole where it is longer: it was read to its end, so that its carrier can go on, and the header alone kept.

    Raises
    ------
    asyncio.IncompleteReadError, TimeoutError, OSError
    """
    async with asyncio.timeout(piece_s):
        header = await reader.readexactly(min(length, HEADER_BYTES))
    kept, whole = bytearray(header), length <= room(header)
    rest = length - len(header)
    try:
        while rest:
            async with asyncio.timeout(piece_s):
                part = await reader.read(min(rest, PIECE_BYTES))
            if not part:
                raise asyncio.IncompleteReadError(b"", rest)
            rest -= len(part)
            if whole:
                kept += part  # grows where it is: never there twice
    except BaseException:
        kept.clear()  # whoever deals with the error holds this frame
        raise
    return kept, whole
