"""Rounds of local training: what is charged, what travels, what is refused, and what the certificate says.

The detector is a third party's, installed beside this file (``plugin``) and reached by entry point.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import msgspec
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import ECOD, Detector, detector_to_json
from blindsight.errors import (
    BlindsightWarning,
    BudgetError,
    ParameterError,
    PolicyError,
    ReleaseError,
    SurvivorsError,
    WireError,
)
from blindsight.federation import Federation, Party, Policy, _steps
from blindsight.federation._memory import MAX_RUNS_ON_DISK, RunMemory
from blindsight.federation._run import StepRecord
from blindsight.federation._wire import Begin, Continue, Refusal, Reply, Step, decode_reply, encode
from blindsight.privacy import epsilon_of
from blindsight.store import Store
from blindsight.testing import FaultyChannel
from sample_tables import make_table

from ._drive import charges, dp, embedded, faulty, nothing_charged, tables

PLUGIN = Path(__file__).with_name("plugin")
POLICY = Policy(allow_exact_sums=True, detectors=("RoundMean",), units=("record", "person", "party"))
OPEN = Policy(
    allow_exact_sums=True, detectors=("RoundMean",), units=("record", "person", "party"), allow_unmasked_updates=True
)
STEPS, GRID = 4, 1 << 16


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    sys.modules.pop("round_mean", None)


def round_mean(**options: Any) -> Detector:
    from round_mean import RoundMean  # type: ignore[import-not-found]

    detector: Detector = RoundMean(**options)
    return detector


def scaled_mean(schema: Schema, table: Any) -> np.ndarray:
    low, high = (np.array([getattr(c, end) for c in schema.features]) for end in ("low", "high"))
    X = table.select(schema.feature_names).to_numpy()
    return np.clip(2 * (X - low) / (high - low) - 1, -1, 1).mean(axis=0)


def entries(party: Party, unit: str = "record") -> list[Any]:
    return [entry.event for entry in party.ledgers[unit].entries()]  # type: ignore[index]


# -- without privacy


def test_rounds_find_the_mean_of_the_parties_means(number_schema: Schema) -> None:
    data = tables(5, rows=40)
    federation = embedded(data, number_schema, POLICY)
    seen: list[str] = []
    model = federation.fit(round_mean(rounds=12), privacy=None, on_step=lambda step: seen.append(step.step))
    means = np.array([scaled_mean(number_schema, table) for table in data.values()])
    assert np.allclose(model.mean_, means.mean(axis=0), atol=12 / GRID)  # type: ignore[attr-defined]
    assert seen == [*(f"round/{i}" for i in range(12)), "threshold"]
    assert federation.history[0].steps[0].asked == list(data)
    assert all(event.exact for event in entries(federation.parties["bank-00"]))
    assert model.certificate_["differential_privacy"] is False  # type: ignore[index]


def test_exact_rounds_are_refused_by_default(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, Policy(detectors=("RoundMean",)))
    with pytest.raises(PolicyError, match="does not allow exact sums"):
        federation.fit(round_mean(), privacy=None)
    assert not any(charges(federation).values())


def test_a_party_that_diverges_is_named_once_and_the_rounds_go_on(number_schema: Schema) -> None:
    data = tables(4, rows=40)
    federation = embedded(data, number_schema, POLICY)
    with pytest.warns(BlindsightWarning, match="^bank-03 added nothing in round 0: its update was not finite$") as told:
        federation.fit(round_mean(rounds=2, diverges_above=70), privacy=None)
    assert len(told) == 1
    assert [step.notices for step in federation.history[0].steps] == [
        {"bank-03": "its update was not finite"},
        {"bank-03": "its update was not finite"},
        {},
    ]


def test_under_privacy_no_notice_leaves(number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=40), number_schema, POLICY)
    channel = faulty(federation)
    federation.fit(round_mean(rounds=2, diverges_above=70), privacy=dp(8.0))
    assert not any(step.notices for step in federation.history[0].steps)
    answers = [decode_reply(answer) for sent in channel.answers for answer in sent.values()]
    assert not any(answer.notice for answer in answers if isinstance(answer, Reply))
    assert not any(b"finite" in answer for sent in channel.answers for answer in sent.values())


# -- what is charged


@pytest.mark.filterwarnings("ignore:The evaluation data hold")
@pytest.mark.parametrize("unit", ["record", "person"])
def test_dp_sgd_is_charged_by_round_and_the_whole_stays_within_epsilon(unit: str, mixed_schema: Schema) -> None:
    data = tables(4, rows=60)
    federation = embedded(data, mixed_schema, POLICY)
    bound = {"max_records_per_person": 3} if unit == "person" else {}
    privacy = dp(2.0, unit=unit, **bound)
    schema = Schema(tuple(c for c in mixed_schema.columns if c.type != "category"), ranges="declared")
    federation = embedded(data, schema, POLICY)
    model = federation.fit(round_mean(rounds=3), privacy=privacy)
    events = entries(federation.parties["bank-00"], unit)
    assert [event.mechanism for event in events] == ["sampled-gaussian"] * 3 + ["distributed-discrete-gaussian"]
    assert {(e.sampling_rate, e.steps, e.unit) for e in events[:3]} == {(0.25, STEPS, unit)}
    (multiplier,) = {event.noise_multiplier for event in events[:3]}
    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(multiplier)), 3 * STEPS)
    accountant.compose(dp_accounting.ZCDpEvent(events[3].rho + 0.2 * privacy.rho))  # and the evaluation to come
    assert 1.9 < accountant.get_epsilon(1e-6) <= 2.001
    certificate = model.certificate_
    assert certificate is not None
    assert 1.5 < certificate["epsilon_spent"] <= 2.0
    assert certificate["unit"] == unit
    assert "floating point" in certificate["statement"]
    federation.evaluate(model, privacy=privacy)
    assert 1.8 < federation.parties["bank-00"].ledgers[unit].spent() <= 2.0  # type: ignore[index]


def test_persons_are_bounded_before_training(mixed_schema: Schema) -> None:
    schema = Schema(tuple(c for c in mixed_schema.columns if c.type != "category"), ranges="declared")
    data = tables(3, rows=60)
    person = schema.person
    assert person is not None
    federation = embedded(data, schema, POLICY)
    channel = faulty(federation, tamper=lambda k, name, answer: answer if k < 10 else None)  # two rounds, then silence
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(), privacy=dp(4.0, unit="person", max_records_per_person=2))
    run = federation.history[0].run
    for name, table in data.items():
        counted = table[person.name].value_counts()["count"].to_numpy()
        memory = federation.parties[name]._releases.memory.load(run)
        assert int(memory["rows"]) == int(np.minimum(counted, 2).sum()) < len(table)
    assert len(channel.requests) == 11


def test_party_level_noise_is_in_the_total(number_schema: Schema) -> None:
    federation = embedded(tables(5, rows=20), number_schema, replace(POLICY, maximum_epsilon=30.0))
    privacy = dp(30.0, unit="party")
    model = federation.fit(round_mean(rounds=2), privacy=privacy)
    events = entries(federation.parties["bank-00"], "party")
    assert [event.mechanism for event in events] == ["distributed-discrete-gaussian"] * 3
    assert events[0].sensitivity_l2 == GRID
    assert events[0].max_records_per_party is None
    assert events[2].sensitivity_l2 == 1000
    assert events[2].max_records_per_party == 1000
    assert model.noise_variance_ == pytest.approx(5 * events[1].local_variance)
    certificate = model.certificate_
    assert certificate is not None
    assert certificate["max_records_per_party"] == 1000
    assert 22 < certificate["epsilon_spent"] <= 30
    assert "all that one party adds" in certificate["statement"]


@pytest.mark.parametrize("unit", ["record", "party"])
def test_a_detector_that_takes_more_than_its_share_promises_what_was_spent(unit: str, number_schema: Schema) -> None:
    """Each of three rounds says that it takes the whole share: ledgers and certificate go by what was released."""
    federation = embedded(tables(5, rows=20), number_schema, replace(POLICY, maximum_epsilon=30.0))
    certificate = federation.fit(round_mean(rounds=3, greedy=True), privacy=dp(8.0, unit=unit)).certificate_
    assert certificate is not None
    spent = certificate["epsilon_spent"]
    assert spent > 8.5
    assert spent == pytest.approx(federation.parties["bank-00"].ledgers[unit].spent())  # type: ignore[index]
    factor = float(re.search(r"a factor e\^([\d.]+),", certificate["statement"])[1])  # type: ignore[index]
    assert spent <= factor <= 1.01 * spent  # three digits, rounded up
    assert "more than the epsilon 8 asked for" in certificate["statement"]


@pytest.mark.parametrize("bound", [50, 1000])
def test_a_party_counts_with_at_most_so_many_records_in_a_sum(bound: int, number_schema: Schema) -> None:
    data = {name: make_table(3000, i) for i, name in enumerate(("a", "b", "c"))}
    policy = Policy(units=("party",), maximum_epsilon=50)
    federation = embedded(data, number_schema, policy)
    privacy = dp(40.0, unit="party", max_records_per_party=bound, shares={"fit": 0.9, "threshold": 0.1})
    model = federation.fit(ECOD(bins=4), privacy=privacy)
    counts = model.totals_[:4]
    deviation = math.sqrt(4 * model.noise_variance_)
    assert abs(counts.sum() - 3 * bound) < 6 * deviation
    assert deviation < bound


def test_local_trust_means_full_noise_at_every_party(number_schema: Schema) -> None:
    variances = {}
    for trust in ("federation", "local"):
        federation = embedded(tables(5, rows=20), number_schema, replace(POLICY, minimum_colluders=0))
        privacy = dp(4.0, unit="party", colluders=0, trust=trust)
        model = federation.fit(round_mean(rounds=1), privacy=privacy)
        event = entries(federation.parties["bank-00"], "party")[0]
        variances[trust] = event.local_variance
        assert model.certificate_ is not None
        says = "neither the other parties nor the masking is trusted" in model.certificate_["statement"]
        assert says == (trust == "local")
        assert ("nobody else need be trusted" in event.guarantee) == (trust == "local")
    assert variances["local"] == pytest.approx(4 * variances["federation"], rel=1e-6)  # threshold 4 of 5


def test_a_run_that_the_budget_does_not_carry_is_refused_at_its_first_round(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, Policy(detectors=("RoundMean",), maximum_epsilon=1.0))
    with pytest.raises(BudgetError, match="nothing was charged"):
        federation.fit(round_mean(rounds=30), privacy=dp(2.0))
    assert not any(charges(federation).values())


# -- dropouts, retries, interruptions


def test_dropouts_under_dp(number_schema: Schema) -> None:
    """One vanishes for good in the second round, another answers garbage in the third; everybody is charged once."""
    data = tables(7, rows=30)
    federation = embedded(data, number_schema, POLICY)
    faulty(
        federation,
        silent_from={"bank-06": 7},
        tamper=lambda k, name, answer: b"garbage" if name == "bank-02" and k == 12 else answer,
    )
    federation.fit(round_mean(rounds=3), privacy=dp(4.0))
    steps = federation.history[0].steps
    gone = [sorted(set(data) - set(step.survivors)) for step in steps]
    assert gone == [[], ["bank-06"], ["bank-02", "bank-06"], ["bank-06"]]
    assert charges(federation) == {**dict.fromkeys(data, 4), "bank-06": 1}


def begin(channel: FaultyChannel, exchange: int, name: str = "bank-00") -> Step:
    return msgspec.msgpack.decode(channel.requests[exchange][name], type=Begin).step


def test_a_round_asked_again_gives_the_same_bytes_and_one_charge(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, POLICY)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 10))  # the threshold never begins
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(rounds=2), privacy=dp(4.0))
    before = charges(federation)
    party = federation.parties["bank-00"]
    for exchange in range(5, 10):
        assert party.handle(channel.requests[exchange]["bank-00"]) == channel.answers[exchange]["bank-00"]
    assert "is over at this party" in str(decode_reply(party.handle(channel.requests[0]["bank-00"])))
    assert charges(federation) == before == dict.fromkeys(federation.parties, 2)


def test_a_restarted_party_goes_on_with_its_round(number_schema: Schema, tmp_path: Path) -> None:
    """The process dies after the vector is committed and before the reply leaves: the stored one is sent."""
    data = tables(4)
    federation = embedded(data, number_schema, POLICY, home=tmp_path)
    channel = faulty(federation, silent_from=dict.fromkeys(data, 8))
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(), privacy=dp(4.0))
    again = embedded(data, number_schema, POLICY, home=tmp_path).parties["bank-01"]
    memory = again._releases.memory.load(federation.history[0].run)
    assert memory["rounds"] == b"\x02"
    assert again.handle(channel.requests[7]["bank-01"]) == channel.answers[7]["bank-01"]
    assert len(entries(again)) == 2
    assert again._releases.memory.load(federation.history[0].run) == memory, "no second training"


def test_a_crash_between_charge_and_output_neither_charges_twice_nor_keeps_memory(
    number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = embedded(tables(4), number_schema, POLICY)
    victim = federation.parties["bank-01"]
    record = victim.ledgers["record"].record_output
    failures = iter([OSError("the machine stops here")])

    def stops(release_id: str, output: bytes) -> None:
        for failure in failures:
            raise failure
        record(release_id, output)

    monkeypatch.setattr(victim.ledgers["record"], "record_output", stops)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 5))  # the threshold never begins
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(rounds=1), privacy=dp(4.0))
    assert federation.history[0].steps[0].survivors == ["bank-00", "bank-02", "bank-03"]
    run = federation.history[0].run
    assert len(entries(victim)) == 1
    assert victim._releases.memory.load(run) == {}
    answer = decode_reply(victim.handle(channel.requests[2]["bank-01"]))
    assert isinstance(answer, Reply)
    assert len(entries(victim)) == 1, "asked again, it trains again and is not charged again"
    assert victim._releases.memory.load(run)["rounds"] == b"\x01"


def test_ctrl_c_leaves_every_ledger_and_the_history_whole(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, POLICY)

    def stop(step: str, phase: str) -> None:
        if (step, phase) == ("round/1", "confirm"):
            raise KeyboardInterrupt

    federation.progress = stop
    with pytest.raises(KeyboardInterrupt):
        federation.fit(round_mean(), privacy=dp(2.0))
    assert [step.step for step in federation.history[0].steps] == ["round/0"]
    assert charges(federation) == dict.fromkeys(federation.parties, 2)
    federation.progress = None
    federation.fit(round_mean(), privacy=dp(2.0))
    assert charges(federation) == dict.fromkeys(federation.parties, 6)


def test_it_runs_inside_a_running_event_loop(number_schema: Schema) -> None:
    async def main() -> Detector:
        federation = embedded(tables(3), number_schema, POLICY)
        return federation.fit(round_mean(rounds=2), privacy=None)

    assert asyncio.run(main()).round_ == 2  # type: ignore[attr-defined]


def test_memory_is_kept_for_few_runs_and_forgotten_when_the_rounds_are_over(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, POLICY)
    federation.fit(round_mean(rounds=2), privacy=None)
    party = federation.parties["bank-00"]
    assert party._releases.memory.load(federation.history[0].run) == {}
    memory = RunMemory(Store(None))
    for i in range(3 * MAX_RUNS_ON_DISK):
        memory.save(f"run-{i}", {"a": bytes([i])})
        assert memory.load(f"run-{i}") == {"a": bytes([i])}
    kept = [i for i in range(3 * MAX_RUNS_ON_DISK) if memory.load(f"run-{i}")]
    assert kept == list(range(2 * MAX_RUNS_ON_DISK, 3 * MAX_RUNS_ON_DISK))
    memory.finish(f"run-{kept[1]}")
    memory.save("new", {"b": b"x"})
    assert [i for i in kept if memory.load(f"run-{i}")] == [kept[0], *kept[2:]]
    with pytest.raises(ParameterError, match="too large"):
        memory.save("new", {"a": bytes(1 << 26), "b": b"x"})
    with pytest.raises(ParameterError, match="short names and bytes"):
        memory.save("new", {"a": "text"})  # type: ignore[dict-item]


def test_a_rounds_model_is_parsed_once_by_each_party(number_schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = embedded(tables(4), number_schema, POLICY)
    parsed = []
    loads = _steps.modelfile.loads

    def counting(data: bytes, **options: Any) -> Detector:
        parsed.append(len(data))
        return loads(data, **options)

    monkeypatch.setattr(_steps.modelfile, "loads", counting)
    federation.fit(round_mean(rounds=3), privacy=None)
    assert len(parsed) == 4 * 3  # two rounds with a model, one threshold


# -- client sampling


def test_each_round_asks_a_random_part_and_charges_only_that(number_schema: Schema) -> None:
    data = tables(10, rows=10)
    federation = embedded(data, number_schema, POLICY)
    model = federation.fit(round_mean(rounds=6, parties=0.3), privacy=dp(4.0, unit="party"))
    steps = federation.history[0].steps
    assert [len(step.asked) for step in steps] == [7] * 6 + [10], "never fewer than the threshold"
    assert len({tuple(step.asked) for step in steps[:6]}) > 1
    assert all(step.survivors == step.asked and not step.dropped for step in steps)
    spent = {}
    for name, party in federation.parties.items():
        events = entries(party, "party")
        assert len(events) == sum(name in step.asked for step in steps)
        spent[name] = epsilon_of(events, 1e-6)
    assert min(spent.values()) < max(spent.values())
    certificate = model.certificate_
    assert certificate is not None
    assert certificate["epsilon_spent"] == pytest.approx(max(spent.values()), rel=1e-9)


def test_who_does_not_answer_is_replaced(number_schema: Schema) -> None:
    data = tables(10, rows=10)
    federation = embedded(data, number_schema, POLICY)
    faulty(federation, silent_from={"bank-01": 0, "bank-02": 0, "bank-03": 0})
    federation.fit(round_mean(rounds=3, parties=0.5), privacy=dp(4.0))
    for step in federation.history[0].steps:
        assert set(step.survivors) == set(data) - {"bank-01", "bank-02", "bank-03"}


def test_client_sampling_without_privacy_is_refused(number_schema: Schema) -> None:
    federation = embedded(tables(5), number_schema, POLICY)
    channel = faulty(federation)
    with pytest.raises(ParameterError, match="Client sampling needs differential privacy"):
        federation.fit(round_mean(parties=0.5), privacy=None)
    assert not channel.requests


# -- updates in the clear


def test_updates_in_the_clear_need_every_partys_consent(number_schema: Schema) -> None:
    data = tables(4)
    federation = embedded(data, number_schema, {**dict.fromkeys(data, OPEN), "bank-02": POLICY})
    with pytest.raises(PolicyError, match=r"^bank-02: .*updates in the clear.*Rule: allow_unmasked_updates = false"):
        federation.fit(round_mean(masked=False), privacy=None)


def test_robust_aggregation_reads_every_update_and_says_so(number_schema: Schema) -> None:
    data = tables(5, rows=40)
    federation = embedded(data, number_schema, OPEN)
    channel = faulty(federation)
    model = federation.fit(round_mean(rounds=8, masked=False), privacy=None)
    means = np.array([scaled_mean(number_schema, table) for table in data.values()])
    assert np.allclose(model.mean_, np.median(means, axis=0), atol=0.01)  # type: ignore[attr-defined]
    assert len(channel.requests) == 8 + 5, "one exchange a round, and a masked threshold"
    certificate = model.certificate_
    assert certificate is not None
    assert "masking was given up" in certificate["trust"]
    assert "masking was given up" in certificate["statement"]


def test_a_vector_beyond_its_bound_is_refused_by_name(number_schema: Schema) -> None:
    data = tables(5, rows=20)
    federation = embedded(data, number_schema, OPEN)
    huge = encode(Reply(np.full(3, 2 * GRID, dtype="<i8").tobytes()))
    short = encode(Reply(b"\0" * 8))
    forged = {"bank-01": huge}
    faulty(federation, tamper=lambda k, name, answer: forged.get(name, answer) if k < 2 else answer)
    model = federation.fit(round_mean(rounds=2, masked=False), privacy=None)
    first = federation.history[0].steps[0]
    assert first.survivors == ["bank-00", "bank-02", "bank-03", "bank-04"]
    assert "bank-01: An update is beyond its bound" in first.dropped["bank-01"]
    assert model.total_parties_ == 8  # type: ignore[attr-defined]
    second = embedded(data, number_schema, OPEN)
    faulty(second, tamper=lambda k, name, answer: short if name in ("bank-01", "bank-02") else answer)
    with pytest.raises(SurvivorsError, match="another length"):
        second.fit(round_mean(masked=False), privacy=None)


def test_in_the_clear_a_party_is_protected_by_its_own_noise_or_not_at_all(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, OPEN)
    with pytest.raises(ParameterError, match=r"noise that protects in the sum alone.*Fix: ask for trust='local'"):
        federation.fit(round_mean(masked=False), privacy=dp(4.0, unit="party"))
    model = federation.fit(round_mean(rounds=2, masked=False), privacy=dp(4.0, unit="party", trust="local"))
    event = entries(federation.parties["bank-00"], "party")[0]
    assert event.mechanism == "local-discrete-gaussian"
    assert model.noise_variance_ == pytest.approx(event.local_variance), "the noise of one row"
    embedded(tables(4), number_schema, OPEN).fit(round_mean(rounds=2, masked=False), privacy=dp(4.0))


def test_what_goes_wrong_in_training_in_the_clear_is_not_told(
    number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One exchange holds the policy's answer and the training: what is said of either must not be confused."""
    from blindsight.federation import _releases

    federation = embedded(tables(4), number_schema, OPEN)
    victim, honest = federation.parties["bank-01"], _releases.own_update

    def failing(schema: Schema, source: object, *rest: Any, **options: Any) -> Any:
        if source is victim._own.sources["training"]:
            raise ParameterError("the age of row 17 is 42")
        return honest(schema, source, *rest, **options)

    monkeypatch.setattr(_releases, "own_update", failing)
    channel = faulty(federation)
    federation.fit(round_mean(rounds=2, masked=False), privacy=None)
    first = federation.history[0].steps[0]
    assert first.survivors == ["bank-00", "bank-02", "bank-03"]
    assert "could not compute (ParameterError)" in first.dropped["bank-01"]
    assert not any(b"row 17" in answer for sent in channel.answers for answer in sent.values())


