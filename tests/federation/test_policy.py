"""What a party refuses, whatever the coordinator sends; and that a refusal costs nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl
import pytest

from blindsight.data import Schema
from blindsight.detectors import ECOD, Mahalanobis
from blindsight.errors import (
    AuthenticationError,
    BlindsightError,
    BlindsightWarning,
    BudgetError,
    ParameterError,
    PolicyError,
    RefusedError,
    ReleaseError,
    SchemaError,
    SurvivorsError,
)
from blindsight.federation import Federation, Party, Policy
from blindsight.federation._wire import Begin, Reply, decode_reply, encode
from blindsight.keys import Identity
from blindsight.store import Store
from blindsight.testing import FaultyChannel
from sample_tables import make_table

from ._drive import EXACT, charges, dp, embedded, faulty, nothing_charged, tables

# the noise floor is another test's matter
pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")


def refuse(federation: Federation, kind: type[BlindsightError], match: str, **fit: object) -> str:
    """A refused fit: the message, and nothing charged at any party."""
    options = {"detector": ECOD(), "privacy": None, **fit}
    with pytest.raises(kind, match=match) as caught:
        federation.fit(options["detector"], privacy=options["privacy"])  # type: ignore[arg-type, type-var]
    assert nothing_charged(federation)
    assert federation.history[-1].steps == []
    return str(caught.value)


def test_exact_sums_are_refused_by_default(number_schema: Schema) -> None:
    text = refuse(embedded(tables(3), number_schema, Policy()), PolicyError, "does not allow exact sums")
    assert text.startswith("bank-00: ")
    assert "Got: privacy=None" in text
    assert "Rule: allow_exact_sums = false" in text
    assert "Fix: ask for differential privacy" in text


def test_one_party_that_does_not_allow_them_is_enough(number_schema: Schema) -> None:
    federation = embedded(tables(4), number_schema, {"bank-00": EXACT, "bank-01": EXACT, "bank-03": EXACT})
    assert refuse(federation, PolicyError, "^bank-02: .*exact sums")


@pytest.mark.parametrize(
    ("policy", "fit", "match"),
    [
        (Policy(detectors=("Mahalanobis",)), {}, "does not allow the detector 'ECOD'.*Rule: detectors = Mahalanobis"),
        (Policy(purposes=("describe",)), {}, "does not allow 'fit'.*Rule: purposes = describe"),
        (Policy(units=("person",)), {}, "does not accept the privacy unit 'record'.*Rule: units = person"),
        (
            Policy(),
            {"privacy": dp(colluders=0)},
            "keep their noise.*Got: colluders=0.*Rule: minimum_colluders = 1.*colluders=1",
        ),
        (Policy(minimum_colluders=2), {}, "keep their noise.*Got: colluders=1.*Rule: minimum_colluders = 2"),
        (Policy(minimum_survivors=4), {}, "too few parties.*Got: 3.*Rule: minimum_survivors = 4"),
    ],
)
def test_every_rule_of_the_policy(policy: Policy, fit: dict, match: str, number_schema: Schema) -> None:
    refuse(embedded(tables(3), number_schema, policy), PolicyError, match, **{"privacy": dp(), **fit})


def test_noise_that_counts_on_nobody_else_needs_no_colluders(number_schema: Schema) -> None:
    """And a policy may allow the privacy that a party's own noise is not left out of."""
    for policy, privacy in ((Policy(), dp(colluders=0, trust="local")), (Policy(minimum_colluders=0), dp(colluders=0))):
        federation = embedded(tables(3), number_schema, policy)
        federation.fit(ECOD(bins=8), privacy=privacy)
        assert charges(federation) == dict.fromkeys(federation.parties, 2)


def test_a_threshold_that_the_policy_does_not_allow_stops_after_the_fit(number_schema: Schema) -> None:
    """Refused in the second step: the first is charged, once, and no model comes out."""
    federation = embedded(tables(3), number_schema, Policy(purposes=("fit",)))
    with pytest.raises(PolicyError, match="does not allow 'threshold'"):
        federation.fit(ECOD(), privacy=dp())
    assert charges(federation) == {"bank-00": 1, "bank-01": 1, "bank-02": 1}


