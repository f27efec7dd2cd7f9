"""A network that is not there: latency, bandwidth, slowness and dropouts drawn from a seed, on a clock that waits for
nobody."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blindsight.errors import ParameterError

from ._channel import Channel

__all__ = ["SimulatedChannel", "SimulatedExchange", "SimulatedNetwork"]

log = logging.getLogger(__name__)

_PARTIES, _MESSAGES, _DROPOUTS = 0, 1, 2
"""Streams of the generator: what a party is like, what one exchange is like, who drops out of one conversation."""


@dataclass(frozen=True, kw_only=True)
class SimulatedNetwork:
    """What a fleet's machines and lines are like. Medians; parties spread around them log-normally.

    Parameters
    ----------
    latency_ms : float
        Of one message, one way.
    bandwidth_mbit : float
        Megabits a second of a party's line, each way.
    coordinator_mbit : float
        Of the coordinator's line, each way: it sends and takes in one message after another.
    spread : float
        Standard deviation of the logarithm, between parties, of latency, bandwidth and slowness.
    jitter : float
        The same between one party's messages, of the latency.
    compute_s, compute_s_per_mb : float
        Seconds that a party of median slowness takes to answer: for any request, and for each megabyte asked and
        answered. The default of the latter is about what a party of a masked sum takes for its messages
        (`benchmarks/simulate.py`: "party ms" over "kB"); local training is not in it.
    dropout : float in [0, 1)
        Fraction of the parties that drop out of a conversation, rounded down. Half of them before the request
        comes, half after they have computed, so that only the answer is lost.
    dropouts_in : {"every", "first"}
        Which conversations parties drop out of. Who dropped out of one is back for the next.
    """

    latency_ms: float = 50.0
    bandwidth_mbit: float = 20.0
    coordinator_mbit: float = 1000.0
    spread: float = 0.5
    jitter: float = 0.25
    compute_s: float = 0.01
    compute_s_per_mb: float = 0.7
    dropout: float = 0.0
    dropouts_in: str = "every"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("latency_ms", 0.0, 1e6),
            ("bandwidth_mbit", 1e-3, 1e6),
            ("coordinator_mbit", 1e-3, 1e6),
            ("spread", 0.0, 3.0),
            ("jitter", 0.0, 3.0),
            ("compute_s", 0.0, 1e5),
            ("compute_s_per_mb", 0.0, 1e5),
            ("dropout", 0.0, 0.99),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ParameterError(
                    f"{name} of a simulated network is out of its domain",
                    got=repr(value)[:80],
                    rule=f"a number, {low:g} to {high:g}",
                )
        if self.dropouts_in not in ("every", "first"):
            raise ParameterError(
                "dropouts_in of a simulated network is unknown", got=repr(self.dropouts_in)[:80], rule="every or first"
            )


@dataclass(frozen=True, kw_only=True)
class SimulatedExchange:
    """One exchange as it went. Seconds ``began_s`` and ``ended_s`` are simulated; bytes and ``cpu_s`` are measured.

    Parameters
    ----------
    conversation, part : str
        As :meth:`SimulatedChannel.mark` was told.
    asked, answered : int
        Parties.
    absent : int
        Did not get the request.
    lost : int
        Computed, and their answer did not arrive.
    late : int
        Their answer came after the deadline.
    failed : int
        Raised an error.
    sent_bytes, received_bytes : int
        Of requests that arrived; of answers that left a party.
    began_s, ended_s : float
        On the simulated clock.
    cpu_s : float
        Processor time of this process in all parties' handlers.
    """

    conversation: str
    part: str
    asked: int
    answered: int
    absent: int
    lost: int
    late: int
    failed: int
    sent_bytes: int
    received_bytes: int
    began_s: float
    ended_s: float
    cpu_s: float


class SimulatedChannel(Channel):
    """Calls each party's handler in this process; when its answer arrives is simulated, what it is is real.

    Nothing sleeps. The deadline of an exchange is one of the simulated clock: where anybody does not answer, the
    clock goes on to the deadline, since the coordinator waits for all.

    Parameters
    ----------
    handlers : mapping of name to callable bytes -> bytes
    network : SimulatedNetwork
    seed : int
        Decides everything that is drawn: the same handlers, requests and seed give the same clock and dropouts, on any
        machine.
    parts : int
        Exchanges of one conversation over which dropouts are spread evenly: five for a masked sum.

    Attributes
    ----------
    now_s : float
        The simulated clock.
    history : list of SimulatedExchange
    party_bytes : dict of name to (int, int)
        Received and sent by each party so far.
    """

    def __init__(
        self,
        handlers: Mapping[str, Callable[[bytes], bytes]],
        network: SimulatedNetwork,
        *,
        seed: int,
        parts: int = 5,
    ) -> None:
        super().__init__()
        self.network = network
        self.now_s = 0.0
        self.history: list[SimulatedExchange] = []
        self._handlers = dict(sorted(handlers.items()))
        self.party_bytes: dict[str, tuple[int, int]] = dict.fromkeys(self._handlers, (0, 0))
        self._seed, self._parts = seed, parts
        n = len(self._handlers)
        spread = np.exp(network.spread * self._generator(_PARTIES).standard_normal((3, n)))
        self._latency_s = network.latency_ms / 1e3 * spread[0]
        self._bytes_per_s = network.bandwidth_mbit / 8 * 1e6 * spread[1]
        self._slowness = spread[2]
        self._conversation, self._part, self._first = "", "", ""
        self._conversations = -1
        self._number = 0
        self._dropouts: dict[str, tuple[int, bool]] = {}

    @property
    def parties(self) -> tuple[str, ...]:
        """Names that can be addressed, sorted."""
        return tuple(self._handlers)

    def mark(self, conversation: str, part: str) -> None:
        """Say what the next exchanges belong to; a new conversation draws its dropouts.

        Parameters
        ----------
        conversation : str
            One private sum, say.
        part : str
            One of its phases. The same part again is a repetition; the first one after another, a new conversation.
        """
        begins_again = part == self._first and part != self._part
        if conversation != self._conversation or begins_again or self._conversations < 0:
            self._conversations += 1
            self._number, self._first = 0, part
            self._dropouts = self._draw_dropouts()
        elif part != self._part:
            self._number += 1
        self._conversation, self._part = conversation, part

    def _draw_dropouts(self) -> dict[str, tuple[int, bool]]:
        """Who drops out in this conversation: in which part, and whether after having computed."""
        if self.network.dropouts_in == "first" and self._conversations > 0:
            return {}
        names = list(self._handlers)
        generator = self._generator(_DROPOUTS, self._conversations)
        chosen = generator.permutation(len(names))[: math.floor(self.network.dropout * len(names))]
        parts = generator.integers(0, self._parts, len(chosen))
        computed = generator.integers(0, 2, len(chosen))
        return {names[i]: (int(part), bool(after)) for i, part, after in zip(chosen, parts, computed, strict=True)}

    def _fate(self, name: str) -> Literal["answers", "absent", "lost"]:
        """What comes of a request to this party now."""
        if name not in self._dropouts:
            return "answers"
        part, computed = self._dropouts[name]
        if self._number < part:
            return "answers"
        return "lost" if computed and self._number == part else "absent"

    def _exchange(self, requests: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        if self._conversations < 0:
            self.mark("", "")
        began, deadline = self.now_s, self.now_s + timeout_s
        drawn = self._generator(_MESSAGES, len(self.history)).standard_normal((2, len(self._handlers)))
        jitter = np.exp(self.network.jitter * drawn)
        place = {name: i for i, name in enumerate(self._handlers)}
        door = self.network.coordinator_mbit / 8 * 1e6
        departed, cpu = began, time.process_time()
        absent = lost = failed = sent = received = 0
        arriving: list[tuple[float, str, bytes]] = []
        for name, request in sorted(requests.items()):
            i = place[name]
            departed += len(request) / door
            fate = self._fate(name)
            if fate == "absent":
                absent += 1
                continue
            sent += len(request)
            there = departed + self._latency_s[i] * jitter[0, i] + len(request) / self._bytes_per_s[i]
            try:
                answer = self._handlers[name](request)
            except Exception:
                log.exception("party %s did not answer", name)
                failed += 1
                continue
            down, up = self.party_bytes[name]
            self.party_bytes[name] = (down + len(request), up + len(answer))
            received += len(answer)
            if fate == "lost":
                lost += 1
                continue
            megabytes = (len(request) + len(answer)) / 1e6
            there += self._slowness[i] * (self.network.compute_s + self.network.compute_s_per_mb * megabytes)
            back = there + self._latency_s[i] * jitter[1, i] + len(answer) / self._bytes_per_s[i]
            arriving.append((float(back), name, answer))
        cpu = time.process_time() - cpu
        answers: dict[str, bytes] = {}
        free = began
        for back, name, answer in sorted(arriving):  # the coordinator's line takes in one after another
            free = max(free, back) + len(answer) / door
            if free <= deadline:
                answers[name] = answer
                self.now_s = free
        if len(answers) + failed < len(requests):  # nobody waits for a handler that failed
            self.now_s = deadline
        self.history.append(
            SimulatedExchange(
                conversation=self._conversation,
                part=self._part,
                asked=len(requests),
                answered=len(answers),
                absent=absent,
                lost=lost,
                late=len(arriving) - len(answers),
                failed=failed,
                sent_bytes=sent,
                received_bytes=received,
                began_s=began,
                ended_s=self.now_s,
                cpu_s=cpu,
            )
        )
        return answers

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *stream])
