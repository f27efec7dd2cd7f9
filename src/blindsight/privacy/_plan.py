"""Planning a release: how much noise what is asked for takes, as the event that will be charged."""

from __future__ import annotations

from blindsight.errors import ParameterError

from ._event import Event, Purpose, Trust, Unit
from ._gaussian import distributed_rho, local_noise_variance, noise_variance
from ._source import NoiseSource

__all__ = ["exact_event", "noisy_event", "sampled_event"]

TRUST = "the other survivors add their noise as agreed; secure aggregation shows their sum alone"
LOCAL_TRUST = "each party draws its own integer noise, enough by itself; nobody else need be trusted"
SAMPLED_TRUST = "each party draws its own floating-point Gaussian noise; nobody else need be trusted"


def noisy_event(
    *,
    query: str,
    purpose: Purpose,
    unit: Unit,
    max_records_per_person: int | None = None,
    max_records_per_party: int | None = None,
    trust: Trust = "federation",
    rho: float,
    sensitivity_l2: float,
    coordinates: int,
    threshold: int,
    colluders: int = 0,
    grid: float = 1.0,
    source: NoiseSource | None = None,
) -> Event:
    """Plan a noisy sum that costs at most ``rho``: how much noise, and what that costs exactly.

    Parameters
    ----------
    rho : float
        What the release may cost (a share of ``rho_total``).
    sensitivity_l2 : float
        L2 sensitivity to one **record**, in grid units; for the units "person" and "party" it is multiplied by
        ``max_records_per_person`` or ``max_records_per_party``. For unit "party" without such a bound: sensitivity to
        one party's whole vector.
    trust : {"federation", "local"}
        Whether the survivors' noise protects together, or each party's by itself.
    threshold, colluders : int
        See :func:`local_noise_variance`.
    source : NoiseSource, optional
        Where the noise will come from; an insecure one marks the event.

    Returns
    -------
    Event
        With ``local_variance`` for ``discrete_gaussian`` and ``rho`` as executed, never above the one asked
        for.

    Raises
    ------
    ParameterError
        A value is out of its domain.

    Privacy
    -------
    A sum over k records of one person (or party) changes by at most k times the sensitivity to one record (triangle
    inequality), whatever the vectors.
    """
    per_unit = sensitivity_l2 * (max_records_per_person or max_records_per_party or 1)
    total = noise_variance(per_unit, rho)
    local = local_noise_variance(total, threshold, colluders)
    parties = threshold - colluders
    if trust == "local":
        local, parties = local_noise_variance(total, 1, 0), 1
    for _ in range(200):
        # The sum is not exactly Gaussian and square roots round: raise the noise until the cost fits.
        cost = distributed_rho(
            sensitivity_l2=per_unit,
            local_variance=local,
            parties=parties,
            coordinates=coordinates,
        )
        if cost <= rho:
            break
        local *= max(1.0 + 2.0**-50, min(2.0, 1.0 + 4.0 * (cost / rho - 1.0)))
    else:
        raise ParameterError("No noise makes this query cost so little", got=f"rho = {rho!r}")
    return Event(
        query=query,
        purpose=purpose,
        mechanism="local-discrete-gaussian" if trust == "local" else "distributed-discrete-gaussian",
        unit=unit,
        max_records_per_person=max_records_per_person,
        max_records_per_party=max_records_per_party,
        neighbouring="add-or-remove-one",
        coordinates=coordinates,
        threshold=threshold,
        colluders=colluders,
        sensitivity_l2=float(per_unit),
        local_variance=float(local),
        grid=float(grid),
        rho=float(cost),
        noise_source="secure" if source is None or source.is_secure else "insecure-seeded",
        trust=LOCAL_TRUST if trust == "local" else TRUST,
    )


def sampled_event(
    *,
    query: str,
    purpose: Purpose,
    unit: Unit,
    max_records_per_person: int | None = None,
    sampling_rate: float,
    noise_multiplier: float,
    steps: int,
    coordinates: int,
    threshold: int,
) -> Event:
    """Describe DP-SGD as it will be executed: ``steps`` Poisson-sampled Gaussian releases by each party alone.

    Parameters
    ----------
    sampling_rate : float in (0, 1]
        Probability with which each unit enters a step's batch, independently.
    noise_multiplier : float
        Noise over sensitivity: over ``clip_norm``, times ``max_records_per_person`` for unit "person".
    steps : int

    Privacy
    -------
    Holds for each party's own sequence of steps, whoever sees the updates that come of them: post-processing. It is
    no zCDP event: its Renyi curve is dp_accounting's (Mironov, Talwar and Zhang 2019, arXiv 1908.10530).
    """
    return Event(
        query=query,
        purpose=purpose,
        mechanism="sampled-gaussian",
        unit=unit,
        max_records_per_person=max_records_per_person,
        neighbouring="add-or-remove-one",
        coordinates=coordinates,
        threshold=threshold,
        colluders=0,
        sensitivity_l2=1.0,
        local_variance=0.0,
        grid=1.0,
        rho=0.0,
        noise_source="floating-point",
        trust=SAMPLED_TRUST,
        sampling_rate=float(sampling_rate),
        noise_multiplier=float(noise_multiplier),
        steps=steps,
    )


def exact_event(
    *,
    query: str,
    purpose: Purpose,
    unit: Unit = "record",
    max_records_per_person: int | None = None,
    sensitivity_l2: float,
    coordinates: int,
    threshold: int,
    colluders: int = 0,
    grid: float = 1.0,
) -> Event:
    """Describe the release of a sum without noise; it has no epsilon and is printed as what it is."""
    return Event(
        query=query,
        purpose=purpose,
        mechanism="exact-sum",
        unit=unit,
        max_records_per_person=max_records_per_person,
        neighbouring="add-or-remove-one",
        coordinates=coordinates,
        threshold=threshold,
        colluders=colluders,
        sensitivity_l2=float(sensitivity_l2 * (max_records_per_person or 1)),
        local_variance=0.0,
        grid=float(grid),
        rho=0.0,
        noise_source="none",
        trust="whoever sees the total, and whoever compares it with totals over other sets",
    )
