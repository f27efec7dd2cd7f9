"""What every party of a sum does alike: each phase answered once, repeats byte for byte, errors without a trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError, ProtocolError, ReleaseError, SurvivorsError

from ._hashing import tagged_hash
from ._phases import Phase
from ._spec import SumSpec
from ._state import Answered, PhasedState
from ._wire import Signer, seal_message, signer_key

__all__ = ["PhasedClient", "second_answer", "vector_digest"]

Ints = npt.NDArray[np.int64]


S = TypeVar("S", bound=PhasedState)


class PhasedClient(ABC, Generic[S]):
    """One party in one sum, whatever hides the vectors.

    Call :meth:`handle` with each request of the coordinator. After each call, *before* the reply is sent,
    persist :meth:`dump`.

    Parameters
    ----------
    spec : SumSpec
        What this party agreed to, built from its own pinned participant list.
    name : str
        Which participant this is.
    signer : Signer
        Its long-term identity; the public key must be the one in the specification.

    Raises
    ------
    ParameterError
        ``name`` takes no part.
    AuthenticationError
        The signer's key is not the one in the specification.
    """

    _state: S

    def __init__(self, spec: SumSpec, name: str, signer: Signer) -> None:
        if signer_key(signer) != spec.identity(name):
            raise AuthenticationError(
                f"The key of {name!r} is not the one in the participant list",
                rule="the signer's public key equals the pinned one",
                fix="load the party's own identity, or have the participant list signed again",
            )
        self._spec, self._name, self._signer = spec, name, signer

    @property
    def spec(self) -> SumSpec:
        """What is being summed, by whom."""
        return self._spec

    @property
    def name(self) -> str:
        """Which participant this is."""
        return self._name

    @property
    def phase(self) -> Phase:
        """The next phase this party has not answered yet; DONE after unmasking."""
        return self._state.phase

    @property
    def survivors(self) -> tuple[str, ...]:
        """The survivor set this party signed, sorted; empty before :meth:`confirm`, and kept after the end."""
        return self._state.survivors

    @abstractmethod
    def dump(self) -> bytes:
        """The whole state as bytes, for :meth:`load`; secret."""

    @classmethod
    @abstractmethod
    def load(cls, state: bytes, *, spec: SumSpec, name: str, signer: Signer) -> Self:
        """Continue from a dumped state; FormatError if it is malformed or belongs to another sum or party."""

    @abstractmethod
    def handle(self, request: bytes, vector: Callable[[], Ints] | None = None) -> bytes:
        """Answer one request of the coordinator, whatever phase it is for."""

    @abstractmethod
    def advertise(self) -> bytes:
        """Answer the first phase, which has no request."""

    def _repeated(self, phase: Phase, asked: bytes) -> bytes | None:
        """The reply given to the same request before, or None if this phase is due now."""
        if phase < self._state.phase:
            answer = self._state.answered[phase]
            if answer.request != asked:
                raise second_answer(phase)
            return answer.reply
        if phase > self._state.phase:
            raise ProtocolError(
                f"A {phase.label} request came out of turn",
                got=f"this party's next phase is {self._state.phase.label}",
                rule="advertise, share, mask, confirm, unmask; each once",
            )
        return None

    def _answer(self, phase: Phase, asked: bytes, body: bytes, **changes: Any) -> bytes:
        reply = seal_message(self._spec, phase, self._name, body, self._signer)
        answered = (*self._state.answered, Answered(asked, reply))
        # One assignment, last: whatever raised before it has left the state as it was.
        self._state = msgspec.structs.replace(self._state, answered=answered, **changes)  # type: ignore[type-var]
        return reply

    def _too_few(self, did: str, count: int, needed: int | None = None) -> SurvivorsError:
        return SurvivorsError(
            f"Too few parties {did}",
            got=f"{count} of {len(self._spec.participants)}",
            rule=f"at least {needed or self._spec.min_survivors}",
            fix="start a new sum when more parties are online",
        )

    def __repr__(self) -> str:
        where = f"{self._spec.run!r} / {self._spec.step!r}"
        return f"{type(self).__name__}({self._name!r}, {where}, phase={self.phase.label})"


def vector_digest(spec: SumSpec, asked: bytes, vector: Ints) -> bytes:
    """Hash of the vector that went into a sum, and of the request that asked for it."""
    return tagged_hash("vector", spec.digest, asked, vector.astype("<i8").tobytes())


def second_answer(phase: Phase) -> ReleaseError:
    """The refusal to answer a phase twice."""
    return ReleaseError(
        f"The {phase.label} phase of this sum was answered before, to another request",
        rule="each phase is answered once; the same request again gets the same bytes. Totals over different "
        "inputs or survivor sets would subtract to single parties' vectors",
        fix="start a new sum: a new release with fresh noise and a new charge",
    )
