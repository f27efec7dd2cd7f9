"""Persons who are forgotten: left out of every later sum, and of the kept models that are exact sums."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from blindsight.cli import app
from blindsight.data import Column, Schema, Without, records
from blindsight.detectors import ECOD
from blindsight.errors import DataError, RefusedError, SchemaError
from blindsight.federation import Policy, open_audit, open_party, provision
from sample_tables import MIXED_SCHEMA, NUMBER_SCHEMA

from ._drive import EXACT, dp, embedded, tables

pytestmark = pytest.mark.filterwarnings("ignore::blindsight.errors.BlindsightWarning")
DATA = tables(3, rows=30, persons=8)
ADA = pl.when(pl.col("customer") < 4).then(pl.lit("Ada Lovelace")).otherwise(pl.lit("Bob"))


def without(table: pl.DataFrame, *persons: int) -> pl.DataFrame:
    return table.filter(~pl.col("customer").is_in(persons))


def test_later_sums_are_those_of_the_records_without_them(tmp_path: Path) -> None:
    federation = embedded(DATA, MIXED_SCHEMA, EXACT, home=tmp_path)
    party = federation.parties["bank-00"]
    done = party.forget(["3", "5", "999"])
    there = DATA["bank-00"].filter(pl.col("customer").is_in((3, 5))).height
    assert (done.persons, done.already, done.rows) == (3, 0, {"training": there})
    assert there > 0
    model = federation.fit(ECOD(bins=8), privacy=None)
    rest = {**DATA, "bank-00": without(DATA["bank-00"], 3, 5)}
    expected = embedded(rest, MIXED_SCHEMA).fit(ECOD(bins=8), privacy=None)
    assert np.array_equal(model.totals_, expected.totals_)
    # and of everything else that reads records: evaluation, its breakdown, description, in another process's life
    again = embedded(DATA, MIXED_SCHEMA, EXACT, home=tmp_path)
    figures = again.evaluate(model, privacy=None).breakdown["bank-00"]
    assert figures.records == rest["bank-00"].height
    assert again.parties["bank-00"].forget(["3"]).already == 1


def test_marks_name_nobody_and_the_audit_log_says_how_many(tmp_path: Path) -> None:
    federation = embedded(
        {name: table.with_columns(customer=ADA) for name, table in DATA.items()},
        Schema(tuple(Column(name="customer", role="person", type="text") if column.role == "person" else column
                     for column in MIXED_SCHEMA.columns)),
        home=tmp_path,
    )  # fmt: skip
    party = federation.parties["bank-00"]
    done = party.forget(["Ada Lovelace"], dry_run=True)
    hers = DATA["bank-00"].filter(pl.col("customer") < 4).height
    assert done.rows == {"training": hers}
    assert not party._forgotten.marks()
    party.forget(["Ada Lovelace"])
    assert b"Lovelace" not in b"".join(
        path.read_bytes() for path in (tmp_path / "bank-00").rglob("*") if path.is_file()
    )
    (line,) = [line for line in open_audit(tmp_path / "bank-00").lines() if line.kind == "forgot"]
    assert line.detail["persons"] == 1
    assert federation.fit(ECOD(bins=8), privacy=None).n_records_ == sum(map(len, DATA.values())) - hers


def test_an_exact_model_that_is_kept_is_freed_by_subtraction(tmp_path: Path) -> None:
    federation = embedded(DATA, MIXED_SCHEMA, EXACT, home=tmp_path)
    federation.fit(ECOD(bins=8), privacy=None, send_to="all")
    party = federation.parties["bank-00"]
    assert party.models is not None
    planned = party.forget(["3"], dry_run=True)
    assert [one.outcome for one in planned.models] == ["would be subtracted"]
    assert party.models.current is not None
    assert party.models.current.version == 1
    (one,) = party.forget(["3"]).models
    assert (one.outcome, one.became) == ("subtracted", 2)
    kept = party.models.current
    assert (kept.version, kept.origin, len(party.models.models)) == (2, 1, 1)
    rest = {**DATA, "bank-00": without(DATA["bank-00"], 3)}
    expected = embedded(rest, MIXED_SCHEMA).fit(ECOD(bins=8), privacy=None)
    freed = party.models.load(kept)
    assert isinstance(freed, ECOD)
    assert np.array_equal(freed.totals_, expected.totals_)
    assert freed.certificate_ is not None
    # the same again changes nothing; another person is subtracted from what is left
    assert [one.outcome for one in party.forget(["3"]).models] == ["not in it"]
    assert [one.became for one in party.forget(["3", "5"]).models] == [3]
    rest = {**DATA, "bank-00": without(DATA["bank-00"], 3, 5)}
    expected = embedded(rest, MIXED_SCHEMA).fit(ECOD(bins=8), privacy=None)
    now = party.models.current
    assert now is not None
    assert np.array_equal(party.models.load(now).totals_, expected.totals_)  # type: ignore[attr-defined]
    # the model as the run released it is not taken back, and no exact sum can tell the difference
    with pytest.raises(RefusedError, match="The records changed since an earlier exact total"):
        federation.fit(ECOD(bins=8), privacy=None)


def test_what_need_not_or_cannot_be_subtracted_is_said(tmp_path: Path) -> None:
    policy = Policy(allow_exact_sums=True)
    federation = embedded(DATA, MIXED_SCHEMA, policy, home=tmp_path)
    federation.fit(ECOD(bins=8), privacy=dp(2.0), send_to="all")
    federation.fit(ECOD(bins=8, edges="learned"), privacy=None, send_to="all")
    done = federation.parties["bank-00"].forget(["3"])
    assert [one.outcome for one in done.models] == ["private", "fit again"]
    assert "no budget comes back" in done.models[0].why
    changed = {**DATA, "bank-01": DATA["bank-01"].head(10)}
    other = tmp_path / "other"
    federation = embedded(DATA, MIXED_SCHEMA, policy, home=other)
    federation.fit(ECOD(bins=8), privacy=None, send_to="all")
    again = embedded(changed, MIXED_SCHEMA, policy, home=other).parties["bank-01"]
    assert [one.why for one in again.forget(["3"]).models] == [
        "the records here have changed since, so that theirs cannot be told for sure"
    ]


def test_without_a_person_column() -> None:
    federation = embedded(tables(3), NUMBER_SCHEMA)
    with pytest.raises(SchemaError, match="Nobody can be forgotten by name here"):
        federation.parties["bank-00"].forget(["3"])
    person = MIXED_SCHEMA.person
    assert person is not None
    nobody = Without(DATA["bank-00"].drop("customer"), person, lambda persons: persons == 0)
    with pytest.raises(DataError, match="'customer' is missing from the data"):
        next(records(MIXED_SCHEMA, nobody))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_from_the_command_line(tmp_path: Path, suffix: str) -> None:
    files = {name: tmp_path / f"{name}{suffix}" for name in DATA}
    for name, table in DATA.items():
        table.write_csv(files[name]) if suffix == ".csv" else table.write_parquet(files[name])
    home = tmp_path / "home"
    provision(home, data=files, evaluation={}, schema=MIXED_SCHEMA, policy=EXACT, key_file=None)
    own, persons = str(home / "bank-00"), tmp_path / "persons.txt"
    persons.write_text("3\n\n5\n")
    asked = ["forget", "--home", own, "--from", str(persons)]
    done = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert (done.exit_code, "Would leave out of every later sum of bank-00: 2 persons" in done.stdout) == (0, True)
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0
    told = msgspec.json.decode(done.stdout)
    assert (told["persons"], told["already"], told["dry_run"]) == (2, 0, False)
    source = open_party(own)._forgotten.leave_out(MIXED_SCHEMA, files["bank-00"])
    assert sum(len(chunk) for chunk in records(MIXED_SCHEMA, source)) == without(DATA["bank-00"], 3, 5).height
    done = CliRunner().invoke(app, ["forget", "--home", own, "--from", "-"], input="no number\n")
    assert (done.exit_code, "is not a whole number" in done.stderr or "unusable" in done.stderr) == (2, True)
    persons.write_text("")
    assert CliRunner().invoke(app, asked).exit_code == 2
    assert CliRunner().invoke(app, [*asked[:2], str(tmp_path), *asked[3:]]).exit_code == 2
