"""The node's hand on its worker process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import msgspec

from blindsight.channels import ProcessChannel
from blindsight.errors import ProtocolError, UnavailableError

from .worker import Request

__all__ = ["WorkerProcess"]

NAME = "worker"
_encoder = msgspec.msgpack.Encoder()


class WorkerProcess:
    """One worker, asked one thing at a time.

    Parameters
    ----------
    threads : int
        That its libraries may use.
    """

    def __init__(self, threads: int) -> None:
        module = "blindsight.blind.mpc.worker"
        self._channel = ProcessChannel({NAME: [sys.executable, "-m", module, str(threads)]})
        self._turn = asyncio.Lock()
        self.alive = True
        self.opened = False
        """Whether it was ever asked to open a link: it opens one in its life."""
        self.loaded: set[str] = set()
        """Ids of the models that it has shares of."""

    @property
    def process_id(self) -> int:
        """Operating-system id."""
        return self._channel.process_id(NAME)

    async def ask(self, request: Request, timeout_s: float) -> bytes:
        """Ask and wait.

        Raises
        ------
        UnavailableError
            It ended or did not answer in time; it is killed, since nobody knows what it still does.
        ProtocolError
            It answered that it could not.
        """
        async with self._turn:
            encoded = _encoder.encode(request)
            answers = await asyncio.to_thread(self._channel.exchange, {NAME: encoded}, timeout_s)
        answer = answers.get(NAME)
        if answer is None:
            self.kill()
            raise UnavailableError(
                "A computation ended before it was done",
                rule=f"every operator answers within {timeout_s:g} s",
                fix="try again: the run is void, nothing was opened",
            )
        if answer[:1] != b"+":
            raise ProtocolError(answer[1:].decode(errors="replace")[:1000])
        return answer[1:]

    def kill(self) -> None:
        """End it at once."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process_id, signal.SIGKILL)

    async def close(self) -> None:
        """End it and wait for its end."""
        self.kill()
        await asyncio.to_thread(self._channel.close)
