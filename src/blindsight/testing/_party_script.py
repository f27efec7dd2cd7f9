"""A scripted party for tests of channels, in this process or in its own.

Run by its path, ``stdio`` answers frames on standard streams; ``https``, ``grpc`` or ``mqtt``, with
``URL NAME FOLDER``, dials out with the files ``NAME.crt``, ``NAME.key`` and ``authority.crt`` of the folder; ``flower``
listens at ``NAME.sock``. Over the last two it talks to the owner of ``coordinator.crt`` alone.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blindsight.channels import (
    certificate_fingerprint,
    serve_flower,
    serve_frames,
    serve_grpc,
    serve_https,
    serve_mqtt,
)

__all__ = ["BACKOFF_SECONDS", "SERVE", "Script"]

BACKOFF_SECONDS = 0.3
SERVE: dict[str, Callable[..., None]] = {
    "https": serve_https,
    "grpc": serve_grpc,
    "mqtt": serve_mqtt,
    "flower": serve_flower,
}


class Script:
    """Does what a request says: see :meth:`__call__`.

    Attributes
    ----------
    handled : int
        Requests so far.
    """

    def __init__(self) -> None:
        self.handled = 0

    def __call__(self, request: bytes) -> bytes:
        """``!sleep S``, ``!raise``, ``!die``, ``!zeros N``, ``!handled``; anything else comes back reversed."""
        self.handled += 1
        word, _, value = request[:40].partition(b" ")
        if word == b"!sleep":
            time.sleep(float(value))
            return b"slept"
        if word == b"!raise":
            raise RuntimeError("the script says so")
        if word == b"!die":
            os._exit(3)
        if word == b"!zeros":
            return bytes(int(value))
        if word == b"!handled":
            return b"%d" % self.handled
        return request[::-1]


def main(arguments: list[str]) -> None:
    """Serve until the input ends, or until SIGTERM."""
    kind, *where = arguments
    if kind == "stdio":
        serve_frames(Script(), sys.stdin.buffer, sys.stdout.buffer)
        return
    url, name, folder = where[0], where[1], Path(where[2])
    pinned: dict[str, Any] = {}
    if kind in ("mqtt", "flower"):
        shown = ssl.PEM_cert_to_DER_cert((folder / "coordinator.crt").read_text())
        pinned["coordinator"] = certificate_fingerprint(shown)
    if kind == "flower":
        pinned["socket"] = folder / f"{name}.sock"
    SERVE[kind](
        Script(),
        url,
        name=name,
        certificate=folder / f"{name}.crt",
        private_key=folder / f"{name}.key",
        authority=folder / "authority.crt",
        max_backoff_s=BACKOFF_SECONDS,
        **pinned,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
