"""The coordinator's side of one private sum: a pure, deterministic state machine without I/O or clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError, FormatError, ProtocolError, WireError

from ._advertisements import Advertisement, check_distinct
from ._digests import sharers_digest, survivors_digest, transcript_of
from ._hashing import HASH_BYTES, PROTOCOL
from ._masking import take_off_masks
from ._opening import check_released, reconstruct
from ._phased_server import PROBE, Dropout, PhasedServer, check_story
from ._phases import Phase
from ._ring import RingVector
from ._server_state import ServerState, decode_server_state, encode_server_state
from ._spec import SumSpec
from ._wire import SharesBody, UnmaskBody, encode_body, encode_request, open_shares_body, open_unmask_body

__all__ = ["SumServer"]

Ints = npt.NDArray[np.int64]


class SumServer(PhasedServer):
    """The coordinator of one sum, after Bonawitz et al. 2017 (CCS), Figure 4.

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
        super().__init__(spec)
        self._forwarded: dict[str, bytes] = {}  # the last phase's messages, where the next one shows them to all
        self._advertised: dict[str, Advertisement] = {}
        self._transcript = b""
        self._sharers: tuple[str, ...] = ()
        self._dealt: dict[str, SharesBody] = {}
        self._total = RingVector(spec)
        self._released: dict[str, UnmaskBody] = {}

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

    def dump(self) -> bytes:
        """See :meth:`PhasedServer.dump`."""
        if self._failure is not None:
            raise self._failure
        phase = self._phase
        under_way = phase is not Phase.DONE
        state = ServerState(
            version=PROTOCOL,
            spec=self._spec.digest,
            phase=phase,
            members=self._members,
            dropped=self._gone(),
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
    def load(cls, raw: bytes, *, spec: SumSpec) -> Self:
        """See :meth:`PhasedServer.load`."""
        state = decode_server_state(raw, spec)
        server = cls(spec)
        server._restore(state.phase, state.members, state.dropped, state.survivors)
        server._forwarded = dict(state.forwarded)
        server._transcript, server._sharers = state.transcript, state.sharers
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
            PROBE.agree(advertisement.share_public, name)
            PROBE.agree(advertisement.mask_public, name)
            self._advertised[name] = advertisement
        elif self._phase is Phase.SHARE:
            dealt = open_shares_body(spec, body, dealer=name, dealt_to=self._members)
            check_story(name, dealt.transcript, self._transcript)
            self._dealt[name] = dealt
        elif self._phase is Phase.MASK:
            if len(body) != HASH_BYTES + spec.vector_bytes:
                raise WireError(
                    f"The masked vector of {name!r} has the wrong length",
                    got=f"{len(body) - HASH_BYTES} bytes",
                    rule=str(spec.vector_bytes),
                )
            check_story(name, body[:HASH_BYTES], sharers_digest(spec, self._transcript, self._sharers))
            self._total.add_bytes(memoryview(body)[HASH_BYTES:])
        elif self._phase is Phase.CONFIRM:
            check_story(name, body, survivors_digest(spec, self._transcript, self._sharers, self._survivors))
        else:
            released = open_unmask_body(spec, body, holder=name, dropped=self._lost, survivors=self._survivors)
            check_released(spec, name, released, self._dealt)
            self._released[name] = released

    @property
    def _lost(self) -> tuple[str, ...]:
        """Those who shared but sent no masked vector: U2 without U3."""
        return tuple(name for name in self._sharers if name not in self._survivors)

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
