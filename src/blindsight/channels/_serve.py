"""A party's end of whatever channel its coordinator's address names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blindsight.errors import ParameterError

from ._flower_party import serve_flower
from ._grpc_party import serve_grpc
from ._https_party import serve_https
from ._mqtt_party import serve_mqtt

__all__ = ["serve"]

_BY_SCHEME: dict[str, Callable[..., None]] = {
    "https": serve_https,
    "grpcs": serve_grpc,
    "mqtts": serve_mqtt,
    "flower": serve_flower,
}


def serve(handler: Callable[[bytes], bytes], url: str, **options: Any) -> None:
    """Answer a coordinator's requests until told to stop, over the channel that its address names.

    Parameters
    ----------
    handler : callable bytes -> bytes
    url : str
        ``https://HOST:PORT`` or ``grpcs://HOST:PORT`` of the coordinator, ``mqtts://HOST:PORT`` of a broker,
        ``flower://HOST:PORT`` of a SuperLink.
    **options
        Of the function that the scheme names; all have ``name``, ``certificate``, ``private_key``, ``authority``,
        ``coordinator``, ``stop``, ``max_message_bytes``, ``max_backoff_s`` and ``contact``.

    Raises
    ------
    ParameterError
        Another scheme; or as the function that it names.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _BY_SCHEME:
        raise ParameterError(
            "The coordinator's address cannot be used",
            got=url[:200],
            rule=" or ".join(f"{known}://HOST:PORT" for known in _BY_SCHEME),
        )
    _BY_SCHEME[scheme](handler, url, **options)
