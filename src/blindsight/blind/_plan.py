"""Choosing parameters from public bounds, and saying what they hide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from blindsight.circuits import Encoder, InnerProduct
from blindsight.errors import CapacityError, ParameterError
from blindsight.he import SEED_BYTES, WORD_BITS, HeParameters

from ._engine import ByRecord

__all__ = ["BlindParameters", "Packing", "Upload", "plan"]

Packing = Literal["rows", "columns"]
Upload = Literal["seeded", "unseeded"]

PRIME_BITS: dict[tuple[Packing, int], tuple[int, ...]] = {
    ("rows", 4096): (46, 46),
    ("columns", 4096): (30, 30, 30),
    ("rows", 8192): (46, 46, 46, 46),
    ("columns", 8192): (30, 30, 30, 30, 30),
}
"""Data primes. Rows: as few as possible, since each costs transforms. Columns: 30 bits fill a uint32 on the wire, and
leave 23 bits of weights to an exact float64 product. The set is closed: an offer only names the degree."""

SPECIAL_BITS = 17
"""SEAL's key-switching prime, unused here: as short as SEAL finds one, so that the data gets the rest of 109 bits."""

MIN_PLAIN_BITS = 20
"""Multipliers of 16 bits must stay below half of the plaintext modulus."""

MAX_PLAIN_BITS = 56
FRESH_NOISE = 22
"""Largest noise coefficient of a fresh symmetric encryption: 21 (centred binomial) and 1 for rounding ``q m / t``."""

MAX_THRESHOLDS = 15
SHARE_ROOM_BITS = 3
"""Rounding to words takes at most ``2**-SHARE_ROOM_BITS`` of half a score unit, where 64 bits allow it."""

MULTIPLIER_BITS = 16
SECOND_PART_NOISE = 8
MIN_HIDING_BITS = 16
SLACK_BITS = 8
MODULUS_LOSS_BITS = 9
"""SEAL's primes are the largest of their size: q is above ``(1 - 2**-9) * 2**bits`` (checked by the Scorer)."""


