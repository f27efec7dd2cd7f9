"""A coordinator without the key, with the key of one party, and with requests that no honest one makes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from blindsight.errors import AuthenticationError, FormatError, ProtocolError, WireError
from blindsight.he import SecretKey, pack_residues, unpack_residues
from blindsight.securesum import Phase
from blindsight.securesum._bfv import (
    DEGREE,
    MAX_FRESH_NOISE,
    PRIMES,
    READ_BITS,
    BfvScheme,
    _context,
    _messages,
    _total,
    _unpack_ternary,
)
from blindsight.securesum._hashing import HASH_BYTES
from blindsight.securesum._linear_mac import LinearMac, tag_bytes
from blindsight.securesum._paillier import CIPHER_BYTES, PaillierScheme, _unpack
from blindsight.securesum._scheme import scheme_of
from blindsight.securesum._shared_wire import DealtBody, encode_body_request, encode_dealt, sum_digest
from blindsight.securesum._wire import seal_message

from ._drive import Sum, make_sum
from .test_client import decode_body

A, B, C = "party-000", "party-001", "party-002"
LENGTH = 40


def encrypted(method: str = "he", n: int = 3, **options: int) -> Sum:
    """A sum whose encrypted vectors are in, and not yet confirmed."""
    return make_sum(n, length=LENGTH, bits=64, max_abs=1 << 40, method=method, **options).until(Phase.CONFIRM)


def ciphertext_of(this: Sum, name: str) -> bytes:
    """What the coordinator has of one party."""
    return decode_body(this.sent[Phase.MASK, name])[HASH_BYTES:]


def as_sum(this: Sum, *names: str) -> bytes:
    """The sum over some parties' ciphertexts, which a coordinator can compute."""
    running = scheme_of(this.spec).accumulator(this.server._in_use.public)
    for name in names:
        running.add(ciphertext_of(this, name))
    return running.to_bytes()


def ask_to_decrypt(this: Sum, forged: bytes) -> dict[str, np.ndarray]:
    """Let everybody sign and then decrypt another ciphertext than the sum: what the parties answer."""
    server = this.server
    server._encrypted, server._digest = forged, sum_digest(this.spec, server._story, forged)
    this.exchange()  # all sign: they cannot know yet
    answers = {}
    for name, request in server.requests().items():
        answers[name] = np.frombuffer(decode_body(this.clients[name].handle(request)), dtype="<i8")
    return answers


def test_without_a_key_the_coordinator_opens_nothing_and_with_one_it_opens_everything() -> None:
    this = encrypted()
    scheme = BfvScheme(this.spec)
    context = scheme.context
    raw = as_sum(this, A)
    parts = unpack_residues(raw[: -tag_bytes(PRIMES)], (scheme.blocks, 2, PRIMES, DEGREE), scheme.width)
    vector = np.concatenate([this.vectors[A] % p for p in context.primes])

    def opened(key: SecretKey, parts: np.ndarray) -> np.ndarray:
        read = np.concatenate([key.decrypt(part) for part in parts.astype(np.uint64)])
        return np.concatenate(_messages(read, scheme))

    guesses = [opened(SecretKey.generate(context), parts) for _ in range(3)]
    # and the first part read as if the key were zero: decrypting (c0, a tiny second part) is reading c0
    bare = parts.astype(np.uint64).copy()
    bare[:, 1] = 0
    bare[:, 1, :, 0] = 1
    guesses.append(opened(SecretKey.generate(context), bare))
    for guess in guesses:
        assert not np.any(guess == vector), "a coordinate was read without the key"
        assert abs(np.corrcoef(guess.astype(float), vector.astype(float))[0, 1]) < 0.7
    secret = this.clients[C]._state.key  # one party colludes
    np.testing.assert_array_equal(opened(SecretKey.from_ternary(context, _ternary(secret)), parts), vector)


