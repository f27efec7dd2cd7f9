"""The coordinator's end over HTTPS: a server that parties dial and ask, again and again, whether there is work.

Wire format: docs/channels.md. The server runs in a thread of its own; what lies ready is the desk's business.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from blindsight.errors import MissingExtraError

from ._channel import MAX_MESSAGE_BYTES
from ._desk import Letter
from ._dialled import DialledChannel
from ._listen import Listener, listen
from ._threaded import ThreadedServer
from ._tls import Pathlike, mutual_context

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["HttpsChannel"]

log = logging.getLogger(__name__)

T = TypeVar("T")

HOLD_SECONDS = 25.0
PIECE_BYTES = 1 << 20
PIECE_SECONDS = 60.0
ID_HEADER = "x-blindsight-id"
PARTY_HEADER = "x-blindsight-party"
_ID = re.compile(r"[0-9a-f]{32}")


class _Replaced(Exception):
    """The party has asked again, on another connection."""


class HttpsChannel(DialledChannel):
    """An HTTPS server that parties dial; a party is whoever shows its certificate.

    Parameters
    ----------
    parties : mapping of name to str
        SHA-256 of each party's certificate (of its DER bytes), in hexadecimal.
    certificate, private_key : path
        The coordinator's own, in PEM; the certificate names the host that parties dial.
    authority : path
        Certificates, in PEM, that may sign those of parties.
    host : str
    port : int
        0: any free one; see :attr:`url`.
    max_message_bytes : int
        Longest answer that is read, from 1 to 2^30.
    hold_s : float
        Longest time for which a party's question stays unanswered.

    Raises
    ------
    MissingExtraError
        The extra ``net`` is not installed.
    StoreError, UnavailableError
        A file cannot be used; the address cannot be listened on.

    Security
    --------
    TLS 1.3 alone; both sides show certificates; sessions are not resumed. A certificate of another authority, or one
    that has expired, ends the handshake; one that is on no list, or has expired since, gets status 403; both are in
    the log. Whoever has a party's key is that party. Of each party at most one request and one answer are held.
    """

    def __init__(
        self,
        parties: Mapping[str, str],
        *,
        certificate: Pathlike,
        private_key: Pathlike,
        authority: Pathlike,
        host: str = "127.0.0.1",
        port: int = 0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        hold_s: float = HOLD_SECONDS,
    ) -> None:
        super().__init__(parties)
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "A channel over HTTPS needs a web server", fix="pip install 'blindsight[net]'"
            ) from error
        self._max_bytes = max_message_bytes
        self._hold_s = hold_s
        context = mutual_context(
            certificate=certificate, private_key=private_key, trusted=[authority], server=True, check_name=False
        )
        self._ready: dict[str, asyncio.Event] = {}
        self._running: dict[tuple[str, str], asyncio.Task[Any]] = {}
        listener = listen(host, port, Listener)
        bound, port = listener.getsockname()[:2]
        self.url = f"https://{f'[{bound}]' if ':' in bound else bound}:{port}"
        self._server = ThreadedServer(self._application(), context, listener, self._desk.close)

    def close(self) -> None:
        """Refuse what comes, end what runs, wait for the server's thread."""
        self._desk.close()
        self._server.close(self._wake_all)

    # -- in the server's thread ---------------------------------------------------------------------------------------

    def _wake(self, party: str) -> None:
        self._server.call(self._wake_one, party)

    def _wake_one(self, party: str) -> None:
        if party in self._ready:
            self._ready[party].set()

    def _wake_all(self) -> None:
        for event in self._ready.values():
            event.set()

    def _drop(self, party: str) -> None:
        self._server.call(self._end_of, party)

    def _end_of(self, party: str) -> None:
        for (name, _), task in self._running.items():
            if name == party:
                task.cancel()

    # -- what parties ask ---------------------------------------------------------------------------------------------

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        def route(path: str, handler: Callable[[Request, str], Awaitable[Response]]) -> Route:
            async def endpoint(request: Request) -> Response:
                who, why = self._roll.who(request.scope["state"].get("peer_certificate"))
                if who is None:
                    return _stranger(why)
                claimed = request.headers.get(PARTY_HEADER, who)
                if claimed != who:
                    log.warning("%s was refused: it calls itself %r", who, claimed[:64])
                    return _problem(403, "This certificate is another party's", f"it is {who}'s")
                try:
                    return await handler(request, who)
                except _Replaced:
                    return _problem(409, "The party has asked again on another connection", "")

            return Route(path, endpoint, methods=["POST"])

        return Starlette(
            routes=[
                route("/v1/poll", self._poll),
                route("/v1/answers/{id}", self._answer),
                route("/v1/failures/{id}", self._failure),
            ]
        )

    async def _poll(self, request: Request, who: str) -> Response:
        from starlette.responses import Response

        letter = await self._alone(who, "poll", self._wait(who, _asked_wait(request, self._hold_s)))
        still, why = self._roll.who(request.scope["state"].get("peer_certificate"))
        if still != who:  # its certificate has ended while it waited
            return _stranger(why)
        if letter is not None:
            return self._delivery(who, letter)
        return _problem(503, "The coordinator is leaving", "") if self._desk.closed else Response(status_code=204)

    async def _wait(self, who: str, seconds: float) -> Letter | None:
        """What lies ready for a party, as soon as it does."""
        ready = self._ready.setdefault(who, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                while (letter := self._desk.letter(who)) is None and not self._desk.closed:
                    ready.clear()
                    if self._desk.letter(who) is None and not self._desk.closed:
                        await ready.wait()
        except TimeoutError:
            return None
        return letter

    async def _answer(self, request: Request, who: str) -> Response:
        from starlette.responses import Response

        length = request.headers.get("content-length", "")
        if not length.isdigit() or len(length) > 15 or int(length) > self._max_bytes:
            return _problem(413, "An answer's length is missing or too large", f"at most {self._max_bytes} bytes")
        if not _ID.fullmatch(letter_id := request.path_params["id"]):
            return _problem(400, "This is no request's id", "32 hexadecimal digits")
        body = await self._alone(who, "answer", self._read(request, who, letter_id, int(length)))
        if body is not None and not self._desk.answer(who, letter_id, body):
            log.info("an answer of %s came late, or twice, and is dropped", who)
        return Response(status_code=204)

    async def _read(self, request: Request, who: str, letter_id: str, length: int) -> bytes | None:
        """An answer's body; one that nobody waits for is read without being kept, so that its sender is answered."""
        from starlette.requests import ClientDisconnect

        parts: list[bytes] = []
        read = 0
        pieces = request.stream()
        try:
            while True:
                async with asyncio.timeout(PIECE_SECONDS):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                read += len(piece)
                if self._desk.is_open(who, letter_id):
                    parts.append(piece)
                else:
                    parts.clear()
        except (TimeoutError, ClientDisconnect):
            request.state.abort()
            return None
        finally:
            await pieces.aclose()
        body = b"".join(parts)
        return body if read == length == len(body) else None

    async def _failure(self, request: Request, who: str) -> Response:
        from starlette.responses import Response

        if self._desk.answer(who, request.path_params["id"], None):
            log.warning("%s did not answer: its handler failed", who)
        return Response(status_code=204)

    async def _alone(self, who: str, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Run one thing of a kind for a party; a newer one ends it, since the party has given it up.

        Raises
        ------
        _Replaced
        """
        key, task = (who, what), asyncio.ensure_future(work)
        older = self._running.get(key)
        if older is not None:
            older.cancel()
        self._running[key] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            if self._running.get(key) is task:
                del self._running[key]
        if task.cancelled():
            raise _Replaced
        return task.result()

    def _delivery(self, who: str, letter: Letter) -> Response:
        """A request as a response, in pieces; one that is not taken in time is cut off, and handed out again."""
        from starlette.responses import Response

        channel = self

        class Delivery(Response):
            async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
                try:
                    await channel._alone(who, "delivery", self._send(send))
                except (_Replaced, TimeoutError, OSError):
                    scope["state"]["abort"]()
                    await asyncio.sleep(0)  # the server notes it before we return

            async def _send(self, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                view, start = memoryview(letter.body), 0
                while True:
                    piece, start = bytes(view[start : start + PIECE_BYTES]), start + PIECE_BYTES
                    more = start < len(view)
                    async with asyncio.timeout(PIECE_SECONDS):
                        await send({"type": "http.response.body", "body": piece, "more_body": more})
                    if not more:
                        return

        headers = {"content-length": str(len(letter.body)), ID_HEADER: letter.id}
        return Delivery(headers=headers, media_type="application/octet-stream")


def _stranger(why: str) -> Response:
    log.warning("a stranger was refused: %s", why)
    return _problem(403, "This certificate is on no list here", why)


def _problem(status: int, title: str, rule: str) -> Response:
    from starlette.responses import JSONResponse

    body = {"status": status, "title": title, **({"rule": rule} if rule else {})}
    # what is left of a body that is not wanted is not read
    headers = {"connection": "close"} if status in (403, 413) else None
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def _asked_wait(request: Request, longest: float) -> float:
    """How long a question may stay unanswered: ``Prefer: wait=SECONDS`` (RFC 7240), within our own limit."""
    found = re.fullmatch(r"wait=(\d{1,4})", request.headers.get("prefer", ""))
    return min(longest, float(found[1])) if found else longest
