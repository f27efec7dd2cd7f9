"""A party of the coordinator's own making: it follows the protocol, signs what it is told to, and keeps no rule."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .heads import UNITS, Relay, countersigned, position, state
from .messages import Party
from .sums import (
    ADVERTISE,
    CONFIRM,
    MASK,
    PRIME,
    SHARE,
    UNMASK,
    VERSION,
    Sum,
    commitment_digest,
    decode,
    derive,
    digest,
    encode,
    frame_body,
    keystream,
    pairwise,
    survivors_digest,
)


class Puppet:
    """Its long-term identity, and where it says that its ledgers stand; :meth:`join` begins a sum."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = Ed25519PrivateKey.generate()
        self.tls_key = ec.generate_private_key(ec.SECP256R1())
        self.ledgers = {unit: position() for unit in UNITS}

    @property
    def party(self) -> Party:
        """As it stands on the list."""
        return Party(self.name, self.identity.public_key().public_bytes_raw())

    def frame(self, phase: int, spec: bytes, body: object) -> bytes:
        """A signed message."""
        raw = body if isinstance(body, bytes) else encode(body)
        signature = self.identity.sign(digest("message", spec, bytes([phase]), self.name, raw))
        return encode([VERSION, phase, spec, raw, signature])

    def join(self, this: Sum, release: str, relay: Relay) -> PuppetInSum:
        """Its part in one sum."""
        return PuppetInSum(self, this, release, relay)


class PuppetInSum:
    """One puppet's keys in one sum; its messages go into the sum's own frames."""

    def __init__(self, puppet: Puppet, this: Sum, release: str, relay: Relay) -> None:
        self.puppet, self.sum, self.name = puppet, this, puppet.name
        self.release, self.relay = release, relay
        self._c, self._s = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(32)
        self._held: dict[str, tuple[bytes, bytes]] = {}
        self._own = (b"", b"")

    def advertise(self) -> bytes:
        """Round 0."""
        c, s = self._c.public_key().public_bytes_raw(), self._s.public_key().public_bytes_raw()
        return self._say(ADVERTISE, c + s + digest("self-mask seed", self.sum.spec, self.name, self._seed))

    def state(self, **changes: object) -> bytes:
        """Its statement on its ledgers in this sum, or with some fields changed."""
        honest = {
            "party": self.name,
            "release": self.release,
            "request": hashlib.sha256(self.sum.request(SHARE, self.name)).hexdigest(),
            "ledgers": self.puppet.ledgers,
        }
        return state(self.puppet.identity, **{**honest, **changes})

    def share(self) -> bytes:
        """Round 1, and its statement."""
        self.relay.take(self.name, {"heads": {self.name: self.state()}})
        spec, transcript = self.sum.spec, self.sum.transcript
        key_shares = self._split(self._s.private_bytes_raw())
        seed_shares = self._split(self._seed)
        items, own = {}, b""
        for name in self.sum._sorted(self.sum.frames[ADVERTISE]):
            pair = key_shares[name], seed_shares[name]
            commitments = commitment_digest("key share", spec, self.name, name, pair[0]) + commitment_digest(
                "seed share", spec, self.name, name, pair[1]
            )
            if name == self.name:
                own, self._own = commitments, pair
                continue
            nonce = secrets.token_bytes(12)
            associated = digest("sealed shares", spec, transcript, self.name, name, commitments)
            sealed = ChaCha20Poly1305(self._sealing_key(name)).encrypt(nonce, pair[0] + pair[1], associated)
            items[name] = commitments + nonce + sealed
        return self._say(SHARE, [transcript, own, items])

    def mask(self, values: Sequence[int] | np.ndarray) -> bytes:
        """Round 2: open what the others sealed, send ``values`` under the masks, and countersign."""
        signatures = {
            name: self.puppet.identity.sign(countersigned(statement, self.name))
            for name, statement in self.relay.heads.items()
            if name != self.name
        }
        self.relay.take(self.name, {"signatures": signatures})
        transcript = self.sum.transcript
        sharers = list(self.sum._sorted(self.sum.frames[SHARE]))
        vector = np.asarray(values, dtype=self.sum.dtype.replace("u", "i")).view(self.sum.dtype)
        vector = vector + keystream(
            derive(self._seed, transcript, "self mask", self.name.encode()), len(vector), self.sum.dtype
        )
        place = self.sum.names.index
        own = self.sum.advertised(self.name)[1]
        for name in sharers:
            if name == self.name:
                self._held[name] = self._own
                continue
            item = frame_body(self.sum.frames[SHARE][name])[2][self.name]
            associated = digest("sealed shares", self.sum.spec, transcript, name, self.name, item[:64])
            opened = ChaCha20Poly1305(self._sealing_key(name)).decrypt(item[64:76], item[76:], associated)
            self._held[name] = opened[:33], opened[33:]
            mask = pairwise(self._s, own, self.sum.advertised(name)[1], transcript, vector)
            vector = vector + mask if place(self.name) > place(name) else vector - mask
        return self._say(MASK, digest("sharers", self.sum.spec, transcript, *sharers) + vector.tobytes())

    def confirm(self, survivors: Sequence[str] | None = None, *, keep: bool = True) -> bytes:
        """Round 3: sign any survivors."""
        sharers = list(self.sum._sorted(self.sum.frames[SHARE]))
        chosen = list(self.sum._sorted(self.sum.frames[MASK])) if survivors is None else list(survivors)
        body = survivors_digest(self.sum.spec, self.sum.transcript, sharers, chosen)
        return self._say(CONFIRM, body) if keep else self.puppet.frame(CONFIRM, self.sum.spec, body)

    def unmask(self) -> bytes:
        """Round 4."""
        survivors = self.sum._sorted(self.sum.frames[MASK])
        keys = {name: pair[0] for name, pair in self._held.items() if name not in survivors}
        seeds = {name: pair[1] for name, pair in self._held.items() if name in survivors}
        return self._say(UNMASK, [keys, seeds])

    def _say(self, phase: int, body: object) -> bytes:
        frame = self.puppet.frame(phase, self.sum.spec, body)
        self.sum.take(phase, self.name, frame)
        return frame

    def _sealing_key(self, peer: str) -> bytes:
        own, other = self._c.public_key().public_bytes_raw(), self.sum.advertised(peer)[0]
        agreed = self._c.exchange(X25519PublicKey.from_public_bytes(other))
        return derive(agreed, self.sum.transcript, "share key", *sorted((own, other)))

    def _split(self, secret: bytes) -> dict[str, bytes]:
        coefficients = [int.from_bytes(secret, "big")]
        coefficients += [secrets.randbelow(PRIME) for _ in range(self.sum.threshold - 1)]
        shares = {}
        for x, name in enumerate(self.sum.names, 1):
            value = 0
            for coefficient in reversed(coefficients):
                value = (value * x + coefficient) % PRIME
            shares[name] = value.to_bytes(33, "big")
        return shares


__all__ = ["Puppet", "PuppetInSum", "decode"]
