"""The two samples, in memory and as files."""

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer

import blindsight.data
from blindsight.data import Schema, check, load_hospitals, records, simulate_card_payments, write_sample
from blindsight.errors import ParameterError


def test_hospitals_are_real_uneven_and_one_in_twenty_malignant():
    tables, schema = load_hospitals()
    assert {name: len(table) for name, table in tables.items()} == {
        "hospital-a": 197,
        "hospital-b": 117,
        "hospital-c": 62,
    }
    everything = pl.concat(tables.values())
    assert everything["malignant"].sum() == 19
    assert everything["malignant"].mean() == pytest.approx(1 / 20, abs=0.001)
    assert schema.ranges == "declared"
    # Every row is a row of the published set, once, with the right diagnosis.
    published = load_breast_cancer()
    rows = {tuple(row): target for row, target in zip(published.data, published.target, strict=True)}
    got = [tuple(row) for row in everything.select(schema.feature_names).rows()]
    assert len(set(got)) == 376
    assert [rows[row] == 0 for row in got] == everything["malignant"].cast(bool).to_list()
    assert [name.replace("_", " ") for name in schema.feature_names] == [
        f"{name.split()[0]} {name.split(maxsplit=1)[1]}" for name in published.feature_names
    ]


def test_hospitals_differ_in_their_cases_and_are_always_the_same():
    first, _ = load_hospitals()
    again, _ = load_hospitals()
    sizes = [table.filter(pl.col("malignant") == 0)["mean_radius"].mean() for table in first.values()]
    assert sizes[0] > sizes[1] + 0.5
    assert sizes[1] > sizes[2] + 0.2
    for name, table in first.items():
        assert table.equals(again[name])


@pytest.mark.filterwarnings("error")
def test_no_sample_value_lies_outside_its_declared_range():
    for tables, schema in (load_hospitals(), simulate_card_payments()):
        for table in tables.values():
            assert [finding.level for finding in check(schema, table)] in ([], ["note"])
            for chunk in records(schema, table, require_label=True):
                assert np.isfinite(chunk.X).all()


def test_card_payments_are_as_described():
    tables, schema = simulate_card_payments()
    assert {name: len(table) for name, table in tables.items()} == {"bank-a": 30000, "bank-b": 19200, "bank-c": 10800}
    persons = [set(table["person_id"]) for table in tables.values()]
    assert 8_000 < sum(map(len, persons)) < 15_000
    assert not persons[0] & persons[1]
    assert not persons[1] & persons[2]
    assert not persons[0] & persons[2]
    for table in tables.values():
        assert table["fraud"].mean() == pytest.approx(0.01, abs=1e-4)
        assert table.columns == [column.name for column in schema.columns]


def test_history_columns_follow_from_the_payments():
    tables, _ = simulate_card_payments(n=5_000)
    for table in tables.values():
        repeated = table.filter(pl.col("payments_24h") > 0)
        assert len(repeated) > 50
        assert (repeated["minutes_since_last"] <= 1440.1).all()
        assert (table.filter(pl.col("minutes_since_last") < 1439)["payments_24h"] > 0).mean() > 0.95


def test_some_fraud_can_be_told_and_some_cannot():
    tables, _ = simulate_card_payments()
    table = pl.concat(tables.values())
    fraud, honest = (table.filter(pl.col("fraud") == value) for value in (1, 0))
    odd = (pl.col("country").is_in(["US", "TH", "BR", "ZA", "NG"])).alias("odd")
    assert 0.3 < fraud.select(odd)["odd"].mean() < 0.9
    assert honest.select(odd)["odd"].mean() < 0.05


def test_the_seed_decides():
    first, _ = simulate_card_payments(seed=1, n=3000)
    again, _ = simulate_card_payments(seed=1, n=3000)
    other, _ = simulate_card_payments(seed=2, n=3000)
    assert sum(map(len, first.values())) == 3000
    assert first["bank-b"].equals(again["bank-b"])
    assert not first["bank-b"].equals(other["bank-b"])


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 1.5}, {"n": 999}, {"n": 1e4}, {"n": True}])
def test_simulation_arguments_are_checked(arguments):
    with pytest.raises(ParameterError, match="out of its domain"):
        simulate_card_payments(**arguments)


def test_samples_as_files_give_the_same_records(tmp_path):
    folders = write_sample(tmp_path / "new")
    assert set(folders) == {"hospitals", "simulated-card-payments"}
    assert "SIMULATED" in (folders["simulated-card-payments"] / "README.txt").read_text()
    for folder, (tables, schema) in zip(folders.values(), (load_hospitals(), simulate_card_payments()), strict=True):
        assert Schema.read(folder / "schema.toml") == schema
        assert {path.stem for path in folder.glob("*.csv")} == set(tables)
        name = next(iter(tables))
        from_file = list(records(schema, folder / f"{name}.csv"))
        from_memory = list(records(schema, tables[name]))
        for part in ("X", "person", "label"):
            a, b = ([getattr(c, part) for c in chunks] for chunks in (from_file, from_memory))
            if a[0] is not None:
                np.testing.assert_array_equal(np.concatenate(a), np.concatenate(b))


def test_public_names_are_sorted_and_there():
    assert blindsight.data.__all__ == sorted(blindsight.data.__all__)
    for name in blindsight.data.__all__:
        assert getattr(blindsight.data, name).__doc__
