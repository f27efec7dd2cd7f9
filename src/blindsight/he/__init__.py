"""SEAL (through TenSEAL) behind NumPy arrays of residues, with files that SEAL reads built by us alone.

The scheme is BFV: exact integers modulo ``2**k``. SEAL makes keys, encrypts, decrypts, expands seeds and transforms;
this package turns its objects into arrays and back, and never shows SEAL a byte of header that a peer could shape.

Not yet audited.
"""

from ._ckks import CkksContext, CkksKey, centred, slots_of
from ._ckks_parameters import CKKS_PRIME_BITS, CkksHeParameters
from ._context import HeContext, NttCipher, NttPlain
from ._parameters import MAX_MODULUS_BITS, HeParameters
from ._residues import (
    add_mod,
    check_residues,
    dot_mod,
    lift,
    multiply_constant,
    pack_residues,
    scale_up,
    uniform_below,
    unpack_residues,
)
from ._sealfile import SEED_BYTES
from ._secret import SecretKey
from ._words import WORD_BITS, switch_to_words

__all__ = [
    "CKKS_PRIME_BITS",
    "MAX_MODULUS_BITS",
    "SEED_BYTES",
    "WORD_BITS",
    "CkksContext",
    "CkksHeParameters",
    "CkksKey",
    "HeContext",
    "HeParameters",
    "NttCipher",
    "NttPlain",
    "SecretKey",
    "add_mod",
    "centred",
    "check_residues",
    "dot_mod",
    "lift",
    "multiply_constant",
    "pack_residues",
    "scale_up",
    "slots_of",
    "switch_to_words",
    "uniform_below",
    "unpack_residues",
]
