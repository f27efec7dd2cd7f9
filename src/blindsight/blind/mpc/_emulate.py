"""The operators' arithmetic without operators: what fixed point does to a score, measured on this machine alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._link import import_spu
from ._program import Program, runtime_config

__all__ = ["emulated_scores"]

Floats = npt.NDArray[np.float64]


def emulated_scores(program: Program, secrets: Sequence[npt.NDArray[Any]], records: Floats) -> Floats:
    """Run a program in SPU's reference machine: the same program, ring and fixed point, one process, nothing shared.

    Parameters
    ----------
    program : Program
        One that reveals scores.
    secrets : sequence of ndarray
        The model's, as ``program_of`` returns them.
    records : ndarray of shape (n, inputs), float64
        Encoded.

    Returns
    -------
    ndarray of shape (n,), float64

    Raises
    ------
    MissingExtraError
        The extra ``mpc`` is not installed.

    Notes
    -----
    The reference cuts products the same way each time; the operators' protocols add up to a step or two of their own,
    at random. Errors under ABY3 and CHEETAH are of this size, and some times larger.

    Security
    --------
    Nothing here is secret from this process: it is for the model's holder, who has the model anyway.
    """
    libspu = import_spu()
    config = runtime_config(program)
    config.protocol = libspu.ProtocolKind.REF2K
    desc = libspu.link.Desc()
    desc.id = "emulated"
    desc.add_party("alone", "alone")
    machine = libspu.RuntimeWrapper(libspu.link.create_mem(desc, 0), config)
    shares = libspu.IoWrapper(1, config)
    names = ["records", *(f"secret-{i}" for i in range(len(secrets)))]
    for name, values in zip(names, [records, *secrets], strict=True):
        (share,) = shares.MakeShares(np.ascontiguousarray(values), libspu.Visibility.VIS_SECRET, 0)
        machine.SetVar(name, share)
    machine.Run(libspu.Executable("score", names, ["answer"], program.compiled(len(records))))
    return np.asarray(shares.Reconstruct([machine.GetVar("answer")]), dtype=np.float64).reshape(len(records))
