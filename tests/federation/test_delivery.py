"""A released model reaches the parties: checked there, kept by version, refused where it is another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import blindsight as bs
from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD, Detector
from blindsight.errors import FormatError, ParameterError, ReleaseError, StoreError
from blindsight.federation import Federation, ModelShelf, Policy, _shelf, open_audit
from blindsight.federation._received import content_digest

from ._drive import EXACT, dp, embedded, faulty, tables

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")


def shelf(home: Path, name: str) -> ModelShelf:
    return ModelShelf(home / name / "models")


def kept(model: Detector, home: Path, name: str) -> bool:
    current = shelf(home, name).current
    return current is not None and current.content == content_digest(model)


def test_a_model_is_delivered_to_those_who_are_named_and_once(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(tables(4), number_schema, home=tmp_path)
    model = federation.fit(ECOD(), privacy=None, send_to=["bank-00", "bank-02"])
    assert federation.history[-1].sent == {"bank-00": "kept as version 1", "bank-02": "kept as version 1"}
    assert [kept(model, tmp_path, f"bank-0{i}") for i in range(4)] == [True, False, True, False]
    current = tmp_path / "bank-00" / "models" / "current.blindsight"
    assert modelfile.dumps(bs.load(current)) == modelfile.dumps(model)
    again = federation.send_model(model)
    assert set(again.values()) == {"kept as version 1"}
    assert model.provenance_ is not None
    model.provenance_ = {**model.provenance_, "created_utc": "2026-01-01T00:00:00+00:00"}  # made again, after a crash
    assert "made at another time" in federation.send_model(model)["bank-00"]
    assert len(shelf(tmp_path, "bank-00").models) == 1
    lines = [line for line in open_audit(tmp_path / "bank-00").lines() if line.kind == "model"]
    assert [line.detail["run"] for line in lines] == [model.provenance_["run"]]


def test_only_what_the_run_released_is_kept(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(tables(4), number_schema, Policy(), home=tmp_path)
    model = federation.fit(ECOD(), privacy=dp(4.0))
    assert model.provenance_ is not None
    assert model.certificate_ is not None
    provenance, certificate = dict(model.provenance_), dict(model.certificate_)

    def refused(words: str) -> None:
        told = federation.send_model(model)
        assert all(words in word for word in told.values()), told
        assert shelf(tmp_path, "bank-00").current is None
        model.provenance_, model.certificate_ = dict(provenance), dict(certificate)

    model.provenance_ = {**provenance, "run": "0123456789abcdef"}
    refused("a run that this party does not know")
    model.provenance_ = {**provenance, "survivors": {"fit": ["bank-00", "bank-01", "bank-02"], "threshold": []}}
    refused("the survivors of 'fit'")
    model.certificate_ = {**certificate, "epsilon_spent": 0.1}
    refused("states less than the epsilon")
    model.certificate_ = {**certificate, "events": certificate["events"][:1]}
    refused("name different sums")
    model.certificate_ = None
    refused("no certificate")
    totals = model.totals_
    model.totals_ = totals + 1
    refused("its totals are not those")
    model.totals_ = totals
    other = embedded(tables(4), number_schema, Policy()).fit(ECOD(bins=8), privacy=dp(4.0))
    other.provenance_, other.certificate_ = dict(provenance), dict(certificate)
    assert "its detector or parameters" in federation.send_model(other)["bank-00"]
    assert set(federation.send_model(model).values()) == {"kept as version 1"}


def test_policy_silence_and_a_party_that_was_left_out(number_schema: Schema, tmp_path: Path) -> None:
    policy = {"bank-03": Policy(keep_models=0)} | {f"bank-0{i}": Policy() for i in (0, 1, 2)}
    federation = embedded(tables(4), number_schema, policy, home=tmp_path)
    inside = federation._channel
    faulty(federation, silent_from={"bank-02": 1})  # begins, and is gone
    model = federation.fit(ECOD(), privacy=dp(4.0))
    federation._channel = inside
    told = federation.send_model(model)
    assert told["bank-00"] == told["bank-02"] == "kept as version 1"
    assert "The policy keeps no delivered models" in told["bank-03"]
    assert [one.took for one in shelf(tmp_path, "bank-02").models] == ["known"]
    assert [one.took for one in shelf(tmp_path, "bank-00").models] == ["survivor"]
    faulty(federation, silent_from={"bank-00": 0})
    assert federation.send_model(model, ["bank-00"]) == {"bank-00": "did not answer"}
    for wrong in (["bank-09"], "bank-00"):
        with pytest.raises(ParameterError, match="cannot be sent there"):
            federation.send_model(model, wrong)
    with pytest.raises(ParameterError, match="no run in its provenance"):
        federation.send_model(ECOD(schema=number_schema).fit(tables(1)["bank-00"]))
    memory = embedded(tables(3), number_schema, Policy())
    assert "keeps no delivered models" in memory.send_model(memory.fit(ECOD(), privacy=dp(4.0)))["bank-00"]


def test_versions_give_way_and_can_be_gone_back_to(number_schema: Schema, tmp_path: Path) -> None:
    federation = Federation.embedded(
        tables(3), schema=number_schema, policy=Policy(allow_exact_sums=True, keep_models=2), home=tmp_path
    )
    models = [federation.fit(ECOD(bins=bins), privacy=None, send_to="all") for bins in (8, 16, 32)]
    own = shelf(tmp_path, "bank-00")
    assert [one.version for one in own.models] == [2, 3]
    assert sorted(path.name for path in own.folder.glob("v*")) == ["v000002.blindsight", "v000003.blindsight"]
    assert own.rollback().version == 2
    assert modelfile.dumps(bs.load(own.folder / "current.blindsight")) == modelfile.dumps(models[1])
    with pytest.raises(ParameterError, match="no older version"):
        own.rollback()
    with pytest.raises(ParameterError, match="kept: 2, 3"):
        own.use(1)
    assert own.use(3).version == 3
    with pytest.raises(ReleaseError, match="a run has one model"):
        own.find(own.models[0].run, "0" * 64)
    for path in own.folder.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path
    (own.folder / "index.json").write_text('{"format":"blindsight-models","current":7,"models":[{"file":"../x"}]}')
    with pytest.raises(FormatError, match="cannot be used"):
        own.use(3)


def test_a_shelf_writes_no_index_that_it_would_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, options = ModelShelf(tmp_path), {"detector": "ECOD", "received_utc": "", "asker": "", "took": "known"}
    kept = own.keep(b"one", run="r1", sha256="1" * 64, content="1" * 64, most=2, **options)  # type: ignore[arg-type]
    marks = [f"{number:064x}" for number in range(1001)]
    before = (tmp_path / "index.json").read_bytes()
    monkeypatch.setattr(_shelf, "MAX_INDEX_BYTES", 66_000)
    with pytest.raises(StoreError, match=r"would become one that is not read.*at most 66000.*keep_models"):
        own.replace(kept, b"two", sha256="2" * 64, content="2" * 64, without=marks)
    assert own.models == (kept,)
    assert own.path(kept).read_bytes() == b"one"
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["current.blindsight", "index.json", kept.file]
    assert (tmp_path / "index.json").read_bytes() == before
    made = own.replace(kept, b"two", sha256="2" * 64, content="2" * 64, without=marks[:900])
    assert own.current == made, "what fits is written, and read"
    with pytest.raises(StoreError, match="would become"):
        own.keep(b"three", run="r" * 9000, sha256="3" * 64, content="3" * 64, most=2, **options)  # type: ignore[arg-type]
    assert own.models == (made,)


DIES = """
import os, signal, sys
from pathlib import Path
from blindsight.federation import _shelf
step, at = [0], int(sys.argv[2])
def dying(function):
    def call(*arguments, **options):
        if step[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        step[0] += 1
        return function(*arguments, **options)
    return call
_shelf.write_atomic, os.replace = dying(_shelf.write_atomic), dying(os.replace)
shelf = _shelf.ModelShelf(Path(sys.argv[1]))
shelf.keep(b"two", run="r2", detector="ECOD", sha256="2" * 64, content="2" * 64, received_utc="", asker="",
           took="known", most=1)
"""


def test_killed_at_any_point_the_old_model_or_the_new_one_is_there(tmp_path: Path) -> None:
    options = {"detector": "ECOD", "received_utc": "", "asker": "", "took": "known", "most": 1}
    seen = set()
    for at in range(7):
        own = ModelShelf(tmp_path / str(at))
        own.keep(b"one", run="r1", sha256="1" * 64, content="1" * 64, **options)  # type: ignore[arg-type]
        done = subprocess.run([sys.executable, "-c", DIES, str(own.folder), str(at)], check=False)
        assert done.returncode in (0, -signal.SIGKILL)
        current = own.current
        assert current is not None
        assert own.path(current).read_bytes() == (b"one" if current.version == 1 else b"two")
        seen.add((done.returncode, current.version))
        own.use(current.version)  # the next writer puts everything in order
        assert sorted(path.name for path in own.folder.glob("v*")) == [current.file]
        assert os.readlink(own.folder / "current.blindsight") == current.file
    assert seen == {(-signal.SIGKILL, 1), (-signal.SIGKILL, 2), (0, 2)}


def test_deliver_is_parsed_strictly() -> None:
    from blindsight.errors import WireError
    from blindsight.federation._wire import Deliver, decode_request, encode

    good = encode(Deliver("a", b"x"))
    assert decode_request(good) == Deliver("a", b"x")
    for bad in (
        msgspec.msgpack.encode({"type": "deliver", "run": "a b", "model": b""}),
        msgspec.msgpack.encode({"type": "deliver", "run": "a"}),
        msgspec.msgpack.encode({"type": "deliver", "run": "a", "model": b"", "more": 1}),
    ):
        with pytest.raises(WireError):
            decode_request(bad)
    assert EXACT.keep_models == 10
