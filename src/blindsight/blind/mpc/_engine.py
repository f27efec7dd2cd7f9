"""One operator's part of a computation: shares of models, and runs over a link."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from blindsight.errors import ParameterError, ProtocolError

from ._link import Link, import_spu
from ._program import Program, runtime_config
from ._shares import answer_of, spu_share

__all__ = ["Engine"]


class Engine:
    """Runs programs over one link, one after the other, in the same order at every operator.

    Parameters
    ----------
    link : Link

    Notes
    -----
    SPU's machine is set up once for each ring and fixed point, on a sub-link of its own.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._machines: dict[bytes, Any] = {}
        self._models: dict[str, tuple[Program, list[bytes]]] = {}
        self._placed: set[tuple[bytes, str]] = set()

    def load(self, model: str, program: Program, shares: Sequence[bytes]) -> None:
        """Take an operator's shares of a model's secrets; they replace those of the same name.

        Raises
        ------
        ParameterError
            Not as many shares as the program has secrets, or for another number of operators.
        WireError
            A share has the wrong length.
        """
        arguments = program.secrets()
        if len(shares) != len(arguments) or program.operators != self._link.world_size:
            raise ParameterError("A model's shares do not fit its program, or this link", got=f"{len(shares)} shares")
        for argument, share in zip(arguments, shares, strict=True):
            spu_share(program, argument, share)
        self._models[model] = program, list(shares)
        self._placed = {(key, name) for key, name in self._placed if name != model}

    def run(self, run: str, model: str, rows: int, records: bytes, *, owner: str = "") -> bytes:
        """Compute a model's answers for shared records.

        Parameters
        ----------
        run : str
            Name of the run: the same at every operator.
        model : str
        rows : int
        records : bytes
            This operator's share.
        owner : str
            Fingerprint of the certificate of whoever sent it: shares of two owners are never computed on together.

        Returns
        -------
        bytes
            This operator's share of the answers, for their owner alone.

        Raises
        ------
        ProtocolError
            The operators do not agree on what to run: nothing was computed. Or SPU failed.
        """
        program, secrets = self._models[model]
        argument = program.records(rows)
        share = spu_share(program, argument, records)
        name = f"{owner}|{run}|{model}|".encode()
        mine = hashlib.sha256(b"blindsight mpc run v2" + name + program.digest(rows)).hexdigest()
        try:
            theirs = self._link.all_gather(mine)
        except RuntimeError as error:
            raise ProtocolError("The other operators did not answer before a run") from error
        if any(digest != mine for digest in theirs):
            raise ProtocolError(
                "The operators do not agree on what to run",
                got=", ".join(digest[:12] for digest in theirs),
                rule="same owner, run, model, program, shapes, parameters and versions of SPU and JAX",
                fix="install the same release everywhere, and let the model's holder share the model again",
            )
        libspu = import_spu()
        key = bytes(runtime_config(program).SerializeToString())
        try:
            machine = self._machine(key, program)
            names = [f"{model}/{i}" for i in range(len(secrets))]
            if (key, model) not in self._placed:
                for secret, place, raw in zip(program.secrets(), names, secrets, strict=True):
                    machine.SetVar(place, spu_share(program, secret, raw))
                self._placed.add((key, model))
            machine.SetVar("records", share)
            code = program.compiled(rows)
            machine.Run(libspu.Executable("score", ["records", *names], ["answer"], code))
            return answer_of(program, rows, machine.GetVar("answer"))
        except RuntimeError as error:  # the text holds a C++ trace, and might hold a value
            raise ProtocolError("SPU failed during a run", rule="all operators up, reachable, and honest") from error

    def _machine(self, key: bytes, program: Program) -> Any:
        if key not in self._machines:
            libspu = import_spu()
            self._machines[key] = libspu.RuntimeWrapper(self._link.spawn(), runtime_config(program))
        return self._machines[key]
