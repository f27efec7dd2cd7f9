"""What is said over HTTPS about a comparison link: what an owner asks for, and the service's line for each event."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blindsight.errors import WireError

from ._problems import Problem, RequestError
from ._settings import LEAST_PORT

__all__ = [
    "ALIVE_SECONDS",
    "NDJSON",
    "REQUEST_SCHEMA",
    "Alive",
    "Compared",
    "Ended",
    "Event",
    "LinkRequest",
    "Opened",
    "Ready",
    "Refused",
    "decode_event",
    "decode_request",
    "encode_event",
    "encode_request",
    "peer_address",
]

NDJSON = "application/x-ndjson"
ALIVE_SECONDS = 5.0
"""Longest silence of the service while a link is open."""

MAX_CERTIFICATE_CHARS = 8192
MAX_LINE_BYTES = 1 << 16

_Port = Annotated[int, Meta(ge=LEAST_PORT, le=65535)]
_Pem = Annotated[str, Meta(min_length=1, max_length=MAX_CERTIFICATE_CHARS)]
_Transfer = Literal["ferret", "softspoken"]


class LinkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An owner asks for a comparison link.

    Parameters
    ----------
    port : int
        Where the owner's end listens.
    certificate : str
        That its end shows, PEM; the service pins it.
    host : str, optional
        IP address that the scorer reaches the owner's end at. Default: the one that the request comes from.
    transfer : {"ferret", "softspoken"}
        See :class:`blindsight.blind.Comparison`.
    """

    port: _Port
    certificate: _Pem
    host: Annotated[str, Meta(max_length=64)] | None = None
    transfer: _Transfer = "ferret"


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="opened"):
    """First line: the scorer's end is being started, and waits for the owner's.

    Parameters
    ----------
    name : str
        Of the link: secret, 32 hexadecimal digits.
    certificate : str
        That the scorer's end shows, PEM.
    port : int
    host : str, optional
        Where it listens. None: at the host that the service was asked under.
    """

    name: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    certificate: _Pem
    port: _Port
    host: Annotated[str, Meta(max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")] | None = None


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ready"):
    """Both ends are there, and set up."""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="alive"):
    """Nothing has happened for a while."""


class Compared(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="compared"):
    """A comparison was carried out, of so many records."""

    rows: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="refused"):
    """A comparison was refused; the link goes on."""

    problem: Problem


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ended"):
    """Last line. With a problem, unless the link was closed in good order."""

    problem: Problem | None = None


Event = Opened | Ready | Alive | Compared | Refused | Ended
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_requests = msgspec.json.Decoder(LinkRequest)

REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["port", "certificate"],
    "properties": {
        "port": {"type": "integer", "minimum": LEAST_PORT, "maximum": 65535},
        "certificate": {"type": "string", "minLength": 1, "maxLength": MAX_CERTIFICATE_CHARS},
        "host": {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "null"}]},
        "transfer": {"type": "string", "enum": ["ferret", "softspoken"]},
    },
}
"""JSON Schema of :class:`LinkRequest`."""


def encode_request(request: LinkRequest) -> bytes:
    """JSON of a request."""
    return msgspec.json.encode(request)


def decode_request(body: bytes) -> LinkRequest:
    """Read a request, strictly.

    Raises
    ------
    RequestError
        422: it is another.
    """
    try:
        return _requests.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(
            422,
            "invalid",
            "The request for a comparison link does not fit its description",
            got=str(error)[:200],
            rule="/openapi.json",
        ) from error


def encode_event(event: Event) -> bytes:
    """One line."""
    return msgspec.json.encode(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Read a line of the service's; untrusted.

    Raises
    ------
    WireError
    """
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError
        return _events.decode(line)
    except (msgspec.MsgspecError, ValueError) as error:
        raise WireError("The service's word on a comparison link is malformed", got=str(error)[:200] or None) from error


def peer_address(asked: str | None, peer: str, networks: Sequence[str]) -> str:
    """Where the scorer's end may connect to, as ``host`` or ``[host]``.

    Parameters
    ----------
    asked : str, optional
        What the owner named.
    peer : str
        The address that its request came from.
    networks : sequence of str
        Networks that are allowed; none: ``peer`` alone.

    Raises
    ------
    RequestError
        422: no IP address. 403: one that is not allowed.

    Security
    --------
    The service opens a connection to an address that a client has named: server-side request forgery, if that were any
    address. Names are refused, since what they resolve to could change after they were looked at.
    """
    try:
        address = _plain(asked if asked is not None else peer)
    except ValueError:
        rule = "an IP address; names are not looked up"
        raise RequestError(422, "invalid", "The address for a comparison link is unusable", rule=rule) from None
    if networks:
        allowed = any(address in ipaddress.ip_network(network) for network in networks)
    else:
        allowed = address == _plain(peer)
    if not allowed or address.is_unspecified or address.is_multicast:
        raise RequestError(
            403,
            "link-address",
            "The service makes no comparison link to this address",
            got=str(address),
            rule="an address in the networks that its operator has listed"
            if networks
            else "the address that the request comes from",
            fix="listen there; or ask the operator to list your network: blindsight serve --link-peer",
        )
    return f"[{address}]" if address.version == 6 else str(address)


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError
        return address.ipv4_mapped or address
    return address
