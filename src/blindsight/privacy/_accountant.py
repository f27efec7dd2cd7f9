"""The only place that knows dp_accounting: what events cost together."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._event import MAX_NOISE_MULTIPLIER, MIN_NOISE_MULTIPLIER, Event
from ._sampler import sampler_delta

__all__ = ["ACCOUNTING_ERROR", "epsilon_of", "noise_multiplier_for", "rho_total", "shown_epsilon"]

ACCOUNTING_ERROR = 1e-5
"""How much of an epsilon the search for its noise leaves unknown: a budget that is spent to the last sums to so little
more or less."""

Floats = npt.NDArray[np.float64]
Sampled = tuple[tuple[float, float, int], ...]

MIN_DELTA, MAX_DELTA = 1e-30, 0.1
MIN_EPSILON, MAX_EPSILON = 1e-3, 1e3
SAMPLER_SHARE = 2.0**-20
"""Part of delta that calibration sets aside for the sampler, which takes far less (below 2**-40 of it)."""


ORDERS = tuple(1.0 + 10.0 ** (k / 60.0) for k in range(-60, 301))
"""Rényi orders 1.1 to 100,001 in steps of 4% of (order - 1): within .2% of the best order for any rho admitted here.
(dp_accounting's own grid is made for sampled Gaussians and coarse above 64.)"""


def _sampled_orders() -> tuple[float, ...]:
    orders: list[float] = [1.0 + k / 10.0 for k in range(1, 101)]
    orders += range(12, 65)
    while orders[-1] < 1024:
        orders.append(math.ceil(orders[-1] * 1.05))
    return tuple(orders)


SAMPLED_ORDERS = _sampled_orders()
"""Orders 1.1 to about 1,000 wherever a sampled Gaussian is in it: its divergence is a sum of as many terms as the order
has, with a closed form at whole numbers alone. Elsewhere the series may not converge, and the order is left out."""
MIN_WHOLE_ORDER = 2.5
"""Calibration uses a whole order wherever the best one is at least this, which holds up to epsilon 20 or so."""


def epsilon_of(events: Iterable[Event], delta: float, *, rho_more: float = 0.0) -> float:
    """Epsilon that all events cost together, at ``delta``.

    Parameters
    ----------
    events : iterable of Event
        Sequentially composed; exact sums have no epsilon and are left out. (Ask ``Event.exact``.)
    delta : float
    rho_more : float
        Further zCDP releases to add, in all.

    Returns
    -------
    float
        0.0 for no event; ``inf`` if the sampler's share exhausts delta.

    Privacy
    -------
    Rényi accounting by dp_accounting of one zCDP event each, and of the Poisson-sampled Gaussians of DP-SGD (adding
    or removing one unit). The delta of the integer sampler, total variation x coordinates x parties x
    (1 + e^epsilon), is taken off first. Nothing is said for events whose noise came from an insecure source: they
    count as if it had been secure, and ``Event.guarantee`` says so. The floating-point noise of DP-SGD counts as if
    it were Gaussian.
    """
    _check_delta(delta)
    noisy = [event for event in events if not event.exact]
    if not noisy and rho_more <= 0.0:
        return 0.0
    rho = math.fsum([rho_more, *(event.rho for event in noisy)])
    steps: Counter[tuple[float, float]] = Counter()
    for event in noisy:
        if event.sampling_rate is not None and event.noise_multiplier is not None and event.steps is not None:
            steps[event.sampling_rate, event.noise_multiplier] += event.steps
    sampled = tuple((rate, multiplier, count) for (rate, multiplier), count in sorted(steps.items()))
    integer = [event for event in noisy if not event.sampled]
    epsilon = _epsilon(rho, delta, sampled)
    # Smallest epsilon that pays for the delta its own sampler term leaves: increase until it does.
    for _ in range(100):
        left = delta - math.fsum(
            sampler_delta(e.local_variance, coordinates=e.coordinates, parties=e.honest_parties, epsilon=epsilon)
            for e in integer
        )
        if left <= 0.0:
            return math.inf
        needed = _epsilon(rho, left, sampled)
        if needed <= epsilon:
            return epsilon
        epsilon = needed * (1.0 + 1e-12)
    return math.inf


@lru_cache(maxsize=256)
def rho_total(epsilon: float, delta: float) -> float:
    """Largest zCDP parameter rho whose epsilon at ``delta`` is at most ``epsilon``.

    Bisection on dp_accounting's Rényi accountant; the result errs to the private side. A 2**-20 part of delta
    is kept for the sampler.

    Raises
    ------
    ParameterError
        epsilon or delta is out of its domain.
    """
    _check_delta(delta)
    if not (math.isfinite(epsilon) and MIN_EPSILON <= epsilon <= MAX_EPSILON):
        raise ParameterError(
            "epsilon is out of its domain",
            got=repr(epsilon),
            rule=f"{MIN_EPSILON:g} <= epsilon <= {MAX_EPSILON:g}",
            fix="ask for epsilon=1, or another positive number",
        )
    delta_left = delta * (1.0 - SAMPLER_SHARE)
    low, high = 0.0, epsilon  # pure epsilon-DP would allow no more than rho = epsilon
    while _epsilon(high, delta_left) <= epsilon:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _epsilon(middle, delta_left) <= epsilon:
            low = middle
        else:
            high = middle
    return low * (1.0 - 1e-12)  # shares of it, added in floating point, must not exceed it


@lru_cache(maxsize=1024)
def noise_multiplier_for(
    epsilon: float, delta: float, *, share: float, sampling_rate: float, total_steps: int
) -> float:
    """Noise multiplier of DP-SGD that takes at most ``share`` of the budget (epsilon, delta) in its whole run.

    Parameters
    ----------
    epsilon, delta : float
        The whole budget.
    share : float in (0, 1]
        Part of it for these steps, in the sense in which shares of ``rho_total`` are parts of it.
    sampling_rate : float in (0, 1]
        Poisson rate of each step.
    total_steps : int
        Steps of the whole run.

    Returns
    -------
    float
        Rounded up to the private side by bisection, at least 1/16.

    Raises
    ------
    ParameterError
        No noise multiplier up to 2**24 suffices; the message names the smallest epsilon for which one does.

    Privacy
    -------
    Let a be the Rényi order at which (epsilon, delta) allows the largest rho. The steps are given a divergence of at
    most share * rho * a at that order, less what rounding a to a whole number costs. Everything released under
    one request, in whatever mixture of zCDP and sampled releases, then has a divergence of at most rho * a at the
    order a, hence epsilon at delta. Calibrating against one particular remainder instead would save .1 to 6% of the
    noise, and would not compose with a second sampled release.
    """
    if not 0.0 < share <= 1.0:
        raise ParameterError("A share of the budget is out of its domain", got=repr(share), rule="0 < share <= 1")

    def fits(multiplier: float, epsilon: float) -> bool:
        order, limit = _order_and_limit(epsilon, delta, share)
        return total_steps * float(_divergence(sampling_rate, multiplier, (order,))[0]) <= limit

    def enough(epsilon: float) -> float | None:
        """First doubling that fits. Fractional orders count as infinite where their series does not converge, which
        it may well not do at the largest multipliers: more noise does not always fit better."""
        multiplier = MIN_NOISE_MULTIPLIER
        while multiplier <= MAX_NOISE_MULTIPLIER:
            if fits(multiplier, epsilon):
                return multiplier
            multiplier *= 2.0
        return None

    high = enough(epsilon)
    if high is None:
        asked = f"{total_steps} steps at sampling rate {sampling_rate:g} for {share:g} of epsilon {epsilon:g}"
        least = _smallest(lambda candidate: enough(candidate) is not None, epsilon)
        if least is None:
            raise ParameterError(
                "No noise makes these steps of DP-SGD cost so little",
                got=asked,
                rule=f"the largest noise multiplier is {MAX_NOISE_MULTIPLIER:g}",
                fix="ask for fewer rounds, or give the fit a larger share",
            )
        raise ParameterError(
            "DP-SGD cannot be accounted for at so small an epsilon, whatever its noise",
            got=f"{asked}, at delta {delta:g}",
            rule=f"the smallest epsilon for these steps, this share and this delta is {least:g}",
            fix=f"ask for epsilon={least:g} or more, for unit='party', or use a detector made of sums, such as IForest",
        )
    low = max(high / 2.0, MIN_NOISE_MULTIPLIER)
    for _ in range(40):
        middle = 0.5 * (low + high)
        if fits(middle, epsilon):
            high = middle
        else:
            low = middle
    return high * (1.0 + 1e-12)  # many rounds, added in floating point, must not exceed it


@lru_cache(maxsize=256)
def _order_and_limit(epsilon: float, delta: float, share: float) -> tuple[float, float]:
    """The order at which sampled steps are calibrated, and the divergence that this share allows them there.

    Not positive where epsilon is so small that even the largest order pays more than it for delta alone.
    """
    rho = rho_total(epsilon, delta)
    orders = np.asarray(SAMPLED_ORDERS)
    allowed = epsilon - np.log1p(-1.0 / orders) + np.log(delta * (1.0 - SAMPLER_SHARE) * orders) / (orders - 1.0)
    best = int(np.argmax(allowed / orders))
    if orders[best] >= MIN_WHOLE_ORDER:
        best = int(np.argmax(np.where(orders == np.floor(orders), allowed / orders, -np.inf)))
    order = float(orders[best])
    # a whole order may allow a little more than the grid behind rho_total did: not to be given away twice
    return order, min(float(allowed[best]), rho * order) - rho * (1.0 - share) * order


def _smallest(suffices: Callable[[float], bool], epsilon: float) -> float | None:
    """The smallest epsilon above this one that suffices, rounded up to three digits; None where none does."""
    low, high = epsilon, MAX_EPSILON
    if not suffices(high):
        return None
    while high > 1.0005 * low:
        middle = math.sqrt(low * high)
        if suffices(middle):
            high = middle
        else:
            low = middle
    unit = 10.0 ** (math.floor(math.log10(high)) - 2)
    return min(float(f"{math.ceil(high / unit) * unit:.3g}"), MAX_EPSILON)


@lru_cache(maxsize=256)
def _divergence(rate: float, multiplier: float, orders: tuple[float, ...]) -> Floats:
    """Renyi divergence of one Poisson-sampled Gaussian, by order."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant: Any = RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns of each order at which a series does not converge; such orders count as inf
    try:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)))
    finally:
        log.setLevel(before)
    return np.asarray(accountant.rdp, dtype=np.float64)


@lru_cache(maxsize=4096)
def _epsilon(rho: float, delta: float, sampled: Sampled = ()) -> float:
    from dp_accounting.rdp import compute_epsilon

    orders = SAMPLED_ORDERS if sampled else ORDERS
    total = rho * np.asarray(orders)
    for rate, multiplier, steps in sampled:
        total = total + steps * _divergence(rate, multiplier, orders)
    return float(compute_epsilon(orders, total, delta)[0])


def _check_delta(delta: float) -> None:
    if not (math.isfinite(delta) and MIN_DELTA <= delta <= MAX_DELTA):
        raise ParameterError(
            "delta is out of its domain",
            got=repr(delta),
            rule=f"{MIN_DELTA:g} <= delta <= {MAX_DELTA:g}",
            fix="choose delta far below 1 / number of units, say 1e-6",
        )


def shown_epsilon(epsilon: float) -> str:
    """An epsilon for people, everywhere the same: three significant digits, never fewer than the value.

    A value that is above a round number by no more than ``ACCOUNTING_ERROR`` of it is that number.
    """
    if not math.isfinite(epsilon):
        return "inf, which bounds nothing"
    if epsilon <= 0:
        return "0"
    digits = max(2 - math.floor(math.log10(epsilon)), 0)
    shown = f"{math.ceil(epsilon * (1.0 - ACCOUNTING_ERROR) * 10**digits) / 10**digits:.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