@dataclass(frozen=True, kw_only=True)
class BlindParameters(ByRecord):
    """Everything public about how one circuit is scored blind.

    Parameters
    ----------
    packing : {"rows", "columns"}
        ``rows``: a record's encoding lies along one ciphertext's coefficients (few records, low latency).
        ``columns``: one ciphertext for each entry of the encoding, N records in its coefficients (batches).
    upload : {"seeded", "unseeded"}
        Whether data ciphertexts travel as a seed and one part, or as both parts: half the bytes, or no expansion by
        the server. Rows are always seeded: SEAL multiplies them, and refuses a product with a zero second part, which
        an owner who chose second parts could use as an oracle. Encryptions of zero are always seeded too.
    entries : int
        m, length of the encoding.
    degree : int
        N: 4096 or 8192.
    plain_bits : int
        k: scores are exact modulo ``2**k``, and lie in ``[-2**(k-1), 2**(k-1))``.
    weight_bits : int
        The sum of the absolute weights is at most ``2**weight_bits``. With ``plain_bits`` all that an offer says of
        the weights.
    thresholds : int
        0: the owner learns scores. Otherwise verdicts: for each record, how many of this many secret thresholds its
        score exceeds, from a comparison that hides the score from both sides (see ``_verdict``).
    """

    packing: Packing
    upload: Upload
    entries: int
    degree: int
    plain_bits: int
    weight_bits: int
    thresholds: int = 0

    def __post_init__(self) -> None:
        if (self.packing, self.degree) not in PRIME_BITS or self.upload not in ("seeded", "unseeded"):
            raise ParameterError(
                "The packing, upload or degree is not known", got=f"{self.packing}, {self.upload}, {self.degree}"
            )
        if self.packing == "rows" and self.upload != "seeded":
            raise ParameterError("Rows are uploaded seeded only", got=self.upload, fix="leave upload out")
        if not 1 <= self.entries <= 1 << 20:
            raise ParameterError("The encoding's length is out of range", got=str(self.entries), rule="1 .. 2**20")
        if not MIN_PLAIN_BITS <= self.plain_bits <= MAX_PLAIN_BITS or not 0 <= self.weight_bits <= 62:
            raise ParameterError(
                "The score does not fit",
                got=f"plain_bits={self.plain_bits}, weight_bits={self.weight_bits}",
                rule=f"{MIN_PLAIN_BITS} <= plain_bits <= {MAX_PLAIN_BITS}, 0 <= weight_bits <= 62",
            )
        if not 0 <= self.thresholds <= MAX_THRESHOLDS:
            raise ParameterError(
                "The number of thresholds is out of range", got=str(self.thresholds), rule=f"0 to {MAX_THRESHOLDS}"
            )
        if self.flood_half_width < 1 << self.weight_bits:
            raise CapacityError(
                "The flood does not fit beside the score",
                got=f"{self.plain_bits} score bits, {self.weight_bits} weight bits at degree {self.degree}",
            )

    @cached_property
    def he(self) -> HeParameters:
        """Parameters of the encryption scheme."""
        return HeParameters(
            degree=self.degree,
            prime_bits=PRIME_BITS[self.packing, self.degree],
            special_bits=SPECIAL_BITS,
            plain_bits=self.plain_bits,
        )

    @property
    def modulus_bits(self) -> int:
        """log2 of the ciphertext modulus q, rounded up."""
        return sum(PRIME_BITS[self.packing, self.degree])

    @property
    def least_modulus(self) -> int:
        """Lower bound on q, from which the flood is computed."""
        return (1 << self.modulus_bits) - (1 << self.modulus_bits - MODULUS_LOSS_BITS)

    # -- shapes

    @property
    def rows_per_ciphertext(self) -> int:
        """Records whose scores share one answer ciphertext."""
        return self.degree if self.packing == "columns" else max(1, self.degree // self.entries)

    @property
    def ciphertexts_per_group(self) -> int:
        """Uploaded ciphertexts for one answer ciphertext."""
        return self.entries if self.packing == "columns" else -(-self.entries // self.degree)

    def groups(self, rows: int) -> int:
        """Answer ciphertexts for this many records."""
        return -(-rows // self.rows_per_ciphertext)

    @property
    def residue_bytes(self) -> int:
        """One residue on the wire."""
        return self.he.residue_bytes

    @property
    def group_bytes(self) -> int:
        """One uploaded group on the wire."""
        return self.ciphertexts_per_group * self.ciphertext_bytes

    def answer_bytes(self, rows: int) -> int:
        """One answered group of this many records on the wire, where scores are revealed."""
        return rows * len(self.he.prime_bits) * self.residue_bytes + self.part_bytes

    @property
    def material_bytes(self) -> int:
        """The encryptions of zero that an owner registers."""
        return self.zeros * (SEED_BYTES + self.part_bytes)

    @property
    def part_bytes(self) -> int:
        """One polynomial on the wire."""
        he = self.he
        return len(he.prime_bits) * he.degree * he.residue_bytes

    @property
    def ciphertext_bytes(self) -> int:
        """One uploaded ciphertext on the wire."""
        return self.part_bytes + (SEED_BYTES if self.upload == "seeded" else self.part_bytes)

    # -- noise

    @property
    def zeros(self) -> int:
        """Number L of registered encryptions of zero, so that the mask on an answer's second part is uniform.

        The multipliers' entropy, 16 L bits a coefficient, must exceed the log2 q bits of the mask; 8 bits a coefficient
        to spare. See ``_protect``.
        """
        return math.ceil((self.modulus_bits + SLACK_BITS) / MULTIPLIER_BITS)

    @property
    def mask_noise(self) -> int:
        """Largest noise coefficient that re-randomisation adds, whatever an honest key: worst case, not typical."""
        product = self.zeros * self.degree * (FRESH_NOISE << MULTIPLIER_BITS - 1)
        return product + self.degree * SECOND_PART_NOISE + 2

    @cached_property
    def flood_half_width(self) -> int:
        """W: uniform noise in [-W, W) is added to each owed coefficient; as wide as exact decryption allows."""
        room = self.least_modulus >> self.plain_bits + 1
        return room - (FRESH_NOISE << self.weight_bits) - self.mask_noise - self._share_noise

    @property
    def share_bits(self) -> int:
        """Bits b of the words modulo ``2**b`` that the phase is shared in: whole bytes, 64 at most."""
        wanted = self.plain_bits + 1 + SHARE_ROOM_BITS + self._share_rounding.bit_length()
        return min(WORD_BITS, -(-wanted // 8) * 8)

    @property
    def _share_rounding(self) -> int:
        """Largest error of a phase, in words, from switching: each coefficient is too small by less than ``primes``."""
        return len(PRIME_BITS[self.packing, self.degree]) * (self.degree + 1)

    @property
    def _share_noise(self) -> int:
        """The same in units of q."""
        return 0 if self.thresholds == 0 else (self._share_rounding << self.modulus_bits >> self.share_bits) + 1

    @property
    def flood_bits(self) -> float:
        """log2 of the flood's width 2 W."""
        return math.log2(2 * self.flood_half_width)

    @property
    def hiding_bits(self) -> float:
        """Bits by which one answered coefficient's flood exceeds the largest honest noise, which carries the weights.

        The distribution of an answer to an *honest* ciphertext is within ``2**-hiding_bits`` of one that depends on
        the score alone. Subtract log2(answers): :meth:`hiding_bits_after`.
        """
        return self.flood_bits - math.log2(FRESH_NOISE << self.weight_bits)

    def hiding_bits_after(self, answers: int) -> float:
        """Flood bits minus noise bits minus log2(answers)."""
        return self.hiding_bits - math.log2(max(1, answers))

    @property
    def answer_bits(self) -> float:
        """Most bits that one answered coefficient can carry, *whatever* the owner encrypted: log2(q / 2W).

        The capacity of a channel modulo q with uniform noise of width 2W. It is a little above ``plain_bits``, hence
        at least ceil(log2(high - low + 1)) of the honest score, and holds for ciphertexts that encode no record.
        Verdicts: one bit for each threshold.
        """
        return self.thresholds or self.capacity_bits

    @property
    def capacity_bits(self) -> float:
        """log2(q / 2W); of a verdict, what an owner that *broke* the comparison could learn of a record at most."""
        return self.modulus_bits - self.flood_bits

    def describe(self, *, answers: int = 1) -> str:
        """Summarise in one line for people: sizes, security, flood bits minus log2(answers)."""
        left = self.hiding_bits_after(answers)
        return (
            f"BFV {self.packing}: N={self.degree}, log2 q={self.modulus_bits} (128-bit security), "
            f"t=2^{self.plain_bits}, "
            f"{self.entries} entries, {self.rows_per_ciphertext} records a ciphertext; flood 2^{self.flood_bits:.1f}, "
            f"{self.hiding_bits:.1f} bits above honest noise, {left:.1f} after {answers} answers; "
            f"{self.answer_bits:.2f} bits released a record at most"
            + (f", by comparing shares of {self.share_bits} bits" if self.thresholds else "")
        )


def plan(
    encoder: Encoder,
    circuit: InnerProduct,
    *,
    packing: Packing = "rows",
    upload: Upload | None = None,
    thresholds: int = 0,
) -> BlindParameters:
    """Choose parameters that carry a circuit exactly, with the widest flood.

    Parameters
    ----------
    encoder, circuit
        Public encoder and secret weights; of the weights only two sizes, rounded up to powers of two, enter.
    packing : {"rows", "columns"}
        Rows suit up to some thousand records at a time, columns full batches of N (a partial batch costs the same
        bytes as a full one).
    upload : {"seeded", "unseeded"}, optional
        Default: unseeded for columns, where expanding hundreds of seeds would dominate; rows are always seeded.
    thresholds : int
        0 for scores, else the number of thresholds of a verdict.

    Raises
    ------
    ParameterError
        Rows with an unseeded upload.
    CapacityError
        No degree up to 8192 leaves a flood at least ``2**16`` times the honest noise.
    """
    low, high = circuit.bounds(encoder)
    largest_weight = max(int(circuit.weights.max()), -int(circuit.weights.min()))
    # verdicts: score minus threshold must not wrap either, wherever between low - 1 and high the threshold lies
    extent = max(-low, high, largest_weight, 1, high - low + 1 if thresholds else 0)
    plain_bits = max(MIN_PLAIN_BITS, extent.bit_length() + 1)
    total = int(np.abs(circuit.weights).sum())
    weight_bits = max(total - 1, 0).bit_length()
    for degree in (4096, 8192) if plain_bits <= MAX_PLAIN_BITS else ():
        try:
            parameters = BlindParameters(
                packing=packing,
                upload=upload or ("seeded" if packing == "rows" else "unseeded"),
                entries=encoder.length,
                degree=degree,
                plain_bits=plain_bits,
                weight_bits=weight_bits,
                thresholds=thresholds,
            )
        except CapacityError:
            continue
        if parameters.hiding_bits >= MIN_HIDING_BITS:
            return parameters
    raise CapacityError(
        "No parameters at 128-bit security can carry this circuit",
        got=f"scores of {plain_bits} bits, absolute weights summing to {weight_bits} bits",
        rule=f"plaintexts of at most {MAX_PLAIN_BITS} bits, a flood {MIN_HIDING_BITS} bits above the noise",
        fix="use a coarser score scale, fewer levels or fewer bins",
    )
