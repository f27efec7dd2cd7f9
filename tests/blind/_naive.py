"""A record owner written from docs/wire-blind.md alone, slowly: none of the package's code under it.

Hashes and X25519 come from Python and ``cryptography``. Where the product draws at random, this takes the
documentation's streams: SHAKE-256 of a word.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from math import prod

import msgspec
import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

N = 4096
WIDTH, ZEROS = 6, 7
"""Rows at this N."""


def stream(word: str, size: int) -> bytes:
    return hashlib.shake_256(word.encode()).digest(size)


def ternary(word: str) -> np.ndarray:
    return np.frombuffer(stream(word, N), dtype=np.uint8).astype(int) % 3 - 1


# -- numbers


def is_prime(n: int) -> bool:
    """Miller and Rabin's test, with bases that decide below 2**64."""
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, d << i, n) for i in range(r)]
        if n % base and powers[0] != 1 and n - 1 not in powers:
            return False
    return True


@cache
def primes(bits: int, count: int) -> list[int]:
    """The largest primes of so many bits that are 1 modulo 2 N, in ascending order."""
    found: list[int] = []
    value = (1 << bits) - 2 * N + 1
    while len(found) < count:
        found += [value] if is_prime(value) else []
        value -= 2 * N
    return found[::-1]


def expand(seed: bytes, moduli: Sequence[int]) -> np.ndarray:
    """The uniform part behind a seed: words of 64 bits, those at or above the largest multiple of a prime replaced."""
    words = xof(seed, -(-len(moduli) * N // 512) + 1)
    spare = len(moduli) * N  # replacements come behind all the others
    out = words[:spare].reshape(len(moduli), N).copy()
    for row, p in zip(out, moduli, strict=True):
        for j in np.flatnonzero(row >= np.uint64((2**64 - 1) // p * p)):
            row[j] = words[spare]
            assert int(row[j]) < (2**64 - 1) // p * p
            spare += 1
        row %= np.uint64(p)
    return out


def xof(seed: bytes, pieces: int) -> np.ndarray:
    """Pieces of 4,096 bytes: BLAKE2Xb of the piece's number, under the seed as key (BLAKE2X, 2016, section 2)."""
    length = 4096 << 32
    roots = [hashlib.blake2b(i.to_bytes(8, "little"), key=seed, node_offset=length).digest() for i in range(pieces)]
    message = np.zeros((16, pieces, 64), dtype=np.uint64)
    message[:8] = np.frombuffer(b"".join(roots), dtype="<u8").reshape(pieces, 8).T[:, :, None]
    # parameters of a node: 64 bytes out, no key, fanout and depth 0; leaves of 64; its number; inner length 64
    node = [np.uint64(64 | 64 << 32), np.arange(64, dtype=np.uint64) | np.uint64(length), np.uint64(64 << 8)]
    return blake2b_block(node, message, 64).transpose(1, 2, 0).reshape(-1)


IV = np.frombuffer(
    bytes.fromhex(
        "6a09e667f3bcc908 bb67ae8584caa73b 3c6ef372fe94f82b a54ff53a5f1d36f1"
        "510e527fade682d1 9b05688c2b3e6c1f 1f83d9abfb41bd6b 5be0cd19137e2179"
    ),
    dtype=">u8",
).astype(np.uint64)
SIGMA = [
    [int(digit, 16) for digit in row]
    for row in (
        "0123456789abcdef",
        "ea489fd61c02b753",
        "b8c052fdae367194",
        "7931dcbe265a40f8",
        "905724afe1bc683d",
        "2c6a0b834d75fe19",
        "c51fed4a0763928b",
        "db7ec13950f4862a",
        "6fe9b308c2d714a5",
        "a2847615fb9e3cd0",
    )
]


def blake2b_block(parameters: Sequence[object], message: np.ndarray, size: int) -> np.ndarray:
    """BLAKE2b (RFC 7693, section 3) of one block, many at once: Python's does not take the parameters of BLAKE2X."""
    h = np.broadcast_to(IV[:, None, None], (8, *message.shape[1:])).copy()
    for i, word in enumerate(parameters):
        h[i] ^= word
    v = np.concatenate([h, np.broadcast_to(IV[:, None, None], h.shape)])
    v[12] ^= np.uint64(size)
    v[14] = ~v[14]

    def mix(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        for add, (right, other) in ((x, (32, 24)), (y, (16, 63))):
            v[a] += v[b] + message[add]
            v[d] = rotated(v[d] ^ v[a], right)
            v[c] += v[d]
            v[b] = rotated(v[b] ^ v[c], other)

    for i in range(12):
        s = SIGMA[i % 10]
        for j in range(4):
            mix(j, 4 + j, 8 + j, 12 + j, s[2 * j], s[2 * j + 1])
        for j in range(4):
            mix(j, 4 + (j + 1) % 4, 8 + (j + 2) % 4, 12 + (j + 3) % 4, s[8 + 2 * j], s[9 + 2 * j])
    return h ^ v[:8] ^ v[8:]


def rotated(words: np.ndarray, right: int) -> np.ndarray:
    return words >> np.uint64(right) | words << np.uint64(64 - right)


def times(part: Sequence[int], small: Sequence[int], modulus: int) -> list[int]:
    """Product modulo X**N + 1 with small coefficients: one product of long integers, coefficients 128 bits apart."""

    def long(values: Sequence[int]) -> int:
        return int.from_bytes(b"".join(int(v).to_bytes(16, "little") for v in values), "little")

    def product(factor: Sequence[int]) -> list[int]:
        values = unpack((long(part) * long(factor)).to_bytes(32 * N, "little"), 16)
        return [low - high for low, high in zip(values[:N], values[N:], strict=True)]

    plus, minus = product([max(v, 0) for v in small]), product([max(-v, 0) for v in small])
    return [(a - b) % modulus for a, b in zip(plus, minus, strict=True)]


def transform(values: Sequence[int], p: int) -> list[int]:
    """NTT form: values at odd powers of the smallest primitive 2N-th root, powers in bit-reversed order."""
    some = next(r for g in range(2, 100) if pow(r := pow(g, (p - 1) // (2 * N), p), N, p) == p - 1)
    root = min(pow(some, odd, p) for odd in range(1, 2 * N, 2))

    def evaluate(part: list[int], w: int) -> list[int]:
        if len(part) == 1:
            return part
        even, odd, power, half = evaluate(part[::2], w * w % p), evaluate(part[1::2], w * w % p), 1, len(part) // 2
        out = [0] * len(part)
        for i in range(half):
            out[i], out[i + half] = (even[i] + power * odd[i]) % p, (even[i] - power * odd[i]) % p
            power = power * w % p
        return out

    natural = evaluate([v * pow(root, i, p) % p for i, v in enumerate(values)], root * root % p)
    bits = N.bit_length() - 1
    return [natural[int(f"{i:0{bits}b}"[::-1], 2)] for i in range(N)]


def pack(values: Iterable[int], width: int) -> bytes:
    return b"".join(int(v).to_bytes(width, "little") for v in values)


def unpack(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


# -- envelopes


def raw(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


class Envelopes:
    """What both sides do to messages, from either side's private key."""

    def __init__(self, own: X25519PrivateKey, peer: bytes, offer: bytes, owner_public: bytes) -> None:
        self.offer = hashlib.sha256(offer).digest()
        self.shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
        self.root = hkdf(self.shared, salt=self.offer, info=b"blindsight blind mac v1" + owner_public)

    def tag(self, kind: str, salt: bytes, covered: bytes) -> bytes:
        key = hkdf(self.root, salt=salt, info=b"message " + kind.encode())
        return AESGCM(key).encrypt(bytes(12), b"", covered)

    def header(self, kind: str, key: bytes, request: bytes, salt: bytes, rows: int, *, registers: bool) -> bytes:
        names = {"version": 1, "kind": kind, "offer": self.offer, "key": key, "request": request, "salt": salt}
        return msgspec.msgpack.encode({**names, "rows": rows, "registers": registers})

    def close(
        self, kind: str, key: bytes, request: bytes, salt: bytes, rows: int, body: bytes, *, registers: bool = False
    ) -> bytes:
        header = self.header(kind, key, request, salt, rows, registers=registers)
        covered = b"BSBL" + len(header).to_bytes(2, "little") + header + body
        return covered + self.tag(kind, salt, covered)

    def open(self, message: bytes) -> tuple[dict, bytes]:
        size = int.from_bytes(message[4:6], "little")
        header = msgspec.msgpack.decode(message[6 : 6 + size])
        assert message[:4] == b"BSBL"
        assert message[-16:] == self.tag(header["kind"], header["salt"], message[:-16])
        return header, message[6 + size : -16]


# -- the owner


@cache
def encrypt(word: str, message: tuple[int, ...] = (0,) * N, plain_bits: int = 20) -> tuple[bytes, list[list[int]]]:
    """Seed and first part: -(a s) + e + q m / t."""
    seed, error, moduli = stream(f"{word} seed", 64), ternary(f"{word} error"), primes(46, 2)
    scaled = [rounded(prod(moduli) * int(m), 1 << plain_bits) for m in message]
    first = []
    for p, a in zip(moduli, expand(seed, moduli), strict=True):
        product = times(a, ternary("secret"), p)
        first.append([(int(e) + m - v) % p for v, e, m in zip(product, error, scaled, strict=True)])
    return seed, first


def body_of(seed: bytes, first: list[list[int]]) -> bytes:
    return seed + b"".join(pack(row, WIDTH) for row in first)


class Owner:
    """Rows, N = 4096."""

    def __init__(self, private: bytes, offer: bytes, scorer: bytes) -> None:
        self.private = private
        key = X25519PrivateKey.from_private_bytes(private)
        self.primes = primes(46, 2)
        self.secret = ternary("secret")
        self.material = b"".join(body_of(*encrypt(f"zero {i}")) for i in range(ZEROS))
        self.registration = raw(key) + self.material
        self.key_id = hashlib.sha256(b"blindsight owner v1" + self.registration).digest()[:16]
        self.envelopes = Envelopes(key, scorer, offer, raw(key))

    def key_file(self) -> bytes:
        rows = [transform([int(v) % p for v in self.secret], p) for p in (*self.primes, *primes(17, 1))]
        data = b"BSOK1\n" + self.private + b"".join(pack(row, 8) for row in rows) + self.material
        return data + hashlib.sha256(data).digest()

    def seal(self, encoding: np.ndarray, kind: str, salt: bytes, plain_bits: int, *, registers: bool) -> bytes:
        message = [*encoding.ravel(), *[0] * (N - encoding.size)]
        body = self.registration if registers else b""
        body += body_of(*encrypt("record", tuple(message), plain_bits))
        return self.envelopes.close(kind, self.key_id, salt, salt, len(encoding), body, registers=registers)

    def scores(self, body: bytes, rows: int, entries: int, plain_bits: int) -> list[int]:
        """Decrypt one group."""
        cut = rows * len(self.primes) * WIDTH
        first = np.array(unpack(body[:cut], WIDTH), dtype=object).reshape(len(self.primes), rows)
        second = np.array(unpack(body[cut:], WIDTH), dtype=object).reshape(len(self.primes), N)
        owed, t, q = [r * entries + entries - 1 for r in range(rows)], 1 << plain_bits, prod(self.primes)
        residues = [
            [(int(c) + v) % p for c, v in zip(f, np.array(times(s, self.secret, p))[owed], strict=True)]
            for p, f, s in zip(self.primes, first, second, strict=True)
        ]
        phases = [composed(pair, self.primes) for pair in zip(*residues, strict=True)]
        values = [rounded(t * phase, q) % t for phase in phases]
        return [v - t if v >= t // 2 else v for v in values]


def composed(residues: Sequence[int], moduli: Sequence[int]) -> int:
    """Chinese remainders."""
    q = prod(moduli)
    return sum(int(r) * (q // p) * pow(q // p, -1, p) for r, p in zip(residues, moduli, strict=True)) % q


# -- the scorer, without masks and flood


def product(body: bytes, weights: Sequence[int], bias: int, rows: int, plain_bits: int) -> tuple[list, list]:
    """Owed residues of the first part and all of the second, prime by prime, of one seeded ciphertext in rows."""
    moduli, m = primes(46, 2), len(weights)
    reversed_weights = [*weights[::-1], *[0] * (N - m)]
    first = np.array(unpack(body[64:], WIDTH), dtype=object).reshape(2, N)
    scaled = rounded(prod(moduli) * bias, 1 << plain_bits)
    owed = []
    for p, row in zip(moduli, first, strict=True):
        values = times(row, reversed_weights, p)
        owed.append([(values[r * m + m - 1] + scaled) % p for r in range(rows)])
    seconds = [times(a, reversed_weights, p) for p, a in zip(moduli, expand(body[:64], moduli), strict=True)]
    return owed, seconds


def word(residues: Sequence[int], bits: int) -> int:
    """A residue modulo q, given modulo each prime, as a word: the quotients' sum, each rounded down after 64 bits."""
    moduli = primes(46, 2)
    q = prod(moduli)
    quotients = [(int(r) * pow(q // p, -1, p) % p << 64) // p for r, p in zip(residues, moduli, strict=True)]
    return sum(quotients) % 2**64 >> 64 - bits