# -- a total that honest parties cannot reach; a detector that breaks its own bound


def test_somebody_who_sends_more_than_the_bound_stops_the_run(
    number_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blindsight.federation import _releases

    federation = embedded(tables(4), number_schema, POLICY)
    victim, honest = federation.parties["bank-01"], _releases.own_update

    def poisoned(schema: Schema, source: object, *rest: Any, **options: Any) -> Any:
        update = honest(schema, source, *rest, **options)
        if source is victim._own.sources["training"] and options["memory"]["rounds"] == b"\x02":
            update.values[:] = 100 * GRID
        return update

    monkeypatch.setattr(_releases, "own_update", poisoned)
    with pytest.raises(ReleaseError, match="The run stops after 'round/1': The total of the updates is beyond"):
        federation.fit(round_mean(), privacy=None)
    assert [step.step for step in federation.history[0].steps] == ["round/0", "round/1"]


def test_a_detector_that_breaks_its_own_bound_sends_nothing(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, POLICY)
    channel = faulty(federation)
    with pytest.raises(SurvivorsError, match="ParameterError"):
        federation.fit(round_mean(exceeds=True), privacy=dp(4.0, unit="party"))
    for answer in channel.answers[2].values():
        assert isinstance(decode_reply(answer), Refusal)


# -- a hostile coordinator


@pytest.fixture
def fitted(number_schema: Schema) -> tuple[Federation, FaultyChannel]:
    federation = embedded(tables(4), number_schema, POLICY)
    channel = faulty(federation)
    federation.fit(round_mean(rounds=3), privacy=dp(2.0))
    return federation, channel


def ask(federation: Federation, step: Step) -> Any:
    return decode_reply(federation.parties["bank-00"].handle(encode(Begin(step))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part": "round/2"}, "asks for another sum than its detector does"),
        ({"part": "threshold", "purpose": "threshold"}, "asks for another sum than its detector does"),
        ({"purpose": "threshold"}, "asks for another sum than its detector does"),
        ({"model": None}, "asks for another sum than its detector does"),
        ({"model": b"\0" * 100}, "malformed"),
        ({"detector": {"name": "RoundMean", "parameters": {"rounds": 300}}}, "another detector than it names"),
        ({"detector": {"name": "ECOD", "parameters": {}}}, "does not allow the detector 'ECOD'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_steps_that_describe_no_round_are_refused(
    change: dict[str, Any], words: str, fitted: tuple[Federation, FaultyChannel]
) -> None:
    federation, channel = fitted
    before = charges(federation)
    step = msgspec.structs.replace(begin(channel, 5), run="other", **change)
    answer = ask(federation, step)
    assert isinstance(answer, Refusal)
    assert words in str(answer.error("x"))
    assert charges(federation) == before


def test_the_same_release_with_another_state_is_refused(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, POLICY)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 10))
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(rounds=2), privacy=dp(4.0))
    step = begin(channel, 5)
    assert step.model is not None
    model = modelfile.loads(step.model, allowed=frozenset({"RoundMean"}))
    model.mean_ += np.float32(0.5)  # type: ignore[attr-defined]
    other = msgspec.structs.replace(step, model=modelfile.dumps(model))
    answer = ask(federation, other)
    assert isinstance(answer.error("x"), ReleaseError)
    assert "already bound to another request" in str(answer.error("x"))


