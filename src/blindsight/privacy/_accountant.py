"""The only place that knows dp_accounting: what events cost together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from blindsight.errors import ParameterError

from ._event import Event
from ._sampler import sampler_delta

__all__ = ["epsilon_of", "rho_total"]

MIN_DELTA, MAX_DELTA = 1e-30, 0.1
MIN_EPSILON, MAX_EPSILON = 1e-3, 1e3
SAMPLER_SHARE = 2.0**-20
"""Part of delta that calibration sets aside for the sampler, which takes far less (below 2**-40 of it)."""


ORDERS = tuple(1.0 + 10.0 ** (k / 60.0) for k in range(-60, 301))
"""Rényi orders 1.1 to 100,001 in steps of 4% of (order - 1): within .2% of the best order for any rho admitted here.
(dp_accounting's own grid is made for sampled Gaussians and coarse above 64.)"""


def epsilon_of(events: Iterable[Event], delta: float) -> float:
    """Epsilon that all events cost together, at ``delta``.

    Parameters
    ----------
    events : iterable of Event
        Sequentially composed; exact sums have no epsilon and are left out. (Ask ``Event.exact``.)
    delta : float

    Returns
    -------
    float
        0.0 for no event; ``inf`` if the sampler's share exhausts delta.

    Privacy
    -------
    Rényi accounting by dp_accounting of one zCDP event each (adding or removing one unit); the delta of the
    sampler, total variation x coordinates x parties x (1 + e^epsilon), is taken off first. Nothing is said
    for events whose noise came from an insecure source: they count as if it had been secure, and
    ``Event.guarantee`` says so.
    """
    _check_delta(delta)
    noisy = [event for event in events if not event.exact]
    if not noisy:
        return 0.0
    rho = math.fsum(event.rho for event in noisy)
    epsilon = _epsilon(rho, delta)
    # Smallest epsilon that pays for the delta its own sampler term leaves: increase until it does.
    for _ in range(100):
        left = delta - math.fsum(
            sampler_delta(e.local_variance, coordinates=e.coordinates, parties=e.honest_parties, epsilon=epsilon)
            for e in noisy
        )
        if left <= 0.0:
            return math.inf
        needed = _epsilon(rho, left)
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


def _epsilon(rho: float, delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant: Any = RdpAccountant(ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.ZCDpEvent(rho))
    return float(accountant.get_epsilon(delta))


def _check_delta(delta: float) -> None:
    if not (math.isfinite(delta) and MIN_DELTA <= delta <= MAX_DELTA):
        raise ParameterError(
            "delta is out of its domain",
            got=repr(delta),
            rule=f"{MIN_DELTA:g} <= delta <= {MAX_DELTA:g}",
            fix="choose delta far below 1 / number of units, say 1e-6",
        )
