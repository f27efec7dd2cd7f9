"""One end of a comparison in a process of its own: ``python -m blindsight.blind.verdict_worker``.

Started by :class:`ComparisonProcess`; answers frames on standard output to frames on standard input. A request is a
command of four letters and its payload, an answer ``+`` and a result, or ``-`` and an error. Arguments: the address
space that it may use, in bytes, and 1 if what libraries write to standard error is to be dropped. When its input ends
it ends at once, whatever it waits for: a parent that was killed leaves no process behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from blindsight.channels import serve_frames
from blindsight.errors import BlindsightError, MissingExtraError, ProtocolError

from ._verdict_comparison import Comparison
from .mpc import LastingThread, TlsFiles, import_spu, open_link

__all__ = ["main"]


class _Worker:
    def __init__(self) -> None:
        self._comparison: Comparison | None = None
        self._thread = LastingThread()

    def handle(self, request: bytes) -> bytes:
        try:
            return b"+" + self._answer(request[:4], request[4:])
        except BlindsightError as error:
            parts = {"what": error.what, "got": error.got, "rule": error.rule, "fix": error.fix}
            return b"-" + json.dumps([type(error).__name__, parts]).encode()

    def _answer(self, command: bytes, payload: bytes) -> bytes:
        if command == b"open":
            self._open(payload)
            return b""
        comparison, call = self._comparison, self._thread.start
        if comparison is None:
            raise ProtocolError("The comparison is not open")
        if command == b"sign":
            words = np.frombuffer(payload, dtype="<u8").astype(np.uint64)
            return call(comparison.negative, words).result().tobytes()
        if command == b"send":
            call(comparison.send, payload).result()
            return b""
        if command == b"recv":
            return call(comparison.receive).result()
        raise ProtocolError("A command is not known", got=repr(command))

    def _open(self, payload: bytes) -> None:
        wanted = json.loads(payload)
        certificate, private_key, trusted = (Path(path) for path in wanted["tls"])
        link = open_link(
            wanted["addresses"],
            wanted["rank"],
            tls=TlsFiles(certificate=certificate, private_key=private_key, trusted=trusted),
            name=wanted["name"],
            timeout_s=wanted["timeout_s"],
            connect_timeout_s=wanted["connect_timeout_s"],
            thread=self._thread,
        )
        self._comparison = self._thread.start(partial(Comparison, link, transfer=wanted["transfer"])).result()


def _input_that_ends_us() -> BinaryIO:
    """Standard input through a pipe of our own, so that its end is noticed in the middle of a call as well."""
    out, into = os.pipe()

    def pump() -> None:
        while data := os.read(0, 1 << 16):
            view = memoryview(data)
            while view:
                view = view[os.write(into, view) :]
        os._exit(0)  # SPU's threads may wait for the other side for a minute, and hold nothing that could be lost

    threading.Thread(target=pump, daemon=True).start()
    return os.fdopen(out, "rb")


def main() -> int:
    """Serve one comparison until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the parent ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold words and keys
    memory_bytes, quiet = (int(word) for word in sys.argv[1:3])
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if quiet:
        sys.stderr = os.fdopen(os.dup(2), "w")  # Python's own, of a crash
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    source = _input_that_ends_us()
    with contextlib.suppress(MissingExtraError):  # told when the link is to be opened
        import_spu()  # takes a second, in which the parent agrees with the other side on a link
    try:
        serve_frames(_Worker().handle, source, sys.stdout.buffer)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
