"""Being told to stop: by an event from another thread, by SIGTERM, or by Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["leaving"]


@asynccontextmanager
async def leaving(stop: threading.Event) -> AsyncIterator[asyncio.Event]:
    """The event as one of this loop's; in the main thread, which hears signals, SIGTERM and SIGINT set it as well.

    A signal that the process ignores stays ignored.

    ``stop`` is set when the block ends, whatever ended it.
    """
    loop, left = asyncio.get_running_loop(), asyncio.Event()

    def watch() -> None:
        stop.wait()
        try:
            loop.call_soon_threadsafe(left.set)
        except RuntimeError:  # the loop has ended
            return

    heard = {}
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_sigmask"):  # POSIX
        heard = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        heard = {number: before for number, before in heard.items() if before is not signal.SIG_IGN}
    for number in heard:
        loop.add_signal_handler(number, left.set)
    watcher = threading.Thread(target=watch, name="blindsight-stop", daemon=True)
    watcher.start()
    try:
        yield left
    finally:
        stop.set()
        watcher.join()
        for number, before in heard.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)