def test_a_round_repeated_from_another_state_is_charged_again(number_schema: Schema) -> None:
    """Under a new release id: allowed, at its full price, until the budget says no."""
    federation = embedded(tables(3), number_schema, Policy(detectors=("RoundMean",), maximum_epsilon=2.0))
    inner = federation._channel
    federation.fit(round_mean(rounds=2), privacy=dp(1.9))
    spent = federation.parties["bank-00"].ledgers["record"].spent()
    federation._channel = inner
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(rounds=2), privacy=dp(0.05))
    step = begin(channel, 0)
    refused = ask(federation, msgspec.structs.replace(step, run="again", privacy=None))
    assert "does not allow exact sums" in str(refused.error("x"))
    costly = msgspec.structs.replace(step.privacy, epsilon=1.9)  # type: ignore[type-var]
    refused = ask(federation, msgspec.structs.replace(step, run="again", privacy=costly))
    assert isinstance(refused.error("x"), BudgetError)
    assert federation.parties["bank-00"].ledgers["record"].spent() == spent
    federation._channel = inner
    federation.fit(round_mean(rounds=2), privacy=dp(0.05))
    assert federation.parties["bank-00"].ledgers["record"].spent() > spent


def test_an_update_in_the_clear_has_no_second_message(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, OPEN)
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 1))
    with pytest.raises(SurvivorsError):
        federation.fit(round_mean(rounds=1, masked=False), privacy=None)
    step = begin(channel, 0)
    party = federation.parties["bank-00"]
    assert party.handle(channel.requests[0]["bank-00"]) == channel.answers[0]["bank-00"]
    refused = decode_reply(party.handle(encode(Continue(step.release_id, b"x"))))
    assert isinstance(refused, Refusal)
    assert "no further message" in refused.what


