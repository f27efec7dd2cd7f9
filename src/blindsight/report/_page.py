"""One self-contained HTML page from a run: no script, nothing fetched, every value escaped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import StoreError
from blindsight.keys import write_atomic
from blindsight.privacy import shown_epsilon

from ._figures import (
    blind_figure,
    budget_figure,
    cost_figure,
    even_bins,
    left_out,
    loss_figure,
    roc_figure,
    score_figure,
)
from ._record import RunFile
from ._rounds import grouped, losses_of
from ._words import (
    assumptions,
    describe_bytes,
    describe_noise,
    describe_small,
    not_covered,
    not_measured,
    roles,
    verdict,
)

if TYPE_CHECKING:
    import jinja2

__all__ = ["MAX_PAGE_BYTES", "environment", "render", "write_report"]

MAX_PAGE_BYTES = 300_000
MAX_TABLE_ROWS = 120


def render(run: RunFile, *, signed: tuple[str, ...] = (), without: tuple[str, ...] | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    run : RunFile
        Its texts may come from anywhere: they are escaped, in figures as well.
    signed : tuple of str
        Parties whose budgets and charges are from their signed ledgers.
    without : tuple of str, optional
        Parties whose ledgers were not given; by default those that the run names no budget and no charge of.

    Returns
    -------
    str
        HTML under 300 kB.
    """
    from markupsafe import Markup

    def figure(svg: str | None) -> Markup | None:
        # the one place where text becomes markup: matplotlib has escaped what it drew
        return None if svg is None else Markup(svg)  # noqa: S704

    if without is None:
        known = {budget.party for budget in run.budgets} | {charge.party for charge in run.ledger}
        without = tuple(name for name in run.parties if name not in known)
    stages, losses = grouped(run.stages), losses_of(run.stages)
    has_roc = run.comparison is not None or (run.evaluation is not None and run.evaluation.measurable)
    values: dict[str, Any] = {
        "run": run,
        "signed": signed,
        "without": without,
        "verdict": verdict(run),
        "facts": _facts(run),
        "roles": roles(run),
        "assumptions": assumptions(run),
        "not_covered": not_covered(run),
        "roc": figure(roc_figure(run.comparison, run.evaluation, exact=run.privacy is None) if has_roc else None),
        "budget": figure(budget_figure(run.budgets) if run.budgets else None),
        "scores": figure(
            score_figure(run.histogram, run.model.threshold, noisy=run.privacy is not None)
            if run.histogram is not None
            else None
        ),
        "blind_plot": figure(blind_figure(run.blind) if run.blind is not None and run.blind.sample else None),
        "cost": figure(cost_figure(stages) if stages else None),
        "stages": stages,
        "losses": losses,
        "loss_plot": figure(loss_figure(losses) if len(losses) > 1 else None),
        "most_rows": MAX_TABLE_ROWS,
        "score_bins": _score_bins(run),
        "left_out": (0.0, 0.0) if run.histogram is None else left_out(run.histogram),
        "not_measured": not_measured(run),
        "found": _found,
    }
    return environment().get_template("report.html.j2").render(values)


def environment(*, markup: bool = True) -> jinja2.Environment:
    """Where the templates are; every value is escaped unless what is written is no markup."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("blindsight.report", "templates"),
        autoescape=markup,  # noqa: S701 (off for Markdown alone, which escapes by itself)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["size"] = describe_bytes
    made.filters["epsilon"] = shown_epsilon  # rounds up: no page states less than was spent
    made.filters["small"] = describe_small
    made.filters["noise"] = describe_noise
    return made


def write_report(run: RunFile, path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, atomically; returns its path.

    Raises
    ------
    StoreError
        It cannot be written, or is larger than 300 kB.
    """
    page = render(run).encode("utf-8")
    if len(page) > MAX_PAGE_BYTES:
        raise StoreError(
            "The report is too large",
            got=f"{len(page):,} bytes",
            rule=f"at most {MAX_PAGE_BYTES:,}; nothing was written",
        )
    write_atomic(path, page, mode=0o644)
    return Path(path)


def _facts(run: RunFile) -> list[tuple[str, str, str]]:
    """The strip under the title: value, what it is, remark."""
    facts = [("none", "of the records left its party", f"{len(run.parties)} parties")]
    if run.privacy is None:
        facts.append(("none", "differential privacy", "exact sums were allowed"))
    else:
        facts.append(
            (
                shown_epsilon(run.privacy.epsilon_spent),
                f"epsilon per {run.privacy.unit}",
                f"delta {describe_small(run.privacy.delta)}",
            )
        )
    curve = next((c for c in run.comparison.curves if c.kind == "federated"), None) if run.comparison else None
    simulated = ", simulated" if run.simulated else ""
    if curve is not None:
        facts.append((f"{curve.auroc:.2f}", "AUROC, federated", f"measured in the clear{simulated}"))
    elif run.evaluation is not None and run.evaluation.measurable:
        spread = 2 * run.evaluation.auroc_stddev
        remark = f"from private sums, ± {spread:.2f}{simulated}" if spread else f"from exact sums{simulated}"
        facts.append((f"{run.evaluation.auroc:.2f}", "AUROC, federated", remark))
    else:
        why = "not measured"
        if run.evaluation is not None:
            why = "not measurable at this epsilon" if run.evaluation.both_classes else "not measurable: one class only"
        facts.append(("—", "AUROC", why))
    if run.blind is not None:
        exact = run.blind.max_difference == 0
        facts.append(
            (
                "equal" if exact else f"{run.blind.max_difference:.2g} apart",
                "blind and clear scores",
                f"of {run.blind.records:,} records",
            )
        )
    return facts


def _score_bins(run: RunFile) -> list[tuple[float, float, float]]:
    """The score figure in rows: from, to, records."""
    if run.histogram is None:
        return []
    edges, counts = even_bins(run.histogram)
    return list(zip(edges[:-1], edges[1:], counts, strict=True))


def _found(roc: tuple[tuple[float, float], ...], false_positive_rate: float) -> str:
    """Share of anomalies found at a false positive rate, read off a curve."""
    import numpy as np

    x, y = np.array(roc).T
    return f"{100 * float(np.interp(false_positive_rate, x, y)):.0f}%"
