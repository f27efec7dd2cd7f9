"""An operator over HTTPS: who is who by pinned certificate, bounded bodies, errors as problem details."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.channels import peer_fingerprint
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    InputError,
    MissingExtraError,
    ProtocolError,
    RefusedError,
    ReleaseError,
    UnavailableError,
)
from blindsight.keys import Sealer
from blindsight.store import Store

from ._certificates import certificate_fingerprint, pinned_context, read_certificate
from ._config import NodeConfig
from ._operator import Operator
from ._peer import HttpPeer
from ._wire import MAX_BODY_BYTES, Abort, Execute, ModelHeader, Prepare, RunHeader, SessionHeader, Void, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request, str], Awaitable[Response]]

__all__ = ["application", "problem", "serve_node"]

MAX_PEER_BYTES = 4096
MAX_HELD_BYTES = 1 << 30
MAX_HELD_OF_ONE = 1 << 29
BODY_SECONDS = 60.0
GRACE_SECONDS = 20
PEER_KEY = "blindsight.peer"

_STATUS: tuple[tuple[type[BlindsightError], int], ...] = (
    (ReleaseError, 409),
    (AuthenticationError, 403),
    (RefusedError, 403),
    (InputError, 422),
    (UnavailableError, 503),
    (ProtocolError, 400),
)
logger = logging.getLogger("blindsight.mpc")


def problem(error: BlindsightError) -> tuple[int, bytes]:
    """HTTP status and body (RFC 9457) of an error."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    parts = {"what": error.what, "got": error.got, "rule": error.rule, "fix": error.fix}
    body: dict[str, Any] = {"status": status, "title": error.what, "kind": type(error).__name__}
    body |= {name: text for name, text in parts.items() if text}
    return status, json.dumps(body).encode()


class _Bodies:
    """Bytes of clients' bodies that are held: of each client, and all together."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[bytes]:
        """A client's body; it counts until the block ends, since what is made of it lives as long."""
        size, who = _length(request, MAX_BODY_BYTES), request.scope[PEER_KEY]
        if self._held[who] + size > MAX_HELD_OF_ONE or self._held.total() + size > MAX_HELD_BYTES:
            raise UnavailableError("Too many bodies are held at the moment", fix="try again")
        self._held[who] += size
        try:
            yield await _read(request)
        finally:
            self._held[who] -= size


def _length(request: Request, limit: int) -> int:
    """Declared length of a body; ProtocolError if there is none, it is too large, or another framing overrides it."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or len(length) > 12 or int(length) > limit:
        raise ProtocolError("A body's length is missing or too large", got=length[:20], rule=f"at most {limit}")
    if "transfer-encoding" in request.headers:  # a body in chunks ends where it likes, whatever length it declares
        raise ProtocolError("A body is sent in chunks", rule="a content-length and nothing else")
    return int(length)


async def _read(request: Request) -> bytes:
    """Read a body whose framing :func:`_length` has checked, so that the server cuts it at its declared length."""
    try:
        parts: list[bytes] = []
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                parts.append(part)
        return b"".join(parts)
    except TimeoutError as error:
        raise UnavailableError("A body came too slowly", rule=f"within {BODY_SECONDS:g} s") from error


async def _control(request: Request) -> bytes:
    """A body of the first operator's: small, and let through however much is held for clients."""
    _length(request, MAX_PEER_BYTES)
    return await _read(request)


