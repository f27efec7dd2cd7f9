"""Roles as processes of their own, forked from one that has imported everything: real ones, started in no time.

What is forked runs the same command line as a person would, in a process with its own memory, sockets and files; it is
really killed. Only the imports are shared, which take longer than all the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blindsight.testing import _failpoints

MODULES = [
    "anyio._backends._asyncio",
    "blindsight.channels",
    "blindsight.channels._bounded",
    "blindsight.channels._https",
    "blindsight.channels._https_party",
    "blindsight.cli",
    "blindsight.cli._choose",
    "blindsight.cli._events",
    "blindsight.cli._fit",
    "blindsight.cli._parties",
    "blindsight.cli._resume",
    "blindsight.cli._rounds",
    "blindsight.detectors.ecod",
    "blindsight.federation",
    "blindsight.report",
    "blindsight.testing._failpoints",
    "dp_accounting",
    "dp_accounting.pld.pld_privacy_accountant",
    "dp_accounting.pld.privacy_loss_distribution",
    "h11",
    "httpcore",
    "httpx",
    "polars",
    "pydantic.json_schema",
    "pydantic.type_adapter",
    "pytest",
    "scipy.signal",
    "starlette.applications",
    "starlette.routing",
    "typer._adapters",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
]
Process = multiprocessing.process.BaseProcess

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES)


def start(target: Callable[..., None], *arguments: Any) -> Process:
    """A process that runs ``target``; wait for it with ``join``, end it by ``terminate`` or ``kill``."""
    process = _context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def serve(home: Path, errors: Path, at: str | None = None, how: str = "kill") -> None:
    """``party serve``, with a failpoint of ``blindsight.testing`` armed."""
    if at is not None:
        _failpoints._arm(at, _kill if how == "kill" else lambda: _fill(home, "ledger.db*"))
    _command(errors, "party", "serve", str(home))


def coordinate(errors: Path, arguments: list[str], at: tuple[str, bool] | None = None, full: str | None = None) -> None:
    """``coordinator fit``, which ends itself before or after its first call of what ``at`` names.

    ``full`` is the kit whose disk is full from then on, in place of SIGKILL.
    """
    if at is not None:
        _arm(*at, _kill if full is None else lambda: _fill(Path(full), "coordinator.db*"))
    _command(errors, "coordinator", "fit", *arguments)


def _command(errors: Path, *arguments: str) -> None:
    from blindsight.cli import main

    with errors.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.argv = ["blindsight", *arguments]
    main()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill(folder: Path, pattern: str) -> None:
    """No file of this process may grow beyond the largest one; SIGXFSZ is ignored by the interpreter."""
    largest = max(path.stat().st_size for path in folder.glob(pattern))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def _arm(name: str, before: bool, strike: Callable[[], None]) -> None:
    """Around the coordinator's journal, or around an exchange that is no greeting."""
    from blindsight.channels import Channel
    from blindsight.federation._journal import Journal, SumJournal
    from blindsight.federation._wire import Hello, encode

    owner: Any = {"keep": SumJournal, "finish": SumJournal, "exchange": Channel, "begin": Journal, "end": Journal}[name]
    original, hello = getattr(owner, name), encode(Hello())

    def wrapped(*arguments: Any, **options: Any) -> Any:
        counts = name != "exchange" or hello not in arguments[1].values()
        if counts and before:
            strike()
        result = original(*arguments, **options)
        if counts and not before:
            strike()
        return result

    setattr(owner, name, wrapped)