def test_a_notice_longer_than_allowed_is_malformed() -> None:
    with pytest.raises(WireError):
        decode_reply(msgspec.msgpack.encode({"type": "reply", "body": b"", "notice": "x" * 201}))


def test_a_run_keeps_its_detector_and_its_privacy(number_schema: Schema) -> None:
    """Or a round would be charged for much noise and trained with what the run's first round left: too little."""
    federation = embedded(tables(3), number_schema, Policy(detectors=("RoundMean",), maximum_epsilon=50.0))
    channel = faulty(federation)
    federation.fit(round_mean(rounds=2), privacy=dp(4.0))
    before = charges(federation)
    step = begin(channel, 0)
    cheaper = msgspec.structs.replace(step.privacy, epsilon=0.01)  # type: ignore[type-var]
    other = {"name": "RoundMean", "parameters": {"rounds": 3}}
    for change in ({"privacy": cheaper}, {"detector": other}):
        refused = ask(federation, msgspec.structs.replace(step, step="again", **change))
        assert isinstance(refused.error("x"), ReleaseError)
        assert "one run, one detector and one privacy" in str(refused.error("x"))
        fresh = f"run-of-another-{next(iter(change))}"
        assert isinstance(ask(federation, msgspec.structs.replace(step, run=fresh, **change)), Reply)
    assert charges(federation) == before


