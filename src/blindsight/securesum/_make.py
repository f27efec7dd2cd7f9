"""From a specification to the machines that carry it out, whatever its method."""

from __future__ import annotations

from typing import Any

from ._client import SumClient
from ._phased_client import PhasedClient
from ._phased_server import PhasedServer
from ._server import SumServer
from ._shared_client import SharedKeyClient
from ._shared_server import SharedKeyServer
from ._spec import SumSpec
from ._wire import Signer

__all__ = ["load_client", "load_server", "make_client", "make_server"]


def make_server(spec: SumSpec) -> PhasedServer:
    """The coordinator's side of a sum.

    Raises
    ------
    MissingExtraError
        The specification's scheme is not installed here.
    """
    return _server_kind(spec)(spec)


def load_server(state: bytes, *, spec: SumSpec) -> PhasedServer:
    """The coordinator's side of a sum from its dumped state; FormatError if that is malformed or of another sum."""
    return _server_kind(spec).load(state, spec=spec)


def make_client(spec: SumSpec, name: str, signer: Signer) -> PhasedClient[Any]:
    """A party's side of a sum; see ``SumClient`` for what may be raised."""
    return _kind(spec)(spec, name, signer)


def load_client(state: bytes, *, spec: SumSpec, name: str, signer: Signer) -> PhasedClient[Any]:
    """A party's side of a sum from its dumped state; FormatError if that is malformed or of another sum."""
    return _kind(spec).load(state, spec=spec, name=name, signer=signer)


def _kind(spec: SumSpec) -> type[PhasedClient[Any]]:
    return SharedKeyClient if spec.shares_key else SumClient


def _server_kind(spec: SumSpec) -> type[SharedKeyServer] | type[SumServer]:
    return SharedKeyServer if spec.shares_key else SumServer
