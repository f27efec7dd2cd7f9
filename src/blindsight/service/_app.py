"""The HTTP face: routes, credentials, problems. ``create_app`` is what a worker runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Route

from blindsight._names import MODEL_NAME
from blindsight._version import __version__
from blindsight.errors import BlindsightError, StoreError

from ._credentials import Credential
from ._guard import Guard, JsonLines
from ._link_messages import ALIVE_SECONDS, NDJSON, REQUEST_SCHEMA, Alive, Ended, Event, decode_request, encode_event
from ._links import Link
from ._metrics import Metrics
from ._models import Facts
from ._problems import MEDIA_TYPE, Problem, RequestError, encoded, problem_of
from ._service import Service
from ._settings import Settings, open_service_store

__all__ = ["create_app"]

OCTETS = "application/octet-stream"
SWEEP_SECONDS = 60.0
STORE_THREADS = 8
REGISTER_THREADS = 2
T = TypeVar("T")

bearer = HTTPBearer(auto_error=False, description="From `blindsight serve token create`; or a client certificate.")
logger = logging.getLogger("blindsight.service")


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """Models that are served."""

    models: list[Facts]


@dataclass(frozen=True, kw_only=True)
class Key:
    """A registered key."""

    key_id: str


@dataclass(frozen=True, kw_only=True)
class KeyList:
    """Keys that the account has registered for a model."""

    keys: list[str]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What an account has been charged for one model's current version, and what it may be."""

    model: str
    bits: int
    bits_limit: int | None
    rows: int
    rows_limit: int | None


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account behind a credential."""

    account: str
    scopes: list[str]
    expires: float
    spent: list[Spent]


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether a worker runs."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Current:
    """The version that is served now."""

    model: str
    version: str


ModelName = Annotated[str, Path(pattern=f"^{MODEL_NAME}$", description="Name of a model", examples=["model"])]
KeyId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Key id, as registration returned it")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=8,
        max_length=128,
        pattern="^[A-Za-z0-9_-]+$",
        description="Random, one for each request: sent again with the same body it gets the same answer, charged once",
    ),
]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": "Problem details (RFC 9457)", "content": {MEDIA_TYPE: schema}} for status in statuses
    }


def _octets(what: str) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "description": what, "content": {OCTETS: binary}}}


AUTHENTICATED = _problems(400, 401, 403, 422, 503)
WITH_BODY = _problems(400, 401, 403, 404, 408, 409, 411, 413, 415, 422, 503)


class Worker:
    """What the routes share: the service, and how blocking work leaves the event loop."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self._store = anyio.CapacityLimiter(STORE_THREADS)
        self._compute = anyio.CapacityLimiter(settings.threads)
        self._register = anyio.CapacityLimiter(REGISTER_THREADS)
        self._registering: set[str] = set()

    async def ask(self, action: Callable[[], T]) -> T:
        """Run something short that waits for the store."""
        return await anyio.to_thread.run_sync(action, limiter=self._store)

    async def compute(self, action: Callable[[], T]) -> T:
        """Run something long."""
        return await anyio.to_thread.run_sync(action, limiter=self._compute)

    async def register(self, account: str, name: str, registration: bytes) -> str:
        """Register a key, one at a time of an account, in threads that nothing else waits for; returns its id."""
        if account in self._registering:
            raise RequestError(
                503, "busy", "Another registration of this account is being read", headers={"Retry-After": "1"}
            )
        self._registering.add(account)
        try:
            return await anyio.to_thread.run_sync(
                self.service.register, account, name, registration, limiter=self._register
            )
        finally:
            self._registering.discard(account)


