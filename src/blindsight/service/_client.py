"""The client: sealed records over HTTPS, sent again when the answer is lost, charged once."""

from __future__ import annotations

import contextlib
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight.blind import ComparisonRefused, RecordOwner
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    MissingExtraError,
    ParameterError,
    PolicyError,
    ProtocolError,
    UnavailableError,
)

from ._hosts import is_loopback
from ._link_client import SILENCE_SECONDS, ComparisonLink, Comparisons
from ._models import Facts
from ._problems import error_of

if TYPE_CHECKING:
    from blindsight.blind._verdict_comparison import Transfer

__all__ = ["Client", "new_key"]

T = TypeVar("T")
OCTETS = "application/octet-stream"
MAX_ANSWER_BYTES = 1 << 28
EXPLAINED_BYTES = 1 << 25
"""Of one answer with contributions, unless a single group takes more."""
RETRIED = frozenset({408, 429, 502, 503, 504})
LONGEST_PAUSE_S = 5.0


def new_key() -> str:
    """A fresh idempotency key: 128 random bits."""
    return secrets.token_hex(16)


class Client:
    """Talks to a service for one account.

    Parameters
    ----------
    url : str
        ``https://host:port``. Plain HTTP is for loopback addresses only.
    token : str, optional
        Bearer token.
    certificate : (path, path), optional
        The client's own certificate and private key, PEM.
    authority : path, optional
        PEM file of the certificate, or of the authority, that the service's certificate must go back to. Default:
        the authorities that this machine trusts.
    timeout_s : float
        For one attempt.
    retries : int
        Further attempts where the network or the service fails, with growing pauses.

    Raises
    ------
    ParameterError
        The URL is not usable.
    MissingExtraError
        httpx is not installed.

    Security
    --------
    The service sees sealed records, how many there are, and when. The answers it sends are checked by
    :meth:`RecordOwner.open`, never reported back.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        certificate: tuple[Path | str, Path | str] | None = None,
        authority: Path | str | None = None,
        timeout_s: float = 120.0,
        retries: int = 8,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("The client needs httpx", fix="pip install 'blindsight[serve]'") from error
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query:
            raise ParameterError("The service's URL cannot be used", got=url[:200], rule="https://host:port")
        if parts.scheme == "http" and not (parts.hostname == "localhost" or is_loopback(parts.hostname)):
            raise ParameterError(
                "The service is asked for over plain HTTP", got=parts.hostname, rule="HTTPS, but for loopback addresses"
            )
        if not 0 <= retries <= 100 or not timeout_s > 0:
            raise ParameterError("retries or timeout_s is out of its domain", rule="0 to 100; above 0")
        self.url = url.rstrip("/")
        self._retries = retries
        headers = {"User-Agent": "blindsight"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        verify: ssl.SSLContext | bool = True
        if parts.scheme == "https":
            try:
                verify = ssl.create_default_context(cafile=None if authority is None else str(authority))
                verify.minimum_version = ssl.TLSVersion.TLSv1_2
                if certificate is not None:
                    verify.load_cert_chain(*(str(path) for path in certificate))
            except (OSError, ssl.SSLError) as error:
                raise ParameterError(
                    "The authority or the client's certificate cannot be used", got=type(error).__name__, rule="PEM"
                ) from error
        self._httpx = httpx
        self._http = httpx.Client(
            base_url=self.url, headers=headers, verify=verify, timeout=timeout_s, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- what the service serves

    def models(self) -> list[Facts]:
        """Every model that is served."""
        told = self._json(self._send("GET", "/v1/models"))
        try:
            return msgspec.convert(told["models"], list[Facts])
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise ProtocolError("The service's list of models is malformed") from error

    def facts(self, model: str) -> Facts:
        """One model: threshold, version, sizes."""
        try:
            return msgspec.convert(self._json(self._send("GET", _path(model))), Facts)
        except msgspec.ValidationError as error:
            raise ProtocolError("The service's facts are malformed", got=str(error)[:200]) from error

    def offer(self, model: str) -> bytes:
        """For :class:`RecordOwner`; TLS is what authenticates it."""
        return self._send("GET", _path(model, "offer"))

    def account(self) -> dict[str, Any]:
        """Who the service takes this client for, and what it was charged."""
        return self._json(self._send("GET", "/v1/account"))

    # -- keys and scores

    def register(self, model: str, owner: RecordOwner) -> str:
        """Register an owner's key, if it is not; returns the key id."""
        known = self._json(self._send("GET", _path(model, "keys"))).get("keys")
        if isinstance(known, list) and owner.key_id in known:
            return owner.key_id
        told = self._json(self._send("POST", _path(model, "keys"), owner.registration))
        if told.get("key_id") != owner.key_id:
            raise ProtocolError("The service registered another key", got=repr(told.get("key_id"))[:80])
        return owner.key_id

    def forget(self, model: str, key_id: str) -> None:
        """Drop a key of this account."""
        self._send("DELETE", _path(model, "keys", key_id))

    def score(self, model: str, sealed: bytes, *, key: str | None = None) -> bytes:
        """Send a sealed request until it is answered.

        Parameters
        ----------
        model : str
        sealed : bytes
            From :meth:`RecordOwner.seal` with ``register=False``.
        key : str, optional
            Idempotency key, for a caller that may come back after a crash with the very same bytes. Default: a new one.

        Returns
        -------
        bytes
            For :meth:`RecordOwner.open`.

        Raises
        ------
        UnavailableError
            No answer in all attempts. The request may have been charged; under the same key it is not charged again.
        BudgetError, RequestError, ...
            What the service said.
        """
        return self._send("POST", _path(model, "score"), sealed, {"Idempotency-Key": key or new_key()})

    def score_records(
        self, model: str, owner: RecordOwner, X: Any, *, progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float64]:
        """Seal, send and open records, as many at a time as the service takes.

        Parameters
        ----------
        model : str
        owner : RecordOwner
            Made from :meth:`offer`; registered here if it is not.
        X : array of shape (n, d)
        progress : callable (done, of), optional

        Returns
        -------
        ndarray of shape (n,), float64
        """
        self.register(model, owner)
        rows = np.asarray(X, dtype=np.float64)
        step = self.rows_at_a_time(self.facts(model))
        scores = []
        for start in range(0, len(rows), step):
            sealed = owner.seal(rows[start : start + step], register=False)
            scores.append(owner.open(self.score(model, sealed), sealed=sealed))
            if progress is not None:
                progress(min(start + step, len(rows)), len(rows))
        return np.concatenate(scores) if scores else np.empty(0)

    def contributions(
        self, model: str, owner: RecordOwner, X: Any, *, progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float64]:
        """What each block of the encoding added to the records' scores; each record is charged once a block.

        Parameters
        ----------
        model : str
        owner : RecordOwner
            Made from :meth:`offer`; registered here if it is not.
        X : array of shape (n, d)
        progress : callable (done, of), optional

        Returns
        -------
        ndarray of shape (n, blocks), float64
            Equal to the model's ``contributions``; named by ``owner.contribution_names``.

        Raises
        ------
        PolicyError
            The service gives none of this model.
        BudgetError, RequestError, ...
            What the service said.
        """
        self.register(model, owner)
        rows = np.asarray(X, dtype=np.float64)
        step = self.explained_rows_at_a_time(self.facts(model), owner)
        parts = [np.empty((0, len(owner.contribution_names)))]
        for start in range(0, len(rows), step):
            sealed = owner.seal(rows[start : start + step], register=False, explain=True)
            parts.append(owner.open_contributions(self.score(model, sealed), sealed=sealed))
            if progress is not None:
                progress(min(start + step, len(rows)), len(rows))
        return np.concatenate(parts)

    # -- verdicts

    def comparisons(
        self,
        model: str,
        owner: RecordOwner,
        *,
        transfer: Transfer = "ferret",
        link_host: str | None = None,
        link_port: int = 0,
    ) -> Comparisons:
        """Compare answers of :meth:`score` over a link to the service's scorer, opened with the first; close it.

        Parameters
        ----------
        model : str
            One that reveals verdicts.
        owner : RecordOwner
        transfer : {"ferret", "softspoken"}
            See :class:`blindsight.blind.Comparison`.
        link_host : str, optional
            Own IP address as the scorer reaches it. Default: the one that this client's requests come from.
        link_port : int
            Own port that it connects to. 0: any free one.
        """

        def post(body: bytes) -> Any:
            headers = {"Content-Type": "application/json"}
            timeout = self._httpx.Timeout(SILENCE_SECONDS)
            return self._retrying(lambda: self._begin("POST", _path(model, "comparisons"), body, headers, timeout))

        return Comparisons(
            lambda: ComparisonLink(self.url, post, transfer=transfer, host=link_host, port=link_port), owner
        )

    def verdicts(
        self,
        model: str,
        owner: RecordOwner,
        X: Any,
        *,
        progress: Callable[[int, int], None] | None = None,
        transfer: Transfer = "ferret",
        link_host: str | None = None,
        link_port: int = 0,
        recharges: int = 2,
    ) -> npt.NDArray[np.int64]:
        """Seal and send records to a model that reveals verdicts, and learn these.

        Parameters
        ----------
        model : str
        owner : RecordOwner
            Made from :meth:`offer`; registered here if it is not.
        X : array of shape (n, d)
        progress : callable (done, of), optional
        transfer, link_host, link_port
            See :meth:`comparisons`.
        recharges : int
            How often a piece is sealed and charged anew whose comparison broke off: a mask is used once.

        Returns
        -------
        ndarray of shape (n,), int64
            How many of the scorer's secret thresholds each score exceeds. With one, equal to the model's ``predict``.

        Raises
        ------
        ComparisonRefused
            A piece broke off more often.
        UnavailableError
            No link could be made, or none held. What was answered is charged.
        BudgetError, RequestError, ...
            What the service said.
        """
        self.register(model, owner)
        rows = np.asarray(X, dtype=np.float64)
        step = self.rows_at_a_time(self.facts(model))
        found = []
        with self.comparisons(model, owner, transfer=transfer, link_host=link_host, link_port=link_port) as link:
            for start in range(0, len(rows), step):
                for attempt in range(recharges + 1):
                    sealed = owner.seal(rows[start : start + step], register=False)
                    try:
                        link.connect()  # before anything is charged
                        found.append(link.verdicts(self.score(model, sealed), sealed))
                        break
                    except ComparisonRefused:
                        if attempt == recharges:
                            raise
                if progress is not None:
                    progress(min(start + step, len(rows)), len(rows))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    @staticmethod
    def rows_at_a_time(facts: Facts) -> int:
        """A piece that is quick and that the service takes."""
        if facts.rows_per_message < 1:
            raise ProtocolError("The service takes no message of this model", fix="its operator must raise body_bytes")
        return min(facts.rows_per_message, 4096 if facts.packing == "columns" else 512)

    @staticmethod
    def explained_rows_at_a_time(facts: Facts, owner: RecordOwner) -> int:
        """The same of records whose contributions are asked for: every block of every record has an answer."""
        if facts.explained_rows_per_message < 1:
            raise PolicyError(
                "The service gives no contributions of this model",
                rule="of one-hot encodings in rows, where scores are revealed and its operator allows them",
                fix="ask its operator for them: blindsight serve --explanations",
            )
        group = owner.parameters.rows_per_ciphertext
        bytes_a_group = len(owner.contribution_names) * owner.parameters.answer_bytes(group)
        return min(facts.explained_rows_per_message, group * max(1, EXPLAINED_BYTES // bytes_a_group))

    # -- private

    def _send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = OCTETS

        def once() -> bytes:
            with contextlib.closing(self._begin(method, path, body, sent)) as response:
                return self._read(response)

        return self._retrying(once)

    def _begin(self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: Any = None) -> Any:
        """Send a request once and return the answer, to be read and closed; _Refused if it is no success."""
        options = {} if timeout is None else {"timeout": timeout}
        request = self._http.build_request(method, path, content=body, headers=headers, **options)
        response = self._http.send(request, stream=True)
        if response.is_success:
            return response
        with contextlib.closing(response):
            raise _Refused(response, self._read(response))

    def _retrying(self, attempt_once: Callable[[], T]) -> T:
        trouble: BlindsightError | None = None
        wait_s = 0.0
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(_pause(attempt, wait_s))
            wait_s = 0.0
            try:
                return attempt_once()
            except (self._httpx.TransportError, self._httpx.StreamError) as error:
                if _is_untrusted(error):
                    raise AuthenticationError(
                        "The service's certificate is not trusted",
                        got=str(error)[:200],
                        rule="it goes back to the given authority, or one that this machine trusts",
                        fix="get the authority's certificate from the service's operator and name it",
                    ) from error
                trouble = UnavailableError(
                    "The service did not answer", got=type(error).__name__, fix="see that it runs, and try again"
                )
            except _Refused as refused:
                if refused.status not in RETRIED:
                    raise refused.error from None
                trouble, wait_s = refused.error, refused.wait_s
        assert trouble is not None
        raise trouble

    def _read(self, response: Any) -> bytes:
        pieces, count = [], 0
        for piece in response.iter_bytes():
            count += len(piece)
            if count > MAX_ANSWER_BYTES:
                raise ProtocolError("The service's answer is too long", rule=f"at most {MAX_ANSWER_BYTES} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ProtocolError("The service's answer is malformed", got=str(error)[:200]) from error


class _Refused(Exception):
    """The service answered, and not with a success."""

    def __init__(self, response: Any, content: bytes) -> None:
        super().__init__()
        self.status: int = response.status_code
        self.error = error_of(self.status, content)
        text = response.headers.get("Retry-After", "")
        self.wait_s = float(text) if text.isdigit() and len(text) < 4 else 0.0


def _path(model: str, *parts: str) -> str:
    return "/".join(["/v1/models", *(quote(part, safe="") for part in (model, *parts))])


def _pause(attempt: int, wait_s: float) -> float:
    """Doubling, with a random half, so that many clients do not come back together."""
    longest = min(LONGEST_PAUSE_S, 0.05 * 2.0**attempt)
    return max(min(wait_s, LONGEST_PAUSE_S), longest * (0.5 + secrets.randbelow(1000) / 2000))


def _is_untrusted(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
