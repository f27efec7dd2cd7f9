"""The coordinator's side of one sum under a shared key: adds what it cannot read; no I/O, no clock, no randomness."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight.errors import AuthenticationError, BlindsightError, FormatError, SurvivorsError, WireError

from ._digests import transcript_of
from ._hashing import HASH_BYTES, PROTOCOL, tagged_hash
from ._key_advertisements import take_public_key
from ._phased_server import PROBE, Dropout, PhasedServer, check_story
from ._phases import Phase
from ._scheme import Accumulator, scheme_of
from ._sealed_key import holders_of
from ._shared_limits import VALUE_BYTES
from ._shared_server_state import SharedServerState, decode_shared_server_state
from ._shared_wire import (
    ConfirmRequest,
    DealtBody,
    EncryptRequest,
    OpenRequest,
    ShareRequest,
    encode_body_request,
    open_dealt,
    story_of,
    sum_digest,
    survivors_digest,
)
from ._spec import SumSpec

__all__ = ["SharedKeyServer"]

Ints = npt.NDArray[np.int64]


class SharedKeyServer(PhasedServer):
    """The coordinator of one sum under a key that the parties share and it lacks.

    Parameters
    ----------
    spec : SumSpec
        Whose ``method`` is "he" or "paillier".

    Raises
    ------
    MissingExtraError
        The scheme is not installed here.

    Security
    --------
    Holds ciphertexts and no key. **With the key of any one party it could open every vector.** It takes the total
    from the parties, and believes it where at least t of them report the same.
    """

    def __init__(self, spec: SumSpec) -> None:
        super().__init__(spec)
        self._scheme = scheme_of(spec)
        self._scheme.check_installed()
        self._messages: dict[str, bytes] = {}  # of the last phase, where the next one shows them to all
        self._advertised: dict[str, bytes] = {}
        self._transcript = b""
        self._dealt: dict[str, DealtBody] = {}
        self._in_use = EncryptRequest((), "", b"", b"", b"")  # as every party is told, but for its item
        self._story = b""
        self._running: Accumulator | None = None
        self._encrypted = b""
        self._digest = b""
        self._reports: dict[bytes, list[str]] = defaultdict(list)
        self._totals: dict[bytes, bytes] = {}

    def requests(self) -> dict[str, bytes]:
        """What to send now, by party; only to those still awaited. Empty when the sum is over."""
        spec, phase, waiting = self._spec, self._phase, self.waiting
        if phase is Phase.MASK:
            return {name: encode_body_request(spec, phase, self._with_item(name)) for name in waiting}
        body: ShareRequest | ConfirmRequest | OpenRequest | None = None
        if phase is Phase.SHARE:
            body = ShareRequest(self._messages)
        elif phase is Phase.CONFIRM:
            body = ConfirmRequest(self._survivors, self._digest)
        elif phase is Phase.UNMASK:
            body = OpenRequest(self._messages, self._encrypted)
        return dict.fromkeys(waiting, encode_body_request(spec, phase, body))

    def _with_item(self, name: str) -> EncryptRequest:
        used = self._in_use
        item = b"" if name == used.dealer else self._dealt[used.dealer].items[name]
        return EncryptRequest(used.sharers, used.dealer, used.commitment, used.public, item)

    def dump(self) -> bytes:
        """See :meth:`PhasedServer.dump`."""
        if self._failure is not None:
            raise self._failure
        phase = self._phase
        under_way = phase is not Phase.DONE
        masked = phase > Phase.MASK and under_way
        state = SharedServerState(
            version=PROTOCOL,
            spec=self._spec.digest,
            phase=phase,
            members=self._members,
            dropped=self._gone(),
            messages=self._messages if phase in (Phase.SHARE, Phase.UNMASK) else {},
            advertised=self._advertised if phase > Phase.ADVERTISE and under_way else {},
            transcript=self._transcript if under_way else b"",
            dealt={name: self._dealt[name] for name in self._members} if phase is Phase.MASK else {},
            in_use=self._in_use if phase > Phase.SHARE and under_way else None,
            survivors=self._survivors,
            encrypted=self._encrypted if masked else b"",
            digest=self._digest if masked else b"",
            total=b"" if self._result is None else self._result.astype("<i8").tobytes(),
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def load(cls, raw: bytes, *, spec: SumSpec) -> Self:
        """See :meth:`PhasedServer.load`."""
        state = decode_shared_server_state(raw, spec)
        server = cls(spec)
        server._restore(state.phase, state.members, state.dropped, state.survivors)
        server._messages, server._advertised = dict(state.messages), dict(state.advertised)
        server._transcript, server._dealt = state.transcript, dict(state.dealt)
        server._encrypted, server._digest = state.encrypted, state.digest
        if state.in_use is not None:
            server._in_use = state.in_use
            server._story = story_of(spec, state.transcript, state.in_use)
            if state.phase is Phase.MASK:
                try:
                    server._running = server._scheme.accumulator(state.in_use.public)
                except BlindsightError as error:
                    raise FormatError("The stored state of a sum is malformed", got=str(error)[:200]) from error
        if state.phase is Phase.DONE:
            server._result = np.frombuffer(state.total, dtype="<i8").astype(np.int64)
            server._result.setflags(write=False)
        return server

    def _take(self, name: str, body: bytes) -> None:
        spec = self._spec
        if self._phase is Phase.ADVERTISE:
            advertised = dict(self._advertised)
            take_public_key(advertised, name, body)
            PROBE.agree(body, name)
            self._advertised = advertised
        elif self._phase is Phase.SHARE:
            holder = name in holders_of(spec, self._members)
            dealt = open_dealt(spec, body, dealer=name, holder=holder, dealt_to=self._members)
            check_story(name, dealt.transcript, self._transcript)
            if holder:
                self._scheme.accumulator(dealt.public)  # parses the public part; a bad one is its dealer's fault
            self._dealt[name] = dealt
        elif self._phase is Phase.MASK:
            check_story(name, body[:HASH_BYTES], self._story)
            assert self._running is not None  # made when the phase began
            self._running.add(body[HASH_BYTES:])
        elif self._phase is Phase.CONFIRM:
            check_story(name, body, survivors_digest(spec, self._story, self._survivors, self._digest))
        else:
            self._take_report(name, body)

    def _take_report(self, name: str, body: bytes) -> None:
        spec = self._spec
        if len(body) != VALUE_BYTES * spec.length:
            raise WireError(
                f"The total of {name!r} has the wrong length",
                got=f"{len(body)} bytes",
                rule=str(VALUE_BYTES * spec.length),
            )
        values = np.frombuffer(body, dtype="<i8")
        largest = len(self._survivors) * spec.max_abs
        if max(int(values.max()), -int(values.min())) > largest:
            raise WireError(
                f"The total of {name!r} is larger than honest parties can make it", rule=f"|total| <= {largest}"
            )
        digest = tagged_hash("reported total", spec.digest, body)
        self._totals.setdefault(digest, body)
        self._reports[digest].append(name)

    def _advance(self, answered: tuple[str, ...]) -> None:
        spec = self._spec
        if self._phase in (Phase.ADVERTISE, Phase.CONFIRM):
            self._messages = {name: self._accepted[name] for name in answered}
        if self._phase is Phase.ADVERTISE:
            self._transcript = transcript_of(spec, self._messages)
        elif self._phase is Phase.SHARE:
            self._choose_key(answered)
        elif self._phase is Phase.MASK:
            assert self._running is not None
            self._survivors = answered
            self._encrypted = self._running.to_bytes()
            self._digest = sum_digest(spec, self._story, self._encrypted)
            self._running = None
        elif self._phase is Phase.UNMASK:
            self._result = self._agreed()

    def _choose_key(self, answered: tuple[str, ...]) -> None:
        """Use the key of the first of its holders who dealt one."""
        holders = holders_of(self._spec, self._members)
        dealers = [name for name in holders if name in answered]
        if not dealers:
            raise SurvivorsError(
                "Nobody dealt a key",
                got=f"no answer of {', '.join(holders)}",
                rule="at least one key holder completes the share phase",
                fix="start a new sum; nothing was encrypted in this one",
            )
        dealt = self._dealt[dealers[0]]
        self._in_use = EncryptRequest(answered, dealers[0], dealt.commitment, dealt.public, b"")
        self._story = story_of(self._spec, self._transcript, self._in_use)
        self._running = self._scheme.accumulator(dealt.public)

    def _agreed(self) -> Ints:
        """The total that at least t parties report; who reports another is named."""
        digest, names = max(self._reports.items(), key=lambda item: len(item[1]))
        others = [name for other, those in self._reports.items() if other != digest for name in those]
        for name in others:
            self._dropped[name] = Dropout(phase=Phase.UNMASK, reason="reported another total", at_fault=True)
        if len(names) < self._spec.threshold:
            raise AuthenticationError(
                "The parties do not agree on the total",
                got=f"{len(names)} report one, {', '.join(sorted(others))} another",
                rule=f"at least {self._spec.threshold} report the same",
                fix="start a new sum; somebody here decrypts wrongly or lies",
            )
        total = np.frombuffer(self._totals[digest], dtype="<i8").astype(np.int64)
        total.setflags(write=False)
        return total
