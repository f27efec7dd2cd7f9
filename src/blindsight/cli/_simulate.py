"""A fit at many virtual parties, and whether it equals the fit on the survivors' records together."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import BlindsightWarning

if TYPE_CHECKING:
    from blindsight.data import Schema
    from blindsight.detectors import Detector
    from blindsight.federation import FleetReport
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["SimulatedFit", "simulated_fit"]


@dataclass(frozen=True, kw_only=True)
class SimulatedFit:
    """What a simulated fit came to.

    Parameters
    ----------
    rows : int
    survivors : list of int
        Parties in each total.
    same : bool or None
        Whether the model is, bit for bit, the one fitted on the survivors' records; None where that cannot be asked.
    comparison : str
        The same in words.
    cpu_s : float
        Processor time of everything but reading the table and that comparison.
    fleet : FleetReport
    """

    rows: int
    survivors: list[int]
    same: bool | None
    comparison: str
    cpu_s: float
    fleet: FleetReport


def simulated_fit(
    detector: Detector,
    data: Path,
    *,
    schema: Schema,
    parties: int,
    split: str,
    network: Mapping[str, Any],
    timeout_s: float,
    privacy: DifferentialPrivacy | None,
    seed: int,
    progress: Callable[[str, str], None],
) -> SimulatedFit:
    """Cut a table, fit at its parts, and compare.

    Exact sums must all be over the same parties, so that under ``privacy=None`` parties drop out of the first sum
    alone, and are back for the others if they were in it.
    """
    from blindsight.channels import SimulatedNetwork
    from blindsight.data import Split, partition
    from blindsight.federation import Federation, Policy, check_suits

    check_suits(detector, schema, privacy)
    tables = partition(data, schema, parties, Split.parse(split), seed=seed)
    epsilon = 1.0 if privacy is None else privacy.epsilon
    policy = Policy(
        allow_exact_sums=privacy is None,
        detectors=(detector.name,),
        units=("record", "person", "party"),
        maximum_epsilon=max(10.0, 2.0 * epsilon),
        delta=Policy().delta if privacy is None else privacy.delta,
    )
    began = time.process_time()
    with (
        warnings.catch_warnings(),
        Federation.simulated(
            tables,
            schema=schema,
            network=SimulatedNetwork(**network, dropouts_in="first" if privacy is None else "every"),
            seed=seed,
            policy=policy,
            timeout_s=timeout_s,
            progress=progress,
        ) as federation,
    ):
        warnings.simplefilter("ignore", BlindsightWarning)  # a hundred parties would each say it of the same table
        model = federation.fit(detector, privacy=privacy)
        fleet, history = federation.fleet(), federation.history[-1]
    cpu_s = time.process_time() - began
    survivors = history.steps[0].survivors
    same = None
    if privacy is not None:
        comparison = "Not compared with a centralised fit: there is noise in the sums."
    elif hasattr(detector, "training"):
        comparison = "Not compared with a centralised fit: this detector is trained by rounds."
    else:
        same = _same(model, detector, schema, [tables[name] for name in survivors])
        comparison = (
            f"The model is {'' if same else 'NOT '}the one fitted on the {len(survivors):,} survivors' records "
            "together, bit for bit."
        )
    return SimulatedFit(
        rows=sum(table.height for table in tables.values()),
        survivors=[len(step.survivors) for step in history.steps],
        same=same,
        comparison=comparison,
        cpu_s=cpu_s,
        fleet=fleet,
    )


def _same(model: Detector, detector: Detector, schema: Schema, tables: list[Any]) -> bool:
    import polars as pl

    alone = detector.unfitted_copy()
    alone.schema = schema
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlindsightWarning)
        alone.fit(pl.concat(tables))
    return bool(model.circuit_ == alone.circuit_ and model.threshold_ == alone.threshold_)
