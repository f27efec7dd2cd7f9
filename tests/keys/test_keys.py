import os
import pickle
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

import blindsight.keys as package
from blindsight.errors import AuthenticationError, FormatError, ParameterError, StoreError
from blindsight.keys import Identity, PublicIdentity, Sealer, create_key_file, is_sealed, write_atomic
from blindsight.keys import _sealer as internals
from blindsight.store import Store


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch):
    monkeypatch.setattr(internals, "SCRYPT_LOG2_N", 14)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "seal.key"
    create_key_file(path)
    return path


@pytest.fixture(params=["key file", "passphrase"])
def make(request, key_file):
    if request.param == "key file":
        return lambda: Sealer.from_key_file(key_file)
    return lambda: Sealer.from_passphrase("correct horse battery")


def test_all_is_sorted():
    assert package.__all__ == sorted(package.__all__)


# -- sealing


@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(100_000)])
def test_what_is_sealed_opens_elsewhere(make, plaintext):
    sealed = make().seal(plaintext, b"place")
    assert make().open(sealed, b"place") == plaintext
    assert is_sealed(sealed)
    assert not is_sealed(plaintext)
    assert len(sealed) == len(plaintext) + 56


def test_same_value_never_seals_the_same(make):
    sealer = make()
    sealed = [sealer.seal(b"value", b"") for _ in range(50)]
    assert len(set(sealed)) == 50
    nonces = {s[internals._HEADER.size - internals.NONCE_BYTES : internals._HEADER.size] for s in sealed}
    assert len(nonces) == 50


def test_plaintext_is_not_in_the_sealed_bytes(make):
    assert b"a secret sentence" not in make().seal(b"a secret sentence", b"")


def test_wrong_context_fails(make):
    sealed = make().seal(b"value", b"here")
    with pytest.raises(AuthenticationError, match="altered or moved"):
        make().open(sealed, b"there")


def test_wrong_passphrase_is_said_clearly():
    sealed = Sealer.from_passphrase("correct horse battery").seal(b"value", b"")
    with pytest.raises(AuthenticationError, match=r"the passphrase is another.*check the passphrase"):
        Sealer.from_passphrase("correct horse bettery").open(sealed, b"")


def test_wrong_key_file_and_wrong_kind(tmp_path, key_file):
    create_key_file(tmp_path / "other.key")
    sealed = Sealer.from_key_file(key_file).seal(b"value", b"")
    with pytest.raises(AuthenticationError, match="the key file is another"):
        Sealer.from_key_file(tmp_path / "other.key").open(sealed, b"")
    with pytest.raises(AuthenticationError, match=r"sealed with a key file.*Got: a passphrase"):
        Sealer.from_passphrase("correct horse battery").open(sealed, b"")


def test_every_flipped_bit_is_noticed(key_file):
    sealer = Sealer.from_key_file(key_file)
    sealed = sealer.seal(b"some value", b"c")
    for i in range(8 * len(sealed)):
        mutant = bytearray(sealed)
        mutant[i // 8] ^= 1 << i % 8
        with pytest.raises((AuthenticationError, FormatError)):
            sealer.open(bytes(mutant), b"c")


@given(data=st.binary(max_size=200), cut=st.integers(0, 65))
@settings(max_examples=100, deadline=None)
def test_any_other_bytes_are_refused(key_file, data, cut):
    sealer = Sealer.from_key_file(key_file)
    for bad in (data, internals.MAGIC + data, sealer.seal(b"some value", b"c")[:cut]):
        with pytest.raises((AuthenticationError, FormatError)):
            sealer.open(bad, b"c")


@pytest.mark.parametrize("cost", [(31, 8, 1), (21, 8, 1), (13, 8, 1), (16, 255, 1), (16, 8, 255), (0, 0, 0)])
def test_unreasonable_key_derivations_are_refused_before_any_work(cost):
    header = internals._HEADER.pack(internals.MAGIC, internals.KDF_SCRYPT, *cost, bytes(16), bytes(12))
    with pytest.raises(FormatError, match="unreasonable key derivation"):
        Sealer.from_passphrase("correct horse battery").open(header + bytes(32), b"")


def test_later_sessions_go_on_with_one_salt():
    first = Sealer.from_passphrase("correct horse battery").seal(b"1", b"")
    later = Sealer.from_passphrase("correct horse battery")
    later.open(first, b"")
    second = later.seal(b"2", b"")
    salt = slice(12, 28)
    assert first[salt] == second[salt]
    assert Sealer.from_passphrase("correct horse battery").seal(b"3", b"")[salt] != first[salt]


def test_a_forged_first_envelope_does_not_choose_the_salt():
    sealer = Sealer.from_passphrase("correct horse battery")
    forged = internals._HEADER.pack(internals.MAGIC, internals.KDF_SCRYPT, 14, 8, 1, bytes(16), bytes(12)) + bytes(20)
    with pytest.raises(AuthenticationError):
        sealer.open(forged, b"")
    assert sealer.seal(b"", b"")[12:28] != bytes(16)


@pytest.mark.parametrize("passphrase", ["", "short", "x" * 1025])
def test_passphrase_length(passphrase):
    with pytest.raises(ParameterError, match="unusable length"):
        Sealer.from_passphrase(passphrase)


def test_secrets_show_nowhere(key_file):
    for sealer in (Sealer.from_passphrase("correct horse battery"), Sealer.from_key_file(key_file)):
        sealer.seal(b"", b"")
        assert "redacted" in repr(sealer)
        assert "horse" not in repr(sealer)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(sealer)


def test_key_files(tmp_path):
    path = tmp_path / "k"
    create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        create_key_file(path)
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["k"]
    path.chmod(0o644)
    with pytest.raises(StoreError, match=r"open to others.*0644.*chmod 600 k"):
        Sealer.from_key_file(path)
    with pytest.raises(StoreError, match="could not be read"):
        Sealer.from_key_file(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", [b"", b"blindsight-key-1 \n", b"blindsight-key-1 " + b"g" * 64 + b"\n", b"x" * 82, bytes(1000)]
)
def test_malformed_key_files(tmp_path, content):
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FormatError, match="not a key file"):
        Sealer.from_key_file(path)


