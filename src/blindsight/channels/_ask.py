"""One HTTP request whose answer is bounded, and which may be cancelled at any time without leaving a socket open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blindsight.errors import UnavailableError, WireError

if TYPE_CHECKING:
    import httpx

__all__ = ["CONNECT_SECONDS", "HttpAnswer", "ask_http"]

CONNECT_SECONDS = 5.0
PIECE_BYTES = 1 << 18


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask_http(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    max_bytes: int,
) -> HttpAnswer:
    """Ask and return what came, whatever its status.

    A caller that is cancelled waits until the connection stands, at most twice ``CONNECT_SECONDS``: httpcore leaves
    the socket of a handshake open that is cancelled in the middle.

    Parameters
    ----------
    client : httpx.AsyncClient
    method, path : str
    body : bytes, optional
    headers : mapping, optional
    timeout_s : float
        For each wait: the answer's header, the next piece of either body.
    max_bytes : int
        Longest answer.

    Raises
    ------
    UnavailableError
        The server cannot be reached or breaks off.
    WireError
        The answer is too long; it is not read.
    """
    connected = asyncio.Event()
    asking = asyncio.ensure_future(_ask(client, method, path, body, headers, timeout_s, max_bytes, connected))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        standing = asyncio.ensure_future(connected.wait())
        await asyncio.wait({asking, standing}, return_when=asyncio.FIRST_COMPLETED)
        standing.cancel()
        asking.cancel()
        await asyncio.wait({asking})
        if not asking.cancelled():
            asking.exception()  # nobody else will ask for it
        raise


async def _ask(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str] | None,
    timeout_s: float,
    max_bytes: int,
    connected: asyncio.Event,
) -> HttpAnswer:
    import httpx

    async def trace(event: str, _info: dict[str, Any]) -> None:
        if event.startswith("http11."):  # what comes before is "connection."
            connected.set()

    timeout = httpx.Timeout(timeout_s, connect=CONNECT_SECONDS)
    content: bytes | AsyncIterator[bytes] | None = body
    sent = dict(headers or {})
    if body is not None and len(body) > PIECE_BYTES:  # the time-out is for a piece, not for all of a long body
        content, sent["content-length"] = _pieces(body), str(len(body))
    try:
        stream = client.stream(
            method, path, content=content, headers=sent, timeout=timeout, extensions={"trace": trace}
        )
        async with stream as response:
            length = response.headers.get("content-length", "0")
            if not length.isdigit() or len(length) > 15 or int(length) > max_bytes:
                raise WireError("An answer is too long", got=f"{length[:20]} bytes", rule=f"at most {max_bytes}")
            parts: list[bytes] = []
            read = 0
            async for part in response.aiter_raw():
                parts.append(part)
                read += len(part)
                if read > max_bytes:
                    raise WireError("An answer is too long", rule=f"at most {max_bytes} bytes")
    except (httpx.HTTPError, OSError) as error:
        raise UnavailableError(
            f"{client.base_url.netloc.decode()} did not answer", got=f"{type(error).__name__} {error}".strip()[:200]
        ) from error
    return HttpAnswer(response.status_code, response.headers, b"".join(parts))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
