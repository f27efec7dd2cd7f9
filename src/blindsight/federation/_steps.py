"""From a step's description to what is computed: the same on both sides, so that neither has to believe the other."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

import msgspec

from blindsight import modelfile
from blindsight.data import Schema
from blindsight.detectors import Detector, Query, SumQuery, UpdateQuery, detector_from_json, detector_to_json
from blindsight.errors import ParameterError, PolicyError, SchemaError, WireError
from blindsight.privacy import DifferentialPrivacy, Event, NoiseSource, exact_event, noise_max_abs
from blindsight.securesum import Participant, SumSpec, smallest_width

from ._evaluation import evaluation_query
from ._selection import selection_query
from ._statistics import describe_query
from ._wire import Step, Terms

__all__ = [
    "as_asked",
    "check_ahead",
    "check_query",
    "check_suits",
    "detector_name",
    "event_of",
    "is_masked",
    "privacy_of",
    "query_of",
    "run_event_of",
    "spec_of",
    "step_digest",
    "terms_of",
    "trains_in_the_clear",
    "trust_of",
]

D = TypeVar("D", bound=Detector)

BITS: Literal[64] = 64
"""Width of every sum here: the coordinator does not know how many rows a party has, so it cannot promise 32."""


def query_of(step: Step, schema: Schema, *, allowed: frozenset[str]) -> Query:
    """Rebuild the query that a step names.

    Raises
    ------
    WireError
        The step does not describe a query.
    FormatError, ParameterError
        Its detector or model is malformed or not allowed.
    """
    if step.model is not None and step.detector is None:
        raise WireError("The step's model is of another detector than it names", got="it names none")
    match step.purpose, step.part:
        case (("fit" | "threshold"), part) if step.detector is not None:
            detector = _detector_of(step, schema, allowed)
            query = detector.next_query()
            if query is None or query.name != part or (part == "threshold") != (step.purpose == "threshold"):
                raise WireError(
                    "The step asks for another sum than its detector does",
                    got=f"{step.purpose}, {part}",
                    rule=f"the next one is {query.name if query is not None else 'none: it is fitted'}",
                )
            return query
        case "evaluation", "evaluation" if step.detector is not None:
            return evaluation_query(_detector_of(step, schema, allowed), private=step.privacy is not None)
        case "describe", "describe/histogram" | "describe/moments":
            return describe_query(schema, step.part.removeprefix("describe/"))
        case "describe", "select/prepare" | "select/moments":
            return selection_query(schema, step.part)
        case _:
            raise WireError("A step describes no query", got=f"{step.purpose}, {step.part}")


def _detector_of(step: Step, schema: Schema, allowed: frozenset[str]) -> Detector:
    """The detector in the state that the step carries, or as it begins; one that can keep the privacy asked for."""
    described = detector_from_json(step.detector, allowed=allowed)
    if step.privacy is not None:
        described.check_privacy(step.privacy.unit)
    if step.model is None:
        if step.purpose != "fit":
            raise WireError("The step carries no model", got=step.purpose)
        described.begin(schema)
        return described
    model = modelfile.loads(step.model, allowed=allowed)
    # the policy has judged the description
    if detector_to_json(model.set_params(contamination=described.contamination)) != detector_to_json(described):
        raise WireError(
            "The step's model is of another detector than it names",
            got=f"{type(model).name}, named {detector_name(step)}",
        )
    if model.schema_.digest() != schema.digest():
        raise SchemaError("The model was fitted under another schema", fix="evaluate with the schema of the fit")
    teacher = getattr(model, "teacher_", None)
    if teacher is not None and teacher.name not in allowed:  # a student's teacher is run on the records as well
        raise PolicyError(
            f"The policy does not allow the detector '{teacher.name}', here as a teacher",
            rule="detectors = " + ", ".join(sorted(allowed)),
        )
    return model


def detector_name(step: Step) -> str | None:
    """Name of the detector that a step is about, for the policy; None for ``describe``."""
    if step.detector is None:
        return None
    name = step.detector.get("name")
    return name if isinstance(name, str) else ""


def trains_in_the_clear(step: Step) -> bool:
    """Whether the step belongs to a fit whose rounds show the coordinator single updates, by its description alone."""
    if step.purpose != "fit" or step.detector is None:
        return False
    parameters = step.detector.get("parameters")
    training = parameters.get("training") if isinstance(parameters, dict) else None
    return isinstance(training, dict) and training.get("aggregation", "mean") != "mean"


def check_ahead(detector: Detector, privacy: DifferentialPrivacy | None) -> None:
    """Refuse what the first query of a detector that has begun, or a later one, would be refused for.

    Raises
    ------
    ParameterError
    """
    first = detector.next_query()
    for query in ([] if first is None else [first]) + detector._later_queries():
        check_query(query, privacy)


def check_suits(detector: Detector, schema: Schema, privacy: DifferentialPrivacy | None) -> None:
    """Refuse a detector that cannot be fitted under this schema and privacy; nothing is asked of any party.

    Parameters
    ----------
    detector : Detector
        Not changed.
    schema : Schema
    privacy : DifferentialPrivacy or None

    Raises
    ------
    ParameterError, SchemaError, MissingExtraError
        With what does not suit, and what to do about it.
    """
    model = as_asked(detector, schema, privacy)
    model.begin(schema)
    check_ahead(model, privacy)


def as_asked(detector: D, schema: Schema, privacy: DifferentialPrivacy | None) -> D:
    """The detector as a federation fits it under this schema and privacy: a copy whose parameters are settled.

    Raises
    ------
    ParameterError, SchemaError, MissingExtraError
    """
    model = detector.unfitted_copy()
    model.schema = schema
    model._validate()
    if privacy is not None:
        model._under_privacy()
        model.check_privacy(privacy.unit)
    return model


def spec_of(step: Step, query: Query) -> SumSpec:
    """The private sum's specification; bound to everything that the step says by the hash in its step name.

    64 bits a coordinate, whatever the bounds; fewer where the query asks for it.
    """
    bits: Literal[16, 32, 64] = BITS
    if isinstance(query, UpdateQuery) and query.narrow and step.sums == "masked":
        variance = event_of(step, query).local_variance
        bound = query.max_abs + (noise_max_abs(variance) if variance > 0 else 0)
        bits = smallest_width(len(step.participants), bound, least=16)
    return _spec(step, f"{step.step}#{step_digest(step)[:32]}", length=query.length, bits=bits)


def _spec(step: Step, name: str, *, length: int, bits: Literal[16, 32, 64] = BITS) -> SumSpec:
    n = len(step.participants)
    return SumSpec(
        federation=step.federation,
        run=step.run,
        step=name,
        participants=tuple(Participant(name=name, public_key=key) for name, key in step.participants),
        length=length,
        bits=bits,
        threshold=step.threshold,
        max_abs=((1 << (bits - 1)) - 1) // max(n, 1),
        method=step.sums,
    )


def step_digest(step: Step) -> str:
    """SHA-256 of the step's canonical bytes, hexadecimal."""
    return hashlib.sha256(msgspec.msgpack.encode(step)).hexdigest()


