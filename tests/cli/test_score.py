"""score: clear and blind, CSV and Parquet, and never half a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from blindsight import Mahalanobis, Schema, load
from blindsight.cli._frames import decode_answer, failure, success
from blindsight.cli._scores import ScoreWriter
from blindsight.errors import BudgetError, ProtocolError, StoreError
from blindsight.keys import Sealer

from .conftest import invoke


def _score(fitted, output, *more, source=None):
    return invoke(
        "score", "--model", fitted.model, "--key-file", fitted.key_file, "--input", source or fitted.records,
        "--output", output, *more,
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_clear_scores_are_the_models(fitted, tmp_path, suffix):
    done = _score(fitted, tmp_path / f"s{suffix}", "--json")
    assert done.code == 0, done.err
    model = load(fitted.model, sealer=Sealer.from_key_file(fitted.key_file))
    expected = model.decision_function(fitted.records)
    read = pl.read_csv if suffix == ".csv" else pl.read_parquet
    table = read(tmp_path / f"s{suffix}")
    assert table.columns == ["row", "score", "alert"]
    assert np.array_equal(table["row"], np.arange(len(expected)))
    assert np.array_equal(table["score"], expected)
    assert np.array_equal(table["alert"], model.predict(fitted.records))
    value = done.value
    assert value["records"] == len(expected)
    assert value["alerts"] == int(table["alert"].sum())
    assert value["top"][0]["score"] == expected.max()
    assert [p.name for p in tmp_path.iterdir()] == [f"s{suffix}"]  # nothing temporary is left


def test_parquet_input_gives_the_same(fitted, tmp_path):
    pl.read_csv(fitted.records).write_parquet(tmp_path / "in.parquet")
    _score(fitted, tmp_path / "a.csv")
    done = _score(fitted, tmp_path / "b.csv", source=tmp_path / "in.parquet")
    assert done.code == 0, done.err
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("packing", ["rows", "columns"])
def test_blind_scores_equal_the_clear_ones(fitted, tmp_path, packing):
    pytest.importorskip("tenseal")
    pl.read_csv(fitted.records).head(40).write_csv(tmp_path / "in.csv")
    _score(fitted, tmp_path / "clear.csv", source=tmp_path / "in.csv")
    done = _score(fitted, tmp_path / "blind.csv", "--blind", "--packing", packing, "--json", source=tmp_path / "in.csv")
    assert done.code == 0, done.err
    assert (tmp_path / "clear.csv").read_bytes() == (tmp_path / "blind.csv").read_bytes()
    assert done.value["bits_released"] >= 40
    assert done.value["sealed_bytes"] > 0


def test_a_quadratic_form_is_scored_blind_under_ckks(tmp_path):
    pytest.importorskip("tenseal")
    X = np.random.default_rng(0).normal(size=(300, 4)).clip(-3, 3)
    model = Mahalanobis(schema=Schema.infer(X).declare()).fit(X)
    model.save(tmp_path / "m.blindsight")
    pl.DataFrame(X[:20], schema=[f"x{i}" for i in range(4)]).write_csv(tmp_path / "in.csv")
    words = ["score", "--model", tmp_path / "m.blindsight", "--input", tmp_path / "in.csv", "--output"]
    blind = ["--blind", "--packing", "columns"]
    done = invoke(*words, tmp_path / "ckks.csv", *blind, "--scheme", "ckks")
    assert done.code == 0, done.err
    clear = model.decision_function(X[:20])
    error = np.abs(pl.read_csv(tmp_path / "ckks.csv")["score"].to_numpy() - clear)
    assert 0 < error.max() <= 2e-3 * max(model.threshold_, clear.max())
    for wrong in (["--scheme", "ckks"], [*blind, "--scheme", "bgv"], ["--blind", "--scheme", "ckks"]):
        refused = invoke(*words, tmp_path / "no.csv", *wrong)
        assert refused.code == 2, wrong
        assert not (tmp_path / "no.csv").exists()
    at = invoke("score", tmp_path / "in.csv", "--server", "https://localhost:1", "--blind", "--scheme", "ckks")
    assert at.code == 2
    assert "--scheme" in at.err


def test_the_bit_budget_lasts_over_calls(fitted, tmp_path):
    pytest.importorskip("tenseal")
    pl.read_csv(fitted.records).head(10).write_csv(tmp_path / "in.csv")
    options = ["--blind", "--home", tmp_path / "home", "--bit-budget", "400", "--json"]
    codes = []
    for _ in range(3):
        done = _score(fitted, tmp_path / "s.csv", *options, source=tmp_path / "in.csv")
        codes.append(done.code)
    assert codes[0] == 0
    assert codes[-1] == 3
    assert "bit budget" in done.err
    assert (tmp_path / "s.csv").exists()  # the scores of the call that was answered


def test_the_scorer_is_given_no_record(fitted, tmp_path, monkeypatch):
    pytest.importorskip("tenseal")
    from blindsight.channels import ProcessChannel

    seen: list[bytes] = []
    commands: list[list[str]] = []
    start, exchange = ProcessChannel.__init__, ProcessChannel._exchange

    def watch_start(self, given):
        commands.extend(list(c) for c in given.values())
        start(self, given)

    def watch(self, requests, timeout_s):
        seen.extend(requests.values())
        return exchange(self, requests, timeout_s)

    monkeypatch.setattr(ProcessChannel, "__init__", watch_start)
    monkeypatch.setattr(ProcessChannel, "_exchange", watch)
    rows = pl.read_csv(fitted.records).head(5)
    rows.write_csv(tmp_path / "in.csv")
    assert _score(fitted, tmp_path / "s.csv", "--blind", source=tmp_path / "in.csv").code == 0
    assert not any("in.csv" in argument for command in commands for argument in command)
    sent = b"".join(seen)
    assert len(sent) > 10_000
    for value in rows.drop("malignant").to_numpy().ravel():
        assert np.float64(value).tobytes() not in sent


def test_a_scorer_that_ends_is_a_reason_to_try_again(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    done = _score(fitted, tmp_path / "s.csv", "--blind")
    assert done.code == 75
    assert "did not answer" in done.err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.drop("mean_radius"), "mean_radius"),
        (lambda t: t.with_columns(pl.lit(None, dtype=pl.Float64).alias("mean_radius")), "missing"),
        (lambda t: t.head(0), "no rows"),
        (lambda t: t.with_columns(pl.lit("large").alias("mean_radius")), "mean_radius"),
    ],
)
def test_bad_records_leave_no_scores(fitted, tmp_path, spoil, words):
    spoil(pl.read_csv(fitted.records)).write_csv(tmp_path / "in.csv")
    done = _score(fitted, tmp_path / "s.csv", source=tmp_path / "in.csv")
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "s.csv").exists()


def test_bad_records_are_refused_before_anything_is_sealed(fitted, tmp_path):
    pytest.importorskip("tenseal")
    table = pl.read_csv(fitted.records).with_columns(pl.lit(None, dtype=pl.Float64).alias("mean_area"))
    table.write_csv(tmp_path / "in.csv")
    done = _score(fitted, tmp_path / "s.csv", "--blind", source=tmp_path / "in.csv")
    assert done.code == 2
    assert "'mean_area' has 117 missing values" in done.err
    assert not (tmp_path / "s.csv").exists()


def test_bad_options(fitted, tmp_path):
    assert _score(fitted, tmp_path / "s.xlsx").code == 2
    assert _score(fitted, tmp_path / "nowhere" / "s.csv").code == 2
    assert _score(fitted, tmp_path / "s.csv", "--blind", "--packing", "cubes").code == 2
    done = invoke(
        "score", "--model", fitted.model, "--input", fitted.records, "--output", tmp_path / "s.csv", "--blind"
    )
    assert done.code == 2
    assert "sealed" in done.err  # told by the scorer's process, which alone opens the model
    assert not list(tmp_path.iterdir())


# -- the writer and the frames -----------------------------------------------------------------------------------------


def test_writer_keeps_the_highest_over_chunks(tmp_path):
    scores = np.random.default_rng(0).normal(size=1000)
    with ScoreWriter(tmp_path / "s.csv", 2.0) as writer:
        for chunk in np.split(scores, 10):
            writer.add(chunk)
    assert [row for row, _ in writer.top] == np.argsort(-scores)[:10].tolist()
    assert writer.alerts == (scores > 2.0).sum()
    assert np.array_equal(pl.read_csv(tmp_path / "s.csv")["score"], scores)


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_an_interrupted_writer_leaves_the_earlier_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"earlier")

    def interrupted():
        with ScoreWriter(tmp_path / name, 0.0) as writer:
            writer.add(np.ones(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / name).read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_unwritable_folder_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="could not be written"), ScoreWriter(tmp_path / "gone" / "s.csv", 0.0):
        pass


def test_frames_carry_answers_and_errors():
    assert decode_answer(success(b"scores")) == b"scores"
    with pytest.raises(BudgetError, match="no more") as caught:
        decode_answer(failure(BudgetError("There is no more", got="2", rule="1", fix="wait")))
    assert (caught.value.got, caught.value.rule, caught.value.fix) == ("2", "1", "wait")


@pytest.mark.parametrize("frame", [b"", b"x", b"-", b"-\xff", b"-" + b"\x90", b"-" + b"a" * (1 << 17)])
def test_garbage_frames_are_a_protocol_error(frame):
    with pytest.raises(ProtocolError, match="garbage"):
        decode_answer(frame)


def test_an_unknown_error_kind_stays_an_error():
    frame = failure(BudgetError("No")).replace(b"BudgetError", b"SystemExit_")
    with pytest.raises(ProtocolError, match="No"):
        decode_answer(frame)


def test_a_model_of_windows_scores_whole_series(tmp_path):
    pytest.importorskip("torch")
    from blindsight.data import Column, Schema
    from blindsight.detectors import LSTMAutoEncoder, Training

    columns = (
        Column(name="when", role="time", type="number"),
        Column(name="machine", role="entity", type="text"),
        Column(name="speed", low=-2, high=2),
    )
    step = np.arange(200) // 2
    table = pl.DataFrame(
        {"when": step.astype(float), "machine": np.array(["a", "b"])[np.arange(200) % 2], "speed": np.sin(step / 3)}
    )
    table.write_csv(tmp_path / "in.csv")
    model = LSTMAutoEncoder(window=8, training=Training(rounds=1), schema=Schema(columns)).fit(table)
    model.save(tmp_path / "m.blindsight")
    done = invoke("score", "--model", tmp_path / "m.blindsight", "--input", tmp_path / "in.csv",
                  "--output", tmp_path / "out.csv")  # fmt: skip
    assert done.code == 0, done.err
    assert np.array_equal(pl.read_csv(tmp_path / "out.csv")["score"], model.decision_function(table))
    refused = invoke("score", "--model", tmp_path / "m.blindsight", "--input", tmp_path / "in.csv",
                     "--output", tmp_path / "blind.csv", "--blind")  # fmt: skip
    assert refused.code == 2, refused.err
    assert "LSTMAutoEncoder" in refused.err
    assert not (tmp_path / "blind.csv").exists()


def test_it_is_said_where_most_records_alert(tmp_path):
    X = np.random.default_rng(0).normal(size=(300, 4)).clip(-3, 3)
    Mahalanobis(contamination=0.05, schema=Schema.infer(X).declare()).fit(X).save(tmp_path / "m.blindsight")
    said = {}
    for name, table in (("m", X), ("cm", X * 100)):
        pl.DataFrame(table, schema=[f"x{i}" for i in range(4)]).write_csv(tmp_path / f"{name}.csv")
        words = ["--input", tmp_path / f"{name}.csv", "--output", tmp_path / "s.csv"]
        said[name] = invoke("score", "--model", tmp_path / "m.blindsight", *words).out
    assert "of the records alert, and the model is set to alert on about 0.05" in said["cm"]
    assert "records alert" not in said["m"]


def test_an_interrupted_blind_scorer_leaves_one_line(fitted, tmp_path):
    """Ctrl-C goes to both processes, and the scorer's is still importing."""
    words = ["score", "--model", fitted.model, "--key-file", fitted.key_file, "--input", fitted.records, "--blind"]
    process = subprocess.Popen(
        [sys.executable, "-m", "blindsight", *map(str, words), "--output", str(tmp_path / "s.csv")],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert "Scoring" in process.stderr.readline()
        # its own imports come first: the scorer is there once this process has a child
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text().split() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in told
    assert told.strip().startswith("Interrupted. No scores were written.")
    assert not (tmp_path / "s.csv").exists()
