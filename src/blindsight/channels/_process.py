"""Each party in an operating-system process of its own, over its standard input and output.

Frame: u64 request number, u32 length (both little endian), then that many bytes. The number comes back with the
answer, so that an answer that arrives after its deadline is recognised and dropped.
"""

from __future__ import annotations

import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import IO

from blindsight.errors import WireError

from ._channel import MAX_MESSAGE_BYTES, Channel

__all__ = ["ProcessChannel", "serve_frames"]

HEADER = struct.Struct("<QI")


class ProcessChannel(Channel):
    """Starts one process a party and talks to it in frames.

    Parameters
    ----------
    commands : mapping of name to argument list
        What to start; the process must run :func:`serve_frames` on its standard streams. Its standard error is
        inherited, so that what it has to say is seen.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self._number = 0
        self._gone: set[str] = set()
        self._answers: SimpleQueue[tuple[int, str, bytes | None]] = SimpleQueue()
        self._processes = {
            name: subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for name, command in sorted(commands.items())
        }
        self._writers: dict[str, SimpleQueue[bytes | None]] = {name: SimpleQueue() for name in self._processes}
        self._threads = [
            threading.Thread(target=target, args=(name, process), daemon=True)
            for name, process in self._processes.items()
            for target in (self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""
        return tuple(self._processes)

    def process_id(self, name: str) -> int:
        """Operating-system id of a party's process."""
        return self._processes[name].pid

    def _write(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        while (frame := self._writers[name].get()) is not None:
            try:
                process.stdin.write(frame)
                process.stdin.flush()
            except OSError:  # the process is gone; the reader reports it
                break
        try:
            process.stdin.close()
        except OSError:
            return

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            while (frame := _read_frame(process.stdout)) is not None:
                self._answers.put((frame[0], name, frame[1]))
        except (OSError, WireError):
            process.kill()  # a party that answers garbage frames cannot be followed any more
        self._answers.put((-1, name, None))

    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        self._number += 1
        number = self._number
        waiting = set()
        for name, request in requests.items():
            # a process that closed its end may not be reaped yet, so that poll alone would wait for it in vain
            if name in self._processes and name not in self._gone and self._processes[name].poll() is None:
                self._writers[name].put(HEADER.pack(number, len(request)) + request)
                waiting.add(name)
        deadline = time.monotonic() + timeout_s
        answers: dict[str, bytes] = {}
        while waiting and (left := deadline - time.monotonic()) > 0:
            try:
                got, name, answer = self._answers.get(timeout=left)
            except Empty:
                break
            if answer is None:
                self._gone.add(name)
                waiting.discard(name)
            elif got == number and name in waiting:
                answers[name] = answer
                waiting.discard(name)
        return answers

    def kill(self) -> None:
        """End every process at once; whoever waits in ``exchange`` returns without its answer. Close afterwards."""
        for process in self._processes.values():
            process.kill()

    def close(self) -> None:
        """End every process: first by closing its input, then by signal."""
        for writer in self._writers.values():
            writer.put(None)
        for process in self._processes.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:  # writers and readers see the end of their process
            thread.join(5)  # unless something that a process started holds its output open
        for process in self._processes.values():
            if process.stdout is not None:
                process.stdout.close()


def _read_exactly(stream: IO[bytes], count: int) -> bytes | None:
    parts = []
    while count:
        part = stream.read(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_frame(stream: IO[bytes]) -> tuple[int, bytes] | None:
    header = _read_exactly(stream, HEADER.size)
    if header is None:
        return None
    number, length = HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise WireError("A frame is too long", got=f"{length} bytes", rule=f"at most {MAX_MESSAGE_BYTES}")
    body = _read_exactly(stream, length)
    return None if body is None else (number, body)


def serve_frames(handler: Callable[[bytes], bytes], source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer frames until the input ends; runs in the party's process.

    Parameters
    ----------
    handler : callable bytes -> bytes
    source, sink : binary streams
        Usually standard input and output.
    """
    while (frame := _read_frame(source)) is not None:
        number, request = frame
        answer = handler(request)
        sink.write(HEADER.pack(number, len(answer)) + answer)
        sink.flush()