def privacy_of(terms: Terms) -> DifferentialPrivacy:
    """Rebuild and validate what was asked for."""
    return DifferentialPrivacy(
        epsilon=terms.epsilon,
        delta=terms.delta,
        unit=terms.unit,
        max_records_per_person=terms.max_records_per_person,
        shares=terms.shares,
        colluders=terms.colluders,
        max_records_per_party=terms.max_records_per_party,
        trust=terms.trust,
    )


def terms_of(privacy: DifferentialPrivacy | None) -> Terms | None:
    """Describe what is asked for on the wire."""
    if privacy is None:
        return None
    return Terms(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        unit=privacy.unit,
        max_records_per_person=privacy.max_records_per_person,
        shares=dict(privacy.shares),
        colluders=privacy.colluders,
        max_records_per_party=privacy.max_records_per_party,
        trust=privacy.trust,
    )


def trust_of(step: Step) -> str:
    """Who must be trusted for a private sum among these participants, and for its noise, in one sentence.

    Masking withstands as many colluders as the threshold allows; noise that protects in the sum alone, as many as the
    privacy asked for, which may be fewer. A key that all parties share withstands none.
    """
    spec = _spec(step, step.step, length=1)
    who, _, dropouts = spec.trust.partition("; ")
    privacy = step.privacy
    if privacy is not None and privacy.trust == "federation" and privacy.colluders < spec.tolerated_colluders:
        against = f"at most {privacy.colluders} of them" if privacy.colluders else "none of them"
        who += f", and see only masked messages of the others; epsilon holds against {against}"
    if spec.shares_key and privacy is not None and privacy.trust == "federation":
        who += " and so leaves each with its own part of the noise alone, for which epsilon does not hold"
    return f"{who}; {dropouts}"


