"""Keys at rest; owner and scorer in processes of their own, with everything between them captured."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer
from blindsight.errors import AuthenticationError, BlindsightWarning, FormatError
from blindsight.keys import Sealer

from ._models import StandInModel, quadratic_model, records, table_model

MODEL = table_model(4, 16)


@pytest.mark.parametrize("sealed_at_rest", [False, True])
def test_keys_persist_in_home(tmp_path, sealed_at_rest):
    sealer = Sealer.from_passphrase("correct horse battery staple") if sealed_at_rest else None
    scorer = Scorer(MODEL)
    X = records(MODEL, 3)
    first = RecordOwner(scorer.offer(), tmp_path / "keys", sealer)
    answer = scorer.score(first.seal(X))
    again = RecordOwner(scorer.offer(), tmp_path / "keys", sealer)
    assert again.key_id == first.key_id
    assert np.array_equal(again.open(answer), MODEL.decision_function(X))
    (file,) = (tmp_path / "keys").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert (first._key.to_bytes() in file.read_bytes()) is not sealed_at_rest


def test_the_wrong_passphrase_is_named(tmp_path):
    offer = Scorer(MODEL).offer()
    RecordOwner(offer, tmp_path, Sealer.from_passphrase("correct horse battery staple"))
    with pytest.raises(AuthenticationError):
        RecordOwner(offer, tmp_path, Sealer.from_passphrase("incorrect horse battery staple"))
    with pytest.raises(FormatError, match="sealer"):
        RecordOwner(offer, tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_key_file_is_refused(tmp_path, damage):
    offer = Scorer(MODEL).offer()
    RecordOwner(offer, tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(bytes(data) if damage == "flip" else bytes(data[:1000]))
    with pytest.raises(FormatError):
        RecordOwner(offer, tmp_path)


def test_secrets_are_redacted():
    scorer = Scorer(MODEL)
    owner = RecordOwner(scorer.offer())
    assert "redacted" in repr(owner)
    assert str(int(MODEL.circuit_.weights[0])) not in repr(scorer)
    with pytest.raises(TypeError):
        owner.__reduce__()


def test_a_model_with_learned_ranges_is_said_not_to_be_secret():
    model = StandInModel(MODEL.encoder_, MODEL.circuit_, is_secret_=False)
    with pytest.warns(BlindsightWarning, match="not secret"):
        scorer = Scorer(model)
    assert RecordOwner(scorer.offer())._offer.secret is False


def test_the_offer_carries_the_schema_and_no_weight():
    model = quadratic_model(5)
    scorer = Scorer(model)
    owner = RecordOwner(scorer.offer())
    assert owner.schema == model.schema_.to_json()
    assert owner.encoder == model.encoder_
    rearranged = StandInModel(
        model.encoder_, type(model.circuit_)(weights=model.circuit_.weights[::-1]), model.score_scale_
    )
    scorer._table.put("other", b"")
    other = Scorer(rearranged, table=scorer._table)
    assert other.parameters == scorer.parameters
    assert other.offer() == scorer.offer()  # the weights in another order: the same offer, byte for byte


CHILD = """
import gc, struct, sys
sys.path.insert(0, sys.argv[1])
from blind._models import quadratic_model, table_model
from blindsight.blind import Scorer

model = table_model(8, 16) if sys.argv[2] == "table" else quadratic_model(8)
scorer = Scorer(model, packing=sys.argv[3])

def send(data):
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()

send(scorer.offer())
while True:
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        break
    send(scorer.score(sys.stdin.buffer.read(struct.unpack("<Q", head)[0])))
secrets = [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in {"SecretKey", "Decryptor", "KeyGenerator"}]
secrets += [name for name in ("_key", "_decryptor") if any(hasattr(o, name) for o in (scorer, scorer._context))]
send(repr(secrets).encode())
"""


@pytest.mark.parametrize(("kind", "packing", "rows"), [("table", "rows", 100), ("quadratic", "columns", 1000)])
def test_two_processes_and_captured_bytes(kind, packing, rows):
    """The scorer runs elsewhere; neither record nor weights cross; its process holds no key that decrypts."""
    model = table_model(8, 16) if kind == "table" else quadratic_model(8)
    X = records(model, rows)
    tests = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tests, kind, packing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    captured = []

    def receive() -> bytes:
        size = int.from_bytes(child.stdout.read(8), "little")
        captured.append(child.stdout.read(size))
        return captured[-1]

    with child:
        owner = RecordOwner(receive())
        sealed = owner.seal(X)
        captured.append(sealed)
        child.stdin.write(len(sealed).to_bytes(8, "little") + sealed)
        child.stdin.flush()
        scores = owner.open(receive(), sealed=sealed)
        child.stdin.close()
        assert receive() == b"[]"
    assert child.returncode == 0
    assert np.array_equal(scores, model.decision_function(X))
    wire = b"".join(captured)
    encoding = model.encoder_.encode(X)
    for dtype in ("<i8", "<i4", "<i2"):
        assert model.circuit_.weights[:8].astype(dtype).tobytes() not in wire
        assert all(row[:16].astype(dtype).tobytes() not in wire for row in encoding[:50])
    for dtype in ("<f8", "<f4"):
        assert all(row[:2].astype(dtype).tobytes() not in wire for row in X)
    assert owner._key.to_bytes()[:64] not in wire
