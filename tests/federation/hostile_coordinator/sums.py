"""The masked sum of docs/wire-securesum.md, as a coordinator runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .messages import Party

VERSION = "blindsight/securesum/1"
PRIME = 2**256 + 297
ADVERTISE, SHARE, MASK, CONFIRM, UNMASK = range(5)
encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


def digest(purpose: str, *parts: str | bytes) -> bytes:
    """``H`` of the document."""
    state = hashlib.sha256()
    for part in (VERSION, purpose, *parts):
        raw = part.encode() if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.digest()


def derive(secret: bytes, transcript: bytes, purpose: str, *more: bytes) -> bytes:
    """32 bytes of key."""
    info = VERSION.encode() + b"\0" + purpose.encode() + b"\0" + b"".join(more)
    return HKDF(hashes.SHA256(), 32, salt=transcript, info=info).derive(secret)


def keystream(key: bytes, length: int, dtype: str) -> np.ndarray:
    """``PRG``: ``length`` words."""
    encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    return np.frombuffer(encryptor.update(bytes(length * np.dtype(dtype).itemsize)), dtype=dtype)


def spec_digest(
    federation: str,
    run: str,
    step: str,
    parties: Sequence[Party],
    *,
    length: int,
    bits: int,
    threshold: int,
    max_abs: int,
) -> bytes:
    """``spec``."""
    listing = [[party.name, party.key] for party in parties]
    return digest("specification", encode([VERSION, federation, run, step, listing, length, bits, threshold, max_abs]))


def commitment_digest(kind: str, spec: bytes, *parts: str | bytes) -> bytes:
    """Commitment to a share or a seed."""
    return digest(kind, spec, *parts)


def survivors_digest(spec: bytes, transcript: bytes, sharers: Sequence[str], survivors: Sequence[str]) -> bytes:
    """What survivors sign."""
    return digest("survivors", spec, digest("sharers", spec, transcript, *sharers), *survivors)


def frame_body(frame: bytes) -> Any:
    """Of a message: bytes, or what is packed into them in phases 1 and 4."""
    _, phase, _, body, _ = decode(frame)
    return decode(body) if phase in (SHARE, UNMASK) else body


def join_shares(shares: Mapping[int, bytes]) -> bytes:
    """The secret of Shamir shares: the polynomial's value at 0."""
    total = 0
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = weight * other * pow(other - x, -1, PRIME) % PRIME
        total += weight * int.from_bytes(share, "big")
    return (total % PRIME).to_bytes(32, "big")


@dataclass(frozen=True)
class Total:
    """What a sum came to."""

    values: np.ndarray
    survivors: tuple[str, ...]


class Sum:
    """One sum's requests and what was answered. Nothing here refuses: what is sent is the caller's.

    Parameters
    ----------
    parties : sequence of Party
        The participant list, sorted.
    threshold : int
    spec : bytes
    bits : int
        Of a coordinate.
    """

    def __init__(self, parties: Sequence[Party], *, threshold: int, spec: bytes, bits: int = 64) -> None:
        self.parties, self.threshold, self.spec = tuple(parties), threshold, spec
        self.names = [party.name for party in parties]
        self.dtype = f"<u{bits // 8}"
        self.frames: dict[int, dict[str, bytes]] = {phase: {} for phase in range(5)}

    def take(self, phase: int, name: str, frame: bytes) -> None:
        """A party's message of a phase."""
        assert decode(frame)[:3] == [VERSION, phase, self.spec], f"{name} answered something else: {decode(frame)[:3]}"
        self.frames[phase][name] = frame

    def _request(self, phase: int, by_name: Mapping[str, bytes]) -> bytes:
        return encode([VERSION, phase, self.spec, dict(by_name)])

    def request(self, phase: int, to: str) -> bytes:
        """What an honest coordinator would send next."""
        if phase == SHARE:
            return self._request(SHARE, self._sorted(self.frames[ADVERTISE]))
        if phase == MASK:
            items = {n: frame_body(f)[2][to] for n, f in self._sorted(self.frames[SHARE]).items() if n != to}
            return self._request(MASK, items)
        if phase == CONFIRM:
            return self.confirm(list(self._sorted(self.frames[MASK])))
        return self._request(UNMASK, self._sorted(self.frames[CONFIRM]))

    def confirm(self, survivors: Sequence[str]) -> bytes:
        """Ask to sign these survivors."""
        return self._request(CONFIRM, dict.fromkeys(survivors, b""))

    def unmask(self, confirmations: Mapping[str, bytes]) -> bytes:
        """Ask for shares against these signatures."""
        return self._request(UNMASK, self._sorted(confirmations))

    def _sorted(self, by_name: Mapping[str, bytes]) -> dict[str, bytes]:
        return {name: by_name[name] for name in self.names if name in by_name}

    @property
    def transcript(self) -> bytes:
        """Of the advertisements that were handed on."""
        parts: list[str | bytes] = []
        for name, frame in self._sorted(self.frames[ADVERTISE]).items():
            parts += [name, frame]
        return digest("transcript", self.spec, *parts)

    def advertised(self, name: str) -> tuple[bytes, bytes, bytes]:
        """A party's c key, s key and commitment to its seed."""
        body = frame_body(self.frames[ADVERTISE][name])
        return body[:32], body[32:64], body[64:]

    def open(self) -> Total:
        """Take every mask off the sum of the survivors' vectors."""
        sharers = list(self._sorted(self.frames[SHARE]))
        survivors = list(self._sorted(self.frames[MASK]))
        vectors = [np.frombuffer(frame_body(self.frames[MASK][name])[32:], dtype=self.dtype) for name in survivors]
        total = np.sum(vectors, axis=0, dtype=self.dtype)
        helpers = list(self._sorted(self.frames[UNMASK]))[: self.threshold]
        points = {name: self.names.index(name) + 1 for name in helpers}
        released = {name: frame_body(self.frames[UNMASK][name]) for name in helpers}
        transcript = self.transcript
        for name in survivors:
            seed = join_shares({points[helper]: released[helper][1][name] for helper in helpers})
            assert digest("self-mask seed", self.spec, name, seed) == self.advertised(name)[2]
            total = total - keystream(derive(seed, transcript, "self mask", name.encode()), len(total), self.dtype)
        for gone in (name for name in sharers if name not in survivors):
            secret = X25519PrivateKey.from_private_bytes(
                join_shares({points[helper]: released[helper][0][gone] for helper in helpers})
            )
            assert secret.public_key().public_bytes_raw() == self.advertised(gone)[1]
            for name in survivors:
                mask = pairwise(secret, self.advertised(gone)[1], self.advertised(name)[1], transcript, total)
                total = total - mask if self.names.index(name) > self.names.index(gone) else total + mask
        return Total(total.astype(self.dtype).view(self.dtype.replace("u", "i")), tuple(survivors))


def pairwise(secret: X25519PrivateKey, own: bytes, peer: bytes, transcript: bytes, like: np.ndarray) -> np.ndarray:
    """The mask that two parties share."""
    agreed = secret.exchange(X25519PublicKey.from_public_bytes(peer))
    return keystream(derive(agreed, transcript, "pairwise mask", *sorted((own, peer))), len(like), like.dtype.str)