def is_masked(query: Query) -> bool:
    """Whether the coordinator learns the sum alone: always, but for updates that gave it up."""
    return isinstance(query, SumQuery) or query.masked


def check_query(query: Query, privacy: DifferentialPrivacy | None) -> None:
    """Refuse combinations that could not keep what they promise; at the coordinator and at every party.

    Raises
    ------
    ParameterError
    """
    if privacy is not None and isinstance(query, UpdateQuery) and query.exact_only:
        raise ParameterError(
            "This detector cannot be fitted with differential privacy",
            got=f"an update '{query.name}' that no noise makes private",
            rule="it is a function of single records, told in the clear",
            fix="ask for privacy=None where every policy allows it, or use a detector of sums, such as IForest",
        )
    if is_masked(query):
        if privacy is None and isinstance(query, UpdateQuery) and query.parties < 1:
            raise ParameterError(
                "Client sampling needs differential privacy",
                got=f"parties={query.parties:g}, privacy=None",
                rule="exact totals over different sets of parties can be solved for single parties",
                fix="use parties=1, or ask for differential privacy",
            )
    elif privacy is not None and privacy.unit == "party" and privacy.trust != "local":
        raise ParameterError(
            "Without masking, noise that protects in the sum alone does not protect",
            got="unit='party', trust='federation', an update in the clear",
            rule="each party's own noise must be enough",
            fix="ask for trust='local', or use aggregation='mean'",
        )


def event_of(step: Step, query: Query, source: NoiseSource | None = None) -> Event:
    """What the step costs: charged by every party before it trains or draws noise.

    ``describe`` and ``select_features`` ask two sums each, for all of the "describe" share together; that share is
    everything unless the caller said otherwise.
    A round of training is DP-SGD under the units "record" and "person", and one bounded vector under "party".
    """
    return _event_of(step, query, source, whole_run=False)


def run_event_of(step: Step, query: Query) -> Event:
    """What all rounds of the step's run cost, where they are DP-SGD; else what the step costs."""
    return _event_of(step, query, None, whole_run=True)


def _event_of(step: Step, query: Query, source: NoiseSource | None, *, whole_run: bool) -> Event:
    threshold = max(step.threshold, 3)  # as SumSpec.min_survivors
    if step.privacy is None:
        return exact_event(
            query=query.name,
            purpose=step.purpose,
            sensitivity_l2=query.sensitivity_l2,
            coordinates=query.length,
            threshold=threshold,
        )
    privacy = privacy_of(step.privacy)
    if isinstance(query, UpdateQuery) and privacy.unit != "party":
        return privacy.sampled_event(
            query=query.name,
            purpose=step.purpose,
            sampling_rate=query.sampling_rate,
            steps=query.total_steps if whole_run else query.steps,
            total_steps=query.total_steps,
            coordinates=query.length,
            threshold=threshold,
            fraction=query.fraction,
        )
    part = query.steps / query.total_steps if isinstance(query, UpdateQuery) else 1.0
    return privacy.event(
        query=query.name,
        purpose=step.purpose,
        sensitivity_l2=query.sensitivity_l2,
        coordinates=query.length,
        threshold=threshold,
        fraction=query.fraction * part,
        whole=isinstance(query, UpdateQuery),
        source=source,
    )