def test_describe_and_evaluate_obey_the_policy_too(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, Policy(purposes=("fit", "threshold")))
    with pytest.raises(PolicyError, match="does not allow 'describe'"):
        federation.describe(privacy=dp())
    model = ECOD(schema=number_schema).fit(make_table(50, 1))
    with pytest.raises(PolicyError, match="does not allow 'evaluation'"):
        federation.evaluate(model, privacy=dp())
    assert nothing_charged(federation)


def test_the_budget_names_what_is_affordable_and_charges_nothing(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, Policy(maximum_epsilon=0.5))
    text = refuse(federation, BudgetError, "does not carry", privacy=dp(3.0))
    assert "0.5 at delta 1e-06 per record; nothing was charged" in text
    assert "the largest affordable epsilon is 0.4999" in text


def test_a_spent_budget_refuses_and_its_fix_works(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, Policy(maximum_epsilon=1.0))
    whole = {"fit": 0.75, "threshold": 0.25}
    federation.fit(ECOD(bins=8), privacy=dp(0.8, shares=whole))
    before = charges(federation)
    spent = {name: party.ledgers["record"].spent() for name, party in federation.parties.items()}
    with pytest.raises(BudgetError, match=r"spent before.*the largest affordable epsilon is ([0-9.]+)") as caught:
        federation.fit(ECOD(bins=8), privacy=dp(0.8, shares=whole))
    assert charges(federation) == before
    affordable = float(str(caught.value).rsplit(" is ", 1)[1].rstrip("."))
    assert 0.3 < affordable < 0.8
    federation.fit(ECOD(bins=8), privacy=dp(affordable * 0.999, shares=whole))
    for name, party in federation.parties.items():
        assert spent[name] < party.ledgers["record"].spent() <= 1.0


def test_units_have_accounts_of_their_own(mixed_schema: Schema) -> None:
    federation = embedded(tables(3), mixed_schema, Policy(maximum_epsilon=1.0))
    for unit in ("record", "person"):
        federation.fit(ECOD(bins=8), privacy=dp(0.9, unit=unit))
    party = federation.parties["bank-00"]
    assert len(party.ledgers["record"].entries()) == len(party.ledgers["person"].entries()) == 2


def test_learned_ranges_are_refused_under_dp(number_schema: Schema) -> None:
    learned = Schema(number_schema.columns, ranges="learned")
    text = refuse(embedded(tables(3), learned), SchemaError, "needs declared ranges", privacy=dp())
    assert "Got: ranges learned from records" in text
    assert "Fix: check that the ranges are public and call schema.declare()" in text
    model = embedded(tables(3), learned).fit(ECOD(), privacy=None)
    assert model.is_secret_ is False


def test_person_level_needs_a_person_column(number_schema: Schema) -> None:
    text = refuse(embedded(tables(3), number_schema), SchemaError, "needs a person column", privacy=dp(unit="person"))
    assert "Rule: a column of role 'person'" in text
    assert "Fix: declare one" in text


@pytest.mark.parametrize(
    "options",
    [
        {"minimum_survivors": 2},
        {"minimum_survivors": 1025},
        {"minimum_colluders": -1},
        {"minimum_colluders": 256},
        {"maximum_epsilon": 0},
        {"maximum_epsilon": float("nan")},
        {"delta": 0.5},
        {"units": ()},
        {"units": ("galaxy",)},
        {"purposes": ("fit", "mine")},
    ],
)
def test_unusable_policies_are_refused(options: dict) -> None:
    with pytest.raises(ParameterError):
        Policy(**options)


