"""uvicorn's HTTP/1.1, with a limit on connections, a time for headers, and the client's certificate."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._problems import MEDIA_TYPE, TYPE
from ._settings import ENVIRONMENT, Settings

__all__ = ["BoundedProtocol", "TimedLoop"]

SHUTDOWN_SECONDS = 5.0


class BoundedProtocol(H11Protocol):
    """One connection.

    Security
    --------
    A connection that has not sent a whole request header in time is cut: after the handshake, and again after each
    answer once another header has begun. Bodies are timed by the guard.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = _limits()
        self._header_timer: asyncio.TimerHandle | None = None
        self._ending: list[Callable[[], None]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Cut connections beyond the limit; note who is at the other end."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, "peer_certificate": certificate, "abort": transport.abort,
                          "ending": self._ending}  # fmt: skip
        self._header_timer = self.loop.call_later(self._limits.header_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Keep time while a header is incomplete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            if self._header_timer is None:
                self._header_timer = self.loop.call_later(self._limits.header_seconds, self.transport.abort)
        else:
            self._stop_timer()

    def shutdown(self) -> None:
        """Tell answers without an end of their own that the worker is to end."""
        for told in self._ending:
            told()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem as well."""
        content = json.dumps(
            {"type": TYPE + "http", "title": "The request is malformed", "status": 400, "detail": msg, "kind": "http"}
        ).encode()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(content)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                output = cast("bytes | None", self.conn.send(event))
                if output:
                    self.transport.write(output)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class TimedLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, but for the time that a TLS handshake may take: a minute otherwise."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """As asyncio's."""
        if options.get("ssl") is not None:
            options |= {"ssl_handshake_timeout": _limits().header_seconds, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        return await super().create_server(*arguments, **options)


@functools.cache
def _parsed(text: str) -> Settings:
    return Settings.from_json(text)


def _limits() -> Settings:
    return _parsed(os.environ.get(ENVIRONMENT, ""))
