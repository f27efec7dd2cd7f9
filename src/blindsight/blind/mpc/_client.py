"""The two ends that are no operators: whoever holds a model, and whoever owns records."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight.blind._caveats import warn_of_what_is_public
from blindsight.errors import AuthenticationError, ParameterError, UnavailableError, WireError

from ._certificates import TlsFiles
from ._describe import program_of
from ._offer import MpcOffer
from ._peer import ask, client_of
from ._program import OPERATORS
from ._records import records_of
from ._shares import answer_dtype, join, split
from ._wire import ModelHeader, RunHeader, pack

if TYPE_CHECKING:
    import httpx

__all__ = ["MpcHolder", "MpcOwner", "OperatorAddress"]

T = TypeVar("T")
CONTROL_SECONDS = 60.0
MAX_HEALTH_BYTES = 1 << 16
LONGEST = 3
"""Time-outs that asking and being answered may take in all: connecting, sending, waiting."""


@dataclass(frozen=True, kw_only=True)
class OperatorAddress:
    """Where an operator is, and which certificate it must show.

    Parameters
    ----------
    address : str
        ``host:port`` of its HTTPS interface.
    certificate : Path
        PEM file.
    """

    address: str
    certificate: Path


class _Client:
    """What holder and owner have in common: one connection to each operator."""

    def __init__(
        self,
        operators: Sequence[OperatorAddress],
        *,
        certificate: str | os.PathLike[str],
        private_key: str | os.PathLike[str],
        timeout_s: float = 300.0,
    ) -> None:
        if len(operators) not in OPERATORS.values():
            raise ParameterError(
                "There are two or three operators", got=str(len(operators)), rule="two: CHEETAH; three: ABY3"
            )
        self._operators = list(operators)
        self._tls = TlsFiles(certificate=Path(certificate), private_key=Path(private_key), trusted=Path())
        self._timeout_s = timeout_s

    @property
    def protocol(self) -> Literal["aby3", "cheetah"]:
        """What so many operators run."""
        return "aby3" if len(self._operators) == 3 else "cheetah"

    def health(self) -> list[dict[str, Any]]:
        """What each operator says of itself, by rank."""
        found = self._each("GET", "/v1/health", [None] * len(self._operators), CONTROL_SECONDS)
        try:
            return [msgspec.json.decode(body[:MAX_HEALTH_BYTES], type=dict[str, Any]) for body, _ in found]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("An operator's word on itself is malformed", got=str(error)[:120]) from error

    def _each(
        self, method: str, path: str, bodies: Sequence[bytes | None], timeout_s: float
    ) -> list[tuple[bytes, dict[str, str]]]:
        """Ask all operators at the same time; the first error ends the others' connections and is raised."""

        async def asking() -> list[tuple[bytes, dict[str, str]]]:
            clients = [client_of(o.address, self._tls, o.certificate) for o in self._operators]
            try:
                # each wait is bounded; and all of them together, whatever an operator trickles
                async with asyncio.timeout(LONGEST * timeout_s), asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(ask(client, method, path, body=body, timeout_s=timeout_s))
                        for client, body in zip(clients, bodies, strict=True)
                    ]
                return [task.result() for task in tasks]
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None
            except TimeoutError as error:
                raise UnavailableError(
                    "The operators did not answer in time",
                    rule=f"all of an answer within {LONGEST * timeout_s:g} s",
                    fix="try again: the run is void, nothing was opened",
                ) from error
            finally:
                await _close(clients)

        return _in_thread(asking)


class MpcHolder(_Client):
    """Shares models between operators.

    Parameters
    ----------
    operators : sequence of OperatorAddress
        By rank: three for ABY3, two for CHEETAH.
    certificate, private_key : path-like
        The holder's own; the operators have the certificate in their lists.
    timeout_s : float
        Longest wait for an operator.

    Security
    --------
    Any two operators of ABY3, or both of CHEETAH, can put the model together. Semi-honest; not yet audited.
    """

    def share(
        self,
        model: Any,
        name: str,
        *,
        answer: Literal["score", "verdict"] = "score",
        bits_per_owner: int | None = None,
    ) -> str:
        """Share a fitted model.

        Parameters
        ----------
        model
            Any fitted detector with an integer circuit, or a network of layers that are known here.
        name : str
            What owners ask for: lower-case letters, digits, ``.``, ``_``, ``-``. A model shared before under this name
            by the same holder is replaced.
        answer : {"score", "verdict"}
            What owners learn of each record. ``verdict``: one bit, ``score > model.threshold_``.
        bits_per_owner : int, optional
            Limit over every sharing under this name; each operator holds to it by itself.

        Returns
        -------
        str
            Id of this sharing.

        Raises
        ------
        CapacityError
            The model has no circuit that a protocol carries.
        UnavailableError
            An operator did not answer: share again.

        Warns
        -----
        BlindsightWarning
            The public encoding was learned from data, so that the model is not secret.
        """
        program, values = program_of(model, protocol=self.protocol, answer=answer)
        secret = bool(getattr(model, "is_secret_", False))
        warn_of_what_is_public(model, "Multi-party computation hides the records, not all of the model.")
        offer = MpcOffer(
            program=program,
            inputs=model.encoder_ if program.whole else model.inputs_,
            schema=dict(model.schema_.to_json()),
            score_scale=float(model.score_scale_) if program.whole else 1.0,
            secret=secret,
        ).encode()
        MpcOffer.decode(offer)  # what we offer, operators and owners accept
        header = ModelHeader(name=name, id=secrets.token_hex(16), bits_per_owner=bits_per_owner)
        shares = [split(program, argument, value) for argument, value in zip(program.secrets(), values, strict=True)]
        bodies = [pack(header, [offer, *(share[rank] for share in shares)]) for rank in range(program.operators)]
        self._each("PUT", "/v1/models", bodies, self._timeout_s)
        return header.id