def test_a_policy_survives_its_file_and_unknown_keys_do_not(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "policy.toml"
    policy = Policy(allow_exact_sums=True, units=("person",), maximum_epsilon=2.5, purposes=("fit",))
    path.write_text(policy.to_toml())
    assert Policy.read(path) == policy
    for bad in ("allow_everything = true", "minimum_survivors = 1", 'units = "person"', "x", "delta = nan"):
        path.write_text(bad)
        with pytest.raises(ParameterError, match="policy"):
            Policy.read(path)
    with pytest.raises(ParameterError, match="cannot be used"):
        Policy.read(path.with_name("none.toml"))


# -- exact totals may not be subtracted from each other


def test_exact_totals_that_differ_by_one_or_two_parties_are_refused(number_schema: Schema) -> None:
    data = tables(7, rows=20)
    federation = embedded(data, number_schema)
    inner = federation._channel
    federation.fit(ECOD(), privacy=None)
    for gone in (["bank-06"], ["bank-05", "bank-06"]):
        federation._channel = inner
        faulty(federation, silent_from=dict.fromkeys(gone, 0))
        with pytest.raises(RefusedError, match="over other parties than an earlier one"):
            federation.fit(ECOD(), privacy=None)
    federation._channel = inner
    again = federation.fit(ECOD(), privacy=None)  # over the same set it is the same total
    assert again.n_records_ == sum(len(table) for table in data.values())


def test_exact_totals_that_differ_by_many_parties_are_refused_as_well(number_schema: Schema) -> None:
    """Sets that pairwise differ by three or four parties solve for single ones: {012} + {034} - {1234} = 2 {0}."""
    federation = embedded(tables(10, rows=10), number_schema)
    federation.fit(ECOD(), privacy=None)
    faulty(federation, silent_from={"bank-07": 0, "bank-08": 0, "bank-09": 0})
    with pytest.raises(RefusedError, match="over other parties than an earlier one"):
        federation.fit(ECOD(), privacy=None)


def test_the_coordinator_cannot_choose_who_takes_part(number_schema: Schema) -> None:
    federation = embedded(tables(5, rows=10), number_schema)
    begin = begin_of(federation)
    step = msgspec.structs.replace(begin.step, run="other", participants=begin.step.participants[:3], threshold=3)
    answer = decode_reply(federation.parties["bank-00"].handle(encode(Begin(step))))
    error = answer.error("bank-00")  # type: ignore[union-attr]
    assert isinstance(error, AuthenticationError)
    assert "nor leave some out" in str(error)
    assert nothing_charged(federation)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"dataset": "evaluation"}, "wrong records"), ({"threshold": 2}, "threshold is too low")],
    ids=["dataset", "threshold"],
)
def test_what_a_step_may_not_ask(change: dict, words: str, number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    step = msgspec.structs.replace(begin_of(federation).step, run="other", **change)
    answer = decode_reply(federation.parties["bank-00"].handle(encode(Begin(step))))
    error = answer.error("bank-00")  # type: ignore[union-attr]
    assert isinstance(error, PolicyError)
    assert words in str(error)


def test_a_policy_that_is_tightened_holds_for_sums_already_begun(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    tightened = federation.parties["bank-01"]

    class Tightening(FaultyChannel):
        def _exchange(self, requests, timeout_s):  # type: ignore[no-untyped-def]
            answers = super()._exchange(requests, timeout_s)
            tightened.use_policy(Policy())
            return answers

    federation._channel = Tightening(federation._channel)
    with pytest.raises(SurvivorsError, match="bank-01: The policy does not allow exact sums"):
        federation.fit(ECOD(), privacy=None)
    assert nothing_charged(federation)


def test_a_party_that_was_never_asked_to_confirm_remembers_its_vector(number_schema: Schema) -> None:
    """The others can open a total without its signature: changed data are refused all the same."""
    data = tables(4, rows=20)
    federation = embedded(data, number_schema)
    inner = federation._channel
    faulty(federation, tamper=lambda k, name, answer: None if name == "bank-03" and k >= 3 else answer)
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(), privacy=None)
    assert federation.history[0].steps[0].survivors == list(data)
    federation._channel = inner
    federation.parties["bank-03"].set_data("training", data["bank-03"][1:])
    with pytest.raises(RefusedError, match="The records changed since an earlier exact total"):
        federation.fit(ECOD(), privacy=None)


@pytest.mark.parametrize(
    "second",
    [ECOD(contamination=0.2), ECOD(bins=63), Mahalanobis(), "describe", "evaluate"],
    ids=["contamination", "bins", "Mahalanobis", "describe", "evaluate"],
)
def test_another_question_is_no_way_around_it(second: object, number_schema: Schema) -> None:
    """Counts in 64 and in 63 bins, or the number of records, subtract just as well."""
    federation = embedded(tables(5, rows=20), number_schema)
    inner = federation._channel
    model = federation.fit(ECOD(), privacy=None)
    federation._channel = inner
    faulty(federation, silent_from={"bank-04": 0})
    ask = {"describe": lambda: federation.describe(privacy=None)}
    ask["evaluate"] = lambda: federation.evaluate(model, privacy=None)  # type: ignore[assignment, return-value]
    with pytest.raises(RefusedError, match="over other parties than an earlier one"):
        ask[second]() if isinstance(second, str) else federation.fit(second, privacy=None)  # type: ignore[type-var]


def test_a_party_whose_data_changed_refuses_a_second_exact_total(number_schema: Schema) -> None:
    """It alone knows, so it must keep its vector back; the others see one party missing, and refuse too."""
    data = tables(5, rows=20)
    federation = embedded(data, number_schema)
    federation.fit(ECOD(), privacy=None)
    before = charges(federation)
    federation.parties["bank-02"].set_data("training", data["bank-02"][1:])
    with pytest.raises(RefusedError, match="The records changed since an earlier exact total"):
        federation.fit(ECOD(), privacy=None)
    assert charges(federation)["bank-02"] == before["bank-02"]
    federation.parties["bank-02"].set_data("training", data["bank-02"].clone())  # the same records: the same total
    federation.fit(ECOD(), privacy=None)


def test_a_file_that_changes_under_a_running_party_is_noticed(number_schema: Schema, tmp_path: object) -> None:
    from pathlib import Path

    paths = {name: Path(str(tmp_path)) / f"{name}.csv" for name in tables(4)}
    for name, table in tables(4, rows=20).items():
        table.write_csv(paths[name])
    federation = embedded(paths, number_schema)
    federation.fit(ECOD(), privacy=None)
    table = pl.read_csv(paths["bank-01"])
    table[1:].write_csv(paths["bank-01"])
    with pytest.raises(RefusedError, match="The records changed since an earlier exact total"):
        federation.fit(ECOD(), privacy=None)


def test_totals_with_noise_may_differ_by_one_party(number_schema: Schema) -> None:
    federation = embedded(tables(5, rows=20), number_schema, Policy(maximum_epsilon=100))
    inner = federation._channel
    federation.fit(ECOD(bins=8), privacy=dp(1))
    federation._channel = inner
    faulty(federation, silent_from={"bank-04": 0})
    federation.fit(ECOD(bins=8), privacy=dp(1))


# -- who may ask


def begin_of(federation: Federation) -> Begin:
    """The first request of a fit, as the coordinator sends it."""
    channel = faulty(federation, silent_from=dict.fromkeys(federation.parties, 0))
    with pytest.raises(SurvivorsError):
        federation.fit(ECOD(), privacy=None)
    return msgspec.msgpack.decode(channel.requests[0]["bank-00"], type=Begin)


def test_a_stranger_on_the_participant_list_is_refused(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    begin = begin_of(federation)
    sybil = ("bank-99", Identity.generate().public.raw)
    replaced = ("bank-01", Identity.generate().public.raw)
    lists = {
        "bank-99": [*begin.step.participants, sybil],
        "bank-01": [begin.step.participants[0], replaced, begin.step.participants[2]],
    }
    for name, participants in lists.items():
        step = msgspec.structs.replace(begin.step, participants=participants)
        answer = decode_reply(federation.parties["bank-00"].handle(encode(Begin(step))))
        error = answer.error("bank-00")  # type: ignore[union-attr]
        assert isinstance(error, AuthenticationError)
        assert name in str(error)
        assert "are not the ones pinned at this party" in str(error)
    assert nothing_charged(federation)


def test_another_schema_is_refused_by_the_party(number_schema: Schema, mixed_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    federation.schema = mixed_schema
    refuse(federation, SchemaError, "planned for another schema.*Fix: give every party and the coordinator the same")
    with pytest.raises(SchemaError, match="bank-00 has another schema"):
        federation.greet()


def test_another_identity_is_noticed_by_the_coordinator(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    assert federation.greet() == ["bank-00", "bank-01", "bank-02"]
    federation._participants[1] = ("bank-01", Identity.generate().public.raw)
    with pytest.raises(AuthenticationError, match="bank-01 does not answer with the identity"):
        federation.greet()


def party(name: str, schema: Schema, store: Store | None = None) -> Party:
    return Party(
        name=name,
        data=make_table(9, 1),
        schema=schema,
        identity=Identity.generate(),
        policy=EXACT,
        store=store or Store(None),
    )


def test_pinning(number_schema: Schema) -> None:
    store = Store(None)
    one = party("a", number_schema, store)
    others = [("b", Identity.generate().public.raw), ("c", Identity.generate().public.raw)]
    with pytest.raises(AuthenticationError, match="does not hold a with its own key"):
        one.pin(others)
    with pytest.raises(AuthenticationError, match="does not hold a with its own key"):
        one.pin([("a", others[0][1]), *others])
    one.pin([("a", one.public_key), *others])
    one.pin([("a", one.public_key), *others])
    with pytest.raises(AuthenticationError, match=r"Another participant list is pinned.*cannot enrol parties"):
        one.pin([("a", one.public_key), *others, ("d", Identity.generate().public.raw)])


def test_a_party_without_a_list_answers_nobody(number_schema: Schema) -> None:
    begin = begin_of(embedded(tables(3), number_schema))
    answer = decode_reply(party("bank-00", number_schema).handle(encode(begin)))
    assert "No participant list is pinned" in str(answer.error("x"))  # type: ignore[union-attr]


def test_a_release_id_is_bound_to_one_request(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema)
    begin = begin_of(federation)
    victim = federation.parties["bank-00"]
    first = victim.handle(encode(begin))
    assert isinstance(decode_reply(first), Reply)
    assert victim.handle(encode(begin)) == first, "a retry gets the same bytes"
    other = Begin(msgspec.structs.replace(begin.step, detector={"name": "ECOD", "parameters": {"bins": 8}}))
    error = decode_reply(victim.handle(encode(other))).error("x")  # type: ignore[union-attr]
    assert isinstance(error, ReleaseError)
    assert "already bound to another request" in str(error)
    assert "Fix: start a new run" in str(error)


def test_a_misspelt_detector_is_warned_of_and_another_packages_is_not(recwarn):
    with pytest.warns(BlindsightWarning, match="did you mean 'AutoEncoder'"):
        Policy(detectors=("AutoEncodr",))
    recwarn.clear()
    Policy(detectors=("ECOD", "ThirdPartyForest9"))
    assert not recwarn.list


def test_a_wrong_budget_is_named_by_its_key():
    with pytest.raises(ParameterError, match="Got: maximum_epsilon = -1"):
        Policy(maximum_epsilon=-1)


@pytest.mark.parametrize("said", [1.0, "1", True])
def test_privacy_is_asked_for_in_words_that_say_how(said: Any, number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=10), number_schema)
    model = ECOD(schema=number_schema).fit(make_table(60, 1))
    for ask in (
        lambda: federation.fit(ECOD(), privacy=said),
        lambda: federation.evaluate(model, privacy=said),
        lambda: federation.describe(privacy=said),
        lambda: federation.select_features(1, privacy=said),
    ):
        with pytest.raises(ParameterError, match=r"Say how private .* is to be.*DifferentialPrivacy\(epsilon="):
            ask()
    assert nothing_charged(federation)
    assert not federation.history


def test_what_was_refused_is_no_line_of_what_was_released(number_schema: Schema) -> None:
    federation = embedded(tables(3, rows=10), number_schema, Policy())
    for _ in range(2):
        with pytest.raises(PolicyError):
            federation.fit(ECOD(), privacy=None)
    shown = federation._repr_html_()
    assert "Refused or interrupted, nothing released: 2 x fit ECOD." in shown
    assert "exact sums" not in shown
    assert "epsilon spent" not in shown


def test_masks_and_noise_withstand_different_numbers_of_colluders(number_schema: Schema) -> None:
    federation = embedded(tables(4, rows=60), number_schema, Policy(maximum_epsilon=50))
    trust = federation.fit(ECOD(bins=8), privacy=dp(30.0)).certificate_["trust"]
    assert "up to 1 of 4 parties may collude" in trust
    assert "epsilon holds" not in trust, "as many as masking withstands"
    federation = embedded(tables(3, rows=60), number_schema, Policy(maximum_epsilon=50))
    trust = federation.fit(ECOD(bins=8), privacy=dp(30.0)).certificate_["trust"]
    assert "up to 2 of 3 parties may collude with the coordinator, and see only masked messages" in trust
    assert "epsilon holds against at most 1 of them" in trust