def create_app() -> Guard:
    """Build a worker's application from the settings in the environment."""
    settings = Settings.from_environment()
    _log_to_standard_error()
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = await anyio.to_thread.run_sync(open_service_store, settings)
        service = Service(store, settings, metrics)
        worker = app.state.worker = Worker(service, settings)
        names = await worker.ask(service.load)
        logger.info({"event": "ready", "models": names})
        sweeper = asyncio.create_task(_sweep(worker))
        try:
            yield
        finally:
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
            await anyio.to_thread.run_sync(service.close)
            store.close()
            logger.info({"event": "stopped"})

    app = FastAPI(
        title="Blindsight",
        summary="Scores sealed records with models that nobody else may see.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    _routes(app)
    _errors(app, metrics)
    _describe(app)
    return Guard(app, settings, metrics)


async def _sweep(worker: Worker) -> None:
    while True:
        try:
            await worker.ask(worker.service.answers.sweep)
        except BlindsightError as error:
            logger.warning({"event": "sweep", "trouble": type(error).__name__})
        await asyncio.sleep(SWEEP_SECONDS)


def _log_to_standard_error() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("blindsight.service", logging.INFO), ("uvicorn.error", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)


# -- who is asking


def needs(*scopes: str) -> Callable[..., Awaitable[Credential]]:
    """Dependency: a valid credential with one of the scopes; any credential, if none is named."""

    async def credential_of(
        request: Request, token: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Credential:
        worker: Worker = request.app.state.worker
        certificate = getattr(request.state, "peer_certificate", None)
        found: Credential | None = None
        if "authorization" in request.headers:
            if token is not None:
                text = token.credentials
                found = await worker.ask(lambda: worker.service.credentials.of_token(text))
        elif certificate is not None:
            found = await worker.ask(lambda: worker.service.credentials.of_certificate(certificate))
        if found is None:
            raise RequestError(
                401,
                "unauthenticated",
                "The client gave no credential that is valid",
                rule="Authorization: Bearer with a token, or a client certificate; neither expired nor revoked",
                fix="ask the operator for a token: blindsight serve token create",
                headers={"WWW-Authenticate": 'Bearer realm="blindsight"'},
            )
        request.state.account = found.account
        request.state.log |= {"account": found.account, "credential": found.id}
        if scopes and not set(scopes) & set(found.scopes):
            raise RequestError(
                403,
                "insufficient-scope",
                "The credential does not cover this",
                got=", ".join(found.scopes),
                rule=f"scope {' or '.join(scopes)}",
                headers={"WWW-Authenticate": 'Bearer realm="blindsight", error="insufficient_scope"'},
            )
        return found

    return credential_of


Anyone = Annotated[Credential, Depends(needs())]
Scores = Annotated[Credential, Depends(needs("score"))]
Registers = Annotated[Credential, Depends(needs("register"))]
ANYONE, WATCHES, ADMINISTERS = Depends(needs()), Depends(needs("metrics", "admin")), Depends(needs("admin"))


async def _body_of(request: Request, media_type: str = OCTETS) -> bytes:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != media_type:
        raise RequestError(415, "media-type", "The body is of another type", got=kind[:80] or "none", rule=media_type)
    pieces = [piece async for piece in request.stream()]
    return b"".join(pieces)


class _LinkAnswer(StreamingResponse):
    """Lines of events, from the opening of a comparison link to its end; when the client leaves, the link ends."""

    def __init__(self, link: Link, events: asyncio.Queue[Event], ending: list[Callable[[], None]]) -> None:
        super().__init__(self._lines(events), media_type=NDJSON)
        self._link, self._ending = link, ending

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send until there is nothing more to tell, or nobody who listens."""
        self._ending.append(self._link.finish)  # when the worker is told to end
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ending.remove(self._link.finish)
            self._link.end()

    async def _lines(self, events: asyncio.Queue[Event]) -> AsyncIterator[bytes]:
        yield encode_event(self._link.opened)
        while True:
            event: Event = Alive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_SECONDS):
                    event = await events.get()
            yield encode_event(event)
            if isinstance(event, Ended):
                return


# -- routes


def _routes(app: FastAPI) -> None:
    def worker_of(request: Request) -> Worker:
        worker: Worker = request.app.state.worker
        return worker

    @app.get("/healthz", tags=["operation"], responses=_problems(503))
    async def healthz() -> Health:
        """Whether the worker runs."""
        return Health(status="ok")

    @app.get("/readyz", tags=["operation"], responses=_problems(503))
    async def readyz(request: Request) -> Health:
        """Whether the worker reaches its store and has models to serve."""
        worker = worker_of(request)
        if not await worker.ask(worker.service.models.names):
            raise RequestError(503, "no-models", "No model is published", headers={"Retry-After": "5"})
        return Health(status="ready")

    @app.get("/metrics", tags=["operation"], dependencies=[WATCHES], response_class=Response,
             responses=AUTHENTICATED | {200: {"content": {"text/plain": {}}}})  # fmt: skip
    async def metrics(request: Request) -> Response:
        """Counts for Prometheus, of all workers of this machine."""
        worker = worker_of(request)
        text = await worker.ask(worker.service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/account", tags=["account"], responses=AUTHENTICATED)
    async def account(request: Request, credential: Anyone) -> Account:
        """Who the service takes the client for, and what it has been charged."""
        worker = worker_of(request)

        def look() -> list[Spent]:
            spent, settings = [], worker.service.settings
            for name in worker.service.models.names():
                scorer = worker.service.models.current(name).scorer
                spent.append(
                    Spent(
                        model=name,
                        bits=scorer.bits_released(credential.account),
                        bits_limit=settings.bits_per_account,
                        rows=scorer.rows_answered(credential.account),
                        rows_limit=settings.rows_per_account,
                    )
                )
            return spent

        spent = await worker.ask(look)
        return Account(
            account=credential.account, scopes=list(credential.scopes), expires=credential.expires, spent=spent
        )

    @app.get("/v1/models", tags=["models"], dependencies=[ANYONE], responses=AUTHENTICATED)
    async def models(request: Request) -> ModelList:
        """Every model that is served."""
        worker = worker_of(request)
        service = worker.service

        def look() -> list[Facts]:
            return [service.models.facts(service.models.current(name)) for name in service.models.names()]

        return ModelList(models=await worker.ask(look))

    @app.get("/v1/models/{name}", tags=["models"], dependencies=[ANYONE], responses=AUTHENTICATED | _problems(404))
    async def model(request: Request, name: ModelName) -> Facts:
        """One model."""
        worker = worker_of(request)
        service = worker.service
        return await worker.ask(lambda: service.models.facts(service.models.current(name)))

    @app.get("/v1/models/{name}/offer", tags=["models"], dependencies=[ANYONE], response_class=Response,
             responses=AUTHENTICATED | _problems(404) | {200: {"content": {OCTETS: {"schema": {"type": "string",
             "format": "binary"}}}, "description": "The offer, docs/wire-blind.md"}})  # fmt: skip
    async def offer(request: Request, name: ModelName) -> Response:
        """What a record owner needs: public encoder, parameters, schema, score scale."""
        worker = worker_of(request)
        served = await worker.ask(lambda: worker.service.models.current(name))
        headers = {"Model-Version": served.version.id, "ETag": f'"{served.version.offer}"'}
        return Response(served.scorer.offer(), media_type=OCTETS, headers=headers)

    @app.post("/v1/models/{name}/keys", tags=["keys"], status_code=201, responses=WITH_BODY,
              openapi_extra=_octets("RecordOwner.registration"))  # fmt: skip
    async def register(request: Request, name: ModelName, credential: Registers) -> Key:
        """Register a key; the same one again changes nothing."""
        worker = worker_of(request)
        body = await _body_of(request)
        key_id = await worker.register(credential.account, name, body)
        request.state.log |= {"model": name, "key_id": key_id}
        return Key(key_id=key_id)

    @app.get("/v1/models/{name}/keys", tags=["keys"], responses=AUTHENTICATED | _problems(404))
    async def keys(request: Request, name: ModelName, credential: Registers) -> KeyList:
        """Keys that this account has registered for a model."""
        worker = worker_of(request)
        service = worker.service
        return KeyList(keys=await worker.ask(lambda: service.keys(credential.account, service.models.current(name))))

    @app.delete("/v1/models/{name}/keys/{key_id}", tags=["keys"], status_code=204, response_class=Response,
                responses=AUTHENTICATED | _problems(404))  # fmt: skip
    async def forget(request: Request, name: ModelName, key_id: KeyId, credential: Registers) -> Response:
        """Drop a key. What was charged stays."""
        worker = worker_of(request)
        await worker.ask(lambda: worker.service.forget(credential.account, name, key_id))
        return Response(status_code=204)

    @app.post("/v1/models/{name}/score", tags=["scoring"], response_class=Response,
              responses=WITH_BODY | {200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
              "description": "The answer, docs/wire-blind.md"}},
              openapi_extra=_octets("A sealed request, docs/wire-blind.md"))  # fmt: skip
    async def score(
        request: Request, name: ModelName, credential: Scores, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Answer a sealed request. Charged before it is computed; once under each idempotency key."""
        worker = worker_of(request)
        body = await _body_of(request)
        request.state.log["model"] = name
        answer = await worker.compute(lambda: worker.service.score(credential.account, name, idempotency_key, body))
        request.state.log |= {"rows": answer.rows, "bits": answer.bits, "replayed": answer.replayed}
        headers = {"Bits-Charged": str(answer.bits), "Idempotency-Replayed": str(answer.replayed).lower()}
        if answer.version:
            headers["Model-Version"] = answer.version
        return Response(answer.content, media_type=OCTETS, headers=headers)

    @app.post("/v1/models/{name}/comparisons", tags=["scoring"], response_class=Response,
              responses=WITH_BODY | _problems(429) | {200: {"content": {NDJSON: {"schema": {"type": "string"}}},
              "description": "A line for each event, until the link ends: docs/wire-blind.md"}},
              openapi_extra={"requestBody": {"required": True, "description": "Where the owner's end listens",
              "content": {"application/json": {"schema": REQUEST_SCHEMA}}}})  # fmt: skip
    async def comparisons(request: Request, name: ModelName, credential: Scores) -> Response:
        """Open a link for the comparisons of a model that reveals verdicts; it lives as long as this answer."""
        worker = worker_of(request)
        asked = decode_request(await _body_of(request, "application/json"))
        request.state.log["model"] = name
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        peer = request.client.host if request.client is not None else ""

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the link's thread
                loop.call_soon_threadsafe(events.put_nowait, event)

        link = await worker.ask(lambda: worker.service.links.open(credential, name, asked, peer, tell))
        request.state.log["link"] = link.id
        return _LinkAnswer(link, events, request.state.ending)

    @app.post("/v1/models/{name}/rollback", tags=["administration"], dependencies=[ADMINISTERS],
              responses=AUTHENTICATED | _problems(404))  # fmt: skip
    async def rollback(request: Request, name: ModelName) -> Current:
        """Serve the version before the current one again."""
        worker = worker_of(request)

        def back() -> Current:
            worker.service.models.current(name)
            return Current(model=name, version=worker.service.models.roll_back(name).id)

        done = await worker.ask(back)
        request.state.log |= {"model": name, "version": done.version}
        return done


# -- errors and description


def _errors(app: FastAPI, metrics: Metrics) -> None:
    def respond(request: Request, error: BlindsightError) -> Response:
        problem = problem_of(error, request.state.request_id)
        metrics.refused(problem.kind)
        request.state.log["refused"] = problem.kind
        headers = dict(error.headers) if isinstance(error, RequestError) else {}
        if isinstance(error, StoreError):
            headers["Retry-After"] = "1"
            logger.error({"event": "store", "request_id": request.state.request_id}, exc_info=sys.exc_info())
        return Response(encoded(problem), problem.status, headers=headers, media_type=MEDIA_TYPE)

    @app.exception_handler(BlindsightError)
    async def ours(request: Request, error: BlindsightError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        where = [".".join(str(part) for part in item.get("loc", ())) for item in error.errors()]
        return respond(
            request,
            RequestError(
                422,
                "invalid",
                "The request does not fit its description",
                got=", ".join(where)[:200],
                rule="/openapi.json",
            ),
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http")
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the framework names the methods of one of the path's routes
            headers["Allow"] = ", ".join(_methods(app, request.url.path))
        return respond(request, RequestError(error.status_code, kind, str(error.detail)[:200], headers=headers))

    @app.exception_handler(Exception)
    async def crash(request: Request, _error: Exception) -> Response:
        return respond(request, RequestError(500, "crash", "The service failed"))


def _methods(app: FastAPI, path: str) -> list[str]:
    found = {
        method
        for route in app.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }
    return sorted(found)


def _describe(app: FastAPI) -> None:
    """Add to the generated description what the framework does not know: problems, and its own errors it must not."""
    from pydantic import TypeAdapter

    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = plain()
            schemas = described.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["Problem"] = TypeAdapter(Problem).json_schema()
            for path in described["paths"].values():
                for operation in path.values():
                    for response in operation.get("responses", {}).values():
                        content = response.get("content", {})
                        if MEDIA_TYPE in content:
                            content.pop("application/json", None)
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
