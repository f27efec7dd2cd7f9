"""What a release costs: integer noise, accounting, and a ledger that charges before noise is drawn.

Events say what happened (:class:`Event`); :func:`epsilon_of` says what they cost; :class:`Ledger` keeps them.
"""

from ._accountant import ACCOUNTING_ERROR, epsilon_of, noise_multiplier_for, rho_total, shown_epsilon
from ._chain import HashChain, line_hash, walk
from ._contributions import bound_contributions
from ._event import Event, Trust, Unit
from ._gaussian import MIN_LOCAL_VARIANCE, distributed_rho, local_noise_variance, noise_variance, sum_divergence
from ._ledger import Budget, Ledger, LedgerEntry, Position
from ._parameters import DifferentialPrivacy
from ._plan import exact_event, noisy_event, sampled_event
from ._sampled import SampledNoise
from ._sampler import discrete_gaussian, noise_max_abs, sampler_delta, sampler_tv
from ._source import NoiseSource

__all__ = [
    "ACCOUNTING_ERROR",
    "MIN_LOCAL_VARIANCE",
    "Budget",
    "DifferentialPrivacy",
    "Event",
    "HashChain",
    "Ledger",
    "LedgerEntry",
    "NoiseSource",
    "Position",
    "SampledNoise",
    "Trust",
    "Unit",
    "bound_contributions",
    "discrete_gaussian",
    "distributed_rho",
    "epsilon_of",
    "exact_event",
    "line_hash",
    "local_noise_variance",
    "noise_max_abs",
    "noise_multiplier_for",
    "noise_variance",
    "noisy_event",
    "rho_total",
    "sampled_event",
    "sampler_delta",
    "sampler_tv",
    "shown_epsilon",
    "sum_divergence",
    "walk",
]
