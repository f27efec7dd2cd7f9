"""A comparison in a process of its own, so that the other side's death ends that process and not this one."""

from __future__ import annotations

import json
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from blindsight import errors
from blindsight.channels import ProcessChannel

from ._verdict_comparison import Transfer

if TYPE_CHECKING:
    from .mpc import TlsFiles

__all__ = ["ComparisonProcess"]

Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]

NAME = "comparison"
LONGEST_CALL_S = 3600.0
"""Every call ends by the link's own time-out long before."""


class ComparisonProcess:
    """This process's end of a comparison that runs in a child process; otherwise like :class:`Comparison`.

    Parameters
    ----------
    addresses : sequence of str
        ``host:port`` of both links: the scorer's, then the owner's. Each listens on its own.
    rank : int
        0: scorer. 1: owner.
    tls : TlsFiles
        Own certificate and key; ``trusted`` holds both sides' certificates.
    name : str
        Name of this link, secret and random, the same on both sides: agreed over an authenticated channel.
    transfer : {"ferret", "softspoken"}
        See :class:`Comparison`.
    timeout_s : float
        Longest wait for the other side, also between requests: after it the link is of no more use.
    connect_timeout_s : float
        Longest wait for the other side to appear.

    Raises
    ------
    MissingExtraError, ParameterError, ProtocolError, UnavailableError
        As for ``open_link`` and :class:`Comparison`.

    Notes
    -----
    SPU's network layer ends the process that it runs in when the other side goes away at the wrong moment. Here that is
    the child's; this side gets an UnavailableError.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        rank: int,
        *,
        tls: TlsFiles,
        name: str,
        transfer: Transfer = "ferret",
        timeout_s: float = 60.0,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self._start(rank, memory_bytes=0, quiet=False)
        self.open(
            addresses, tls=tls, name=name, transfer=transfer, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
        )

    @classmethod
    def prepared(cls, rank: int, *, memory_bytes: int = 0, quiet: bool = False) -> Self:
        """Start the child process alone; :meth:`open` comes before anything else.

        Parameters
        ----------
        rank : int
        memory_bytes : int
            Address space that the child may use; it ends if it needs more. 0: no limit.
        quiet : bool
            Drop what SPU's libraries write to standard error.
        """
        self = cls.__new__(cls)
        self._start(rank, memory_bytes=memory_bytes, quiet=quiet)
        return self

    def _start(self, rank: int, *, memory_bytes: int, quiet: bool) -> None:
        self.rank = rank
        command = [sys.executable, "-m", "blindsight.blind.verdict_worker", str(memory_bytes), str(int(quiet))]
        self._channel = ProcessChannel({NAME: command})
        weakref.finalize(self, self._channel.close)

    @property
    def process_id(self) -> int:
        """Of the child."""
        return self._channel.process_id(NAME)

    def open(
        self,
        addresses: Sequence[str],
        *,
        tls: TlsFiles,
        name: str,
        transfer: Transfer = "ferret",
        timeout_s: float = 60.0,
        connect_timeout_s: float = 30.0,
    ) -> None:
        """Connect to the other side, and set the comparison up; parameters and errors are those of the class."""
        opening = {
            "addresses": list(addresses),
            "rank": self.rank,
            "tls": [str(Path(path).absolute()) for path in (tls.certificate, tls.private_key, tls.trusted)],
            "name": name,  # through the pipe, not the command line: whoever lists processes must not read it
            "transfer": transfer,
            "timeout_s": timeout_s,
            "connect_timeout_s": connect_timeout_s,
        }
        self._call(b"open", json.dumps(opening).encode())

    def negative(self, words: Words) -> Bits:
        """See :meth:`Comparison.negative`."""
        return np.frombuffer(self._call(b"sign", words.astype("<u8").tobytes()), dtype=np.uint8)

    def send(self, message: bytes) -> None:
        """See :meth:`Comparison.send`."""
        self._call(b"send", message)

    def receive(self, timeout_s: float = LONGEST_CALL_S) -> bytes:
        """See :meth:`Comparison.receive`; after ``timeout_s`` without a message the link is of no more use."""
        return self._call(b"recv", b"", timeout_s)

    def kill(self) -> None:
        """End the child process at once, from any thread: what waits for it gets an UnavailableError."""
        self._channel.kill()

    def close(self) -> None:
        """End the child process, and wait for its end."""
        self._channel.close()

    def _call(self, what: bytes, payload: bytes, timeout_s: float = LONGEST_CALL_S) -> bytes:
        deadline = time.monotonic() + timeout_s
        answer = self._channel.exchange({NAME: what + payload}, timeout_s).get(NAME)
        if answer is None and time.monotonic() >= deadline:
            self.kill()  # its late answer must not be taken for another's
            raise errors.UnavailableError(
                "The other side of a comparison was silent for too long", rule=f"{timeout_s:g} s", fix="connect again"
            )
        if answer is None:
            raise errors.UnavailableError(
                "The other side of a comparison went away",
                rule="both sides stay connected until the verdicts are there",
                fix="connect again and seal the records again: what was masked for this comparison is spent",
            )
        if answer[:1] == b"+":
            return answer[1:]
        kind, parts = json.loads(answer[1:])
        error: type[errors.BlindsightError] = getattr(errors, kind)
        raise error(parts.pop("what"), **parts)

    def __repr__(self) -> str:
        return f"ComparisonProcess(rank={self.rank})"
