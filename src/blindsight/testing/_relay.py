"""A TCP relay that does what networks do: cuts, delays, throttles, partitions, and says everything twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["ChaosRelay"]

CHUNK = 1 << 16


class ChaosRelay:
    """Passes connections on to one address, from a thread of its own. Change its attributes at any time.

    Parameters
    ----------
    host : str
    port : int
        Where to.

    Attributes
    ----------
    port : int
        Where from, on 127.0.0.1.
    delay_s : float
        Added to every chunk, in each direction.
    bytes_per_s : float
        Of each connection, in each direction.
    cut_after : int or None
        The next connection that has sent this many bytes is reset; then None again.
    twice : bool
        Whatever a client sends goes over a second connection as well, whose answers nobody reads.
    up_bytes, down_bytes, connections : int
        Counted so far: to the server, from the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay_s = 0.0
        self.bytes_per_s = float("inf")
        self.cut_after: int | None = None
        self.twice = False
        self.up_bytes = self.down_bytes = self.connections = 0
        self.port = 0
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._open: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="relay", daemon=True)
        self._thread.start()
        self._ready.wait()

    def cut(self) -> None:
        """Reset every connection that there is."""
        self._do(self._cut)

    def partition(self) -> None:
        """From now on nothing passes; connections stay open, new ones are accepted and hang."""
        assert self._open is not None
        self._do(self._open.clear)

    def heal(self) -> None:
        """What was held passes on."""
        assert self._open is not None
        self._do(self._open.set)

    def close(self) -> None:
        """Reset everything and end the thread."""
        assert self._end is not None
        self._do(self._end.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, function: Callable[[], object]) -> None:
        done = threading.Event()
        assert self._loop is not None

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(10)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _run(self) -> None:
        self._loop, self._end, self._open = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._open.set()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        self._cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close their sockets in the next turn

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        mine = [writer]
        self._writers.add(writer)
        try:
            assert self._open is not None
            await self._open.wait()
            there, other = await asyncio.open_connection(*self._target)
            mine.append(other)
            self._writers.add(other)
            targets = [other]
            drains = []
            if self.twice:
                unread, second = await asyncio.open_connection(*self._target)
                mine.append(second)
                self._writers.add(second)
                targets.append(second)
                drains.append(asyncio.ensure_future(unread.read()))
            pumps = [
                asyncio.ensure_future(self._pump(reader, targets, up=True)),
                asyncio.ensure_future(self._pump(there, [writer], up=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for task in (*pumps, *drains):
                task.cancel()
            await asyncio.gather(*pumps, *drains, return_exceptions=True)
        except OSError:  # nobody is there, or it was cut
            pass
        finally:
            for one in mine:
                one.transport.abort()
                self._writers.discard(one)

    async def _pump(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter], *, up: bool) -> None:
        assert self._open is not None
        sent = 0
        try:
            while chunk := await reader.read(CHUNK):
                pause = self.delay_s + len(chunk) / self.bytes_per_s
                if pause:
                    await asyncio.sleep(pause)
                await self._open.wait()
                sent += len(chunk)
                if up and self.cut_after is not None and sent >= self.cut_after:
                    self.cut_after = None
                    return
                self.up_bytes, self.down_bytes = (
                    self.up_bytes + up * len(chunk),
                    self.down_bytes + (not up) * len(chunk),
                )
                for number, writer in enumerate(writers):
                    try:
                        writer.write(chunk)
                        await writer.drain()
                    except OSError:
                        if number == 0:
                            return
        except OSError:
            return
