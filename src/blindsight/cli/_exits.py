"""How every command ends: exit codes, errors as one block, warnings as one line, Ctrl-C as one line.

====  =======================================================================
0     done
1     a crash: a bug in Blindsight
2     usage, or input that cannot be used
3     refused by a policy or a budget; nothing was released beyond what the message says
4     the command worked and found something wrong
75    something outside did not answer, or the disk is full; try again (EX_TEMPFAIL of sysexits.h)
130   interrupted
====  =======================================================================
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from blindsight._text import printable
from blindsight.errors import BlindsightError, BlindsightWarning, RefusedError, StoreError, UnavailableError

__all__ = [
    "CRASH",
    "DISK_FULL",
    "FINDING",
    "INTERRUPTED",
    "REFUSED",
    "TRY_AGAIN",
    "USAGE",
    "command",
    "exit_code_of",
    "safe_after",
]

CRASH, USAGE, REFUSED, FINDING, TRY_AGAIN, INTERRUPTED = 1, 2, 3, 4, 75, 130

DISK_FULL = "the disk is full"
"""What the store's and the score writer's messages say of it."""

F = TypeVar("F", bound=Callable[..., Any])


def exit_code_of(error: BlindsightError) -> int:
    """Return the exit code for an error that Blindsight raised on purpose."""
    if isinstance(error, RefusedError):
        return REFUSED
    if isinstance(error, UnavailableError) or (isinstance(error, StoreError) and DISK_FULL in error.what):
        return TRY_AGAIN
    return USAGE


def safe_after(text: str) -> Callable[[F], F]:
    """Say what an interrupted command leaves behind; printed on Ctrl-C."""

    def mark(function: F) -> F:
        function.safe_after_interrupt = text  # type: ignore[attr-defined]
        return function

    return mark


def command(function: F) -> F:
    """Wrap a command: typed errors become a block on stderr and an exit code, whatever else becomes exit code 1."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        as_json = bool(options.get("json_output", False))
        with warnings.catch_warnings():
            warnings.simplefilter("always", BlindsightWarning)
            default = warnings.showwarning

            def show(
                message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
            ) -> None:
                if issubclass(category, BlindsightWarning):
                    sys.stderr.write(f"warning: {message}\n")
                else:
                    default(message, category, filename, lineno, *rest, **more)

            warnings.showwarning = show
            try:
                return function(*arguments, **options)
            except BlindsightError as error:
                _debug()
                _tell(_parts(error), as_json=as_json)
                raise typer.Exit(exit_code_of(error)) from None
            except KeyboardInterrupt:
                safe = getattr(function, "safe_after_interrupt", "Nothing was written.")
                sys.stderr.write(f"\nInterrupted. {safe}\n")
                raise typer.Exit(INTERRUPTED) from None
            except BrokenPipeError:
                # whoever read our output has gone; nothing can be told to them
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(CRASH) from None
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if error.__class__.__module__.startswith(("click", "typer")):
                    raise  # usage errors: typer prints them and exits with 2
                _debug()
                _tell(
                    {
                        "what": f"Blindsight crashed: {type(error).__name__}: {printable(str(error)[:500])}",
                        "fix": "set BLINDSIGHT_DEBUG=1 and run it again to see where; please report it",
                    },
                    as_json=as_json,
                )
                raise typer.Exit(CRASH) from None

    return run  # type: ignore[return-value]


def _parts(error: BlindsightError) -> dict[str, str]:
    named = {"what": error.what, "got": error.got, "rule": error.rule, "fix": error.fix}
    return {"kind": type(error).__name__, **{key: text for key, text in named.items() if text is not None}}


def _tell(parts: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps({"error": parts}) + "\n")
        return
    lines = [f"error: {parts['what'].rstrip('.')}."]
    lines += [f"  {key + ':':<6}{parts[key]}" for key in ("got", "rule", "fix") if key in parts]
    sys.stderr.write("\n".join(lines) + "\n")


def _debug() -> None:
    if os.environ.get("BLINDSIGHT_DEBUG"):
        traceback.print_exc()
