"""An HTTPS server in a thread of its own, which is over when it says so: no thread, no socket left."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blindsight.errors import UnavailableError

from ._listen import Listener

if TYPE_CHECKING:
    import uvicorn

__all__ = ["ThreadedServer"]

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3


class ThreadedServer:
    """Serves an ASGI application until it is closed.

    Parameters
    ----------
    application : ASGI application
    context : ssl.SSLContext
    listener : Listener
        Closed with the server.
    ended : callable
        Called when the server has ended, for whatever reason; from its thread.

    Raises
    ------
    UnavailableError
        It did not start; why is in the log.
    """

    def __init__(
        self, application: Any, context: ssl.SSLContext, listener: Listener, ended: Callable[[], None]
    ) -> None:
        self._listener, self._ended = listener, ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(application, context), name="blindsight-https", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._server is None or not self._server.started:
            self._thread.join()
            raise UnavailableError("The channel's server did not start", fix="read the log")

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the server's loop call a function soon; nothing once it has ended."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # the loop has ended
                return

    def close(self, wake: Callable[[], None]) -> None:
        """Take no more connections, have the loop call ``wake``, give what runs a few seconds, and wait for the end."""
        if self._server is not None:
            self._server.should_exit = True
        self.call(wake)
        self._thread.join()

    def _run(self, application: Any, context: ssl.SSLContext) -> None:
        try:
            from ._bounded import TimedLoop

            with asyncio.Runner(loop_factory=TimedLoop) as runner:
                runner.run(self._serve(application, context))
        except Exception:
            log.exception("the server of this channel has failed")
        finally:
            self._listener.close()
            self._ended()
            self._started.set()

    async def _serve(self, application: Any, context: ssl.SSLContext) -> None:
        import uvicorn

        from ._bounded import BoundedProtocol

        started = self._started

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                started.set()

        settings = uvicorn.Config(
            application,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,  # by it a party's preflight compares clocks
            timeout_keep_alive=120,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            h11_max_incomplete_event_size=16_384,
        )
        settings.load()
        settings.ssl = context
        self._loop, self._server = asyncio.get_running_loop(), Server(settings)
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._listener.close()
            # what is left: handshakes that never ended, connections whose other end says nothing
            self._listener.end_accepted()
            await asyncio.sleep(0.05)
