"""A fleet in one process: real parties and real sums over a simulated network, and what was measured of it."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from blindsight.channels import SimulatedChannel, SimulatedExchange

__all__ = ["FleetReport", "fleet_report"]

WHICH = {
    "simulated": "virtual seconds, latency, bandwidth, slowness, who drops out and who is late",
    "measured": "bytes, processor time, memory, totals and the model: every message is a real one",
}


@dataclass(frozen=True, kw_only=True)
class FleetReport:
    """What a simulated fleet did.

    Parameters
    ----------
    parties : int
    virtual_s : float
        Simulated: what the coordinator's clock would show.
    party_received_bytes, party_sent_bytes : (float, int)
        Measured, of one party: median and most.
    peak_bytes : int
        Measured: most memory that this process has held since it began, all parties and the coordinator together.
    handlers_cpu_s : float
        Measured: processor time of all parties' answers.
    exchanges : list of SimulatedExchange
    """

    parties: int
    virtual_s: float
    party_received_bytes: tuple[float, int]
    party_sent_bytes: tuple[float, int]
    peak_bytes: int
    handlers_cpu_s: float
    exchanges: list[SimulatedExchange]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with a word on which of them are simulated."""
        return {**asdict(self), "which": dict(WHICH)}


def fleet_report(channel: SimulatedChannel) -> FleetReport:
    """Sum up what crossed a simulated channel so far."""
    both = np.array(list(channel.party_bytes.values()), dtype=np.int64).reshape(-1, 2)
    down, up = ((float(np.median(column)), int(column.max())) for column in both.T)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return FleetReport(
        parties=len(channel.parties),
        virtual_s=channel.now_s,
        party_received_bytes=down,
        party_sent_bytes=up,
        peak_bytes=peak if sys.platform == "darwin" else peak * 1024,
        handlers_cpu_s=sum(exchange.cpu_s for exchange in channel.history),
        exchanges=list(channel.history),
    )