def test_a_sealer_seals_a_store(tmp_path, make):
    path = tmp_path / "s.db"
    with Store(path, make()) as store:
        store.log("s").append(b"a secret sentence")
    assert b"a secret sentence" not in path.read_bytes()
    with Store(path, make()) as store:
        store.log("s").append(b"second")
        assert store.log("s").read() == [b"a secret sentence", b"second"]
    with pytest.raises(AuthenticationError):
        Store(path, Sealer.from_passphrase("another passphrase"))


# -- identities


def test_rfc_8032_vector():
    # RFC 8032, section 7.1, TEST 2
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    identity = Identity(Ed25519PrivateKey.from_private_bytes(seed))
    assert identity.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = identity.sign(bytes.fromhex("72"))
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    identity.public.verify(signature, b"\x72")


def test_signatures_bind_message_and_identity():
    one, two = Identity.generate(), Identity.generate()
    signature = one.sign(b"message")
    one.public.verify(signature, b"message")
    for public, bad, message in [
        (one.public, signature, b"massage"),
        (two.public, signature, b"message"),
        (one.public, signature[:-1], b"message"),
        (one.public, b"", b"message"),
        (one.public, bytes(64), b"message"),
    ]:
        with pytest.raises(AuthenticationError, match=public.fingerprint):
            public.verify(bad, message)


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), "x" * 32])
def test_public_identity_form(raw):
    with pytest.raises(ParameterError, match="32 bytes"):
        PublicIdentity(raw)


def test_identity_is_saved_sealed(tmp_path, key_file):
    sealer = Sealer.from_key_file(key_file)
    identity = Identity.generate()
    path = tmp_path / "identity"
    identity.save(path, sealer)
    assert identity._key.private_bytes_raw() not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Identity.load(path, sealer)
    assert again.public == identity.public
    identity.public.verify(again.sign(b"m"), b"m")
    with pytest.raises(StoreError, match="exists already"):
        Identity.generate().save(path, sealer)
    with pytest.raises(AuthenticationError):
        Identity.load(path, Sealer.from_passphrase("another passphrase"))
    with pytest.raises(StoreError, match="could not be read"):
        Identity.load(tmp_path / "absent", sealer)
    path.write_bytes(sealer.seal(bytes(31), b"blindsight identity v1"))
    with pytest.raises(FormatError, match="32 bytes"):
        Identity.load(path, sealer)
    path.write_bytes(bytes(5000))
    with pytest.raises(FormatError, match="not an identity"):
        Identity.load(path, sealer)


def test_private_key_shows_nowhere():
    identity = Identity.generate()
    assert identity._key.private_bytes_raw().hex() not in repr(identity)
    assert identity.public.fingerprint in repr(identity)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(identity)


# -- writing files


def test_write_atomic_replaces(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o640)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["f"]


def test_write_atomic_into_nowhere(tmp_path):
    with pytest.raises(StoreError, match=r"'f' could not be written.*folder exists"):
        write_atomic(tmp_path / "nowhere" / "f", b"")


FULL = """
import resource, sys
from blindsight.errors import StoreError
from blindsight.keys import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], bytes(5000))
except StoreError as error:
    print(error)
"""


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "an older file of that name is as it was" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]
