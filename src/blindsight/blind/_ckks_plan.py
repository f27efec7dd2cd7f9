"""CKKS parameters from public bounds, with the largest error that an opened score can have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from blindsight.errors import CapacityError, ParameterError
from blindsight.he import CKKS_PRIME_BITS, SEED_BYTES, CkksHeParameters

__all__ = ["MAX_COUNT", "CkksParameters", "slot_deviation"]

MAX_COUNT = {8192: 7, 16384: 15}
"""Most data primes at 128 bits of security."""

RESIDUE_BYTES = 4
TAIL = 8.0
"""Standard deviations within which noise is taken to stay: a Gaussian leaves them once in ``2**49``."""

MASK_TAIL = 12.0
"""The same for sums of products of two Gaussians, which have heavier tails."""

KEY_TAIL = 6.0
"""No value of the key's polynomial exceeds ``KEY_TAIL * sqrt(2 N / 3)``, but with probability ``N exp(-36)``."""

FRESH_VARIANCE = 10.5 + 1 / 12
"""Centred binomial noise of a fresh encryption, and the rounding of the encoding."""

MULTIPLIER_BITS = 16
SECOND_PART_NOISE = 8
SLACK_BITS = 8
MIN_HIDING_BITS = 16.0
HEADROOM = 1.05
"""The largest score and all noise stay below half the modulus by this factor."""

REFERENCE_SCORE = 1000
"""In tolerances: an error within the tolerance is promised at scores up to this."""


def slot_deviation(degree: int) -> float:
    """Standard deviation of one slot's real part (or imaginary part) of a fresh ciphertext's noise, before scaling."""
    return math.sqrt(degree * FRESH_VARIANCE / 2)


