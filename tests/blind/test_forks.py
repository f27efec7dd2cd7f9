"""A process that was forked off shares nothing that must be used once: masks, encryptions, counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])

MASKS = """
import hashlib, os, sys
sys.path.insert(0, sys.argv[1])
from blind._models import records, table_model
from blind._networks import network_model, rows_of
from blindsight.blind import RecordOwner, Scorer
from blindsight.store import Store

for kind in ("bfv", "ckks"):
    model = table_model(4, 16) if kind == "bfv" else network_model("quadratic", 3)
    X = records(model, 1) if kind == "bfv" else rows_of(model, 1)
    scorer = Scorer(model, packing="rows" if kind == "bfv" else "columns")
    owner = RecordOwner(scorer.offer())
    owner.open(scorer.score(owner.seal(X)))
    scorer.prepare(owner.key_id, 2)
    masks = next(iter(scorer._owners.values()))[1]
    reading, writing = os.pipe()
    child = os.fork()
    mask = masks.take()
    seed, first = owner._key.encrypt_zero_seeded()
    seen = b"none" if mask is None else hashlib.sha256(mask.tobytes()).digest()
    seen += hashlib.sha256(seed).digest() + os.readlink(owner._context.scratch.path).encode()
    seen += str(os.fstat(owner._context.scratch._descriptor).st_ino).encode()
    if child == 0:
        refused = b"charged"
        try:
            scorer.score(owner.seal(X))
        except Exception as error:
            refused = type(error).__name__.encode()
        os.write(writing, seen + b"|" + refused)
        os._exit(0)
    os.waitpid(child, 0)
    theirs, refused = os.read(reading, 4096).rsplit(b"|", 1)
    assert refused == b"StoreError", refused
    assert theirs[:32] != seen[:32], kind  # the mask
    assert theirs[-20:] != seen[-20:], kind  # the scratch file
    assert owner.open(scorer.score(owner.seal(X))).shape == (1,)
print("ok")
"""


def test_a_fork_shares_no_mask_no_scratch_file_and_no_budget() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    found = subprocess.run([sys.executable, "-c", MASKS, TESTS], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "ok\n"), found.stderr
