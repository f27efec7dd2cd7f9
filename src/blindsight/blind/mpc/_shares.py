"""Secret shares as raw bytes: what travels holds no description, only ring elements of an expected number.

ABY3 (Mohassel and Rindal, CCS 2018, section 3): ``x = x_0 + x_1 + x_2`` in the ring; operator i holds the pairs
``(x_i, x_{i+1})``, element after element. CHEETAH (Huang et al., USENIX Security 2022): ``x = x_0 + x_1``. Elements are
little endian, 8 or 16 bytes. Shares of bits are bytes 0 or 1, added modulo 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError, WireError

from ._link import import_spu
from ._program import Argument, Program, runtime_config

__all__ = ["Answer", "answer_dtype", "answer_of", "join", "share_bytes", "split", "spu_share"]

Bytes = npt.NDArray[np.uint8]
PIECES = {"aby3": 2, "cheetah": 1}
"""Ring elements that an operator holds for each number."""

Answer = bytes


def share_bytes(program: Program, argument: Argument) -> int:
    """Length of one operator's share of an argument."""
    return argument.size * PIECES[program.protocol] * program.ring_bits // 8


def split(program: Program, argument: Argument, values: npt.NDArray[Any]) -> list[bytes]:
    """Share an array between the operators, with SPU's own generator (AES-128 in counter mode, fresh random seeds).

    Parameters
    ----------
    program : Program
    argument : Argument
    values : ndarray of the argument's shape
        int64 for whole numbers, else float64.

    Returns
    -------
    list of bytes
        One for each operator; fewer than all of them (ABY3: one; CHEETAH: one) are uniform and independent of the
        values.

    Privacy
    -------
    All operators of CHEETAH, or any two of ABY3, can put the values together.
    """
    libspu = import_spu()
    wanted = np.dtype(np.int64 if argument.whole else np.float64)
    if values.shape != argument.shape or values.dtype != wanted:
        raise ParameterError(
            "An array to share has the wrong form",
            got=f"{values.shape}, {values.dtype}",
            rule=f"{argument.shape}, {wanted}",
        )
    if not argument.whole and not np.isfinite(values).all():
        raise ParameterError("An array to share has a value that is not finite")
    io = libspu.IoWrapper(program.operators, runtime_config(program))
    shares = io.MakeShares(np.ascontiguousarray(values), libspu.Visibility.VIS_SECRET, -1)
    return [_content(libspu, share) for share in shares]


def spu_share(program: Program, argument: Argument, raw: bytes | memoryview) -> Any:
    """Return SPU's form of one operator's share, described by us alone.

    Raises
    ------
    WireError
        The bytes are not as many as they must be; any that are, are a share.
    """
    libspu = import_spu()
    if len(raw) != share_bytes(program, argument):
        raise WireError(
            "A share has the wrong length", got=f"{len(raw)} bytes", rule=f"{share_bytes(program, argument)} bytes"
        )
    meta = libspu.ValueMeta()
    meta.data_type = libspu.DataType.DT_I64 if argument.whole else libspu.DataType.DT_F64
    meta.visibility = libspu.Visibility.VIS_SECRET
    meta.shape = list(argument.shape)
    meta.storage_type = f"{program.protocol}.AShr<FM{program.ring_bits}>"
    chunk = libspu.ValueChunk()
    chunk.total_bytes, chunk.chunk_offset, chunk.content = len(raw), 0, bytes(raw)
    share = libspu.Share()
    share.meta, share.share_chunks = meta.SerializeToString(), [chunk.SerializeToString()]
    return share


