"""A party's end over HTTPS: dials out, asks for work, answers, and comes back whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    MissingExtraError,
    ParameterError,
    UnavailableError,
    WireError,
)

from ._ask import HttpAnswer, ask_http
from ._backoff import Backoff
from ._channel import MAX_MESSAGE_BYTES
from ._contact import Contact
from ._desk import Letter
from ._https import HOLD_SECONDS, ID_HEADER, PARTY_HEADER
from ._leaving import leaving
from ._outbox import Outbox
from ._pin import Expected, expected_now, pin_context, still_expected
from ._tls import Pathlike, mutual_context

if TYPE_CHECKING:
    import httpx

__all__ = ["serve_https"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PIECE_SECONDS = 30.0
FAREWELL_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 15.0
_ID = re.compile(r"[0-9a-f]{32}")


def serve_https(
    handler: Callable[[bytes], bytes],
    url: str,
    *,
    name: str,
    certificate: Pathlike,
    private_key: Pathlike,
    authority: Pathlike,
    coordinator: Expected = None,
    stop: threading.Event | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    max_backoff_s: float = MAX_BACKOFF_SECONDS,
    hold_s: float = HOLD_SECONDS,
    contact: Contact | None = None,
) -> None:
    """Answer a coordinator's requests until told to stop; blocks, and never gives up by itself.

    Parameters
    ----------
    handler : callable bytes -> bytes
        Called in another thread, one request at a time. Must stand being asked the same again: a process that is
        killed between answering and posting gets its request once more. One that raises is a dropout.
    url : str
        ``https://HOST:PORT`` of the coordinator.
    name : str
        Of this party, as the coordinator's list has it.
    certificate, private_key : path
        The party's own, in PEM.
    authority : path
        Certificates, in PEM, that may sign the coordinator's; the latter must hold ``HOST``.
    coordinator : str or callable () -> str, optional
        SHA-256 of the one certificate that the coordinator may have, in hexadecimal; a callable is asked before every
        request, so that another one holds at once. Any that ``authority`` signed for ``HOST`` otherwise.
    stop : threading.Event, optional
        Ends the loop; set when it has ended for another reason. In the main thread SIGTERM and SIGINT do the
        same.
    max_message_bytes : int
        Longest request that is read.
    max_backoff_s : float
        Longest wait before trying again after failures.
    hold_s : float
        How long the coordinator may keep a question unanswered: below what a firewall on the way allows.
    contact : Contact, optional
        Is told of the coordinator, for whoever watches this party.

    Raises
    ------
    ParameterError, StoreError, MissingExtraError
        The URL or a file cannot be used; the extra ``net`` is not installed. Nothing else: what fails later is in the
        log, and tried again.

    Notes
    -----
    Told to stop, it finishes the request at hand, tries once to post the answer, and ends.

    Security
    --------
    Nothing listens at the party. TLS 1.3 alone; the coordinator's certificate must be signed by ``authority`` for the
    host that was dialled, and be ``coordinator`` if that is given: compared in the handshake, before anything is sent,
    and again before a request is handed to ``handler``. What the coordinator sends is bounded here and judged there.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("A party over HTTPS needs httpx", fix="pip install 'blindsight[net]'") from error
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise ParameterError("The coordinator's address cannot be used", got=url[:200], rule="https://HOST:PORT")

    def connect(pinned: str | None) -> httpx.AsyncClient:
        context = mutual_context(
            certificate=certificate, private_key=private_key, trusted=[authority], server=False, check_name=True
        )
        return httpx.AsyncClient(
            base_url=f"https://{parts.netloc}",
            verify=pin_context(context, pinned),
            trust_env=False,
            headers={PARTY_HEADER: name, "user-agent": "blindsight", "accept-encoding": "identity"},
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=60.0),
        )

    line = _Line(connect, coordinator)  # says at once what cannot be used

    async def serve() -> None:
        async with line, leaving(stop or threading.Event()) as left:
            courier = _Courier(handler, line, Outbox(name, contact), left, max_message_bytes, hold_s)
            await courier.run(Backoff(max_backoff_s))

    asyncio.run(serve())


