"""What every coordinator of a sum does alike: phases, who is awaited, who dropped out and why; no I/O, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import BlindsightError, ProtocolError, SurvivorsError, WireError

from ._agreement import KEY_BYTES, KeyPair
from ._phases import Phase
from ._server_state import Gone
from ._spec import SumSpec
from ._wire import open_message

__all__ = ["PROBE", "Dropout", "PhasedServer", "check_story"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Why a party is no longer in a sum.

    Parameters
    ----------
    phase : Phase
        The phase it did not complete.
    reason : str
        For people.
    at_fault : bool
        True when it answered and the answer broke the protocol; False when it did not answer.
    """

    phase: Phase
    reason: str
    at_fault: bool


class PhasedServer(ABC):
    """The coordinator of one sum, whatever hides the vectors.

    For each of the five phases: send :meth:`requests`, hand every reply to :meth:`receive`, and call
    :meth:`close_phase` when all have answered or time is up. Then :meth:`result`.

    The machine draws no randomness and reads no clock. :meth:`dump` after each closing, written *before* the next
    requests leave, is all that a coordinator needs to be killed and resume: :meth:`load` makes the same requests
    again, and parties answer the same request with the same bytes.

    Parameters
    ----------
    spec : SumSpec
    """

    def __init__(self, spec: SumSpec) -> None:
        self._spec = spec
        self._phase = Phase.ADVERTISE
        self._members = spec.names  # who takes part in the open phase
        self._accepted: dict[str, bytes] = {}
        self._rejected: dict[str, str] = {}
        self._dropped: dict[str, Dropout] = {}
        self._failure: BlindsightError | None = None
        self._survivors: tuple[str, ...] = ()
        self._result: Ints | None = None

    @property
    def spec(self) -> SumSpec:
        """What is being summed, by whom."""
        return self._spec

    @property
    def phase(self) -> Phase:
        """The phase now open; DONE when the total is."""
        return self._phase

    @property
    def waiting(self) -> tuple[str, ...]:
        """Parties that have not yet answered the open phase; empty when the sum is over or has failed."""
        if self._phase is Phase.DONE or self._failure is not None:
            return ()
        return tuple(name for name in self._members if name not in self._accepted)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Those whose vectors are in the total, sorted; empty before the mask phase is closed."""
        return self._survivors

    @property
    def dropped(self) -> Mapping[str, Dropout]:
        """Parties that left, with phase and reason. Who left after masking is still among the survivors."""
        return MappingProxyType(self._dropped)

    @abstractmethod
    def requests(self) -> dict[str, bytes]:
        """What to send now, by party; only to those still awaited. Empty when the sum is over."""

    def receive(self, name: str, message: bytes) -> bool:
        """Take a reply to the open phase.

        Parameters
        ----------
        name : str
            Whose channel it came over; any text.
        message : bytes
            Any bytes at all.

        Returns
        -------
        bool
            True if it counts. A message that breaks the protocol never raises: it is put aside with a reason,
            which becomes the party's :class:`Dropout` unless a good message follows before the phase closes.
            Messages from those not awaited (late, repeated, strangers) change nothing.
        """
        if name not in self.waiting:
            return False
        try:
            body = open_message(self._spec, self._phase, name, message)
            self._take(name, body)
        except BlindsightError as error:
            self._rejected[name] = str(error)
            return False
        # Kept only where the next phase shows it to all; a masked vector is already in the running total.
        self._accepted[name] = message if self._phase in (Phase.ADVERTISE, Phase.CONFIRM) else b""
        self._rejected.pop(name, None)
        return True

    @abstractmethod
    def dump(self) -> bytes:
        """What the closed phases have left, for :meth:`load`. Answers to the open phase are not in it: ask again.

        Raises
        ------
        ProtocolError
            What ended the sum, if it has failed: there is nothing to go on with.
        """

    @classmethod
    @abstractmethod
    def load(cls, raw: bytes, *, spec: SumSpec) -> Self:
        """Continue from a dumped state.

        Raises
        ------
        FormatError
            The state is malformed or belongs to another sum.
        """

    def _gone(self) -> dict[str, Gone]:
        return {name: Gone(gone.phase, gone.reason, gone.at_fault) for name, gone in self._dropped.items()}

    def _restore(
        self, phase: Phase, members: tuple[str, ...], dropped: Mapping[str, Gone], survivors: tuple[str, ...]
    ) -> None:
        self._phase, self._members, self._survivors = phase, members, survivors
        self._dropped = {
            name: Dropout(phase=gone.phase, reason=gone.reason, at_fault=gone.at_fault)
            for name, gone in dropped.items()
        }

    @abstractmethod
    def _take(self, name: str, body: bytes) -> None:
        """Check and keep what a party signed for the open phase; whatever it raises puts the message aside."""

    @abstractmethod
    def _advance(self, answered: tuple[str, ...]) -> None:
        """Go from the open phase to the next with those who answered it."""

    def close_phase(self) -> None:
        """End the open phase with those who answered, and go on to the next.

        Raises
        ------
        SurvivorsError
            Too few answered; the message names who is missing and why. Nothing can be opened any more.
        AuthenticationError
            After unmasking: a dealer's shares do not open to what it advertised; it is named.
        ProtocolError
            The sum is over, or the total is larger than honest parties can make it.
        """
        if self._failure is not None:
            raise self._failure
        if self._phase is Phase.DONE:
            raise ProtocolError("The sum is over; there is no phase to close", fix="read result()")
        for name in self.waiting:
            reason = self._rejected.get(name)
            self._dropped[name] = Dropout(
                phase=self._phase, reason=reason or "did not answer", at_fault=reason is not None
            )
        answered = tuple(name for name in self._members if name in self._accepted)
        try:
            self._check_enough(answered)
            self._advance(answered)
        except BlindsightError as error:
            self._failure = error
            raise
        self._members, self._accepted, self._rejected = answered, {}, {}
        self._phase = Phase(self._phase + 1)

    def _check_enough(self, answered: tuple[str, ...]) -> None:
        # The mask phase fixes the survivor set; after it only t must help to open (the paper's U4 and U5).
        needed = self._spec.min_survivors if self._phase <= Phase.MASK else self._spec.threshold
        if len(answered) >= needed:
            return
        missing = "; ".join(
            f"{name} ({gone.phase.label}: {gone.reason})" for name, gone in sorted(self._dropped.items())
        )
        raise SurvivorsError(
            f"Too few parties completed the {self._phase.label} phase of {self._spec.run}/{self._spec.step}",
            got=f"{len(answered)} of {len(self._spec.participants)}; missing {missing}",
            rule=f"at least {needed} (threshold {self._spec.threshold}, and a total over fewer than three "
            "parties shows single parties' data)",
            fix="start a new sum when the missing parties are back; nothing was opened in this one",
        )

    def result(self) -> Ints:
        """The exact total over the survivors, shape (length,), int64, read-only.

        Raises
        ------
        ProtocolError
            Not all phases are closed yet; or what :meth:`close_phase` raised, again.

        Privacy
        -------
        The released value. If the parties put no noise in, it is an exact sum over ``survivors``.
        """
        if self._failure is not None:
            raise self._failure
        if self._result is None:
            raise ProtocolError(
                "The total is not open yet",
                got=f"phase {self._phase.label}",
                rule="all five phases are closed",
            )
        return self._result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._spec.run!r} / {self._spec.step!r}, phase={self._phase.label})"


PROBE = KeyPair(bytes(KEY_BYTES))
"""Finds points of low order: any key does, since every X25519 scalar is a multiple of 8. Not a secret."""


def check_story(name: str, got: bytes, expected: bytes) -> None:
    """Raise WireError unless a party saw what this coordinator sent it."""
    if got != expected:
        raise WireError(
            f"{name!r} speaks of other parties or keys than this coordinator sent it",
            rule="its hash of who advertised, shared and survived equals the coordinator's",
        )
