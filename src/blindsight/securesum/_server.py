"""The coordinator's side of one private sum: a pure, deterministic state machine without I/O or clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    FormatError,
    ProtocolError,
    SurvivorsError,
    WireError,
)

from ._advertisements import Advertisement, check_distinct
from ._agreement import KEY_BYTES, KeyPair
from ._digests import sharers_digest, survivors_digest, transcript_of
from ._hashing import HASH_BYTES, PROTOCOL
from ._masking import take_off_masks
from ._opening import check_released, reconstruct
from ._phases import Phase
from ._ring import RingVector
from ._server_state import Gone, ServerState, decode_server_state, encode_server_state
from ._spec import SumSpec
from ._wire import (
    SharesBody,
    UnmaskBody,
    encode_body,
    encode_request,
    open_message,
    open_shares_body,
    open_unmask_body,
)

__all__ = ["Dropout", "SumServer"]

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


class SumServer:
    """The coordinator of one sum, after Bonawitz et al. 2017 (CCS), Figure 4.

    For each of the five phases: send :meth:`requests`, hand every reply to :meth:`receive`, and call
    :meth:`close_phase` when all have answered or time is up. Then :meth:`result`.

    The machine draws no randomness and reads no clock. :meth:`dump` after each closing, written *before* the next
    requests leave, is all that a coordinator needs to be killed and resume: :meth:`load` makes the same requests
    again, and parties answer the same request with the same bytes.

    Parameters
    ----------
    spec : SumSpec

    Security
    --------
    Holds only what a coordinator may see. It is trusted for the *correctness* of the total it prints, not for
    anybody's privacy. It checks what it can, so that an honest one prints no wrong total in good faith:
    signatures, shares against their dealers' commitments, reconstructed keys against advertised ones, seeds
    against commitments, and the total against the largest that honest parties could reach.
    """

    def __init__(self, spec: SumSpec) -> None:
        self._spec = spec
        self._phase = Phase.ADVERTISE
        self._members = spec.names  # who takes part in the open phase
        self._accepted: dict[str, bytes] = {}
        self._rejected: dict[str, str] = {}
        self._dropped: dict[str, Dropout] = {}
        self._failure: BlindsightError | None = None
        self._forwarded: dict[str, bytes] = {}  # the last phase's messages, where the next one shows them to all
        self._advertised: dict[str, Advertisement] = {}
        self._transcript = b""
        self._sharers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()
        self._dealt: dict[str, SharesBody] = {}
        self._total = RingVector(spec)
        self._released: dict[str, UnmaskBody] = {}
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

    def requests(self) -> dict[str, bytes]:
        """What to send now, by party; only to those still awaited. Empty when the sum is over."""
        waiting = self.waiting
        if self._phase is Phase.MASK:
            return {name: encode_request(self._spec, Phase.MASK, self._inbox(name)) for name in waiting}
        parts: Mapping[str, bytes] = {}
        if self._phase is Phase.CONFIRM:
            parts = dict.fromkeys(self._survivors, b"")
        elif self._phase in (Phase.SHARE, Phase.UNMASK):
            parts = self._forwarded
        return dict.fromkeys(waiting, encode_request(self._spec, self._phase, parts))

    def _inbox(self, name: str) -> dict[str, bytes]:
        return {peer: self._dealt[peer].items[name] for peer in self._sharers if peer != name}

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

    def dump(self) -> bytes:
        """What the closed phases have left, for :meth:`load`. Answers to the open phase are not in it: ask again.

        Raises
        ------
        ProtocolError
            The sum has failed: there is nothing to go on with.
        """
        if self._failure is not None:
            raise self._failure
        phase = self._phase
        under_way = phase is not Phase.DONE
        state = ServerState(
            version=PROTOCOL,
            spec=self._spec.digest,
            phase=phase,
            members=self._members,
            dropped={name: Gone(gone.phase, gone.reason, gone.at_fault) for name, gone in self._dropped.items()},
            forwarded=self._forwarded if phase in (Phase.SHARE, Phase.UNMASK) else {},
            advertised=(
                {name: value.to_bytes() for name, value in self._advertised.items()}
                if phase > Phase.ADVERTISE and under_way
                else {}
            ),
            transcript=self._transcript if under_way else b"",
            sharers=self._sharers if under_way else (),
            survivors=self._survivors,
            dealt=(
                {name: encode_body(self._dealt[name]) for name in self._sharers}
                if phase > Phase.SHARE and under_way
                else {}
            ),
            total=(
                b""
                if phase <= Phase.MASK
                else self._total.to_bytes()
                if self._result is None
                else self._result.astype("<i8").tobytes()
            ),
        )
        return encode_server_state(state)

    @classmethod
    def load(cls, raw: bytes, *, spec: SumSpec) -> SumServer:
        """Continue from a dumped state.

        Raises
        ------
        FormatError
            The state is malformed or belongs to another sum.
        """
        state = decode_server_state(raw, spec)
        server = cls(spec)
        server._phase = state.phase
        server._members = state.members
        server._dropped = {
            name: Dropout(phase=gone.phase, reason=gone.reason, at_fault=gone.at_fault)
            for name, gone in state.dropped.items()
        }
        server._forwarded = dict(state.forwarded)
        server._transcript, server._sharers, server._survivors = state.transcript, state.sharers, state.survivors
        try:
            server._advertised = {
                name: Advertisement.from_bytes(body, owner=name) for name, body in state.advertised.items()
            }
            dealt_to = spec.ordered(set(state.advertised))
            server._dealt = {
                name: open_shares_body(spec, body, dealer=name, dealt_to=dealt_to) for name, body in state.dealt.items()
            }
        except ProtocolError as error:
            raise FormatError("The stored state of a sum is malformed", got=str(error)[:200]) from error
        if server._phase is Phase.DONE:
            server._result = np.frombuffer(state.total, dtype="<i8").astype(np.int64)
            server._result.setflags(write=False)
        elif state.total:
            server._total.add_bytes(state.total)
        return server

    def _take(self, name: str, body: bytes) -> None:
        spec = self._spec
        if self._phase is Phase.ADVERTISE:
            advertisement = Advertisement.from_bytes(body, owner=name)
            check_distinct({**self._advertised, name: advertisement})
            _PROBE.agree(advertisement.share_public, name)
            _PROBE.agree(advertisement.mask_public, name)
            self._advertised[name] = advertisement
        elif self._phase is Phase.SHARE:
            dealt = open_shares_body(spec, body, dealer=name, dealt_to=self._members)
            _check_story(name, dealt.transcript, self._transcript)
            self._dealt[name] = dealt
        elif self._phase is Phase.MASK:
            if len(body) != HASH_BYTES + spec.vector_bytes:
                raise WireError(
                    f"The masked vector of {name!r} has the wrong length",
                    got=f"{len(body) - HASH_BYTES} bytes",
                    rule=str(spec.vector_bytes),
                )
            _check_story(name, body[:HASH_BYTES], sharers_digest(spec, self._transcript, self._sharers))
            self._total.add_bytes(memoryview(body)[HASH_BYTES:])
        elif self._phase is Phase.CONFIRM:
            _check_story(name, body, survivors_digest(spec, self._transcript, self._sharers, self._survivors))
        else:
            released = open_unmask_body(spec, body, holder=name, dropped=self._lost, survivors=self._survivors)
            check_released(spec, name, released, self._dealt)
            self._released[name] = released

    @property
    def _lost(self) -> tuple[str, ...]:
        """Those who shared but sent no masked vector: U2 without U3."""
        return tuple(name for name in self._sharers if name not in self._survivors)

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

    def _advance(self, answered: tuple[str, ...]) -> None:
        if self._phase in (Phase.ADVERTISE, Phase.CONFIRM):
            self._forwarded = {name: self._accepted[name] for name in answered}
        if self._phase is Phase.ADVERTISE:
            self._transcript = transcript_of(self._spec, self._forwarded)
        elif self._phase is Phase.SHARE:
            self._sharers = answered
        elif self._phase is Phase.MASK:
            self._survivors = answered
        elif self._phase is Phase.UNMASK:
            self._result = self._open(answered)

    def _open(self, answered: tuple[str, ...]) -> Ints:
        opened = reconstruct(
            self._spec,
            answered[: self._spec.threshold],
            self._released,
            self._advertised,
            survivors=self._survivors,
            lost=self._lost,
        )
        if opened.faulty:
            for dealer, reason in opened.faulty.items():
                self._dropped[dealer] = Dropout(phase=Phase.UNMASK, reason=reason, at_fault=True)
            names = ", ".join(repr(name) for name in opened.faulty)
            raise AuthenticationError(
                f"The sum cannot be opened: {names} dealt shares that do not open to what was advertised",
                got="; ".join(opened.faulty.values()),
                rule="keys and seeds brought back equal the advertised ones, or the total would be garbage",
                fix=f"start a new sum without {names}: a new release with fresh noise and a new charge",
            )
        take_off_masks(
            self._spec,
            self._total,
            seeds=opened.seeds,
            keys=opened.keys,
            advertised=self._advertised,
            transcript=self._transcript,
        )
        total = self._total.centred()
        largest = len(self._survivors) * self._spec.max_abs
        if max(int(total.max()), -int(total.min())) > largest:
            raise ProtocolError(
                "The total is larger than honest parties can make it",
                rule=f"|total| <= {len(self._survivors)} survivors x max_abs = {largest}",
                fix="a party masked something else than it should; a masked sum cannot tell which one",
            )
        total.setflags(write=False)
        return total

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
        return f"SumServer({self._spec.run!r} / {self._spec.step!r}, phase={self._phase.label})"


_PROBE = KeyPair(bytes(KEY_BYTES))
"""Finds points of low order: any key does, since every X25519 scalar is a multiple of 8. Not a secret."""


def _check_story(name: str, got: bytes, expected: bytes) -> None:
    if got != expected:
        raise WireError(
            f"{name!r} speaks of other parties or keys than this coordinator sent it",
            rule="its hash of who advertised, shared and survived equals the coordinator's",
        )