class _Line:
    """The connections to the coordinator, made anew when another certificate is expected of it."""

    def __init__(self, connect: Callable[[str | None], httpx.AsyncClient], expected: Expected) -> None:
        self._connect, self._expected = connect, expected
        self._pinned = expected_now(expected)
        self._client = connect(self._pinned)

    async def client(self) -> httpx.AsyncClient:
        """The client whose connections are to the coordinator that is expected now."""
        if (now := expected_now(self._expected)) != self._pinned:
            await self._client.aclose()
            self._pinned, self._client = now, self._connect(now)
        return self._client

    def check(self) -> None:
        """Raise AuthenticationError if what came last is from a coordinator that has been replaced meanwhile."""
        still_expected(self._pinned, self._expected)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


class _Courier:
    """The loop: ask, have it answered, post."""

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        line: _Line,
        outbox: Outbox,
        left: asyncio.Event,
        max_bytes: int,
        hold_s: float,
    ) -> None:
        self._handler, self._line, self._outbox, self._left = handler, line, outbox, left
        self._max_bytes, self._hold_s = max_bytes, hold_s

    async def run(self, backoff: Backoff) -> None:
        while not self._left.is_set():
            try:
                if self._outbox.waiting:
                    await self._unless_left(self._post(PIECE_SECONDS))
                elif (letter := await self._unless_left(self._poll())) is not None:
                    await asyncio.to_thread(self._outbox.fill, letter, self._handler)
                self._outbox.reached(backoff.failures)
                backoff.worked()
            except BlindsightError as error:
                self._outbox.failed(error, backoff.failures)
                await self._unless_left(asyncio.sleep(backoff.failed()))
        if self._outbox.waiting:
            try:
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._post(FAREWELL_SECONDS)
            except (BlindsightError, TimeoutError) as error:
                self._outbox.failed(error, 0)

    async def _unless_left(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do it, unless we are told to leave: then None."""
        task, left = asyncio.ensure_future(work), asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            left.cancel()
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # nobody else will ask for it

    async def _poll(self) -> Letter | None:
        answer = await self._ask(
            "/v1/poll", {"prefer": f"wait={int(self._hold_s)}"}, None, self._hold_s + PIECE_SECONDS
        )
        if answer.status == 204:
            return None
        letter_id = answer.headers.get(ID_HEADER, "")
        if answer.status != 200 or not _ID.fullmatch(letter_id):
            raise WireError("The coordinator answered something else", got=f"status {answer.status}")
        return Letter(letter_id, answer.body)

    async def _post(self, timeout_s: float) -> None:
        letter_id, body = self._outbox.next()
        what = "failures" if body is None else "answers"
        answer = await self._ask(f"/v1/{what}/{letter_id}", {}, body or b"", timeout_s)
        if answer.status == 413:
            log.error("an answer of %d bytes is too long for the coordinator", len(body or b""))
            self._outbox.give_up()
            return
        if answer.status != 204:
            raise WireError("The coordinator answered something else", got=f"status {answer.status}")
        self._outbox.done(letter_id)

    async def _ask(self, path: str, headers: dict[str, str], body: bytes | None, timeout_s: float) -> HttpAnswer:
        client = await self._line.client()
        answer = await ask_http(
            client, "POST", path, body=body, headers=headers, timeout_s=timeout_s, max_bytes=self._max_bytes
        )
        self._line.check()
        if answer.status == 403:
            raise AuthenticationError(
                "The coordinator refuses this certificate",
                got=answer.body[:200].decode(errors="replace"),
                fix="have its fingerprint put on the coordinator's list, or renew it",
            )
        if answer.status == 409:
            raise UnavailableError("Another process asks with this party's certificate", fix="run one process a party")
        if answer.status >= 500:
            raise UnavailableError("The coordinator is not ready", got=f"status {answer.status}")
        return answer