def test_paillier_without_and_with_one_partys_key() -> None:
    this = encrypted("paillier")
    scheme = PaillierScheme(this.spec)
    raw = ciphertext_of(this, A)
    stranger = scheme.open(scheme.generate()[0], bytes(32))
    plain = [int(stranger._private.raw_decrypt(int.from_bytes(raw, "big") % stranger._public.nsquare))]
    assert plain[0].bit_length() > 3000, "another key gives a number like any other"
    colluder = scheme.open(this.clients[C]._state.key, this.clients[C]._state.transcript)
    plain = [
        int(colluder._private.raw_decrypt(int.from_bytes(raw[at : at + CIPHER_BYTES], "big")))
        for at in range(0, len(raw), CIPHER_BYTES)
    ]
    np.testing.assert_array_equal(_unpack(plain, scheme, 1), this.vectors[A])


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("he", (A,)),
        ("he", (A, B, C)),
        ("he", (A, A, B, C, "party-003")),
        ("he", ()),
        ("paillier", (A,)),
        ("paillier", (A, A, B, C, "party-003")),
    ],
    ids=["one", "few", "twice", "none", "paillier-one", "paillier-twice"],
)
def test_parties_decrypt_no_other_sum_than_that_of_the_survivors(method: str, names: tuple[str, ...]) -> None:
    """The attack that matters: one party's ciphertext passed off as the sum, with every signature in order."""
    this = encrypted(method, n=4, threshold=3)
    with pytest.raises(ProtocolError, match="not the sum of the survivors' ciphertexts"):
        ask_to_decrypt(this, as_sum(this, *names))
    assert all(client.phase is Phase.UNMASK for client in this.clients.values())


