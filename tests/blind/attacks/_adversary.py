"""A record owner that follows the format and nothing else: it sends any residues it likes and looks at every byte."""

from collections.abc import Callable, Sequence

import numpy as np

from blindsight.blind import RecordOwner, Scorer
from blindsight.blind._envelope import Header, Kind, close_envelope, new_salt, public_bytes, split_envelope
from blindsight.blind._protect import Protections
from blindsight.he import pack_residues, unpack_residues

from ._ring import secret_of

ALL_ON = Protections()


class Adversary:
    def __init__(self, scorer: Scorer, *, zeros: Callable[["Adversary"], list[tuple[bytes, np.ndarray]]] | None = None):
        self.scorer = scorer
        self.owner = RecordOwner(scorer.offer())
        self.key, self.context, self.parameters = self.owner._key, self.owner._context, self.owner.parameters
        self.width = self.parameters.he.residue_bytes
        self.zeros = [self.key.encrypt_zero_seeded() for _ in range(self.parameters.zeros)]
        if zeros is not None:
            self.zeros = zeros(self)
        self.owner._adopt(b"".join(seed + pack_residues(c0, self.width) for seed, c0 in self.zeros))

    @property
    def secret(self) -> np.ndarray:
        return secret_of(self.key)

    def message(self, body: bytes, rows: int, *, extra: bytes = b"", kind: Kind = "sealed") -> bytes:
        salt = new_salt()
        header = Header(
            kind=kind,
            offer=self.owner._digest,
            key=self.owner._key_id,
            request=salt,
            salt=salt,
            rows=rows,
            registers=True,
        )
        pieces = [public_bytes(self.owner._mac_key), self.owner._material, extra, body]
        return close_envelope(self.owner._session, header, pieces)

    def ask(self, parts: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Send unseeded ciphertexts of one group, shape (ciphertexts, 2, primes, N); return what comes back."""
        if self.parameters.packing == "columns":
            parts = parts.transpose(2, 0, 1, 3)
        return self.read(self.scorer.score(self.message(pack_residues(parts, self.width), rows)))

    def ask_seeded(self, pieces: Sequence[tuple[bytes, np.ndarray]], rows: int) -> tuple[np.ndarray, np.ndarray]:
        body = b"".join(seed + pack_residues(c0, self.width) for seed, c0 in pieces)
        return self.read(self.scorer.score(self.message(body, rows)))

    def ask_explained(
        self, pieces: Sequence[tuple[bytes, np.ndarray]], rows: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Send seeded ciphertexts and ask for contributions; both parts for each block."""
        body = b"".join(seed + pack_residues(c0, self.width) for seed, c0 in pieces)
        answer = self.scorer.score(self.message(body, rows, kind="explain"))
        _, found = split_envelope(answer, "explained", offer=self.owner._digest)
        size = len(found) // self.owner.encoder.blocks
        return [self.parts(found[at : at + size]) for at in range(0, len(found), size)]

    def ask_words(self, parts: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Send unseeded ciphertexts in columns to a scorer of verdicts; words of its first part, and of its second."""
        body = pack_residues(parts.transpose(2, 0, 1, 3), self.width)
        _, found = split_envelope(self.scorer.score(self.message(body, rows)), "answer", offer=self.owner._digest)
        width = self.parameters.share_bits // 8
        words = unpack_residues(found[8:], ((len(found) - 8) // width,), width).astype(np.uint64)
        return words[: -self.context.degree], words[-self.context.degree :]

    def read(self, answer: bytes) -> tuple[np.ndarray, np.ndarray]:
        """First part (as many coefficients as came) and second part of a one-group answer."""
        return self.parts(split_envelope(answer, "answer", offer=self.owner._digest)[1])

    def parts(self, body: memoryview) -> tuple[np.ndarray, np.ndarray]:
        second = len(body) - self.parameters.part_bytes
        primes = len(self.context.primes)
        first = unpack_residues(body[:second], (primes, second // primes // self.width), self.width)
        rest = unpack_residues(body[second:], (primes, self.context.degree), self.width)
        return first.astype(np.uint64), rest.astype(np.uint64)


def correlation(guess: Sequence[float], truth: np.ndarray) -> float:
    """Absolute Pearson correlation; a constant guess knows nothing."""
    guess = np.asarray([float(v) for v in guess])
    if np.ptp(guess) == 0:
        return 0.0
    return abs(float(np.corrcoef(guess, truth.astype(float))[0, 1]))