class MpcOwner(_Client):
    """Has records scored that no operator sees, by a model that the owner does not see.

    Parameters
    ----------
    operators : sequence of OperatorAddress
        By rank: three for ABY3, two for CHEETAH.
    name : str
        Of the model.
    certificate, private_key : path-like
        The owner's own; the operators have the certificate in their lists.
    timeout_s : float
        Longest wait for one run.

    Raises
    ------
    AuthenticationError
        The operators hold different models of that name.

    Security
    --------
    Any two operators of ABY3, or both of CHEETAH, can put the records together. One operator that does not follow the
    protocol can change answers unnoticed. Semi-honest; not yet audited.
    """

    def __init__(
        self,
        operators: Sequence[OperatorAddress],
        name: str,
        *,
        certificate: str | os.PathLike[str],
        private_key: str | os.PathLike[str],
        timeout_s: float = 300.0,
    ) -> None:
        super().__init__(operators, certificate=certificate, private_key=private_key, timeout_s=timeout_s)
        self._name = name
        self.refresh()

    def refresh(self) -> None:
        """Fetch the present offer, as after a new sharing."""
        found = self._each("GET", f"/v1/models/{self._name}", [None] * len(self._operators), CONTROL_SECONDS)
        if len({(headers.get("x-blindsight-model"), body) for body, headers in found}) != 1:
            raise AuthenticationError(
                "The operators hold different models",
                got=", ".join(str(headers.get("x-blindsight-model"))[:8] for _, headers in found),
                fix="the model's holder has just shared a new one, or must share it again: try again",
            )
        body, headers = found[0]
        self._model, self.offer = headers.get("x-blindsight-model", ""), MpcOffer.decode(body)
        if self.offer.program.protocol != self.protocol:
            raise WireError("The offer is for another number of operators", got=self.offer.program.protocol)

    def score(self, X: Any, *, rows_per_run: int | None = None) -> npt.NDArray[Any]:
        """Return scores, or verdicts where that is all the holder gives.

        Parameters
        ----------
        X : ndarray of shape (n, d), float64
            Feature rows; finite. For a model of windows also a table, as for ``decision_function``: of series in order
            of time, with the columns that order records and tell series apart. A record's score is that of the window
            which ends with it; give enough records before those of interest.
        rows_per_run : int, optional
            Records of one run.

        Returns
        -------
        ndarray of shape (n,)
            float64 scores as ``decision_function``: exactly for integer circuits. Or int64 verdicts as ``predict``.

        Raises
        ------
        UnavailableError
            An operator failed: what was running is void, and calling again makes fresh shares.
        BudgetError
            The bits are used up.
        DataError
            A table does not fit the model's schema, or time goes back within a series.
        WireError
            Operators contradict each other.

        Warns
        -----
        BlindsightWarning
            Of a model of windows: the order of the records says little of the time between them.
        """
        program = self.offer.program
        n, parts = records_of(self.offer, X, rows_per_run or program.rows_per_run)
        found: npt.NDArray[Any] = np.empty(n, dtype=answer_dtype(program))
        for rows, encoded in parts:
            found[rows] = self._run(encoded)
        if program.answer == "verdict":
            return found.astype(np.int64)
        scale = self.offer.score_scale if program.whole else 1.0
        scores: npt.NDArray[np.float64] = found * scale
        return scores

    def _run(self, encoded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        program, rows = self.offer.program, len(encoded)
        shares = split(program, program.records(rows), encoded)
        header = RunHeader(id=secrets.token_hex(16), model=self._model, rows=rows)
        answers = self._each("POST", "/v1/runs", [pack(header, [share]) for share in shares], self._timeout_s)
        return join(program, rows, [body for body, _ in answers])


async def _close(clients: list[httpx.AsyncClient]) -> None:
    for client in clients:
        await client.aclose()


def _in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread of its own: the caller may be inside a running loop, as in a notebook."""
    results: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(make()))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return results[0]
