"""What a run did, as plain values: who survived, what crossed, what it cost. The report is made from this."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["RunRecord", "StepRecord"]


@dataclass(kw_only=True)
class StepRecord:
    """One private sum.

    Parameters
    ----------
    step, purpose : str
    length : int
        Coordinates summed.
    participants, survivors : list of str
    dropped : dict of party name to reason
    sent_bytes, received_bytes : int
        At the coordinator, all parties together.
    seconds : float
        Wall time of the whole sum.
    event : dict
        The release as the parties' ledgers hold it.
    loss : float, optional
        For a sum of losses: their mean, as a share of the bound on one record's loss; as released.
    asked : list of str
        Parties that the coordinator asked: all of them, or a random part. Only these may have been charged.
    notices : dict of party name to text
        Why a party added nothing to a round of training. Told only where no privacy was asked for.
    sums : str
        What hid the parties' vectors: "masked", "he" or "paillier"; "clear" where masking was given up.
    """

    step: str
    purpose: str
    length: int
    participants: list[str]
    survivors: list[str]
    dropped: dict[str, str]
    sent_bytes: int
    received_bytes: int
    seconds: float
    event: dict[str, Any]
    asked: list[str] = field(default_factory=list)
    notices: dict[str, str] = field(default_factory=dict)
    sums: str = "masked"
    loss: float | None = None


@dataclass(kw_only=True)
class RunRecord:
    """A fit, an evaluation or a description, as it happened.

    ``sent`` says to whom the model was delivered, and what became of it there.
    """

    run: str
    kind: str
    federation: str
    detector: dict[str, Any] | None
    privacy: dict[str, Any] | None
    trust: str
    steps: list[StepRecord] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of all sums."""
        return sum(step.seconds for step in self.steps)

    @property
    def bytes_total(self) -> int:
        """Bytes that crossed the channel, both ways."""
        return sum(step.sent_bytes + step.received_bytes for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """Rebuild what :meth:`to_json` gave."""
        return cls(**{**value, "steps": [StepRecord(**step) for step in value["steps"]]})
