"""Prometheus metrics on a port of their own, for as long as something runs."""

from __future__ import annotations

import logging
import threading
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from blindsight.errors import MissingExtraError, UnavailableError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["MetricsPort", "new_registry"]

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 4
"""Answered at once; one more is closed. Whoever has an account here can reach the port, and each costs a thread."""
SILENCE_S = 5.0
"""How long a connection may say nothing."""


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
    """Serves ``/metrics`` on loopback from when it is made; a context manager that ends it.

    Parameters
    ----------
    registry : CollectorRegistry
    port : int
        0 chooses a free one.

    Raises
    ------
    UnavailableError
        The port cannot be listened on.

    Security
    --------
    There is neither TLS nor a password, hence loopback alone. At most :data:`MOST_CONNECTIONS` at once, each for one
    answer, ended after :data:`SILENCE_S` of silence: others on this machine can keep the operator from the metrics, and
    not the process from its work.
    """

    def __init__(self, registry: CollectorRegistry, port: int) -> None:
        from prometheus_client import make_wsgi_app

        try:
            self._server = _Server((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UnavailableError(
                f"Metrics cannot be served on {LOOPBACK}:{port}",
                got=error.strerror or "an error",
                fix="choose another port",
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

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


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a connection, for few connections."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        log.debug("a connection for metrics from %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    """Silent on stderr, where the process tells its operator other things."""

    timeout = SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        pass
