"""Bounded connections of the service, as its settings say, and problems in answer to what is no HTTP."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable
from typing import Any, cast

import h11

from blindsight.channels import _bounded as channels

from ._problems import MEDIA_TYPE, TYPE
from ._settings import ENVIRONMENT, Settings

__all__ = ["BoundedProtocol", "TimedLoop"]


class BoundedProtocol(channels.BoundedProtocol):
    """One connection, within the limits of the settings."""

    @property
    def max_connections(self) -> int:
        """Connections of one worker."""
        return _limits().connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ending: list[Callable[[], None]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let answers without an end of their own hear when the worker is to end."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "ending": self._ending}

    def shutdown(self) -> None:
        """Tell them."""
        for told in self._ending:
            told()
        super().shutdown()

    @property
    def header_seconds(self) -> float:
        """Time for a request's header."""
        return _limits().header_seconds

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


class TimedLoop(channels.TimedLoop):
    """asyncio's event loop, but for the time that a TLS handshake may take."""

    @property
    def handshake_seconds(self) -> float:
        """Time for a handshake: that for a header."""
        return _limits().header_seconds


@functools.cache
def _parsed(text: str) -> Settings:
    return Settings.from_json(text)


def _limits() -> Settings:
    return _parsed(os.environ.get(ENVIRONMENT, ""))