@dataclass(frozen=True, kw_only=True)
class CkksParameters:
    """Everything public about how one network is scored blind under CKKS.

    Parameters
    ----------
    degree : int
        N: 8192 or 16384. A group is N / 2 records, one to a slot.
    count, kept : int
        27-bit primes of an upload, and of an answer.
    entries : int
        Inputs of the network: ciphertexts of a group.
    squares : {1, 2}
        Products one after the other. An answer has ``2 * squares + 1`` parts.
    input_bits : int
        log2 of the scale of the inputs.
    scale_bits : int
        log2 of the scale of the score modulo all ``count`` primes.
    score_bits : int
        No record scores above ``2**score_bits``.
    tolerance_bits : int
        The tolerance is ``2**-tolerance_bits``: see :meth:`error`.
    upload : {"seeded", "unseeded"}

    Notes
    -----
    Of the weights these numbers tell sizes only: bounds of layers, rounded up to powers of two, and the threshold's
    order of magnitude.
    """

    degree: int
    count: int
    kept: int
    entries: int
    squares: int
    input_bits: int
    scale_bits: int
    score_bits: int
    tolerance_bits: int
    upload: Literal["seeded", "unseeded"]

    def __post_init__(self) -> None:
        he = self.he  # checks degree and primes
        if self.upload not in ("seeded", "unseeded") or self.squares not in (1, 2):
            raise ParameterError("The upload or depth is not known", got=f"{self.upload}, {self.squares} squares")
        for name, low, high in (
            ("entries", 1, 1 << 16),
            ("input_bits", 10, 60),
            ("scale_bits", 20, 400),
            ("score_bits", -64, 128),
            ("tolerance_bits", -64, 128),
        ):
            if not low <= getattr(self, name) <= high:
                raise ParameterError(f"{name} is out of range", got=str(getattr(self, name)), rule=f"{low} .. {high}")
        if self.scale_bits + self.score_bits + 1 + math.log2(HEADROOM) > math.fsum(map(math.log2, he.primes)):
            raise CapacityError(
                "The largest score does not fit the modulus",
                got=f"2**{self.score_bits} at scale 2**{self.scale_bits}",
                rule=f"below half of {CKKS_PRIME_BITS * self.count} bits",
            )
        if self._flood_room < 1 or self.hiding_bits < MIN_HIDING_BITS:
            raise CapacityError(
                "The flood does not fit below the tolerance",
                got=f"tolerance 2**-{self.tolerance_bits} at scale 2**{math.log2(self.answer_scale):.1f}",
                fix="keep more primes to the end",
            )

    @property
    def he(self) -> CkksHeParameters:
        """Parameters of the encryption scheme."""
        return CkksHeParameters(degree=self.degree, count=self.count, kept=self.kept)

    @property
    def packing(self) -> Literal["columns"]:
        """Records lie across slots."""
        return "columns"

    @property
    def thresholds(self) -> int:
        """Of verdicts: none, the owner learns scores."""
        return 0

    @property
    def residue_bytes(self) -> int:
        """One residue on the wire."""
        return RESIDUE_BYTES

    # -- shapes

    @property
    def parts(self) -> int:
        """Parts of an answer's ciphertext; all but the first travel whole."""
        return 2 * self.squares + 1

    @property
    def rows_per_ciphertext(self) -> int:
        """Records of one group."""
        return self.degree // 2

    def groups(self, rows: int) -> int:
        """Groups that carry this many records."""
        return -(-rows // self.rows_per_ciphertext)

    @property
    def ciphertext_bytes(self) -> int:
        """One uploaded ciphertext on the wire."""
        part = self.count * self.degree * RESIDUE_BYTES
        return part + (SEED_BYTES if self.upload == "seeded" else part)

    @property
    def group_bytes(self) -> int:
        """One uploaded group on the wire."""
        return self.entries * self.ciphertext_bytes

    @property
    def part_bytes(self) -> int:
        """One polynomial of an answer on the wire."""
        return self.kept * self.degree * RESIDUE_BYTES

    def owed(self, rows: int) -> int:
        """Numbers owed for one group of this many records: the next power of two, since slots repeat to fill it."""
        return 1 << (rows - 1).bit_length()

    def answer_bytes(self, rows: int) -> int:
        """One answered group of this many records on the wire."""
        return self.owed(rows) * self.kept * RESIDUE_BYTES + (self.parts - 1) * self.part_bytes

    @property
    def material_bytes(self) -> int:
        """The encryptions of zero that an owner registers."""
        return self.zeros * (SEED_BYTES + self.part_bytes)

    # -- sizes

    @property
    def kept_bits(self) -> float:
        """log2 of the modulus q' of an answer."""
        return math.fsum(map(math.log2, self.he.primes[: self.kept]))

    @property
    def input_scale(self) -> float:
        """What inputs are multiplied by before they are encrypted."""
        return math.ldexp(1.0, self.input_bits)

    @property
    def answer_scale(self) -> float:
        """What an answer's slots are divided by to give scores."""
        return math.exp2(self.scale_bits - math.fsum(map(math.log2, self.he.primes[self.kept :])))

    @property
    def tolerance(self) -> float:
        """Largest error of scores up to 1,000 tolerances."""
        return math.ldexp(1.0, -self.tolerance_bits)

    def error(self, score: float) -> float:
        """Largest error of an opened score, whatever the record, but with probability below ``2**-30`` a batch.

        Half the tolerance is flood, mask and rounding. The other half is that of weights and inputs, which grows with
        the root of the score: the score is a squared distance.
        """
        return self.tolerance / 2 * (1 + max(1.0, math.sqrt(max(score, 0.0) / (REFERENCE_SCORE * self.tolerance))))

    # -- noise

    @property
    def zeros(self) -> int:
        """Number L of registered encryptions of zero, so that each part's mask is uniform: see ``_ckks_protect``."""
        return math.ceil((self.kept_bits + SLACK_BITS) / MULTIPLIER_BITS)

    @property
    def _key_size(self) -> float:
        return KEY_TAIL * math.sqrt(2 * self.degree / 3)

    @property
    def mask_noise(self) -> float:
        """Largest noise of re-randomisation in one slot."""
        n = self.degree
        one = math.sqrt(self.zeros * (n * 4.0**MULTIPLIER_BITS / 12) * (n * FRESH_VARIANCE) / 2)
        small = math.sqrt(n * SECOND_PART_NOISE**2 / 3) * self._key_size
        return MASK_TAIL * (one + small) * math.fsum(self._key_size**i for i in range(self.parts - 1))

    @property
    def rounding_noise(self) -> float:
        """Largest noise of switching down in one slot. Unlike all else it depends on the weights beyond the score."""
        unit = TAIL * math.sqrt(self.degree / 12)
        return HEADROOM * unit * math.fsum(self._key_size**i for i in range(self.parts))

    @property
    def _flood_room(self) -> float:
        """W such that flood, mask and rounding stay within half the tolerance in every slot."""
        room = self.answer_scale * self.tolerance / 2 - self.mask_noise - self.rounding_noise
        return room / (TAIL * math.sqrt(self.degree / 12))

    @property
    def flood_half_width(self) -> int:
        """W: uniform noise in [-W, W) is added to each owed number."""
        return int(self._flood_room)

    @property
    def flood_bits(self) -> float:
        """log2 of the flood's width 2 W."""
        return math.log2(2 * self.flood_half_width)

    @property
    def hiding_bits(self) -> float:
        """Bits by which the flood in one slot exceeds the noise that depends on weights beyond the score."""
        return math.log2(TAIL * math.sqrt(self.degree / 12) * max(self._flood_room, 1e-300) / self.rounding_noise)

    def hiding_bits_after(self, answers: int) -> float:
        """The same minus log2(answers)."""
        return self.hiding_bits - math.log2(max(1, answers))

    @property
    def answer_bits(self) -> float:
        """Most bits that one owed number can carry, whatever the owner encrypted: log2(q' / 2W)."""
        return self.kept_bits - self.flood_bits

    def charge_bits(self, rows: int) -> int:
        """Bits released by answering this many records."""
        return math.ceil(self.charge_rows(rows) * self.answer_bits)

    def charge_rows(self, rows: int) -> int:
        """Records that answering this many counts as; a partial group counts as its next power of two.

        So many numbers leave, and an owner may have filled all of them with records.
        """
        full, rest = divmod(rows, self.rows_per_ciphertext)
        return full * self.rows_per_ciphertext + (self.owed(rest) if rest else 0)

    def rows_for(self, bits: int) -> int:
        """Largest number of records that this many bits answer."""
        full, left = divmod(int(bits / self.answer_bits), self.rows_per_ciphertext)
        return full * self.rows_per_ciphertext + (1 << left.bit_length() - 1 if left else 0)

    def describe(self, *, answers: int = 1) -> str:
        """Summarise in one line for people."""
        left = self.hiding_bits_after(answers)
        return (
            f"CKKS columns: N={self.degree}, log2 q={CKKS_PRIME_BITS * self.count} to "
            f"{CKKS_PRIME_BITS * self.kept} (128-bit security), {self.entries} inputs, {self.squares} squares, "
            f"{self.rows_per_ciphertext} records a ciphertext; error at most {self.tolerance:.2g} at scores up to "
            f"{REFERENCE_SCORE * self.tolerance:.2g}; flood 2^{self.flood_bits:.1f}, {self.hiding_bits:.1f} bits above "
            f"rounding, {left:.1f} after {answers} answers; {self.answer_bits:.2f} bits released a record at most"
        )
