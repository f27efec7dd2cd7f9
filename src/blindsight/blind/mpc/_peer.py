"""Asking an operator over HTTPS: its certificate pinned, its errors ours again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight import errors
from blindsight._text import printable
from blindsight.channels import CONNECT_SECONDS, ask_http
from blindsight.errors import AuthenticationError, BlindsightError, MissingExtraError, UnavailableError, WireError

from ._certificates import TlsFiles, pinned_context
from ._config import NodeConfig
from ._wire import Abort, Execute, Header, Prepare, RunHeader, SessionHeader, Void, pack

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpPeer", "ask", "client_of"]

MAX_ANSWER_BYTES = 1 << 27
MAX_PROBLEM_CHARS = 500
_KINDS: dict[str, type[BlindsightError]] = {
    name: kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), BlindsightError)
}


def client_of(address: str, tls: TlsFiles, certificate: Path) -> httpx.AsyncClient:
    """HTTP client of one operator; MissingExtraError where httpx is not installed."""
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("Asking operators needs httpx", fix="pip install 'blindsight[mpc]'") from error
    context = pinned_context(tls, server=False, peers=[certificate])
    return httpx.AsyncClient(base_url=f"https://{address}", verify=context, trust_env=False)


async def ask(
    client: httpx.AsyncClient, method: str, path: str, *, body: bytes | None = None, timeout_s: float
) -> tuple[bytes, dict[str, str]]:
    """Ask and return body and headers.

    Raises
    ------
    UnavailableError
        The operator cannot be reached, breaks off, or says to try again.
    BlindsightError
        What the operator raised.
    WireError
        An answer is too long.
    """
    where = client.base_url.netloc.decode()
    try:
        answer = await ask_http(client, method, path, body=body, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES)
    except UnavailableError as error:
        raise UnavailableError(
            f"Operator {where} did not answer",
            got=error.got,
            rule="up, reachable, with the pinned certificate, and ours in its list",
            fix="try again: the run is void, nothing was opened",
        ) from error
    if not 200 <= answer.status < 300:
        raise _raised(where, answer.status, answer.body)
    return answer.body, dict(answer.headers)


def _raised(where: str, status: int, data: bytes) -> BlindsightError:
    """The error that an operator described; its words are untrusted and cut short."""
    try:
        body: dict[str, Any] = json.loads(data[:16_384])
        kind = _KINDS[body["kind"]]
        parts = {name: _words(body[name]) for name in ("got", "rule", "fix") if name in body}
        return kind(f"Operator {where}: {_words(body['what'])}", **parts)
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = UnavailableError if status >= 500 else AuthenticationError if status in (401, 403) else WireError
        return kind(f"Operator {where} refused", got=f"status {status}")


def _words(value: object) -> str:
    """Somebody else's words, cut short, without what a terminal would obey."""
    return printable(str(value)[:MAX_PROBLEM_CHARS])


class HttpPeer:
    """Another operator, as the first one asks it.

    Parameters
    ----------
    address : str
    tls : TlsFiles
        Of the asking operator.
    certificate : Path
        Of the other.
    config : NodeConfig
        For its time-outs.
    """

    def __init__(self, address: str, tls: TlsFiles, certificate: Path, config: NodeConfig) -> None:
        self._client = client_of(address, tls, certificate)
        self._connect_s, self._run_s = config.connect_timeout_s, config.run_timeout_s

    async def prepare(self, run: RunHeader, owner: str) -> str:
        """Wait until the run's shares are there; return the name of the open link, or nothing."""
        return (await self._post("prepare", Prepare(run, owner), self._connect_s + 5.0)).decode(errors="replace")[:64]

    async def session(self, name: str) -> None:
        """Open a link under that name."""
        await self._post("session", SessionHeader(name), self._connect_s + 20.0)

    async def execute(self, run: RunHeader, owner: str, session: str) -> None:
        """Take part in a run until it is done."""
        await self._post("execute", Execute(run, owner, session), 2 * self._run_s + 5.0)

    async def void(self, run: RunHeader, owner: str) -> None:
        """Give up a run that has not started."""
        await self._post("void", Void(run, owner), CONNECT_SECONDS)

    async def abort(self, session: str) -> None:
        """Give a link up."""
        await self._post("abort", Abort(session), CONNECT_SECONDS)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _post(self, what: str, header: Header, timeout_s: float) -> bytes:
        body, _ = await ask(self._client, "POST", f"/v1/operators/{what}", body=pack(header), timeout_s=timeout_s)
        return body
