"""uvicorn's HTTP/1.1 for mutual TLS: bounded connections, a time for headers and handshakes, and who is calling.

Imports uvicorn: import this module where a server starts, not before.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BoundedProtocol", "TimedLoop"]


class BoundedProtocol(H11Protocol):
    """One connection; what it holds of the other side is in the request's ``state``.

    ``state["peer_certificate"]`` is the client's certificate in DER, or None; ``state["abort"]`` cuts the connection.

    Security
    --------
    A connection that has not sent a whole request header in time is cut: after the handshake, and again after each
    answer once another header has begun. Bodies are for the application to time.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer: asyncio.TimerHandle | None = None

    @property
    def max_connections(self) -> int:
        """Connections beyond these are cut."""
        return 1024

    @property
    def header_seconds(self) -> float:
        """Time for a request's header."""
        return 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Cut connections beyond the limit; note who is at the other end."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, "peer_certificate": certificate, "abort": transport.abort}
        self._header_timer = self.loop.call_later(self.header_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Keep time while a header is incomplete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            if self._header_timer is None:
                self._header_timer = self.loop.call_later(self.header_seconds, self.transport.abort)
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class TimedLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, but for the time that a TLS handshake and a TLS farewell may take: a minute otherwise."""

    @property
    def handshake_seconds(self) -> float:
        """Time for a handshake."""
        return 10.0

    @property
    def farewell_seconds(self) -> float:
        """Time for the other side to say that it has understood that we leave."""
        return 5.0

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """As asyncio's."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = self.handshake_seconds
            options["ssl_shutdown_timeout"] = self.farewell_seconds
        return await super().create_server(*arguments, **options)
