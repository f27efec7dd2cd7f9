"""What a party asks of a step before it looks at a record: who takes part, which schema, what the policy says."""

from __future__ import annotations

from collections.abc import Sequence

from blindsight.data import Schema
from blindsight.detectors import detector_from_json, detector_to_json
from blindsight.errors import AuthenticationError, PolicyError, SchemaError
from blindsight.privacy import DifferentialPrivacy
from blindsight.securesum import default_threshold

from ._policy import Policy
from ._rules import check_limits
from ._steps import detector_name, privacy_of, trains_in_the_clear
from ._wire import Step

__all__ = ["admitted", "check_federation", "check_participants", "check_policy", "columns_of"]


def check_participants(step: Step, pinned: Sequence[tuple[str, bytes]]) -> None:
    """Refuse a step over another list of parties than the one that this party has pinned.

    Raises
    ------
    AuthenticationError
    """
    expected = [(name, bytes(key)) for name, key in pinned]
    asked = [(name, bytes(key)) for name, key in step.participants]
    if asked != expected:
        differing = {name for name, _ in set(asked) ^ set(expected)}
        raise AuthenticationError(
            "The step's participants are not the ones pinned at this party",
            got=f"{', '.join(sorted(differing)) or 'another order'} differ",
            rule="a coordinator can neither enrol parties of its own nor leave some out",
            fix="agree on a new participant list among the data owners",
        )


def check_federation(step: Step, name: str | None) -> None:
    """Refuse a step of another federation than the one whose signed list this party follows; None: it follows none.

    Raises
    ------
    AuthenticationError
    """
    if name is not None and step.federation != name:
        raise AuthenticationError(
            "The step is of another federation than this party's",
            got=step.federation,
            rule=f"the signed participant list here is that of '{name}'",
            fix="in Python: Federation(..., name=site.listing.federation)",
        )


def columns_of(step: Step, schema: Schema) -> tuple[str, ...]:
    """Names of the columns that a step may read: features, and what says whose, where and when."""
    columns = list(schema.features)
    if step.privacy is not None and step.privacy.unit == "person" and schema.person is not None:
        columns.append(schema.person)
    if step.purpose == "evaluation" and schema.label is not None:
        columns.append(schema.label)
    if step.detector is not None:  # detectors of series read them; of the others nobody has to know which do
        columns += [column for column in schema.columns if column.role in ("entity", "time")]
    return tuple(column.name for column in columns)


def admitted(step: Step, schema: Schema, policy: Policy) -> DifferentialPrivacy | None:
    """Check a step against schema and policy; return the privacy asked for.

    Raises
    ------
    SchemaError, PolicyError, ParameterError
    """
    if step.schema_digest != schema.digest():
        raise SchemaError(
            "The step was planned for another schema",
            got=step.schema_digest[:12],
            rule=f"this party's schema is {schema.digest()[:12]}",
            fix="give every party and the coordinator the same schema.toml",
        )
    if (step.dataset == "evaluation") != (step.purpose == "evaluation"):
        raise PolicyError(
            "The step asks for the wrong records",
            got=f"{step.dataset} for {step.purpose}",
            rule="evaluation records for an evaluation, training records for everything else",
        )
    if step.model is not None and step.purpose == "describe":
        raise PolicyError(
            "The step carries a model where none belongs", got=step.purpose, rule="a description is of no model"
        )
    least = default_threshold(len(step.participants))
    if step.threshold < least:
        raise PolicyError(
            "The threshold is too low",
            got=f"{step.threshold} of {len(step.participants)}",
            rule=f"at least {least}: what still holds when parties collude with the coordinator",
        )
    if step.threshold > len(step.participants):
        raise PolicyError(
            "The threshold is above the number of parties",
            got=f"{step.threshold} of {len(step.participants)}",
            rule="so many can never survive",
        )
    privacy = privacy_of(step.privacy) if step.privacy is not None else None
    # before anything is charged: what a later step of this run would be refused for
    check_policy(policy, schema, step, privacy, masked=not trains_in_the_clear(step))
    limits = policy.limits.get(detector_name(step) or "")
    if limits:  # of the description as it is rebuilt: what a request leaves out has its default
        check_limits(limits, detector_to_json(detector_from_json(step.detector, allowed=frozenset(policy.detectors))))
    if privacy is not None and schema.ranges != "declared":
        raise SchemaError(
            "Differential privacy needs declared ranges",
            got="ranges learned from records",
            rule="a range read from records is a release that nothing accounts for",
            fix="check that the ranges are public and call schema.declare()",
        )
    if privacy is not None and privacy.unit == "person" and schema.person is None:
        raise SchemaError(
            "Person-level privacy needs a person column",
            rule="a column of role 'person' says whose record it is",
            fix="declare one in the schema, or ask for unit='record'",
        )
    return privacy


def check_policy(
    policy: Policy, schema: Schema, step: Step, privacy: DifferentialPrivacy | None, *, masked: bool
) -> None:
    """Refuse what the policy as it is now does not allow.

    Parameters
    ----------
    masked : bool
        Whether the coordinator learns the sum alone; what the step's description says of it, or the rebuilt query.

    Raises
    ------
    PolicyError
    """
    policy.check_columns(columns_of(step, schema))
    policy.check_epsilon(privacy.epsilon if privacy is not None else None)
    policy.check(
        purpose=step.purpose,
        detector=detector_name(step),
        unit=privacy.unit if privacy is not None else None,
        exact=privacy is None,
        fewest_survivors=max(step.threshold, 3),
        masked=masked,
        shared_key=step.sums != "masked",
        colluders=privacy.colluders if privacy is not None and privacy.trust == "federation" else None,
    )
