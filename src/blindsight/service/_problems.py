"""Errors over HTTP: problem details (RFC 9457) from the exception tree, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from blindsight import errors
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    InputError,
    ProtocolError,
    RefusedError,
    StoreError,
    UnavailableError,
    WireError,
)

__all__ = [
    "MEDIA_TYPE",
    "Problem",
    "RequestError",
    "encoded",
    "error_of",
    "error_of_problem",
    "problem_of",
    "status_of",
]

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:blindsight:problem:"
MAX_PROBLEM_BYTES = 1 << 16

_TITLES = {
    400: "The request is malformed",
    401: "The client is not authenticated",
    403: "Refused",
    404: "There is no such thing",
    405: "The method is not allowed here",
    408: "The request came too slowly",
    409: "The request does not fit the present state",
    411: "The length is missing",
    413: "The request is too long",
    415: "The media type is not supported",
    422: "The request cannot be processed",
    429: "Too many requests",
    500: "The service failed",
    503: "Not available at the moment",
}
_STATUS: tuple[tuple[type[BlindsightError], int], ...] = (
    (AuthenticationError, 403),
    (WireError, 400),
    (ProtocolError, 400),
    (RefusedError, 403),
    (InputError, 422),
    (UnavailableError, 503),
    (StoreError, 503),
)


class RequestError(ProtocolError):
    """A request that HTTP itself has a status for.

    Parameters
    ----------
    status : int
    kind : str
        Names the case for programs: ``too-long``, ``offer-changed``, ...
    headers : dict, optional
        Sent with the answer.
    """

    def __init__(
        self, status: int, kind: str, what: str, *, headers: dict[str, str] | None = None, **parts: str | None
    ) -> None:
        super().__init__(what, **parts)
        self.status, self.kind, self.headers = status, kind, headers or {}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Problem details of RFC 9457; what, got, rule and fix are the four parts of every error of Blindsight.

    Parameters
    ----------
    type, title, status, detail
        As in the RFC.
    kind : str
        Name of the exception, or of the HTTP condition.
    what, got, rule, fix : str, optional
    request_id : str
        Under which the service has logged it.
    """

    type: str
    title: str
    status: int
    detail: str
    kind: str
    what: str = ""
    got: str | None = None
    rule: str | None = None
    fix: str | None = None
    request_id: str = ""


def status_of(error: BlindsightError) -> int:
    """HTTP status for an error that Blindsight raised on purpose."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: BlindsightError, request_id: str) -> Problem:
    """Problem details for an error; of our own failures (500, 503) no detail that an operator's log should hold."""
    status = status_of(error)
    kind = error.kind if isinstance(error, RequestError) else type(error).__name__
    ours = status >= 500
    return Problem(
        type=TYPE + kind,
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=error.what if ours else str(error),
        kind=kind,
        what=error.what,
        got=None if ours or error.got is None else error.got[:300],
        rule=None if ours else error.rule,
        fix="try again later; the operator's log has this request's id" if ours else error.fix,
        request_id=request_id,
    )


def encoded(problem: Problem) -> bytes:
    """Its JSON, without the parts that are missing."""
    return msgspec.json.encode({key: value for key, value in vars(problem).items() if value is not None})


def error_of(status: int, body: bytes) -> BlindsightError:
    """Exception for an answer that is not a success; ``body`` is untrusted.

    Returns
    -------
    BlindsightError
        Of the kind that the service raised, where that is one of ours; otherwise by status. Never raises.
    """
    try:
        told = msgspec.json.decode(body[:MAX_PROBLEM_BYTES], type=Problem)
    except msgspec.MsgspecError:
        told = Problem(type="about:blank", title="", status=status, detail="", kind="", what=f"It answered {status}")
    return error_of_problem(told, status)


def error_of_problem(told: Problem, status: int | None = None) -> BlindsightError:
    """Exception for a problem; untrusted, as above. ``status`` is the one that it came with, if it came by itself."""
    status = told.status if status is None else status
    parts: dict[str, Any] = {
        "got": told.got and told.got[:500],
        "rule": told.rule and told.rule[:500],
        "fix": told.fix and told.fix[:500],
    }
    what = f"Service: {(told.what or told.detail)[:500]}"
    kind = getattr(errors, told.kind, None) if told.kind in errors.__all__ else None
    if isinstance(kind, type) and issubclass(kind, BlindsightError):
        return kind(what, **parts)
    if status >= 500 or status in (408, 429):
        return UnavailableError(what, **parts)
    if status == 401:
        return AuthenticationError(what, **parts)
    return RequestError(status, told.kind[:64] or "unknown", what, **parts)
