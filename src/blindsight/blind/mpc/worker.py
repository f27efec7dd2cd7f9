"""An operator's computation in a process of its own: ``python -m blindsight.blind.mpc.worker THREADS``.

SPU ends the whole process when it cannot send; the node around it then starts another. Answers frames on standard
output to frames on standard input; a request is one MessagePack value, an answer ``+`` and bytes, or ``-`` and words.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec

from blindsight.channels import serve_frames
from blindsight.errors import BlindsightError, ProtocolError

from ._certificates import TlsFiles
from ._link import LastingThread, import_spu, open_link
from ._program import Program

__all__ = ["Load", "Open", "Request", "Run", "main"]

WATCH_SECONDS = 0.25


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Open the link; the first request, and only once."""

    addresses: list[str]
    rank: int
    certificate: str
    private_key: str
    trusted: str
    name: str
    timeout_s: float
    connect_timeout_s: float


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Take shares of a model's secrets."""

    model: str
    program: bytes
    shares: list[bytes]


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Run a model on shares of records."""

    run: str
    owner: str
    model: str
    rows: Annotated[int, msgspec.Meta(ge=1)]
    records: bytes


Request = Open | Load | Run
_decoder = msgspec.msgpack.Decoder(Request)


class _Worker:
    def __init__(self) -> None:
        self._engine: object | None = None
        self._thread = LastingThread()

    def handle(self, request: bytes) -> bytes:
        try:
            return b"+" + self._answer(_decoder.decode(request))
        except BlindsightError as error:
            return b"-" + str(error)[:1000].encode()

    def _answer(self, request: Request) -> bytes:
        from ._engine import Engine

        if isinstance(request, Open):
            tls = TlsFiles(
                certificate=Path(request.certificate),
                private_key=Path(request.private_key),
                trusted=Path(request.trusted),
            )
            link = open_link(
                request.addresses,
                request.rank,
                tls=tls,
                name=request.name,
                timeout_s=request.timeout_s,
                connect_timeout_s=request.connect_timeout_s,
                thread=self._thread,
            )
            self._engine = Engine(link)
            return b""
        engine = self._engine
        if not isinstance(engine, Engine):
            raise ProtocolError("The link is not open")
        if isinstance(request, Load):
            program = Program.decode(request.program)
            self._thread.start(engine.load, request.model, program, request.shares).result()
            return b""
        run = partial(engine.run, owner=request.owner)
        return self._thread.start(run, request.run, request.model, request.rows, request.records).result()


def main() -> None:
    """Serve one node until its end of the pipe closes."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the node ends us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the frames
    threading.Thread(target=_end_with_node, args=(os.getppid(),), daemon=True).start()
    _import_ahead()
    try:
        serve_frames(_Worker().handle, sys.stdin.buffer, sink)
    finally:
        os._exit(0)  # yacl's threads do not end by themselves


def _import_ahead() -> None:
    """Import what takes seconds before anything is asked."""
    import_spu()
    from spu.utils import frontend  # noqa: F401 - brings JAX


def _end_with_node(node: int) -> None:
    """End when the node was killed: a computation that waits for a dead peer would keep the port."""
    while os.getppid() == node:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