def application(config: NodeConfig, operator: Operator) -> Starlette:
    """The node's interface, for connections that carry the other side's certificate in their scope."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    owners = {_print(config, c.certificate): c.name for c in config.clients if c.role == "owner"}
    holders = {_print(config, c.certificate): c.name for c in config.clients if c.role == "holder"}
    leader = {_print(config, config.operators[0].certificate): "operator 0"} if config.rank else {}
    anyone = owners | holders | {_print(config, o.certificate): f"operator {i}" for i, o in enumerate(config.operators)}
    bodies = _Bodies()

    def route(path: str, method: str, allowed: dict[str, str], handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                request.scope[PEER_KEY] = peer_fingerprint(request.scope)
                who = allowed.get(request.scope[PEER_KEY])
                if who is None:
                    raise AuthenticationError("This certificate may not do that here", got=f"{method} {path}")
                return await handler(request, who)
            except BlindsightError as error:
                status, body = problem(error)
                logger.warning({"event": "refused", "path": path, "status": status, "kind": type(error).__name__})
                return Response(body, status_code=status, media_type="application/problem+json")

        return Route(path, endpoint, methods=[method])

    async def health(_request: Request, _who: str) -> Response:
        return JSONResponse(operator.health())

    async def share_model(request: Request, who: str) -> Response:
        async with bodies.hold(request) as body:
            header, pieces = unpack(body, ModelHeader, pieces="some")
            operator.share_model(who, header, pieces)
        return Response(status_code=204)

    async def offer(request: Request, _who: str) -> Response:
        key, data = operator.offer_of(request.path_params["name"])
        return Response(data, media_type="application/json", headers={"x-blindsight-model": key})

    async def answer(request: Request, who: str) -> Response:
        async with bodies.hold(request) as body:
            header, pieces = unpack(body, RunHeader, pieces="one")
            run = operator.answer(who, request.scope[PEER_KEY], header, pieces[0])
            answering, leaving = asyncio.ensure_future(run), asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    raise UnavailableError("The owner has gone")
                return Response(answering.result(), media_type="application/octet-stream")
            finally:
                leaving.cancel()
                answering.cancel()
                await asyncio.wait({answering})  # its shares are held until it has ended

    async def session(request: Request, _who: str) -> Response:
        header, _ = unpack(await _control(request), SessionHeader)
        await operator.open_session(header.name)
        return Response(status_code=204)

    async def prepare(request: Request, _who: str) -> Response:
        header, _ = unpack(await _control(request), Prepare)
        return Response((await operator.prepare(header.run, header.owner)).encode(), media_type="text/plain")

    async def execute(request: Request, _who: str) -> Response:
        header, _ = unpack(await _control(request), Execute)
        await operator.execute(header.run, header.owner, header.session)
        return Response(status_code=204)

    async def void(request: Request, _who: str) -> Response:
        header, _ = unpack(await _control(request), Void)
        await operator.void(header.run, header.owner)
        return Response(status_code=204)

    async def abort(request: Request, _who: str) -> Response:
        header, _ = unpack(await _control(request), Abort)
        await operator.abort(header.session)
        return Response(status_code=204)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await operator.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            route("/v1/health", "GET", anyone, health),
            route("/v1/models", "PUT", holders, share_model),
            route("/v1/models/{name}", "GET", owners | holders, offer),
            route("/v1/runs", "POST", owners, answer),
            route("/v1/operators/session", "POST", leader, session),
            route("/v1/operators/prepare", "POST", leader, prepare),
            route("/v1/operators/execute", "POST", leader, execute),
            route("/v1/operators/void", "POST", leader, void),
            route("/v1/operators/abort", "POST", leader, abort),
        ],
    )


def serve_node(config: NodeConfig) -> None:
    """Serve a node until SIGTERM or SIGINT, then finish what runs; blocks.

    Raises
    ------
    MissingExtraError
        The extra ``mpc`` is not installed.
    StoreError, FormatError
        State, certificate or key cannot be used.
    """
    try:
        import uvicorn

        from blindsight.channels._bounded import BoundedProtocol
    except ImportError as error:
        raise MissingExtraError("An operator's node needs a web server", fix="pip install 'blindsight[mpc]'") from error

    class Server(uvicorn.Server):
        """Ends on a signal without dying of it."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.handle_exit, number, None)
            yield

    _log_to_stderr()
    state = config.path(config.state)
    state.mkdir(mode=0o700, exist_ok=True)
    sealer = Sealer.from_key_file(config.path(config.key_file)) if config.key_file else None
    others = [o for rank, o in enumerate(config.operators) if rank != config.rank]
    everyone = [config.path(name) for name in [o.certificate for o in others] + [c.certificate for c in config.clients]]
    tls = config.tls(Path())
    context = pinned_context(tls, server=True, peers=everyone)
    host, _, port = (config.listen or config.me.address).rpartition(":")
    with Store(state / "node.db", sealer) as store:

        async def serve() -> None:
            peers = (
                [HttpPeer(o.address, tls, config.path(o.certificate), config) for o in others]
                if config.rank == 0
                else []
            )
            kept = store.table("models") if sealer is not None else None
            operator = Operator(config, store.table("bits"), list(peers), logger.info, kept=kept)
            settings = uvicorn.Config(
                application(config, operator),
                host=host.strip("[]"),
                port=int(port),
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=128,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE_SECONDS,
                h11_max_incomplete_event_size=16_384,
            )
            settings.load()
            settings.ssl = context
            logger.info({"event": "start", "rank": config.rank, "protocol": config.protocol, "pid": os.getpid()})
            try:
                await Server(settings).serve()
            finally:
                for peer in peers:
                    await peer.close()

        asyncio.run(serve())
    logger.info({"event": "stop", "rank": config.rank})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _print(config: NodeConfig, name: str) -> str:
    return certificate_fingerprint(read_certificate(config.path(name)))


class _JsonLines(logging.Formatter):
    """One JSON object a line: what was logged as a mapping; of anything else its logger alone, never its text."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(time.time(), 3), "level": record.levelname.lower()}
        given = record.msg if isinstance(record.msg, dict) else {"event": "library", "logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            given = {**given, "exception": record.exc_info[0].__name__}
        return json.dumps({**line, **given})


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (("blindsight.mpc", logging.INFO), ("uvicorn", logging.WARNING)):
        target = logging.getLogger(name)
        target.handlers, target.propagate = [handler], False
        target.setLevel(level)
