"""Which way to hide the vectors of a sum: what each costs and trusts, the choice, and a sentence of why."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from blindsight.errors import ParameterError, SurvivorsError

from ._envelopes import ITEM_BYTES
from ._hashing import HASH_BYTES
from ._paillier import PaillierScheme
from ._scheme import scheme_of
from ._shamir import SHARE_BYTES
from ._shared_limits import VALUE_BYTES, item_bytes
from ._spec import Method, Participant, SumSpec, default_threshold, longest_vector
from ._wire import ADVERTISEMENT_BYTES

__all__ = ["SumChoice", "SumOption", "choose_sum"]

_FRAME = 128
"""A signature, a hash, the version and msgpack's own bytes."""
_REQUEST = 64
_NAME = 16

# Milliseconds of one core, fitted to benchmarks/secure_sum.py; a plan needs the order of magnitude.
_MASK_MS_PER_MB = 0.43
_MASKED_PARTY_MS, _MASKED_SERVER_MS, _MASKED_PAIR_MS, _MASKED_ADD_MS_PER_MB = 0.5, 0.8, 0.009, 1.2
_SHARED_PARTY_MS, _SHARED_SERVER_MS = 0.4, 0.85
_BFV_ENCRYPT_MS, _BFV_DECRYPT_MS, _BFV_ADD_MS = 4.7, 2.4, 1.5
_PAILLIER_KEY_MS, _PAILLIER_ENCRYPT_MS, _PAILLIER_DECRYPT_MS, _PAILLIER_ADD_MS = 300.0, 35.0, 48.0, 0.25


@dataclass(frozen=True, kw_only=True)
class SumOption:
    """One way to hide the vectors of a sum.

    Parameters
    ----------
    method : {"masked", "he", "paillier"}
    up_bytes, down_bytes : int
        Of the busiest party, all exchanges together; about.
    party_s, coordinator_s : float
        Seconds of one core, estimated.
    total_s : float
        The slowest party, then the coordinator, then all bytes through the coordinator's link.
    exchanges : int
    tolerated_colluders : int
        Parties that may collude with the coordinator.
    tolerated_dropouts : int
        Parties that may vanish before their vectors are in.
    trust : str
        Who must not collude, in words.
    refusal : str
        Why it is no choice here; empty where it is one.
    """

    method: Method
    up_bytes: int
    down_bytes: int
    party_s: float
    coordinator_s: float
    total_s: float
    exchanges: int = 5
    tolerated_colluders: int
    tolerated_dropouts: int
    trust: str
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class SumChoice:
    """What :func:`choose_sum` chose, why, and what else there was."""

    method: Method
    why: str
    options: tuple[SumOption, ...]

    @property
    def chosen(self) -> SumOption:
        """The option that was chosen."""
        return next(option for option in self.options if option.method == self.method)


def choose_sum(
    parties: int,
    coordinates: int,
    *,
    dropouts: int = 0,
    colluders: int = 1,
    threshold: int | None = None,
    bits: Literal[32, 64] = 64,
    megabits_per_second: float = 100.0,
    among: Collection[Method] = ("masked", "he", "paillier"),
) -> SumChoice:
    """Choose what hides the vectors of a sum: of what tolerates enough colluders and dropouts, the quickest.

    Parameters
    ----------
    parties : int
        3 to 1,024.
    coordinates : int
    dropouts : int
        Parties that are expected to vanish before their vectors are in.
    colluders : int
        Parties that may collude with the coordinator. With one or more, only masks are left.
    threshold : int, optional
        floor(2n/3) + 1 by default.
    bits : {32, 64}
        Width of a coordinate.
    megabits_per_second : float
        Of the coordinator's link, which every byte passes.
    among : collection of method
        What may be chosen at all: a rule that asks for homomorphic encryption by name leaves "masked" out.

    Returns
    -------
    SumChoice

    Raises
    ------
    ParameterError
        An argument is out of its domain, or what is left tolerates too few colluders or carries too few coordinates.
    SurvivorsError
        More dropouts than the threshold lets vanish.
    """
    unknown = sorted(set(among) - set(get_args(Method)))
    if unknown or not among:
        raise ParameterError("Sums are not hidden this way", got=repr(unknown)[:80], rule="masked, he or paillier")
    for what, value, most in (("dropouts", dropouts, parties), ("colluders", colluders, parties)):
        if not 0 <= value <= most:
            raise ParameterError(f"The number of {what} is out of its domain", got=str(value), rule=f"0 to {most}")
    if not megabits_per_second > 0:
        raise ParameterError("The link is out of its domain", got=str(megabits_per_second), rule="above 0 Mbit/s")
    least = default_threshold(parties) if threshold is None else threshold
    if dropouts > parties - max(least, 3):
        raise SurvivorsError(
            "No sum is opened after that many dropouts",
            got=f"{dropouts} of {parties}",
            rule=f"at least {max(least, 3)} survive, however the vectors are hidden",
            fix="invite more parties",
        )
    options = tuple(
        _option(method, parties, coordinates, dropouts, colluders, least, bits, megabits_per_second, method in among)
        for method in get_args(Method)
    )
    left = [option for option in options if not option.refusal]
    if not left:
        raise ParameterError(
            "No way to hide the vectors is left",
            got="; ".join(f"{option.method}: {option.refusal}" for option in options),
            rule=f"{coordinates:,} coordinates, {colluders} colluders",
            fix="count on fewer colluders, raise the threshold, or allow masked sums",
        )
    best = min(left, key=lambda option: option.total_s)
    return SumChoice(method=best.method, why=_why(best, options, parties, coordinates), options=options)


