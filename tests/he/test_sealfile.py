"""Our reading and writing of SEAL's files agrees with SEAL, and an unexpected file of SEAL's is not guessed at."""

import struct

import numpy as np
import pytest

from blindsight.errors import FormatError
from blindsight.he import HeContext, HeParameters, SecretKey


@pytest.fixture(scope="module")
def context():
    return HeContext(HeParameters(degree=4096, prime_bits=(30, 30, 30), special_bits=17, plain_bits=30))


def test_a_file_of_ours_is_what_seal_writes_uncompressed(context):
    parts = SecretKey.generate(context).encrypt_zero()
    file = context.format.ciphertext(context.parms_id, parts)
    cipher = context.load("Ciphertext", file)
    assert cipher.size() == 2
    assert not cipher.is_ntt_form()
    assert not cipher.is_transparent()
    assert (context.residues(cipher) == parts).all()
    assert (context.format.read_ciphertext(file) == parts).all()


def test_every_header_field_is_checked_when_reading_seals_own_files(context):
    parts = SecretKey.generate(context).encrypt_zero()
    file = context.format.ciphertext(context.parms_id, parts)
    for offset, value in ((8, b"\0"), (5, b"\7"), (16 + 32, b"\1"), (16 + 33, b"\3"), (16 + 73 + 16, b"\1")):
        bad = bytearray(file)
        bad[offset : offset + 1] = value
        with pytest.raises(FormatError):
            context.format.read_ciphertext(bytes(bad))


def test_another_major_version_is_refused(context):
    header = bytearray(context.format.plaintext(np.ones(1, dtype=np.uint64))[:16])
    header[3] = 5
    with pytest.raises(FormatError, match="another file format"):
        type(context.format).of(bytes(header))


def test_headers_carry_only_our_values(context):
    parts = np.ones((2, 3, 4096), dtype=np.uint64)
    body = context.format.ciphertext(context.parms_id, parts)[16:]
    parms_id, ntt, size, degree, primes, scale, correction = struct.unpack_from("<32sBQQQdQ", body)
    assert (parms_id, ntt, size, degree, primes, scale, correction) == (context.parms_id, 0, 2, 4096, 3, 1.0, 1)
