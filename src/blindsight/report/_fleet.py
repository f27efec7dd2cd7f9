"""A simulated fleet as a picture: how many parties answered each phase, and what each phase sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blindsight.keys import write_atomic

from ._figures import BLUE, FAINT, ORANGE, SKY, STYLE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from blindsight.federation import FleetReport

__all__ = ["PICTURES", "fleet_figure", "write_fleet_figure"]

PICTURES = (".png", ".svg", ".pdf")
"""Kinds of pictures."""

MOST = 20
"""Exchanges that one picture shows: the last ones, of a longer run."""


def fleet_figure(fleet: FleetReport) -> Figure:
    """Parties by phase above, megabytes by phase below; the title says what is simulated and what is measured."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = fleet.exchanges[-MOST:]
    places = np.arange(len(shown))
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its names are matplotlib's
        figure = Figure(figsize=(max(6.4, 0.62 * len(shown) + 2.2), 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        bottom = np.zeros(len(shown))
        for label, field, colour in (
            ("answered", "answered", BLUE),
            ("absent", "absent", FAINT),
            ("answer lost", "lost", ORANGE),
            ("too late", "late", VERMILLION),
        ):
            counts = np.array([getattr(exchange, field) for exchange in shown], dtype=float)
            if field == "answered" or counts.any():
                above.bar(places, counts, 0.72, bottom=bottom, color=colour, label=label)
            bottom += counts
        above.axhline(fleet.parties, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        above.set_ylabel("parties asked")
        above.set_ylim(0, fleet.parties * 1.05)
        for offset, label, field, colour in (
            (-0.19, "to the parties", "sent_bytes", BLUE),
            (0.19, "from the parties", "received_bytes", SKY),
        ):
            megabytes = [getattr(exchange, field) / 1e6 for exchange in shown]
            below.bar(places + offset, megabytes, 0.36, color=colour, label=label)
        below.set_ylabel("MB, all parties")
        below.set_xticks(places, [f"{e.conversation}\n{e.part}" for e in shown], fontsize=8, rotation=45, ha="right")
        for axes in (above, below):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.suptitle(
            f"{fleet.parties:,} virtual parties, {fleet.virtual_s:,.0f} s on the simulated clock\n"
            "simulated: who is missing, and when; measured: bytes",
            fontsize=10,
        )
    return figure


def write_fleet_figure(fleet: FleetReport, path: Path) -> None:
    """Write the picture; its kind goes by the name's end, one of ``PICTURES``.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    fleet_figure(fleet).savefig(buffer, format=path.suffix.lower().lstrip("."), dpi=150)
    write_atomic(path, buffer.getvalue(), 0o644)
