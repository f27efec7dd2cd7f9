"""Every rule that a data owner may write beyond the first ones; each refuses before work, in both logs."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from blindsight.data import Column, Schema
from blindsight.detectors import ECOD, IForest
from blindsight.errors import ParameterError, PolicyError, SchemaError
from blindsight.federation import Asker, Federation, Hours, Limit, Policy
from blindsight.federation._wire import Begin, Refusal, Reply, decode_reply, encode
from blindsight.federation.kits import read_plan

from ._drive import EXACT, dp, embedded, faulty, nothing_charged, tables
from .test_policy import begin_of, refuse

pytestmark = pytest.mark.filterwarnings("ignore:The federation has about")

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)  # a Monday
KEYS = {"alice": "a" * 64, "bob": "b" * 64}


@pytest.mark.parametrize(
    ("policy", "fit", "match"),
    [
        (
            Policy(columns=("age", "amount")),
            {},
            "column that this sum would read.*Got: balance.*Rule: columns = age, amount.*Fix: agree on a schema",
        ),
        (
            Policy(maximum_epsilon_per_run=0.5),
            {},
            "more epsilon than the policy allows at once.*Got: epsilon = 1.*maximum_epsilon_per_run = 0.5.*epsilon=0.5",
        ),
        (Policy(minimum_noise=50.0), {}, "too little noise.*Got: .* times its sensitivity.*Rule: minimum_noise = 50"),
        (
            Policy(limits={"ECOD": {"bins": Limit(most=8)}}),
            {},
            "does not allow this 'bins' of the detector 'ECOD'.*Got: 64.*Rule: bins: at most 8",
        ),
        (
            Policy(limits={"IForest": {"trees": Limit(least=10, most=20)}}),
            {"detector": IForest(trees=5)},
            "this 'trees'.*Got: 5.*Rule: trees: at least 10 and at most 20",
        ),
        (Policy(askers=("coordinator",)), {}, "does not allow this asker.*Rule: askers = coordinator"),
        (
            Policy(hours=Hours(start="08:00", end="08:01", days=("sun",))),
            {},
            "no new sum at this time.*Rule: hours: 08:00 to 08:01 on sun, UTC.*Fix: ask within these hours",
        ),
    ],
)
def test_every_new_rule(
    policy: Policy, fit: dict, match: str, number_schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    federation = embedded(tables(3), number_schema, policy)
    for party in federation.parties.values():
        party._own.now = lambda: NOON
    with caplog.at_level(logging.WARNING):
        text = refuse(federation, PolicyError, match, **{"privacy": dp(), **fit})
    told = [(record.name, record.getMessage()) for record in caplog.records]
    assert any(name.endswith("_party") and message.startswith("bank-00 refuses: ") for name, message in told)
    assert ("blindsight.federation._coordinator", text) in told
    assert not any(party._releases.has_read for party in federation.parties.values()), "before any record was read"


@pytest.mark.parametrize(
    "policy",
    [
        Policy(columns=("age", "amount", "balance", "more")),
        Policy(maximum_epsilon_per_run=1.0),
        Policy(minimum_noise=1.0),
        Policy(limits={"ECOD": {"bins": Limit(most=8), "contamination": Limit(least=0.001, most=0.5)}}),
        Policy(hours=Hours(start="08:00", end="18:00", days=("mon",))),
    ],
)
def test_what_is_within_the_rules_goes_on(policy: Policy, number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, policy)
    for party in federation.parties.values():
        party._own.now = lambda: NOON
    federation.fit(ECOD(bins=8), privacy=dp())


def test_one_column_too_many(number_schema: Schema) -> None:
    """A coordinator that plans for a wider schema is refused for it, and a wider schema by the policy."""
    wider = Schema((*number_schema.columns, Column(name="salary", low=0.0, high=1.0)))
    federation = embedded(tables(3), number_schema, Policy(columns=number_schema.feature_names))
    federation.schema = wider
    refuse(federation, SchemaError, "planned for another schema", privacy=dp())
    federation = embedded(tables(3), wider, Policy(columns=number_schema.feature_names))
    text = refuse(federation, PolicyError, "Got: salary", privacy=dp())
    assert "before" not in text


def test_columns_are_asked_for_by_what_reads_them(mixed_schema: Schema) -> None:
    person = mixed_schema.person
    assert person is not None
    policy = Policy(columns=mixed_schema.feature_names)
    federation = embedded(tables(3, rows=60), mixed_schema, policy)
    with pytest.raises(PolicyError, match=f"Got: {person.name}"):
        federation.fit(ECOD(bins=8), privacy=dp(unit="person"))
    federation.describe(privacy=dp())


def test_what_a_request_leaves_out_has_its_default(number_schema: Schema) -> None:
    """Otherwise a coordinator evades a limit by not naming the parameter."""
    federation = embedded(tables(3), number_schema, replace(EXACT, limits={"ECOD": {"bins": Limit(most=8)}}))
    begin = begin_of(embedded(tables(3), number_schema))
    victim = federation.parties["bank-00"]
    step = msgspec.structs.replace(
        begin.step,
        participants=[(name, party.public_key) for name, party in federation.parties.items()],
        detector={"name": "ECOD", "parameters": {}},
    )
    answer = decode_reply(victim.handle(encode(Begin(step))))
    assert isinstance(answer, Refusal)
    assert "this 'bins'" in answer.what
    assert nothing_charged(federation)


def test_limits_of_parts_lists_and_other_packages() -> None:
    limit = Limit(most=50)
    assert limit.allows(50)
    assert not limit.allows(51)
    assert not limit.allows(True), "True is no 1"
    assert not limit.allows("7")
    assert not limit.allows(None)
    assert Limit(most=50, none=True).allows(None)
    assert limit.allows([1, 50])
    assert not limit.allows((1, 51))
    assert not limit.allows(float("nan"))
    assert Limit(of=["rbf", 3]).allows("rbf")
    assert not Limit(of=["rbf", 1]).allows(True)
    assert Policy(limits={"AutoEncoder": {"training.rounds": limit}, "ThirdParty": {"anything": limit}})
    with pytest.raises(ParameterError, match=r"unknown parameter of AutoEncoder.*did you mean 'training.rounds'"):
        Policy(limits={"AutoEncoder": {"training.round": limit}})


def test_who_asks_is_what_the_channel_proved(number_schema: Schema) -> None:
    federation = embedded(tables(3), number_schema, replace(EXACT, askers=("sha256:" + "c" * 64, "hub")))
    request = encode(begin_of(embedded(tables(3), number_schema)))
    step = msgspec.msgpack.decode(request, type=Begin).step
    own = [(name, party.public_key) for name, party in federation.parties.items()]
    request = encode(Begin(msgspec.structs.replace(step, participants=own)))
    victim = federation.parties["bank-00"]
    for wrong in (None, Asker(name="Hub"), Asker(name="x", certificate="d" * 64)):
        assert "does not allow this asker" in decode_reply(victim.handle(request, wrong)).what  # type: ignore[union-attr]
    assert isinstance(decode_reply(victim.handler(Asker(name="x", certificate="c" * 64))(request)), Reply)
    assert isinstance(decode_reply(victim.handle(request, Asker(name="hub"))), Reply)
    assert "does not allow this asker" in decode_reply(victim.handle(request)).what, "of what was begun, too"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("hours", "when", "inside"),
    [
        (Hours(start="08:00", end="18:00"), "2026-05-04T08:00", True),
        (Hours(start="08:00", end="18:00"), "2026-05-04T18:00", False),
        (Hours(start="08:00", end="18:00"), "2026-05-04T07:59", False),
        (Hours(), "2026-05-04T00:00", True),
        (Hours(days=("mon",)), "2026-05-04T23:59", True),
        (Hours(days=("mon",)), "2026-05-05T00:00", False),
        (Hours(start="22:00", end="06:00", days=("mon",)), "2026-05-05T05:59", True),  # Monday's night
        (Hours(start="22:00", end="06:00", days=("mon",)), "2026-05-04T05:59", False),  # Sunday's
        (Hours(start="22:00", end="06:00", days=("mon",)), "2026-05-04T12:00", False),
        (Hours(start="08:00", end="09:00", zone="Europe/Vienna"), "2026-05-04T06:30", True),  # summer time
        (Hours(start="08:00", end="09:00", zone="Europe/Vienna"), "2026-01-05T06:30", False),
        (Hours(start="08:00", end="09:00", zone="Europe/Vienna"), "2026-01-05T07:30", True),
    ],
)
def test_hours(hours: Hours, when: str, inside: bool) -> None:
    now = datetime.fromisoformat(when).replace(tzinfo=UTC)
    if inside:
        hours.check(now)
    else:
        with pytest.raises(PolicyError, match="no new sum at this time"):
            hours.check(now)


def test_what_was_begun_within_hours_goes_on(number_schema: Schema) -> None:
    policy = replace(EXACT, hours=Hours(start="12:00", end="13:00"))
    federation = embedded(tables(3), number_schema, policy)
    clock = [NOON]
    for party in federation.parties.values():
        party._own.now = lambda: clock[0]
    channel = faulty(federation)
    original = channel.exchange

    def exchange(requests: dict[str, bytes], timeout_s: float) -> dict[str, bytes]:
        answers = original(requests, timeout_s)
        clock[0] = NOON.replace(hour=14)  # the hours end when the first sum has begun
        return answers

    channel.exchange = exchange  # type: ignore[method-assign, assignment]
    with pytest.raises(PolicyError, match="no new sum at this time"):
        federation.fit(ECOD(bins=8), privacy=None)
    assert [step.step for step in federation.history[-1].steps] == ["fit"], "the second sum is a new one"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[hours]\nzone = 'Mars/Olympus'", "unknown time zone"),
        ("[hours]\nzone = '../../etc/passwd'", "unknown time zone"),
        ("[hours]\nfrom = '25:00'", "hours.from"),
        ("[hours]\nuntil = '25:00'", "unknown field `until`"),
        ("[hours]\ndays = ['monday']", "hours.days"),
        ("[limits.ECOD]\nbinss = { most = 1 }", "did you mean 'bins'"),
        ("[limits.ECOD]\nbins = {}", "limits nothing"),
        ("[limits.ECOD]\nbins = { most = inf }", "not finite"),
        ("[limits.ECOD]\nbins = { maximum = 1 }", "unknown field `maximum`"),
        ("[approval]\ndefault = 'never'", "Invalid enum value 'never'"),
        ("[approval]\ndefault = 'four-eyes'", "fewer than two approvers"),
        ("[approvers]\nalice = 'short'", "approver of the policy cannot be used"),
        ("[approvers]\n'a/b' = '" + "0" * 64 + "'", "approver of the policy cannot be used"),
        ("[approvers]\na = '" + "0" * 64 + "'\nb = '" + "0" * 64 + "'", "one key"),
        ("askers = ['two words']", "asker that nobody can be"),
        ("columns = []", "allows no column"),
        ("maximum_epsilon_per_run = -1", "maximum_epsilon_per_run"),
        ("minimum_noise = -1.0", "minimum_noise"),
        ("minimum_noise = nan", "minimum_noise"),
        ("approval_hours = 0", "approval_hours"),
        ("colums = ['age']", "unknown key 'colums'"),
        ("columns = 'age'", "columns"),
        ("allow_exact_sums = ", "cannot be used"),
        ("x = [" * 20_000, "cannot be used"),
        ("#" * 70_000, "64 KiB"),
    ],
)
def test_policy_files_that_cannot_be_used(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ParameterError, match=match):
        Policy.read(tmp_path / "policy.toml")


def test_a_policy_reads_back_as_it_was_written(tmp_path: Path) -> None:
    whole = Policy(
        columns=("a", 'quo"ted'),
        maximum_epsilon_per_run=0.5,
        minimum_noise=2.0,
        askers=("hub", "sha256:" + "0" * 64),
        hours=Hours(start="22:00", end="06:00", days=("mon", "fri"), zone="Europe/Vienna"),
        limits={
            "ECOD": {"bins": Limit(least=2.0, most=64.0)},
            "AutoEncoder": {"training.rounds": Limit(of=[1, 2.5, "x"])},
        },
        approval={"default": "four-eyes", "describe": "automatic"},
        approvers={"al.ice": "a" * 64, "bob": "b" * 64},
        approval_hours=1.5,
    )
    for policy in (whole, Policy()):
        (tmp_path / "policy.toml").write_text(policy.to_toml())
        read = Policy.read(tmp_path / "policy.toml")
        assert read == policy
        assert read.to_toml() == policy.to_toml()
    (tmp_path / "policy.toml").write_text("")
    assert Policy.read(tmp_path / "policy.toml").to_toml() == Policy().to_toml()


def test_a_party_enforces_another_policy_from_the_next_message_on(number_schema: Schema) -> None:
    federation: Federation = embedded(tables(3), number_schema, Policy())
    federation.fit(ECOD(bins=8), privacy=dp())
    federation.parties["bank-01"].use_policy(Policy(detectors=("IForest",)))
    with pytest.raises(PolicyError, match=r"bank-01: .*does not allow the detector 'ECOD'"):
        federation.fit(ECOD(bins=8), privacy=dp())


def test_the_reference_names_every_field_and_its_examples_can_be_used(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "federation.md").read_text()
    reference = text.split("## Policy\n")[1].split("\n## ")[0]
    for field in fields(Policy):
        assert f"`{field.name}`" in reference or f"`[{field.name}" in reference, field.name
        assert f"{field.name}" in Policy().to_toml(), field.name
    (tmp_path / "policy.toml").write_text(reference.split("```toml\n")[1].split("```")[0])
    assert Policy.read(tmp_path / "policy.toml").approval_of("ECOD") == "automatic"
    plan = text.split("## The federation file\n")[1].split("```toml\n")[1].split("```")[0]
    (tmp_path / "federation.toml").write_text(plan)
    assert len(read_plan(tmp_path / "federation.toml", look_for_schema=False).parties) == 3