def test_without_the_tag_the_same_attack_reads_one_partys_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: the check is what stands in the way."""
    this = encrypted()
    monkeypatch.setattr(LinearMac, "holds", lambda *_: True)
    for answer in ask_to_decrypt(this, as_sum(this, A)).values():
        np.testing.assert_array_equal(answer, this.vectors[A])


def test_nothing_that_a_coordinator_does_to_a_bfv_sum_is_decrypted() -> None:
    scheme = BfvScheme(encrypted().spec)
    primes = scheme.context.primes

    def changed(change: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[bytes], bytes]:
        def apply(raw: bytes) -> bytes:
            size = tag_bytes(PRIMES)
            parts = unpack_residues(raw[:-size], (scheme.blocks, 2, PRIMES, DEGREE), scheme.width).astype(np.uint64)
            tag = np.frombuffer(raw[-size:], dtype="<u8").reshape(PRIMES, -1).copy()
            change(parts, tag)
            return pack_residues(parts, scheme.width) + tag.astype("<u8").tobytes()

        return apply

    p = np.uint64(primes[0])

    def nudge(parts: np.ndarray, tag: np.ndarray) -> None:  # within the noise: the total would be the same
        parts[0, 0, :, 0] = [(int(value) + 1) % q for value, q in zip(parts[0, 0, :, 0], primes, strict=True)]

    def shift(parts: np.ndarray, tag: np.ndarray) -> None:  # by a message of one modulo the first prime
        parts[0, 0, 0, 0] = (int(parts[0, 0, 0, 0]) + primes[1]) % primes[0]

    def key_itself(parts: np.ndarray, tag: np.ndarray) -> None:  # would decrypt to the key
        parts[:], tag[:] = 0, 0
        scale = scheme.context.modulus >> READ_BITS
        parts[0, 1, :, 0] = [scale % q for q in primes]

    def retag(parts: np.ndarray, tag: np.ndarray) -> None:
        tag[0, 0] = (tag[0, 0] + np.uint64(1)) % p

    for change in (nudge, shift, key_itself, retag):
        this = encrypted()
        with pytest.raises(AuthenticationError, match="not the sum of the survivors'"):
            ask_to_decrypt(this, changed(change)(as_sum(this, A, B, C)))
    this = encrypted()  # and the unchanged one is decrypted
    for answer in ask_to_decrypt(this, changed(lambda *_: None)(as_sum(this, A, B, C))).values():
        np.testing.assert_array_equal(answer, this.expected())


def test_a_known_shift_of_a_paillier_sum_shifts_the_total_and_tells_nothing_else() -> None:
    this = encrypted("paillier")
    n = int.from_bytes(this.server._in_use.public, "big")
    honest = int.from_bytes(as_sum(this, A, B, C), "big")
    shifted = honest * (1 + 5 * n) % (n * n)
    assert shifted % n == honest % n, "what passes can be told without a key"
    answers = ask_to_decrypt(this, shifted.to_bytes(CIPHER_BYTES, "big"))
    expected = this.expected()
    expected[0] += 5
    for answer in answers.values():
        np.testing.assert_array_equal(answer, expected)
    for fresh in (True, False):  # fresh randomness; twice the sum
        this = encrypted("paillier")
        n = int.from_bytes(this.server._in_use.public, "big")
        honest = int.from_bytes(as_sum(this, A, B, C), "big")
        other = honest * (pow(2, n, n * n) if fresh else honest) % (n * n)
        assert other % n != honest % n
        with pytest.raises(ProtocolError):
            ask_to_decrypt(this, other.to_bytes(CIPHER_BYTES, "big"))


def test_a_sum_that_was_not_signed_and_signatures_over_another_one_are_refused() -> None:
    this = encrypted()
    server = this.server
    this.exchange()
    honest, other = server._encrypted, as_sum(this, A)
    server._encrypted = other
    with pytest.raises(AuthenticationError, match="not the one that was signed"):
        this.clients[A].handle(server.requests()[A])
    server._encrypted = honest
    two = encrypted()
    two.exchange()
    server._messages = {**server._messages, B: two.server._messages[B]}
    with pytest.raises(ProtocolError):
        this.clients[A].handle(server.requests()[A])


def test_a_changed_item_commitment_dealer_or_advertisement_is_refused() -> None:
    for field, value, match in (
        ("item", lambda old: bytes([old[0] ^ 1]) + old[1:], "does not open"),
        ("item", lambda old: old[:-1], "wrong length"),
        ("commitment", lambda old: bytes(HASH_BYTES), "does not open|not the one"),
        ("dealer", lambda old: B, "not one that this sum can have"),
        ("dealer", lambda old: "eve", "not one that this sum can have"),
        ("sharers", lambda old: old[:2], "Too few|not one"),
        ("public", lambda old: b"x", "not the one it committed"),
    ):
        this = make_sum(3, method="he").until(Phase.MASK)
        good = this.server._with_item(C)
        changed = msgspec.structs.replace(good, **{field: value(getattr(good, field))})
        request = encode_body_request(this.spec, Phase.MASK, changed)
        with pytest.raises(Exception, match=match) as caught:
            this.clients[C].handle(request, lambda: pytest.fail("the vector was computed"))
        assert isinstance(caught.value, ProtocolError) or "Too few" in str(caught.value)


def test_a_dealer_that_deals_two_keys_or_a_weak_one_is_named() -> None:
    scheme = BfvScheme(make_sum(3, method="he").spec)
    weak = bytes(scheme.secret_bytes)
    with pytest.raises(FormatError, match="nearly all zeros"):
        scheme.open(weak, bytes(32))
    with pytest.raises(FormatError, match="-1, 0 or 1"):
        scheme.open(weak[:32] + b"\xaa" * (scheme.secret_bytes - 32), bytes(32))
    this = make_sum(3, method="he").until(Phase.SHARE)
    first = this.clients[A].handle(this.server.requests()[A])
    dealt = DealtBody(*_fields(decode_body(first)))
    lying = DealtBody(dealt.transcript, bytes(HASH_BYTES), dealt.public, dealt.items)  # commits to something else
    this.server.receive(A, seal_message(this.spec, Phase.SHARE, A, encode_dealt(lying), this.signers[A]))
    for name in (B, C):
        this.server.receive(name, this.clients[name].handle(this.server.requests()[name]))
    this.server.close_phase()
    with pytest.raises(AuthenticationError, match="party-000"):
        this.clients[B].handle(this.server.requests()[B], lambda: this.vectors[B])


def test_paillier_keys_that_no_honest_generator_makes() -> None:
    scheme = PaillierScheme(make_sum(3, method="paillier").spec)
    secret, public = scheme.generate()
    assert scheme.public_of(secret) == public
    p, q = scheme._primes(secret)

    def written(one: int, other: int) -> bytes:
        return secret[:32] + one.to_bytes(192, "big") + other.to_bytes(192, "big")

    for bad in (written(q, p), written(p, p), written(p - 2, q), written(3, q), secret[:-1]):
        with pytest.raises(FormatError):
            scheme.open(bad, bytes(32))
    for key in (b"", public[:-1], bytes(384), (int.from_bytes(public, "big") - 1).to_bytes(384, "big")):
        with pytest.raises(WireError, match="key is malformed"):
            scheme.accumulator(key)
    n = p * q
    for value in (0, n, p, n * n, n * n + 1, p * 5):
        running = scheme.accumulator(public)
        before = running.to_bytes()
        with pytest.raises(WireError, match="out of its range"):
            running.add(value.to_bytes(CIPHER_BYTES, "big"))
        assert running.to_bytes() == before


def test_malformed_bfv_ciphertexts_add_nothing() -> None:
    this = encrypted()
    scheme = BfvScheme(this.spec)
    good = ciphertext_of(this, A)
    running = scheme.accumulator(b"")
    before = running.to_bytes()
    unreduced = good[:64] + b"\xff" * scheme.width + good[64 + scheme.width :]
    bad_tag = good[:-8] + b"\xff" * 8
    for bad in (b"", good[:-1], good + b"\0", unreduced, bad_tag):
        with pytest.raises(WireError):
            running.add(bad)
        assert running.to_bytes() == before
    with pytest.raises(WireError, match="no public key"):
        scheme.accumulator(b"x")


def test_a_tag_is_that_of_one_vector_in_one_sum() -> None:
    """Against the definition, computed with Python's integers."""
    context = _context()
    generator = np.random.default_rng(0)
    parts = [
        np.stack([[generator.integers(0, p, 16, dtype=np.uint64) for p in context.primes] for _ in range(2)])
        for _ in range(2)
    ]
    mac = LinearMac(b"k" * 32, b"t" * 32, context.primes)
    tag = mac.tag(A, parts)
    summed = [(one + one) % np.asarray(context.primes, dtype=np.uint64)[:, None] for one in parts]
    both = (tag + mac.tag(B, parts)) % np.asarray(context.primes, dtype=np.uint64)[:, None]
    assert mac.holds(both, summed, (A, B))
    assert not mac.holds(both, summed, (A, C))
    assert not mac.holds(both, parts, (A, B))
    assert not LinearMac(b"k" * 32, b"u" * 32, context.primes).holds(both, summed, (A, B))
    assert not LinearMac(b"l" * 32, b"t" * 32, context.primes).holds(both, summed, (A, B))
    linear = mac.unpadded(summed)
    doubled = [[2 * int(word) % p for word in row] for row, p in zip(mac.unpadded(parts), context.primes, strict=True)]
    assert linear.tolist() == doubled


