"""The vectors of docs/wire-blind.md: a second implementation, from the page alone, and the package's both give them.

The page prints hexadecimal, or the SHA-256 of what is long. The package's randomness is replaced in here, by the page's
streams; protections that draw at random are switched off, as no public option does.
"""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blindsight.blind import MemoryTable, RecordOwner, Scorer, _owner, _scorer, _verdict, _verdict_exchange
from blindsight.blind._protect import Protections
from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.errors import AuthenticationError
from blindsight.he import SecretKey

from . import _naive
from ._models import StandInModel, StandInSchema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire-blind.md"
SCORER, OWNER = bytes(range(32)), bytes(range(32, 64))
WEIGHTS, BIAS, SCALE, THRESHOLDS = (3, 1000, 7, -20), 5, 0.5, (1.0, 200.0)
X = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
ENCODING = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
SCORES, VERDICTS = [15, 1012, -12], [1, 2, 0]
PLAIN_BITS = 20
SALTS = {
    name: bytes([value]) * 16
    for name, value in (("sealed", 0xA1), ("answer", 0xA2), ("compare", 0xA3), ("opened", 0xA4))
}
HALF = (1, 0, 0, 1, 1, 0)
"""The scorer's half of the comparison."""


def documented() -> dict[str, str]:
    """Name to hexadecimal, or to ``sha256 ...``, of the page's blocks of vectors."""
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## Test vectors") :]
    found = {}
    for block in re.findall(r"```text\n(.*?)```", section, flags=re.S):
        for line in re.sub(r"\n +", " ", block).splitlines():
            name, _, value = line.partition(": ")
            assert name not in found
            found[name] = value if value.startswith("sha256 ") else value.replace(" ", "")
    return found


def digest(data: bytes) -> str:
    return f"sha256 {hashlib.sha256(data).hexdigest()}, {len(data)} bytes"


def message(name: str, data: bytes, *, whole: bool = False) -> dict[str, str]:
    """What the page prints of a message."""
    size = int.from_bytes(data[4:6], "little")
    if whole:
        return {name: data.hex()}
    return {f"{name}, header": data[: 6 + size].hex(), f"{name}, tag": data[-16:].hex(), name: digest(data)}


def naive_offer(thresholds: int) -> bytes:
    parameters = {"packing": "rows", "upload": "seeded", "entries": 4, "degree": 4096, "plain_bits": PLAIN_BITS}
    parameters |= {"weight_bits": 11} | ({"thresholds": thresholds} if thresholds else {})
    body = {
        "version": 1,
        "parameters": parameters,
        "encoder": {"kind": "one_hot_bins", "edges": [[0.0], [0.0]]},
        "schema": {"version": 1},
        "score_scale": SCALE,
        "secret": True,
        "scorer": _naive.raw(X25519PrivateKey.from_private_bytes(SCORER)),
    }
    return b"BSOF" + msgspec.msgpack.encode(body)


def naive() -> dict[str, str]:
    scorer = X25519PrivateKey.from_private_bytes(SCORER)
    public = _naive.raw(scorer)
    offers = [naive_offer(0), naive_offer(len(THRESHOLDS))]
    owner = _naive.Owner(OWNER, offers[0], public)
    part = _naive.expand(_naive.stream("zero 0 seed", 64), owner.primes)
    found = {
        "scorer's public key": public.hex(),
        "owner's public key": owner.registration[:32].hex(),
        "offer of scores": offers[0].hex(),
        "part of zero 0's seed": digest(b"".join(_naive.pack(row, 6) for row in part)),
        "its first residues": _naive.pack(part[0, :4], 6).hex(),
        "registration": digest(owner.registration),
        "key": owner.key_id.hex(),
        "key file": digest(owner.key_file()),
        "shared": owner.envelopes.shared.hex(),
        "root": owner.envelopes.root.hex(),
    }
    # both sides have the same keys
    theirs = _naive.Envelopes(scorer, owner.registration[:32], offers[0], owner.registration[:32])
    assert theirs.root == owner.envelopes.root

    sealed = owner.seal(ENCODING, "sealed", SALTS["sealed"], PLAIN_BITS, registers=True)
    body = sealed[-16 - 64 - 2 * 4096 * 6 : -16]
    owed, second = _naive.product(body, WEIGHTS, BIAS, 3, PLAIN_BITS)
    answer = _packed(owed, second)
    reply = (owner.key_id, SALTS["sealed"], SALTS["answer"], 3)
    answered = theirs.close("answer", *reply, answer)
    assert owner.scores(answer, 3, 4, PLAIN_BITS) == SCORES
    found |= message("sealed", sealed) | message("answer", answered)
    found["answer, owed residues"] = answer[: 3 * 2 * 6].hex()

    explain = owner.seal(ENCODING, "explain", SALTS["sealed"], PLAIN_BITS, registers=False)
    blocks = [(3, 1000, 0, 0), (0, 0, 7, -20)]
    parts = [_packed(*_naive.product(body, weights, 0, 3, PLAIN_BITS)) for weights in blocks]
    assert [owner.scores(part, 3, 4, PLAIN_BITS) for part in parts] == [[3, 1000, 3], [7, 7, -20]]
    found |= message("explain", explain) | message("explained", theirs.close("explained", *reply, b"".join(parts)))
    return found | naive_verdicts(owner, scorer, offers[1], owed, second) | naive_operators()


