"""What stands before everything else: request ids, body limits, slow clients, one log line and one count a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from blindsight.errors import BlindsightError

from ._metrics import Metrics
from ._problems import MEDIA_TYPE, RequestError, encoded, problem_of
from ._settings import Settings

__all__ = ["Guard", "JsonLines", "problem_response"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DRAIN_BYTES = 1 << 20
DRAIN_SECONDS = 1.0
GRACE_SECONDS = 15.0
SEND_SECONDS = 60.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
logger = logging.getLogger("blindsight.service")


class JsonLines(logging.Formatter):
    """One JSON object a line; of an exception its kind and place, never its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()[:500]}
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-6:]
            line["exception"] = record.exc_info[0].__name__
            line["at"] = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}" for frame in frames]
        return json.dumps(line, default=str)


class _Memory:
    """Bytes of bodies that this worker holds: all together, and of each account."""

    def __init__(self, settings: Settings) -> None:
        self._most, self._most_of_one = settings.memory_bytes, settings.memory_bytes_per_account
        self._held: Counter[str] = Counter()

    def take(self, account: str, count: int) -> None:
        if self._held.total() + count > self._most or self._held[account] + count > self._most_of_one:
            raise RequestError(
                503, "busy", "Too many bodies are being read at the moment", headers={"Retry-After": "1"}
            )
        self._held[account] += count

    def give_back(self, account: str, count: int) -> None:
        self._held[account] -= count
        if not self._held[account]:
            del self._held[account]


class _Body:
    """The body of one request as it comes in, counted."""

    def __init__(self, receive: Receive, scope: Scope, settings: Settings, memory: _Memory) -> None:
        headers = scope["headers"]
        self._receive, self._settings, self._memory = receive, settings, memory
        self._state: MutableMapping[str, Any] = scope["state"]
        self._account = ""
        self.limit = _limit_of(scope["path"], settings)
        self.expects = any(name == b"expect" for name, _ in headers)
        lengths = [value for name, value in headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self.declared = int(lengths[0]) if lengths and lengths[0].isdigit() else None
        self.complete = not chunked and not self.declared
        self.received = self._reserved = 0
        self._started: float | None = None

    def check_declared(self) -> None:
        """Refuse by the header alone, before anybody is asked who it is."""
        if self.declared is not None and self.declared > self.limit:
            raise _too_long(self.declared, self.limit)

    async def receive(self) -> Message:
        """The next piece, within the limits."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
            self._account = self._state.get("account", "")  # known by now: the body is asked for after the credential
        allowed = GRACE_SECONDS + self.received / self._settings.slowest_bytes_per_second
        left = self._started + allowed - now
        try:
            async with asyncio.timeout(max(0.0, min(self._settings.idle_seconds, left)) if not self.complete else None):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(
                408,
                "too-slow",
                "The body came too slowly",
                rule=f"no pause above {self._settings.idle_seconds:.0f} s, and "
                f"{self._settings.slowest_bytes_per_second:.0f} bytes a second on the whole",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.received > self.limit:
                raise _too_long(self.received, self.limit)
            self._reserve()
        return message

    async def drain(self) -> None:
        """Read a little of what is still coming, so that the client gets to read the refusal."""
        if self.complete or self.expects or (self.declared or 0) - self.received > DRAIN_BYTES:
            return
        most = self.received + DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.complete and self.received <= most:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self.received += len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)

    def _reserve(self) -> None:
        """Count what is here. Not what is declared: then a header alone would take room from everybody."""
        self._memory.take(self._account, self.received - self._reserved)
        self._reserved = self.received

    def release(self) -> None:
        self._memory.give_back(self._account, self._reserved)
        self._reserved = 0


class Guard:
    """ASGI application around another.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    metrics : Metrics

    Security
    --------
    The limit on a body is applied to its declared length before anything else, and to what comes piece by piece;
    nothing is read of a body before the application asks, which it does after it knows who is asking. What is held of
    bodies is bounded for each account, so that none takes the room of the others. A log line holds
    sizes, times, names that the operator has given, and ids; nothing of a body, no header, no token.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._memory = _Memory(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"], state["log"] = _request_id(scope), {}
        body = _Body(receive, scope, self._settings, self._memory)
        status, sent, begun = 0, 0, False

        async def out(message: Message) -> None:
            nonlocal status, sent, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = [*message.get("headers", []), (b"x-request-id", state["request_id"].encode())]
                headers += [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
                if not body.complete:
                    await body.drain()
                if not body.complete:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            sent += len(message.get("body", b""))
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                abort = state.get("abort")
                if abort is not None:
                    abort()
                raise

        trouble: str | None = None
        try:
            with self._metrics.in_flight():
                body.check_declared()
                await self._app(scope, body.receive, out)
        except BlindsightError as error:
            trouble = type(error).__name__
            if not begun:
                await problem_response(error, state["request_id"], out)
        except asyncio.CancelledError:
            trouble = "cancelled"
            raise
        except Exception as error:  # the framework has answered 500, where it still could
            trouble = type(error).__name__
            logger.error({"event": "crash", "request_id": state["request_id"]}, exc_info=sys.exc_info())
        finally:
            body.release()
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, route, status, seconds, body.received, sent)
            line = {"event": "request", "request_id": state["request_id"], "method": method, "route": route}
            line |= {"status": status, "ms": round(1000 * seconds, 2), "in": body.received, "out": sent}
            line |= state["log"]
            if trouble is not None:
                line["trouble"] = trouble
            logger.info(line)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def problem_response(error: BlindsightError, request_id: str, send: Send) -> None:
    """Send a problem without the framework."""
    problem = problem_of(error, request_id)
    content = encoded(problem)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(content)).encode())]
    if isinstance(error, RequestError):
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _limit_of(path: str, settings: Settings) -> int:
    if path.startswith("/v1/models/") and path.endswith("/score"):
        return settings.body_bytes
    if path.startswith("/v1/models/") and path.endswith("/keys"):
        return settings.registration_bytes
    return settings.other_bytes


def _too_long(got: int, limit: int) -> RequestError:
    return RequestError(
        413,
        "too-long",
        "The body is too long",
        got=f"{got} bytes or more",
        rule=f"at most {limit}",
        fix="send fewer records at a time",
    )


def _request_id(scope: Scope) -> str:
    """The client's own, where it is usable: then both sides' logs name a request alike."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)
