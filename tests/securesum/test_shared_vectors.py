"""The vectors of docs/wire-securesum.md, computed again."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from blindsight.securesum import Participant, SumSpec
from blindsight.securesum._agreement import KeyPair
from blindsight.securesum._bfv import BfvScheme, _coefficients, _pack_ternary
from blindsight.securesum._linear_mac import LinearMac
from blindsight.securesum._paillier import PaillierScheme, _pack
from blindsight.securesum._sealed_key import _bound_to, _transport_key, commit_key
from blindsight.securesum._shared_wire import EncryptRequest, story_of, sum_digest, survivors_digest

DOCS = Path(__file__).parents[2] / "docs" / "wire-securesum.md"


def spec_of(method: str) -> SumSpec:
    return SumSpec(
        federation="vectors",
        run="run",
        step="step",
        participants=tuple(Participant(name=name, public_key=bytes([i + 1]) * 32) for i, name in enumerate("abc")),
        length=3,
        bits=64,
        threshold=3,
        max_abs=1_000_000_000_000,
        method=method,  # type: ignore[arg-type]
    )


def computed() -> dict[str, object]:
    import gmpy2

    transcript = b"\x11" * 32
    he, paillier = spec_of("he"), spec_of("paillier")
    scheme = BfvScheme(he)
    ternary = np.resize(np.array([0, 1, -1], dtype=np.int8), 4096)
    secret = bytes(range(32)) + _pack_ternary(ternary)
    commitment = commit_key(he, transcript, dealer="a", public=b"", secret=secret)
    story = story_of(he, transcript, EncryptRequest(("a", "b", "c"), "a", commitment, b"", b""))
    digest = sum_digest(he, story, b"sum")
    vector = np.array([-5, 3_000_000_000, -1_000_000_000_000], dtype=np.int64)
    coefficients = next(iter(_coefficients(vector, scheme)))
    mac = LinearMac(secret[:32], transcript, scheme.context.primes)
    polynomial = np.stack([np.arange(4, dtype=np.uint64) + np.uint64(i) for i in range(2)])
    part = np.stack([polynomial, polynomial + np.uint64(10)])
    p = int(gmpy2.next_prime(3 << 1534))
    q = int(gmpy2.next_prime(p))
    key = PaillierScheme(paillier).open(bytes(range(32)) + p.to_bytes(192, "big") + q.to_bytes(192, "big"), transcript)
    packed = _pack(vector, PaillierScheme(paillier))
    own, peer = KeyPair(b"\x01" * 32), KeyPair(b"\x02" * 32)
    return {
        "spec_he": he.digest.hex(),
        "spec_paillier": paillier.digest.hex(),
        "commitment": commitment.hex(),
        "transport_key": _transport_key(own, peer.public, "b", transcript).hex(),
        "associated_data": _bound_to(he, transcript, "a", "b", commitment).hex(),
        "story": story.hex(),
        "sum_digest": digest.hex(),
        "survivors": survivors_digest(he, story, ("a", "b", "c"), digest).hex(),
        "primes": list(scheme.context.primes),
        "coefficients": coefficients[:, :7].tolist(),
        "pad_of_a": mac.pad("a").tolist(),
        "inner_products": mac.unpadded([part]).tolist(),
        "paillier_plaintext": hex(packed[0]),
        "paillier_ciphertext_of_a_sha256": hashlib.sha256(key.encrypt("a", vector)).hexdigest(),
    }


def test_the_vectors_in_the_documentation_are_what_is_computed() -> None:
    block = re.search(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert json.loads(block.group(1)) == computed()
