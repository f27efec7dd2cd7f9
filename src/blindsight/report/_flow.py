"""Who sent what to whom in a run: the rows of a table, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blindsight.privacy import shown_epsilon

from ._record import RunFile
from ._words import assumptions, describe_bytes, is_unmasked, join_names, not_covered, roles

__all__ = ["Flow", "flow_values", "flows"]

MOST_DRAWN = 8
ROW = 44
TOP = 30


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One kind of message.

    Parameters
    ----------
    source, target, what, protection, size : str
    """

    source: str
    target: str
    what: str
    protection: str
    size: str


def flows(run: RunFile) -> list[Flow]:
    """Everything that crossed between organisations in this run, and what did not."""
    clear = is_unmasked(run)
    coordinates = sum(stage.coordinates for stage in run.stages)
    noise = (
        "without noise"
        if run.privacy is None
        else f"with noise, at epsilon {shown_epsilon(run.privacy.epsilon_asked)} asked"
    )
    sent = describe_bytes(sum(stage.sent_bytes for stage in run.stages))
    received = describe_bytes(sum(stage.received_bytes for stage in run.stages))
    result = [
        Flow(
            source="Coordinator",
            target="each party",
            what=f"{len(run.stages)} requests: detector, parameters, privacy, the list of parties, the model so far; "
            "other parties' fresh public keys and sealed shares",
            protection="TLS on both sides by certificate, where a network is between; no record is in it",
            size=f"{sent} to all",
        ),
        Flow(
            source="Each party",
            target="Coordinator",
            what=f"one vector a sum ({coordinates:,} numbers in all), {noise}",
            protection="in the clear: the coordinator reads it" if clear else "masked: only the total over all opens",
            size=f"{received} from all, with what follows",
        ),
        Flow(
            source="Each party",
            target="each other party, through the coordinator",
            what="fresh public keys, shares of two secrets of each sum, signed survivor sets; heads of ledgers",
            protection="shares are sealed for their receiver; the rest is signed and public to the federation",
            size="in the sizes above",
        ),
    ]
    for word in sorted(set(run.delivered.values())):
        result.append(
            Flow(
                source="Coordinator",
                target=join_names(tuple(sorted(name for name in run.delivered if run.delivered[name] == word))),
                what="the released model",
                protection=f"checked there against the run: {word}",
                size="one file",
            )
        )
    result.append(
        Flow(
            source="Nobody",
            target="anybody",
            what="records, labels, a party's own figures, exact values of one party",
            protection="not sent in any message of this run" if not clear else "records and labels were not sent",
            size="0",
        )
    )
    return result


def flow_values(run: RunFile) -> dict[str, Any]:
    """What the page on the data flow, and the draft of an assessment, are made from."""
    drawn = run.parties if len(run.parties) <= MOST_DRAWN else run.parties[: MOST_DRAWN - 1]
    boxes = [{"name": name, "y": TOP + i * ROW, "gets": name in run.delivered} for i, name in enumerate(drawn)]
    if len(drawn) < len(run.parties):
        boxes.append({"name": f"and {len(run.parties) - len(drawn)} more", "y": TOP + len(drawn) * ROW, "gets": False})
    height = TOP + len(boxes) * ROW + 10
    dropped = sorted({name for stage in run.stages for name in stage.dropped})
    return {
        "flows": flows(run),
        "boxes": boxes,
        "height": max(height, 180),
        "middle": max(height, 180) / 2,
        "roles": roles(run),
        "assumptions": assumptions(run),
        "not_covered": not_covered(run),
        "dropped": dropped,
        "exact": run.privacy is None,
        "clear": is_unmasked(run),
    }