def test_who_reports_another_total_is_named_and_a_minority_changes_nothing() -> None:
    this = encrypted(n=4, threshold=3)
    this.exchange()
    lie = (this.expected() + 1).astype("<i8").tobytes()
    for name, request in this.server.requests().items():
        reply = this.clients[name].handle(request)
        if name == A:
            reply = seal_message(this.spec, Phase.UNMASK, A, lie, this.signers[A])
        assert this.server.receive(name, reply)
    this.server.close_phase()
    np.testing.assert_array_equal(this.server.result(), this.expected())
    assert this.server.dropped[A].at_fault
    this = encrypted()
    this.exchange()
    lie = (this.expected() + 1).astype("<i8").tobytes()
    for name, request in this.server.requests().items():
        reply = this.clients[name].handle(request)
        if name == A:
            reply = seal_message(this.spec, Phase.UNMASK, A, lie, this.signers[A])
        this.server.receive(name, reply)
    with pytest.raises(AuthenticationError, match="do not agree on the total"):
        this.server.close_phase()


def _ternary(secret: bytes) -> np.ndarray:
    return _unpack_ternary(secret[32:])


def _fields(body: bytes) -> tuple[bytes, bytes, bytes, dict[str, bytes]]:
    return msgspec.msgpack.decode(body, type=tuple[bytes, bytes, bytes, dict[str, bytes]])


@pytest.mark.parametrize("method", ["he", "paillier"])
def test_a_party_that_does_not_encrypt_as_agreed_is_not_put_down_to_the_coordinator_alone(method: str) -> None:
    """One ciphertext under a tag or randomness of another party's name: nothing opens, and nobody can tell whose."""
    this = make_sum(4, length=LENGTH, bits=64, max_abs=1 << 40, method=method, threshold=3).until(Phase.MASK)
    for name, request in this.server.requests().items():
        reply = this.clients[name].handle(request, lambda name=name: this.vectors[name])
        if name == C:
            key = scheme_of(this.spec).open(this.clients[C]._state.key, this.clients[C]._state.transcript)
            story = decode_body(reply)[:HASH_BYTES]
            reply = seal_message(this.spec, Phase.MASK, C, story + key.encrypt(A, this.vectors[C]), this.signers[C])
        assert this.server.receive(name, reply)
    this.server.close_phase()
    this.exchange()
    for name, request in this.server.requests().items():
        with pytest.raises(AuthenticationError, match="the coordinator, or a party") as caught:
            this.clients[name].handle(request)
        assert "do not trust this coordinator" not in str(caught.value)


