"""Runs a whole sum in one process, with chosen dropouts and tampering. For tests alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindsight.securesum import (
    Participant,
    Phase,
    SumSpec,
    default_threshold,
    load_client,
    make_client,
    make_server,
)

Ints = npt.NDArray[np.int64]
PHASES = tuple(phase for phase in Phase if phase is not Phase.DONE)


class KeySigner:
    """An Ed25519 identity whose ``public`` is raw bytes."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes, /) -> bytes:
        return self._key.sign(message)


@dataclass
class Sum:
    """A specification with its signers, vectors and clients, and a server that a test drives."""

    spec: SumSpec
    signers: dict[str, KeySigner]
    vectors: dict[str, Ints]
    clients: dict[str, Any] = field(default_factory=dict)
    server: Any = field(init=False)
    sent: dict[tuple[Phase, str], bytes] = field(default_factory=dict)
    asked: dict[tuple[Phase, str], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = make_server(self.spec)
        self.clients = {name: make_client(self.spec, name, self.signers[name]) for name in self.spec.names}

    def expected(self) -> Ints:
        """The sum over the survivors, in the clear."""
        return np.sum([self.vectors[name] for name in self.server.survivors], axis=0, dtype=np.int64)

    def exchange(
        self,
        silent: set[str] | frozenset[str] = frozenset(),
        tamper: Callable[[Phase, str, bytes], bytes] | None = None,
        restart: bool = False,
    ) -> None:
        """One phase: ask all who are awaited, deliver the answers, close."""
        phase = self.server.phase
        for name, request in self.server.requests().items():
            self.asked[phase, name] = request
            if name in silent:
                continue
            reply = self.clients[name].handle(request, lambda name=name: self.vectors[name])
            self.sent[phase, name] = reply
            if restart:
                self.clients[name] = load_client(
                    self.clients[name].dump(), spec=self.spec, name=name, signer=self.signers[name]
                )
            self.server.receive(name, reply if tamper is None else tamper(phase, name, reply))
        self.server.close_phase()

    def until(self, phase: Phase, **how: object) -> Sum:
        """Run all phases before ``phase`` without a fault."""
        while self.server.phase < phase:
            self.exchange(**how)  # type: ignore[arg-type]
        return self

    def run(
        self,
        drop: Mapping[Phase, set[str]] | None = None,
        tamper: Callable[[Phase, str, bytes], bytes] | None = None,
        restart: bool = False,
    ) -> Ints:
        """All five phases; parties in ``drop[phase]`` are silent from that phase on."""
        silent: set[str] = set()
        while self.server.phase is not Phase.DONE:
            silent |= (drop or {}).get(self.server.phase, set())
            self.exchange(silent, tamper, restart)
        return self.server.result()


def make_sum(
    n: int = 5,
    *,
    length: int = 7,
    bits: int = 32,
    threshold: int | None = None,
    max_abs: int = 1000,
    seed: int = 0,
    run: str = "run-1",
    signers: dict[str, KeySigner] | None = None,
    method: str = "masked",
) -> Sum:
    """A sum with random vectors that use the whole range."""
    names = [f"party-{i:03d}" for i in range(n)]
    signers = signers or {name: KeySigner() for name in names}
    spec = SumSpec(
        federation="test",
        run=run,
        step="step-1",
        participants=tuple(Participant(name=name, public_key=signers[name].public) for name in names),
        length=length,
        bits=bits,  # type: ignore[arg-type]
        threshold=default_threshold(n) if threshold is None else threshold,
        max_abs=max_abs,
        method=method,  # type: ignore[arg-type]
    )
    generator = np.random.default_rng(seed)
    vectors = {name: generator.integers(-max_abs, max_abs, length, endpoint=True) for name in names}
    return Sum(spec, signers, vectors)