def _option(
    method: Method,
    parties: int,
    coordinates: int,
    dropouts: int,
    colluders: int,
    threshold: int,
    bits: Literal[32, 64],
    megabits_per_second: float,
    allowed: bool,
) -> SumOption:
    spec = _example(method, parties, min(coordinates, longest_vector(method)), threshold, bits)
    up, down = _bytes_of(spec)
    party, coordinator = _times_of(spec, dropouts)
    refusal = ""
    if not allowed:
        refusal = "ruled out by the caller"
    elif coordinates > longest_vector(method):
        refusal = f"at most {longest_vector(method):,} coordinates"
    elif colluders > spec.tolerated_colluders:
        refusal = f"tolerates {spec.tolerated_colluders} colluders, not {colluders}"
    elif missing := _missing(method):
        refusal = missing
    return SumOption(
        method=method,
        up_bytes=up,
        down_bytes=down,
        party_s=party,
        coordinator_s=coordinator,
        total_s=party + coordinator + parties * (up + down) * 8e-6 / megabits_per_second,
        tolerated_colluders=spec.tolerated_colluders,
        tolerated_dropouts=parties - spec.min_survivors,
        trust=spec.trust.partition("; ")[0],
        refusal=refusal,
    )


def _missing(method: Method) -> str:
    if method == "masked":
        return ""
    modules, extra = (("tenseal",), "he") if method == "he" else (("phe", "gmpy2"), "paillier")
    if all(importlib.util.find_spec(module) is not None for module in modules):
        return ""
    return f"not installed here: pip install 'blindsight[{extra}]'"


def _example(method: Method, parties: int, coordinates: int, threshold: int, bits: Literal[32, 64]) -> SumSpec:
    """A specification of this size: its parties are nobody."""
    return SumSpec(
        federation="plan",
        run="plan",
        step="plan",
        participants=tuple(
            Participant(name=f"party-{i:04d}", public_key=i.to_bytes(32, "big")) for i in range(parties)
        ),
        length=coordinates,
        bits=bits,
        threshold=threshold,
        max_abs=((1 << (bits - 1)) - 1) // parties,
        method=method,
    )


def _bytes_of(spec: SumSpec) -> tuple[int, int]:
    n = len(spec.participants)
    if not spec.shares_key:
        item = ITEM_BYTES + _NAME
        up = 5 * _FRAME + ADVERTISEMENT_BYTES + n * item + spec.vector_bytes + n * (SHARE_BYTES + _NAME)
        signed = n * (2 * _FRAME + ADVERTISEMENT_BYTES + HASH_BYTES + 2 * _NAME)
        return up, 5 * _REQUEST + signed + (n - 1) * item + n * _NAME
    scheme = scheme_of(spec)
    dealt = scheme.public_bytes + n * (item_bytes(spec) + _NAME)
    up = 5 * _FRAME + 2 * HASH_BYTES + dealt + scheme.cipher_bytes + VALUE_BYTES * spec.length
    signed = n * (2 * _FRAME + 2 * HASH_BYTES + 4 * _NAME)
    return up, 5 * _REQUEST + signed + item_bytes(spec) + scheme.public_bytes + scheme.sum_bytes


def _times_of(spec: SumSpec, dropouts: int) -> tuple[float, float]:
    n = len(spec.participants)
    survivors = n - dropouts
    if not spec.shares_key:
        size = spec.vector_bytes / 1e6
        party = n * (_MASKED_PARTY_MS + _MASK_MS_PER_MB * size)
        masks = survivors * (1 + dropouts)
        coordinator = n * (_MASKED_SERVER_MS + n * _MASKED_PAIR_MS)
        coordinator += size * (survivors * _MASKED_ADD_MS_PER_MB + masks * _MASK_MS_PER_MB)
        return party / 1e3, coordinator / 1e3
    scheme = scheme_of(spec)
    blocks = scheme.blocks
    if isinstance(scheme, PaillierScheme):
        party = _PAILLIER_KEY_MS + blocks * (_PAILLIER_ENCRYPT_MS + _PAILLIER_DECRYPT_MS)
        add = _PAILLIER_ADD_MS
    else:
        party = blocks * (_BFV_ENCRYPT_MS + _BFV_DECRYPT_MS)
        add = _BFV_ADD_MS
    coordinator = n * _SHARED_SERVER_MS + survivors * blocks * add
    return (party + n * _SHARED_PARTY_MS) / 1e3, coordinator / 1e3


def _why(best: SumOption, options: tuple[SumOption, ...], parties: int, coordinates: int) -> str:
    others = []
    for option in options:
        if option is best:
            continue
        if option.refusal:
            others.append(f"{option.method} is out ({option.refusal})")
        else:
            others.append(f"{option.method} would take {option.total_s:.3g} s and {option.up_bytes / 1e3:,.0f} kB up")
    cost = f"{best.up_bytes / 1e3:,.0f} kB up and {best.down_bytes / 1e3:,.0f} kB down a party"
    return (
        f"{best.method}: {parties} parties and {coordinates:,} coordinates take about {best.total_s:.3g} s, {cost}, in "
        f"{best.exchanges} exchanges; {best.trust}; {best.tolerated_dropouts} may drop out. "
        f"Beside it: {'; '.join(others)}."
    )
