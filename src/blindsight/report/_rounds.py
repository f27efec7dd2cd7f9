"""Many sums, few lines: rounds of training put together, so that a page and a figure hold them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from ._record import Stage

__all__ = ["grouped", "losses_of"]

SOME_PARTIES = 8


def grouped(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Put the rounds of one run together, and likewise their sums of losses; every other sum stays as it is.

    Bytes and seconds are added up; survivors are those of every round; who dropped out says in how many.

    Parameters
    ----------
    stages : sequence of Stage
        In the order in which they ran.

    Returns
    -------
    tuple of Stage
        At the place of the first round.
    """
    groups: dict[tuple[str, int, str], list[Stage]] = {}
    run = 0
    for place, stage in enumerate(stages):
        run += place > 0 and stage.kind != stages[place - 1].kind
        kind, slash, number = stage.step.partition("/")
        in_rounds = bool(slash) and number.isdigit()
        groups.setdefault((stage.kind, run, kind if in_rounds else f"{stage.step}\0{place}"), []).append(stage)
    return tuple(_together(group) for group in groups.values())


def _together(group: list[Stage]) -> Stage:
    if len(group) == 1:
        return group[0]
    first, last = group[0], group[-1]
    kind, _, low = first.step.partition("/")
    dropped: dict[str, str] = {}
    for name in sorted({name for stage in group for name in stage.dropped}):
        whys = [stage.dropped[name] for stage in group if name in stage.dropped]
        dropped[name] = f"{len(whys)} of {len(group)} rounds; first: {whys[0]}"[:4000]
    survivors = [name for name in first.survivors if all(name in stage.survivors for stage in group)]
    return msgspec.structs.replace(
        first,
        step=f"{kind}/{low} to {last.step.partition('/')[2]} ({len(group)} sums)"[:256],
        survivors=tuple(survivors),
        dropped=dropped,
        sent_bytes=sum(stage.sent_bytes for stage in group),
        received_bytes=sum(stage.received_bytes for stage in group),
        seconds=sum(stage.seconds for stage in group),
        exact=all(stage.exact for stage in group),
        loss=last.loss,
    )


def losses_of(stages: Sequence[Stage]) -> tuple[tuple[int, float], ...]:
    """Round and released mean loss of each; empty where none was asked for."""
    named = [(stage.step.partition("/")[2], stage.loss) for stage in stages if stage.loss is not None]
    return tuple((int(number), loss) for number, loss in itertools.islice(named, 10_000) if number.isdigit())
