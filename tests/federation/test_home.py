"""A party's folder: what it remembers outlives its process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    BlindsightWarning,
    DataError,
    FormatError,
    ParameterError,
    PolicyError,
    RefusedError,
    SurvivorsError,
    WireError,
)
from blindsight.federation import Policy, _releases, check_parties, open_party, provision
from blindsight.federation._wire import Begin, decode_reply, encode
from blindsight.keys import Sealer, create_key_file
from sample_tables import make_table

from ._drive import EXACT, charges, dp, embedded, faulty, nothing_charged, numpy_counts, stacked, tables


def test_ledger_identity_and_exact_releases_outlive_the_process(number_schema: Schema, tmp_path: Path) -> None:
    data = tables(5, rows=10)
    first = embedded(data, number_schema, home=tmp_path)
    first.fit(ECOD(), privacy=None)
    keys = {name: party.public_key for name, party in first.parties.items()}
    assert charges(first) == dict.fromkeys(data, 2)
    again = embedded(data, number_schema, home=tmp_path)
    assert {name: party.public_key for name, party in again.parties.items()} == keys
    assert charges(again) == dict.fromkeys(data, 2)
    faulty(again, silent_from={"bank-04": 0})
    with pytest.raises(RefusedError, match="over other parties than an earlier one"):
        again.fit(ECOD(), privacy=None)
    same = embedded(data, number_schema, home=tmp_path)
    assert np.array_equal(same.fit(ECOD(), privacy=None).totals_, numpy_counts(stacked(data)))


@pytest.mark.filterwarnings("ignore:The federation has about")
def test_nothing_private_lies_open_in_the_folder(number_schema: Schema, tmp_path: Path) -> None:
    federation = embedded(tables(3, rows=10), number_schema, home=tmp_path)
    federation.fit(ECOD(), privacy=None)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    vectors = [
        p.ledgers["record"].output(p.ledgers["record"].entries()[0].release_id) for p in federation.parties.values()
    ]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("ledger.db*"))
    for vector in vectors:
        assert vector is not None
        assert vector not in stored, "stored outputs are sealed"


def test_a_key_file_seals_the_folder(number_schema: Schema, tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_key_file(tmp_path / name)
    paths = {}
    for name, table in tables(3).items():
        paths[name] = tmp_path / f"{name}.csv"
        table.write_csv(paths[name])
    home = tmp_path / "home"
    options = {"data": paths, "evaluation": {}, "schema": number_schema, "policy": EXACT}
    participants = provision(home, **options, key_file=tmp_path / "one")  # type: ignore[arg-type]
    assert provision(home, **options, key_file=tmp_path / "one") == participants  # type: ignore[arg-type]
    assert open_party(home / "bank-00", key_file=tmp_path / "one").policy == EXACT
    with pytest.raises(AuthenticationError):
        open_party(home / "bank-00", key_file=tmp_path / "two")
    with pytest.raises((AuthenticationError, FormatError)):
        open_party(home / "bank-00")
    assert Sealer.from_key_file(tmp_path / "one")


@pytest.mark.parametrize("gone", ["party.toml", "participants.json", "policy.toml", "schema.toml"])
def test_an_incomplete_folder_is_named(gone: str, number_schema: Schema, tmp_path: Path) -> None:
    data = {name: tmp_path / f"{name}.csv" for name in "abc"}
    provision(tmp_path, data=data, evaluation={}, schema=number_schema, policy=None, key_file=None)
    assert open_party(tmp_path / "a").policy == Policy()
    (tmp_path / "a" / gone).unlink()
    with pytest.raises(BlindsightError, match=gone.replace(".", r"\.")):
        open_party(tmp_path / "a")
    for content in ("", "[[", "x" * 5000):
        (tmp_path / "a" / gone).write_text(content)
        if (gone, content) == ("policy.toml", ""):
            continue  # every key is optional
        with pytest.raises(BlindsightError):
            open_party(tmp_path / "a")


@pytest.mark.parametrize("name", ["", "bank/a", ".bank", "bank-a\n", "ä", "x" * 65])
def test_a_name_that_no_folder_can_have_is_refused_wherever_it_is_read(
    name: str, number_schema: Schema, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="name cannot be used"):
        check_parties([name, "bank-b", "bank-c"])
    data = {name: tmp_path / f"{name}.csv" for name in "abc"}
    provision(tmp_path, data=data, evaluation={}, schema=number_schema, policy=None, key_file=None)
    settings = tmp_path / "a" / "party.toml"
    settings.write_text(settings.read_text().replace('"a"', json.dumps(name, ensure_ascii=False)))
    with pytest.raises(BlindsightError, match=r"party\.toml|name"):
        open_party(tmp_path / "a")


@pytest.mark.parametrize("content", ["", "age,amount,balance,fraud\n"])
def test_an_empty_file_stops_the_run_before_anything_is_charged(
    content: str, number_schema: Schema, tmp_path: Path
) -> None:
    data: dict = tables(4, rows=10)
    path = tmp_path / "empty.csv"
    path.write_text(content)
    data["bank-02"] = path
    federation = embedded(data, number_schema)
    with pytest.raises(DataError, match=r"is empty|has no rows"):
        federation.fit(ECOD(), privacy=None)
    assert nothing_charged(federation)


def test_values_outside_the_range_are_counted_and_warned_about(number_schema: Schema) -> None:
    data = tables(3, rows=20)
    data["bank-01"] = data["bank-01"].with_columns(
        pl.when(pl.int_range(pl.len()) < 3).then(200.0).otherwise(pl.col("age")).alias("age")
    )
    federation = embedded(data, number_schema)
    with pytest.warns(BlindsightWarning, match=r"3 of \d+ rows have 'age' outside \[0, 120\].*kept, in the outermost"):
        model = federation.fit(ECOD(), privacy=None)
    assert model.totals_[63] == 3


@pytest.mark.filterwarnings("ignore:The federation has about")
def test_an_overflowing_vector_is_refused_before_it_is_sent(
    number_schema: Schema, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = embedded(tables(4, rows=10), number_schema)
    victim = federation.parties["bank-03"]
    huge = np.full(3 * 64, 2**62, dtype=np.int64)
    honest = _releases.own_sum

    def overflowing(schema: Schema, source: object, *rest: object) -> object:
        return huge.copy() if source is victim._own.sources["training"] else honest(schema, source, *rest)

    monkeypatch.setattr(_releases, "own_sum", overflowing)
    channel = faulty(federation)
    federation.fit(ECOD(), privacy=None)
    first = federation.history[0].steps[0]
    assert first.survivors == ["bank-00", "bank-01", "bank-02"]
    assert "ParameterError" in first.dropped["bank-03"]
    assert "overflow" in caplog.text or "max_abs" in caplog.text
    assert len(channel.answers[2]["bank-03"]) < 500, "no vector left"
    # charged once, when its records were read; the other exact sum is over those who were in the first
    assert charges(federation)["bank-03"] == 1


def test_a_policy_on_detectors_holds_for_models_too(number_schema: Schema) -> None:
    """Naming no detector, or another one, must not get a model of a forbidden detector past the policy."""
    federation = embedded(tables(3, rows=10), number_schema, Policy(allow_exact_sums=True, detectors=("ECOD",)))
    model = Mahalanobis(schema=number_schema).fit(make_table(50, 1))
    with pytest.raises(PolicyError, match="does not allow the detector 'Mahalanobis'"):
        federation.evaluate(model, privacy=None)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.evaluate(ECOD(schema=number_schema).fit(make_table(50, 1)), privacy=None)
    step = msgspec.msgpack.decode(channel.requests[0]["bank-00"], type=Begin).step
    for detector in (None, step.detector):
        forged = msgspec.structs.replace(step, model=modelfile.dumps(model), detector=detector)
        error = decode_reply(federation.parties["bank-00"].handle(encode(Begin(forged)))).error("x")  # type: ignore[union-attr]
        assert isinstance(error, WireError | PolicyError)
        assert "another detector" in str(error)
    assert nothing_charged(federation)


def test_one_budget_over_restarts(number_schema: Schema, tmp_path: Path) -> None:
    policy = Policy(maximum_epsilon=1.0)
    whole = dp(0.9, shares={"fit": 0.5, "threshold": 0.5})
    for attempt in range(2):
        federation = embedded(tables(3, rows=4000), number_schema, policy, home=tmp_path)
        if attempt == 0:
            federation.fit(ECOD(bins=8), privacy=whole)
        else:
            with pytest.raises(BlindsightError, match="largest affordable epsilon"):
                federation.fit(ECOD(bins=8), privacy=whole)
        assert charges(federation) == dict.fromkeys(federation.parties, 2)
    assert os.listdir(tmp_path / "bank-00")


def test_an_embedded_partys_warning_comes_after_its_sum(number_schema: Schema) -> None:
    """Made an error, it reaches the caller as itself; the sum is done and no party is lost to it."""
    data = tables(3)
    data["bank-01"] = data["bank-01"].with_columns(age=pl.lit(500.0))
    federation = embedded(data, number_schema)
    with pytest.raises(BlindsightWarning, match="Values lie outside"):  # pytest makes errors of warnings
        federation.fit(ECOD(), privacy=None)
    assert [step.survivors for step in federation.history[0].steps] == [sorted(data)]


def test_a_sealed_folder_asks_for_its_key_and_makes_none(number_schema: Schema, tmp_path: Path) -> None:
    create_key_file(tmp_path / "key")
    (tmp_path / "x.csv").write_text("")
    data = dict.fromkeys("abc", tmp_path / "x.csv")
    provision(tmp_path, data=data, evaluation={}, schema=number_schema, policy=None, key_file=tmp_path / "key")
    open_party(tmp_path / "a", key_file=tmp_path / "key")
    with pytest.raises(AuthenticationError, match=r"is sealed.*--key-file"):
        open_party(tmp_path / "a")
    assert not (tmp_path / "a" / "keys" / "home.key").exists()