def test_a_coordinator_that_changes_the_public_part_does_not_have_the_dealer_convicted() -> None:
    this = make_sum(3, method="paillier").until(Phase.MASK)
    changed = msgspec.structs.replace(this.server._with_item(C), public=bytes(384))
    with pytest.raises(AuthenticationError, match="or the coordinator on the way"):
        this.clients[C].handle(encode_body_request(this.spec, Phase.MASK, changed))


def phase_of(parts: np.ndarray, key: np.ndarray, primes: tuple[int, ...], at: int) -> int:
    """One coefficient of ``c0 + c1 s``, centred modulo q, by the definition and with Python's integers."""
    rotated = [int(key[at - i]) if i <= at else -int(key[DEGREE + at - i]) for i in range(DEGREE)]
    p, r = primes
    one, other = (
        (int(parts[0, i, at]) + sum(int(c) * s for c, s in zip(parts[1, i], rotated, strict=True))) % prime
        for i, prime in enumerate(primes)
    )
    value = one + p * ((other - one) * pow(p, -1, r) % r)
    return value if value < p * r // 2 else value - p * r


def test_what_a_party_decrypts_is_the_same_for_all_vectors_of_one_total_but_for_the_sum_of_the_noise() -> None:
    """Two federations with one total, in which other digits carry and other residues go beyond their prime."""
    half = 1 << 31
    together = {A: half - 1, B: half - 1}, {A: half, B: half - 2}, {A: -(1 << 60), B: (1 << 60) + 2 * half - 2}
    paillier = set()
    for values in together:
        this = make_sum(3, length=1, bits=64, max_abs=1 << 61, method="he")
        this.vectors = {name: np.array([values.get(name, 0)]) for name in this.spec.names}
        this.until(Phase.UNMASK)
        scheme = BfvScheme(this.spec)
        primes = scheme.context.primes
        raw, size = this.server._encrypted, tag_bytes(PRIMES)
        parts = unpack_residues(raw[:-size], (scheme.blocks, 2, PRIMES, DEGREE), scheme.width)
        key = _ternary(this.clients[C]._state.key)
        for at, p in enumerate(primes):
            message = scheme.context.modulus // p * ((2 * half - 2) % p)
            noise = (phase_of(parts[0], key, primes, at) - message) % scheme.context.modulus
            assert min(noise, scheme.context.modulus - noise) <= 3 * MAX_FRESH_NOISE
        assert this.run().tolist() == [2 * half - 2]
        this = make_sum(3, length=1, bits=64, max_abs=1 << 61, method="paillier")
        this.vectors = {name: np.array([values.get(name, 0)]) for name in this.spec.names}
        this.until(Phase.UNMASK)
        opened = scheme_of(this.spec).open(this.clients[C]._state.key, this.clients[C]._state.transcript)
        paillier.add(int(opened._private.raw_decrypt(int.from_bytes(this.server._encrypted, "big"))))
    assert len(paillier) == 1


def test_a_party_that_encrypts_more_than_64_bits_hold_is_noticed_where_the_total_shows_it() -> None:
    scheme = BfvScheme(make_sum(3, length=1, bits=64, max_abs=1 << 40, method="he").spec)
    p, r = scheme.context.primes
    for total in (1 << 63, -(1 << 63) - 1, p * r // 2, 1 << 64):
        read = [round((total % prime << READ_BITS) / prime) for prime in (p, r)]
        with pytest.raises(WireError, match="larger than honest parties"):
            _total(np.array(read), scheme)
    for total in ((1 << 63) - 1, -(1 << 63), 0, -1):
        read = [round((total % prime << READ_BITS) / prime) for prime in (p, r)]
        assert _total(np.array(read), scheme).tolist() == [total]