def answer_of(program: Program, rows: int, share: Any) -> Answer:
    """Read an operator's share of the result: ring elements of scores, or one byte a share of a verdict.

    Of a verdict's share only the lowest bit leaves: nothing else of the element is owed.
    """
    libspu = import_spu()
    meta = libspu.ValueMeta()
    meta.ParseFromString(share.meta)
    content = _content(libspu, share)
    boolean = program.answer == "verdict"
    if (".BShr<" in meta.storage_type) != boolean or list(meta.shape.dims) != [rows]:
        raise WireError("SPU returned an answer of an unexpected kind", got=str(meta.storage_type)[:60])
    if not boolean:
        return content
    elements = rows * PIECES[program.protocol]
    if len(content) % elements:
        raise WireError("SPU returned an answer of an unexpected length", got=f"{len(content)} bytes")
    low = np.frombuffer(content, dtype=np.uint8).reshape(elements, -1)[:, 0] & np.uint8(1)
    return low.tobytes()


def answer_bytes(program: Program, rows: int) -> int:
    """Length of one operator's answer."""
    element = 1 if program.answer == "verdict" else program.ring_bits // 8
    return rows * PIECES[program.protocol] * element


def answer_dtype(program: Program) -> npt.DTypeLike:
    """What :func:`join` gives: bool for verdicts, int64 for whole scores, float64 for those of a network."""
    if program.answer == "verdict":
        return np.bool_
    return np.int64 if program.whole else np.float64


def join(program: Program, rows: int, answers: Sequence[bytes]) -> npt.NDArray[Any]:
    """Put the operators' answers together.

    Parameters
    ----------
    program : Program
    rows : int
    answers : sequence of bytes
        One from each operator, by rank; untrusted.

    Returns
    -------
    ndarray of shape (rows,)
        Verdicts as bool; scores as int64, or float64 of a network.

    Raises
    ------
    WireError
        An answer has another length, a bit is neither 0 nor 1, or two operators of ABY3 contradict each other: each
        share is held by two of them, so that none can change the opening alone. It can have changed what came before.
    """
    expected = answer_bytes(program, rows)
    if len(answers) != program.operators or any(len(answer) != expected for answer in answers):
        raise WireError(
            "The operators' answers have the wrong lengths",
            got=", ".join(str(len(answer)) for answer in answers)[:80],
            rule=f"{program.operators} of {expected} bytes",
        )
    width = expected // (rows * PIECES[program.protocol])
    pieces = [np.frombuffer(a, dtype=np.uint8).reshape(rows, PIECES[program.protocol], width) for a in answers]
    if program.protocol == "aby3":
        for rank, piece in enumerate(pieces):
            if not np.array_equal(piece[:, 1], pieces[(rank + 1) % 3][:, 0]):
                raise WireError(
                    "Two operators' answers contradict each other",
                    got=f"operators {rank} and {(rank + 1) % 3}",
                    rule="each share is held by two operators, alike",
                    fix="one of them is faulty or lies: ask the operators",
                )
    first = [piece[:, 0] for piece in pieces]
    if program.answer == "verdict":
        if any((share > 1).any() for share in first):
            raise WireError("A share of a verdict is not a bit")
        bits: npt.NDArray[np.bool_] = np.bitwise_xor.reduce(first)[:, 0].astype(np.bool_)
        return bits
    if width == 16:
        return _fixed_128(first, program.fraction_bits)
    words = [np.ascontiguousarray(share).view("<u8")[:, 0].astype(np.uint64) for share in first]
    total: npt.NDArray[np.int64] = np.add.reduce(words).view(np.int64)
    return total if program.whole else total / float(1 << program.fraction_bits)


def _fixed_128(shares: Sequence[Bytes], fraction_bits: int) -> npt.NDArray[np.float64]:
    rows = [sum(int.from_bytes(s.tobytes(), "little") for s in row) for row in zip(*shares, strict=True)]
    signed = ((value + (1 << 127)) % (1 << 128) - (1 << 127) for value in rows)
    return np.array([value / (1 << fraction_bits) for value in signed], dtype=np.float64)


def _content(libspu: Any, share: Any) -> bytes:
    parts = []
    for encoded in share.share_chunks:
        chunk = libspu.ValueChunk()
        chunk.ParseFromString(encoded)
        parts.append(bytes(chunk.content))
    return b"".join(parts)
