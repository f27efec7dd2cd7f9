"""One comparison between two processes: is the sum of their words negative? Neither sees the other's.

The protocol is CHEETAH's comparison (Huang, Lu, Hong, Ding, USENIX Security 2022, section 5; millionaires' protocol of
CrypTFlow2, Rathee et al., CCS 2020) as SecretFlow SPU runs it over ``Z_{2**64}``, with additive shares: the two words
*are* the shares, so that nothing is exchanged before it. Its result stays shared by exclusive or until one side sends
its half.

Security
--------
Semi-honest: a side that follows the protocol learns nothing of the other's words, under the security of the oblivious
transfers. These start from a Diffie-Hellman exchange, so that they are **not post-quantum**, and are extended by
Ferret (Yang et al., CCS 2020; learning parity with noise) or SoftSpoken (Roy, CRYPTO 2022; a correlation-robust hash).
A side that deviates may learn more than the sign; docs/threat-model.md says what. Not yet audited.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError, ProtocolError, UnavailableError, WireError

__all__ = ["Comparison", "Transfer", "runs_of"]

Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]
Transfer = Literal["ferret", "softspoken"]

KINDS: dict[Transfer, str] = {"ferret": "YACL_Ferret", "softspoken": "YACL_Softspoken"}
SIZES = (16384, 4096, 1024, 256, 64)
"""Words that one run of the program compares; a request is cut into such runs, which zeros fill up."""

SETUP_SIZE: dict[Transfer, int] = {"ferret": 4096, "softspoken": 64}

MAX_MESSAGE_BYTES = 1 << 24

PROGRAM = """module @verdict {{
  func.func public @main(%arg0: tensor<{n}xi64>) -> tensor<{n}xi1> {{
    %zero = stablehlo.constant dense<0> : tensor<{n}xi64>
    %negative = stablehlo.compare LT, %arg0, %zero : (tensor<{n}xi64>, tensor<{n}xi64>) -> tensor<{n}xi1>
    return %negative : tensor<{n}xi1>
  }}
}}
"""
"""All that is ever computed on the shares, in StableHLO: their sign, which is the highest bit of their sum."""


class Comparison:
    """This process's end of a comparison; set up once, then used for many requests, one at a time.

    Parameters
    ----------
    link : spu.libspu.link.Context
        To exactly one other process; the scorer has rank 0, the owner rank 1. See ``blindsight.blind.mpc.open_link``.
    transfer : {"ferret", "softspoken"}
        How oblivious transfers are extended. Ferret: seconds to set up, few bytes a comparison; SoftSpoken: no set-up
        to speak of, more bytes. Both sides must name the same.

    Raises
    ------
    MissingExtraError
        SPU is not installed.
    ParameterError
        The link does not join two processes.
    ProtocolError
        The other side would run another program.
    UnavailableError
        The other side is not there.

    Notes
    -----
    After an error the link is out of step: close it, and set up another.
    """

    def __init__(self, link: Any, *, transfer: Transfer = "ferret") -> None:
        if transfer not in KINDS:
            raise ParameterError("transfer is out of its domain", got=repr(transfer), rule=" or ".join(KINDS))
        if link.world_size != 2:
            raise ParameterError("A comparison is between two processes", got=f"{link.world_size} processes")
        from .mpc._link import import_spu

        self._spu = spu = import_spu()
        self.rank = int(link.rank)
        self._link = link
        self._lock = threading.Lock()
        self._programs: dict[int, bytes] = {}
        self._config = spu.RuntimeConfig(spu.ProtocolKind.CHEETAH, spu.FieldType.FM64)
        wanted = json.dumps(
            {"protocol": "CHEETAH", "field": "FM64", "cheetah_2pc_config": {"ot_kind": KINDS[transfer]}}
        )
        if not self._config.ParseFromJsonString(wanted):
            raise ProtocolError("SPU refuses the configuration", got=wanted)
        own = hashlib.sha256(b"blindsight verdict v1" + spu._get_version().encode() + wanted.encode())
        for size in SIZES:
            own.update(self._program(size))
        self.send(own.digest())
        if self.receive() != own.digest():
            raise ProtocolError(
                "The other side would run another program",
                rule="the same program, protocol and version of SPU on both sides",
                fix="install the same version of blindsight and of spu, and give the same transfer",
            )
        self._runtime = self._call(spu.RuntimeWrapper, link, self._config)
        self.negative(np.zeros(SETUP_SIZE[transfer], dtype=np.uint64))  # sets up the oblivious transfers

    def negative(self, words: Words) -> Bits:
        """Compare: this side's half of whether own word plus the other's, as a signed 64-bit integer, is negative.

        Parameters
        ----------
        words : ndarray of shape (n,), uint64
            The other side calls this at the same time with as many.

        Returns
        -------
        ndarray of shape (n,), uint8
            0 or 1; the exclusive or with the other side's is the result. Uniform by itself.
        """
        spu, pieces = self._spu, []
        with self._lock:
            for start, size in runs_of(len(words)):
                part = np.zeros(size, dtype=np.uint64)
                given = words[start : start + size]
                part[: len(given)] = given
                self._call(self._runtime.SetVar, "x", self._share(part))
                program = spu.Executable(
                    name="verdict", input_names=["x"], output_names=["y"], code=self._program(size)
                )
                self._call(self._runtime.Run, program)
                pieces.append(self._half(self._call(self._runtime.GetVar, "y"), size)[: len(given)])
                for name in ("x", "y"):
                    self._call(self._runtime.DelVar, name)
        return np.concatenate(pieces)

    def send(self, message: bytes) -> None:
        """Send bytes to the other side, beside the comparison."""
        self._call(self._link.send, 1 - self.rank, message)

    def receive(self) -> bytes:
        """Wait for bytes from the other side: untrusted, at most 16 MiB."""
        message = bytes(self._call(self._link.recv, 1 - self.rank))
        if len(message) > MAX_MESSAGE_BYTES:
            raise WireError("A message on the link is too long", got=f"{len(message)} bytes")
        return message

    def close(self) -> None:
        """Say good-bye to the other side, which does the same."""
        self._call(self._link.stop_link)

    def _program(self, size: int) -> bytes:
        if size not in self._programs:
            spu = self._spu
            source = spu.CompilationSource(
                spu.SourceIRType.STABLEHLO, PROGRAM.format(n=size).encode(), [spu.Visibility.VIS_SECRET]
            )
            code = spu.compile(source, spu.CompilerOptions())
            self._programs[size] = code.encode() if isinstance(code, str) else bytes(code)
        return self._programs[size]

    def _share(self, words: Words) -> Any:
        """SPU's form of an additive share: that of a zero, with our words in it."""
        spu = self._spu
        zeros = np.zeros(len(words), dtype=np.int64)
        share = spu.IoWrapper(2, self._config).MakeShares(zeros, spu.Visibility.VIS_SECRET, -1)[self.rank]
        chunk = spu.ValueChunk()
        (encoded,) = share.share_chunks
        chunk.ParseFromString(encoded)
        if b"AShr<FM64>" not in share.meta or len(chunk.content) != 8 * len(words):
            raise ProtocolError("SPU shares in an unexpected form", got=str(share.meta))
        chunk.content = words.astype("<u8").tobytes()
        share.share_chunks = [chunk.SerializeToString()]
        return share

    def _half(self, share: Any, size: int) -> Bits:
        """The lowest bit of each word of a shared boolean, in which alone it is."""
        chunk = self._spu.ValueChunk()
        (encoded,) = share.share_chunks
        chunk.ParseFromString(encoded)
        if b"BShr<FM64,1>" not in share.meta or len(chunk.content) != 8 * size:
            raise ProtocolError("SPU's result has an unexpected form", got=str(share.meta))
        return (np.frombuffer(chunk.content, dtype="<u8") & np.uint64(1)).astype(np.uint8)

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:
            raise UnavailableError(
                "The other side of a comparison does not answer",
                got=_short(str(error)),
                rule="both sides stay connected until the verdicts are there",
                fix="connect again and seal the records again: what was masked for this comparison is spent",
            ) from error

    def __repr__(self) -> str:
        return f"Comparison(rank={self.rank})"


def _short(message: str) -> str:
    """First line of a C++ error, without places in its source and without the link's secret name."""
    line = next((line.strip() for line in message.split("\n") if len(line.strip()) > len("what:")), "")
    return re.sub(r"^\[[^]]*\] *|,? *key=.*", "", line)[:200]


def runs_of(count: int) -> list[tuple[int, int]]:
    """Start and size of each run: none but the smallest is less than half full."""
    runs, start = [], 0
    for size in SIZES:
        while start < count and (2 * (count - start) >= size or size == SIZES[-1]):
            runs.append((start, size))
            start += size
    return runs
