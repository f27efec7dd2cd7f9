"""Feature selection by a federation: charged, policy-checked, and the same as on all records together."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
import pytest

from blindsight.data import Column, Schema
from blindsight.detectors import ECOD, local_total
from blindsight.detectors import select_features as choose
from blindsight.errors import BudgetError, ParameterError, PolicyError, SurvivorsError
from blindsight.federation import Federation, Policy
from blindsight.federation._wire import Begin, Refusal, decode_reply, encode
from blindsight.privacy import epsilon_of

from ._drive import EXACT, charges, dp, embedded, faulty, nothing_charged

SCHEMA = Schema(
    (
        Column(name="a", low=-6, high=6),
        Column(name="constant", low=-6, high=6),
        Column(name="copy", low=-12, high=12),
        Column(name="kind", type="category", categories=("x", "y", "z")),
        Column(name="b", low=-6, high=6),
        Column(name="fraud", role="label"),
    )
)


def table(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(0, 1, rows)
    return pl.DataFrame(
        {
            "a": a,
            "constant": np.ones(rows),
            "copy": -2 * a,
            "kind": rng.choice(["x", "y", "z"], rows, p=[0.5, 0.3, 0.2]),
            "b": rng.normal(0, 1, rows),
            "fraud": (rng.random(rows) < 0.1).astype(np.int64),
        }
    )


TABLES = {f"bank-{i}": table(500 * (i + 1), i) for i in range(3)}


def test_exact_selection_is_that_of_all_records() -> None:
    federation = embedded(TABLES, SCHEMA)
    selection = federation.select_features(3, privacy=None)
    pooled = pl.concat(TABLES.values())
    names, ranks = choose(SCHEMA, 3, lambda query: local_total(query, SCHEMA, pooled))
    assert selection.ranks == ranks
    assert set(selection.names) == set(names)
    assert selection.names == tuple(rank.name for rank in ranks[:3]), "best first"
    assert "constant" not in selection.names
    assert len({"a", "copy"} & set(selection.names)) == 1
    assert selection.schema.feature_names == names, "in the schema's order"
    assert selection.schema.label is not None
    assert selection.schema.ranges == "declared"
    assert [step.step for step in federation.history[0].steps] == ["select/prepare", "select/moments"]
    smaller = embedded(TABLES, selection.schema).fit(ECOD(), privacy=None)
    assert smaller.n_features_in_ == 3


def test_private_selection_is_charged_whole_and_finds_the_same() -> None:
    federation = embedded({n: table(20_000, i) for i, n in enumerate(TABLES)}, SCHEMA, Policy(maximum_epsilon=2.5))
    privacy = dp(2.0)
    selection = federation.select_features(3, privacy=privacy)
    assert set(selection.names) - {"a", "copy"} == {"kind", "b"}
    assert charges(federation) == dict.fromkeys(TABLES, 2)
    for party in federation.parties.values():
        events = [entry.event for entry in party.ledgers["record"].entries()]
        assert [(event.purpose, event.query) for event in events] == [
            ("describe", "select/prepare"), ("describe", "select/moments")
        ]  # fmt: skip
        assert sum(event.rho for event in events) == pytest.approx(privacy.rho, rel=1e-6)
        assert epsilon_of(events, privacy.delta) <= 2.0
    assert selection.certificate is not None
    assert selection.certificate["epsilon_spent"] <= 2.0
    with pytest.raises(BudgetError):
        federation.select_features(3, privacy=privacy)


def test_a_share_for_describing_leaves_the_rest() -> None:
    federation = embedded(TABLES, SCHEMA, Policy())
    privacy = dp(2.0, shares={"describe": 0.25, "fit": 0.5, "threshold": 0.25})
    federation.select_features(1, privacy=privacy)
    (entries,) = {len(party.ledgers["record"].entries()) for party in federation.parties.values()}
    assert entries == 2
    spent = sum(entry.event.rho for entry in federation.parties["bank-0"].ledgers["record"].entries())
    assert spent == pytest.approx(0.25 * privacy.rho, rel=1e-6)


@pytest.mark.parametrize("k", [0, 6, 2.0, True, None])
def test_a_wrong_k_is_refused_before_anything_is_sent(k: object) -> None:
    federation = embedded(TABLES, SCHEMA)
    channel = faulty(federation)
    with pytest.raises(ParameterError, match="k is out of its domain"):
        federation.select_features(k, privacy=None)  # type: ignore[arg-type]
    assert channel.requests == []


def test_the_policy_holds() -> None:
    federation = embedded(TABLES, SCHEMA, Policy(purposes=("fit", "threshold")))
    with pytest.raises(PolicyError, match="does not allow 'describe'"):
        federation.select_features(2, privacy=dp())
    with pytest.raises(PolicyError, match="does not allow exact sums"):
        embedded(TABLES, SCHEMA, Policy()).select_features(2, privacy=None)
    assert nothing_charged(federation)


def _step(federation: Federation) -> Begin:
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.select_features(1, privacy=None)
    begin: Begin = msgspec.msgpack.decode(channel.requests[0]["bank-0"], type=Begin)
    return begin


@pytest.mark.parametrize("part", ["select/", "select/all", "select/prepare/1", "prepare", "moments", "select/moments"])
def test_hostile_part_names_are_refused(part: str) -> None:
    """Also the moments of a schema that has no two numbers."""
    schema = Schema((SCHEMA.columns[0], SCHEMA.columns[3]))
    federation = embedded(TABLES, schema, EXACT)
    begin = _step(federation)
    hostile = msgspec.structs.replace(begin.step, part=part, step="hostile")
    answer = decode_reply(federation.parties["bank-0"].handle(encode(Begin(hostile))))
    assert isinstance(answer, Refusal)
    assert answer.kind == "WireError"
    assert nothing_charged(federation)


def test_one_number_needs_no_moments() -> None:
    federation = embedded(TABLES, Schema((SCHEMA.columns[0], SCHEMA.columns[3])))
    assert len(federation.select_features(2, privacy=None).ranks) == 2
    assert [step.step for step in federation.history[0].steps] == ["select/prepare"]
