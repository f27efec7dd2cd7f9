"""Prometheus metrics on a port of their own, for as long as something runs."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from blindsight.errors import MissingExtraError, UnavailableError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["MetricsPort", "new_registry"]


def new_registry() -> CollectorRegistry:
    """An empty registry.

    Raises
    ------
    MissingExtraError
        ``prometheus-client`` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise MissingExtraError(
            "--metrics-port needs prometheus-client", fix="pip install 'blindsight[serve]'"
        ) from error
    return CollectorRegistry()


class MetricsPort:
    """Serves ``/metrics`` from when it is made; a context manager that ends it.

    Parameters
    ----------
    registry : CollectorRegistry
    port : int
        0 chooses a free one.
    host : str
        Loopback unless the caller says otherwise: there is neither TLS nor a password.

    Raises
    ------
    UnavailableError
        The port cannot be listened on.
    """

    def __init__(self, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        from prometheus_client import start_http_server

        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UnavailableError(
                f"Metrics cannot be served on {host}:{port}",
                got=error.strerror or "an error",
                fix="choose another port",
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
