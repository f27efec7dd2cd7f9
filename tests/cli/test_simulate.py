"""``blindsight simulate``: a table, a picture and figures that say what they are."""

from __future__ import annotations

import json

import pytest

from sample_tables import NUMBER_SCHEMA, make_table

from .conftest import invoke


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(400, 2).write_csv("records.csv")
    NUMBER_SCHEMA.write(tmp_path / "schema.toml")
    return tmp_path


WORDS = ("simulate", "records.csv", "--schema", "schema.toml", "--parties", "9", "--dropout", "0.3", "--seed", "7")


def test_it_says_what_is_simulated_and_that_the_model_is_the_survivors(here):
    done = invoke(*WORDS, "--plot", "fleet.png")
    assert done.code == 0, done.err
    assert "ECOD at 9 virtual parties, 400 records" in done.out
    assert "Simulated:" in done.out
    assert "Measured:" in done.out
    assert "survivors' records together, bit for bit" in done.out
    assert (here / "fleet.png").read_bytes()[:4] == b"\x89PNG"


def test_its_json_is_one_value_and_the_seed_repeats_it(here):
    values = [json.loads(invoke(*WORDS, "--json").out) for _ in range(2)]
    assert values[0]["equals_fit_on_survivors"] is True
    assert values[0]["survivors"][0] == values[0]["survivors"][1] < 9
    for key in ("virtual_s", "survivors", "party_sent_bytes"):
        assert values[0][key] == values[1][key]
    assert set(values[0]["which"]) == {"simulated", "measured"}


def test_with_noise_nothing_is_compared(here):
    done = invoke(*WORDS, "--epsilon", "5", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["equals_fit_on_survivors"] is None


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--split", "even"), "split"), (("--plot", "fleet.xyz"), "--plot"), (("--dropout", "1.5"), "dropout"),
     (("--parties", "500"), "fewer rows than parties")],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(here, more, said):
    done = invoke(*WORDS, *more)
    assert done.code == 2
    assert said in done.err