def test_a_sum_between_two_rounds_leaves_the_memory_as_it_is(number_schema: Schema) -> None:
    pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
    from blindsight.detectors import AutoEncoder, Training

    federation = embedded(tables(3), number_schema)
    party, kept = federation.parties["bank-00"], {}

    def look(step: StepRecord) -> None:
        kept[step.step] = party._releases.memory.load(federation.history[0].run)

    training = Training(rounds=2, scaffold=True, patience=2, validation=0.2)
    federation.fit(AutoEncoder(hidden=(2,), scales="declared", training=training), privacy=None, on_step=look)
    assert set(kept["round/0"]) == {"scaffold"}
    assert kept["loss/0"] == kept["round/0"] != kept["round/1"] == kept["loss/1"]


@pytest.mark.parametrize("part", ["size", "threshold"])
def test_a_party_refuses_scales_of_its_own_under_privacy_in_every_sum(part: str, number_schema: Schema) -> None:
    """One record would move the scores of all others: the coordinator may ask, the party does not answer."""
    pytest.importorskip("opacus", reason="the extra 'deep' is not installed")
    from blindsight.detectors import AutoEncoder, Training

    federation = embedded(tables(3), number_schema, Policy())
    channel = faulty(federation)
    federation.fit(ECOD(bins=4), privacy=dp(1.0))
    scales = "local" if part == "threshold" else "declared"
    model = AutoEncoder(hidden=(2,), scales=scales, training=Training(rounds=1, patience=0))
    model.begin(number_schema)
    if part == "threshold":
        model.round_, model.noise_variance_ = 1, 1.0
    step = msgspec.structs.replace(
        begin(channel, 0),
        run="other",
        step=part,
        part=part,
        purpose="threshold" if part == "threshold" else "fit",
        detector=detector_to_json(model),
        model=modelfile.dumps(model),
    )
    answer = ask(federation, step)
    if part == "size":
        assert isinstance(answer, Reply)
    else:
        assert "scales are computed from its records" in str(answer.error("x"))


def test_a_fit_that_would_later_show_updates_is_refused_at_its_first_step(number_schema: Schema) -> None:
    pytest.importorskip("torch")
    from blindsight.detectors import AutoEncoder, Training

    policy = Policy(allow_exact_sums=True)
    federation = embedded(tables(3), number_schema, policy)
    model = AutoEncoder(hidden=(2,), training=Training(rounds=1, aggregation="median"))
    with pytest.raises(PolicyError, match="updates in the clear"):
        federation.fit(model, privacy=None)
    assert nothing_charged(federation)


def test_a_fit_whose_rounds_are_refused_is_refused_before_its_scales_are_charged(number_schema: Schema) -> None:
    pytest.importorskip("torch")
    from blindsight.detectors import AutoEncoder, Training

    federation = embedded(tables(3), number_schema, Policy(allow_exact_sums=True))
    channel = faulty(federation)
    with pytest.raises(ParameterError, match="Client sampling needs differential privacy"):
        federation.fit(AutoEncoder(hidden=(2,), training=Training(rounds=1, parties=0.5)), privacy=None)
    assert not channel.requests
