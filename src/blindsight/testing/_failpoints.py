"""A party's process that ends itself with SIGKILL, or runs out of disk, at a named point between charge and release.

``python -m blindsight.testing._failpoints FOLDER --at POINT [--how kill|full-disk]`` opens the
party in FOLDER and serves it as ``blindsight.federation.worker`` does, with the named point armed. The points wrap
methods of store, ledger and party from outside: production code has none.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blindsight.channels import serve_frames
from blindsight.federation import _answers, _releases, open_party
from blindsight.privacy import Ledger
from blindsight.securesum import Phase

__all__ = ["POINTS", "main"]

POINTS = (
    "before-reserve",
    "after-reserve",
    "after-draw",
    "after-record-output",
    "before-persist-mask",
    "after-persist-advertise",
    "after-persist-share",
    "after-persist-mask",
    "after-persist-confirm",
    "after-persist-unmask",
)
"""In the order in which a sum passes them; ``after-persist-*`` is after the commit, before the reply leaves."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full_disk(folder: str) -> Callable[[], None]:
    def fill() -> None:
        # no file of this process may grow beyond what the largest one has now: the next write is refused
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        largest = max(path.stat().st_size for path in Path(folder).glob("ledger.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    return fill


def _around(owner: Any, name: str, *, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments)
        result = original(*arguments, **options)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, name, wrapped)


def _arm(point: str, strike: Callable[[], None]) -> None:
    """Have ``strike`` called the first time the point is passed."""

    def hit(*_: object) -> None:
        strike()

    if point == "before-reserve":
        _around(Ledger, "reserve", before=hit, after=None)
    elif point == "after-reserve":
        _around(Ledger, "reserve", before=None, after=hit)
    elif point == "after-draw":
        _around(_releases, "discrete_gaussian", before=None, after=hit)
    elif point == "after-record-output":
        _around(Ledger, "record_output", before=None, after=hit)
    else:
        when, _, label = point.split("-")
        phase = Phase[label.upper()]

        def hit_phase(*arguments: Any) -> None:
            client = arguments[-1]
            if client.phase == phase + 1:  # the phase has been answered; its reply has not left
                strike()

        if when == "before":
            _around(_answers.Answers, "_persist", before=hit_phase, after=None)
        else:
            _arm_reply(phase, strike)


def _arm_reply(phase: Phase, strike: Callable[[], None]) -> None:
    """After the transaction around ``_persist`` has committed: when the request's handling returns."""
    name = "begin" if phase is Phase.ADVERTISE else "proceed"
    answered: list[Phase] = []
    _around(_answers.Answers, "_persist", before=None, after=lambda *a: answered.append(a[-1].phase))
    _around(_answers.Answers, name, before=None, after=lambda *_: strike() if answered[-1] == phase + 1 else None)


def main(arguments: list[str] | None = None) -> int:
    """Serve one party with one point armed."""
    parser = argparse.ArgumentParser(prog="failpoints")
    parser.add_argument("folder")
    parser.add_argument("--at", choices=POINTS, required=True)
    parser.add_argument("--how", choices=("kill", "full-disk"), default="kill")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    party = open_party(options.folder)
    _arm(options.at, _kill if options.how == "kill" else _full_disk(options.folder))
    serve_frames(party.handle, sys.stdin.buffer, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