def naive_verdicts(owner: Any, scorer: Any, offer: bytes, owed: Any, second: Any) -> dict[str, str]:
    public = owner.registration[:32]
    ours = _naive.Envelopes(X25519PrivateKey.from_private_bytes(OWNER), _naive.raw(scorer), offer, public)
    theirs = _naive.Envelopes(scorer, public, offer, public)
    bits = 40
    assert bits == 8 * -(-(PLAIN_BITS + 4 + (2 * 4097).bit_length()) // 8)
    masks = _naive.unpack(_naive.stream("mask", 3 * 5), 5)
    shares = [_naive.word(pair, bits) for pair in zip(*owed, strict=True)]
    first = [(share + mask) % 2**bits for share, mask in zip(shares, masks, strict=True)]
    words = [_naive.word(pair, bits) for pair in zip(*second, strict=True)]
    number = (1).to_bytes(8, "little")
    body = number + _naive.pack(first, 5) + _naive.pack(words, 5)
    key = owner.key_id
    answer = theirs.close("answer", key, SALTS["sealed"], SALTS["answer"], 3, body)

    products = _naive.times(words, owner.secret, 2**64)
    own = [((c + products[4 * r + 3]) << 64 - bits) % 2**64 for r, c in enumerate(first)]
    taus = [2, 400]
    scorers = [
        (-(mask << 64 - bits) - (tau << 64 - PLAIN_BITS) - (1 << 63 - PLAIN_BITS)) % 2**64
        for tau in taus
        for mask in masks
    ]
    negative = [(a + b) % 2**64 >> 63 for a, b in zip(own * 2, scorers, strict=True)]
    assert [2 - negative[r] - negative[r + 3] for r in range(3)] == VERDICTS
    compare = ours.close("compare", key, SALTS["answer"], SALTS["compare"], 3, number)
    bits_sent = sum(bit << i for i, bit in enumerate(HALF)).to_bytes(1, "little")
    opened = theirs.close("opened", key, SALTS["answer"], SALTS["opened"], 3, bits_sent)
    return {
        "offer of verdicts": offer.hex(),
        **message("verdicts' answer", answer),
        "its number and masked words": body[:23].hex(),
        "owner's words": _naive.pack(own, 8).hex(),
        "scorer's words": _naive.pack(scorers, 8).hex(),
        "compare": compare.hex(),
        "opened": opened.hex(),
    }


def naive_operators() -> dict[str, str]:
    """Three operators' shares of the first record and of its score and verdict."""
    later = [np.frombuffer(_naive.stream(f"piece {i}", 32), dtype="<u8") for i in (1, 2)]
    pieces = [ENCODING[0].astype(np.uint64) - later[0] - later[1], *later]
    shares = [np.stack([pieces[i], pieces[(i + 1) % 3]], axis=1).tobytes() for i in range(3)]
    fields = {"type": "run", "id": "00112233445566778899aabbccddeeff", "model": "ffeeddccbbaa99887766554433221100"}
    header = msgspec.msgpack.encode({**fields, "rows": 1})
    head = b"BSMP" + len(header).to_bytes(2, "little") + (1).to_bytes(2, "little") + header
    scores = [int.from_bytes(_naive.stream(f"score {i}", 8), "little") for i in (1, 2)]
    answers = [(SCORES[0] - sum(scores)) % 2**64, *scores]
    return {
        f"run at operator {i}": (head + (64).to_bytes(8, "little") + share).hex() for i, share in enumerate(shares)
    } | {f"score of operator {i}": _naive.pack((answers[i], answers[(i + 1) % 3]), 8).hex() for i in range(3)}


def _packed(first: Any, second: Any) -> bytes:
    return b"".join(_naive.pack(row, 6) for row in (*first, *second))


@pytest.fixture(scope="module")
def second_implementation() -> dict[str, str]:
    return naive()


def test_a_second_implementation_gives_the_pages_vectors(second_implementation: dict[str, str]) -> None:
    assert second_implementation == documented()


# -- the package's own


class Schema(StandInSchema):
    def to_json(self) -> dict[str, Any]:
        return {"version": 1}


MODEL = StandInModel(
    OneHotBins(edges=((0.0,), (0.0,))), InnerProduct(weights=np.array(WEIGHTS), bias=BIAS), SCALE, Schema()
)


def scorer_of(**options: Any) -> Scorer:
    table = MemoryTable()
    table.put("identity", SCORER)
    return Scorer(MODEL, table=table, **options)


def owner_of(scorer: Scorer, folder: Path) -> RecordOwner:
    """An owner whose key file the second implementation wrote."""
    offer = scorer.offer()
    keys = _naive.Owner(OWNER, offer, _naive.raw(X25519PrivateKey.from_private_bytes(SCORER)))
    (folder / f"blind-{hashlib.sha256(offer).hexdigest()[:32]}.key").write_bytes(keys.key_file())
    return RecordOwner(offer, home=folder)


class End:
    """One end of a comparison whose result is known: keeps the words and the messages."""

    def __init__(self, inbox: SimpleQueue[bytes], outbox: SimpleQueue[bytes], half: np.ndarray) -> None:
        self.inbox, self.outbox, self.half = inbox, outbox, half
        self.words, self.received = np.zeros(0, dtype=np.uint64), []

    def send(self, message: bytes) -> None:
        self.outbox.put(message)

    def receive(self) -> bytes:
        self.received.append(self.inbox.get(timeout=20))
        return self.received[-1]

    def negative(self, words: np.ndarray) -> np.ndarray:
        self.words = words
        return self.half


@pytest.fixture
def pinned(monkeypatch: Any) -> Any:
    """The page's streams and salts in place of chance."""
    seed, first = _naive.encrypt("record")
    zero = seed, np.array(first, dtype=np.uint64)
    monkeypatch.setattr(SecretKey, "encrypt_zero_seeded", lambda _: zero)
    monkeypatch.setattr(_owner, "new_salt", lambda: SALTS["sealed"])
    monkeypatch.setattr(_scorer, "new_salt", lambda: SALTS["answer"])
    monkeypatch.setattr(_verdict, "os", SimpleNamespace(urandom=lambda size: _naive.stream("mask", size)))
    return monkeypatch


def unprotected(scorer: Scorer) -> Scorer:
    scorer._protections = Protections(rerandomise=False, flood=False)
    return scorer


def test_the_package_gives_the_pages_vectors(pinned: Any, tmp_path: Path) -> None:
    page = documented()
    scorer = unprotected(scorer_of(explanations=True))
    assert scorer.offer().hex() == page["offer of scores"]
    owner = owner_of(scorer, tmp_path)
    assert owner.key_id == page["key"]
    assert digest(owner.registration) == page["registration"]
    assert owner._session._root.hex() == page["root"]
    seed = _naive.stream("zero 0 seed", 64)
    part = owner._context.expand(seed, np.zeros((2, 4096), dtype=np.uint64))[1]
    assert digest(b"".join(_naive.pack(row, 6) for row in part)) == page["part of zero 0's seed"]

    sealed = owner.seal(X)
    answer = scorer.score(sealed)
    assert owner.open(answer, sealed=sealed).tolist() == [score * SCALE for score in SCORES]
    explain = owner.seal(X, explain=True)
    explained = scorer.score(explain)
    parts = owner.open_contributions(explained, sealed=explain) / SCALE
    assert parts.tolist() == [[3, 7], [1000, 7], [3, -20]]
    found = message("sealed", sealed) | message("answer", answer)
    found |= message("explain", explain) | message("explained", explained)
    assert found == {name: page[name] for name in found}


def test_the_package_gives_the_pages_verdicts(pinned: Any, tmp_path: Path) -> None:
    page = documented()
    scorer = unprotected(scorer_of(reveal="verdict", thresholds=THRESHOLDS))
    assert scorer.offer().hex() == page["offer of verdicts"]
    owner = owner_of(scorer, tmp_path)
    answer = scorer.score(owner.seal(X))
    _, body = _naive.Envelopes(
        X25519PrivateKey.from_private_bytes(SCORER), owner.registration[:32], scorer.offer(), owner.registration[:32]
    ).open(answer)
    assert body[:23].hex() == page["its number and masked words"]
    found = message("verdicts' answer", answer)
    assert found == {name: page[name] for name in found}

    salts = iter([SALTS["compare"], SALTS["opened"]])
    pinned.setattr(_verdict_exchange, "new_salt", lambda: next(salts))
    there, back, half = SimpleQueue[bytes](), SimpleQueue[bytes](), np.array(HALF, dtype=np.uint8)
    negative = np.array([verdict < least for least in (1, 2) for verdict in VERDICTS], dtype=np.uint8)
    theirs, mine = End(there, back, half), End(back, there, half ^ negative)
    with ThreadPoolExecutor(1) as pool:
        comparing = pool.submit(scorer.compare, theirs)
        assert owner.verdicts(answer, mine).tolist() == VERDICTS
        comparing.result(20)
    assert theirs.received == [bytes.fromhex(page["compare"])]
    assert mine.received == [b"\x01", bytes.fromhex(page["opened"])]
    assert mine.words.tobytes().hex() == 2 * page["owner's words"]  # once for each threshold
    assert theirs.words.tobytes().hex() == page["scorer's words"]
    assert ((mine.words + theirs.words) >> np.uint64(63)).tolist() == negative.tolist()


def test_the_package_gives_the_pages_shares() -> None:
    from blindsight.blind.mpc import Program
    from blindsight.blind.mpc._shares import join
    from blindsight.blind.mpc._wire import RunHeader, pack, unpack

    page = documented()
    runs = [bytes.fromhex(page[f"run at operator {rank}"]) for rank in range(3)]
    shares = []
    for run in runs:
        header, (share,) = unpack(run, RunHeader, pieces="one")
        assert pack(header, [share]) == run
        assert (header.id[:4], header.model[:4], header.rows) == ("0011", "ffee", 1)
        shares.append(np.frombuffer(share, dtype="<u8").reshape(4, 2))
    for rank in range(3):
        opened = shares[rank].sum(axis=1, dtype=np.uint64) + shares[(rank + 1) % 3][:, 1]
        assert opened.tolist() == ENCODING[0].tolist()
    program = Program(protocol="aby3", answer="score", form="inner_product", inputs=4)
    answers = [bytes.fromhex(page[f"score of operator {rank}"]) for rank in range(3)]
    assert join(program, 1, answers).tolist() == SCORES[:1]


def test_a_second_implementation_talks_to_the_package(tmp_path: Path) -> None:
    """With all protections on, and everything of the package drawn at random."""
    scorer = scorer_of(explanations=True)
    owner = _naive.Owner(OWNER, scorer.offer(), scorer.offer()[-32:])
    sealed = owner.seal(ENCODING, "sealed", SALTS["sealed"], PLAIN_BITS, registers=True)
    header, body = owner.envelopes.open(scorer.score(sealed))
    assert (header["kind"], header["request"], header["rows"]) == ("answer", SALTS["sealed"], 3)
    assert owner.scores(body, 3, 4, PLAIN_BITS) == SCORES
    with pytest.raises(AuthenticationError):
        scorer.score(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    own = owner_of(scorer, tmp_path)
    assert own.open(scorer.score(own.seal(X))).tolist() == [score * SCALE for score in SCORES]
