"""A simulated sample: card payments at three banks, with persons and labelled fraud.

Everything here is invented. The simulation is made so that fraud is partly visible (thefts, card testing) and
partly not (takeovers that look like their victim), and so that each bank sees mostly one kind of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["simulate_card_payments"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

DAYS = 90
FRAUD_SHARE = 0.01
PAYMENTS_PER_PERSON = 5
BURST = 4
"""Fraudulent payments in one episode."""

_MERCHANTS = ("groceries", "restaurant", "fuel", "clothing", "online", "travel", "electronics", "cash", "gift cards")
_MERCHANT_SHARES = (0.34, 0.17, 0.11, 0.09, 0.15, 0.03, 0.04, 0.06, 0.01)
_MERCHANT_LOG_AMOUNTS = (3.3, 3.2, 4.0, 4.1, 3.6, 5.6, 5.2, 4.4, 3.4)
"""Mean of the natural logarithm of the amount in EUR, by merchant."""
_COUNTRIES = ("DE", "NL", "FR", "AT", "IT", "ES", "GB", "US", "TH")
_COUNTRY_SHARES = (0.9, 0.02, 0.015, 0.02, 0.012, 0.013, 0.008, 0.009, 0.003)
_COUNTRY_KM = (12.0, 400.0, 700.0, 600.0, 1000.0, 1500.0, 900.0, 7500.0, 9000.0)
_FAR = ("US", "TH", "BR", "ZA", "NG")


@dataclass(frozen=True, kw_only=True)
class _Bank:
    """What makes one bank's payments its own.

    Parameters
    ----------
    share : float
        Of all payments.
    amounts, abroad : float
        Multipliers of the usual amount and of the share of payments abroad.
    kinds : tuple of float
        Shares of theft, card testing and takeover among the episodes of fraud.
    """

    share: float
    amounts: float
    abroad: float
    kinds: tuple[float, float, float]


_BANKS = {
    "bank-a": _Bank(share=0.50, amounts=1.0, abroad=1.0, kinds=(0.55, 0.10, 0.35)),
    "bank-b": _Bank(share=0.32, amounts=1.4, abroad=2.5, kinds=(0.20, 0.20, 0.60)),
    "bank-c": _Bank(share=0.18, amounts=0.7, abroad=1.5, kinds=(0.10, 0.55, 0.35)),
}


def simulate_card_payments(seed: int = 0, n: int = 60_000) -> tuple[dict[str, pl.DataFrame], Schema]:
    """Simulate card payments at three banks; no row describes a real person.

    Parameters
    ----------
    seed : int
        Nonnegative; the same seed gives the same tables.
    n : int
        Payments at all banks together, 1,000 to 10,000,000.

    Returns
    -------
    tables : dict of str to polars.DataFrame
        "bank-a" (50 %), "bank-b" (32 %, its customers travel) and "bank-c" (18 %, small amounts), by
        time: ``person_id``, seven numbers, three categories and ``fraud`` (1 % of the rows, in bursts of
        four). About 12,000 persons make 60,000 payments; no person is at two banks.
    schema : Schema
        Ranges declared by hand.

    Raises
    ------
    ParameterError
        `seed` or `n` is out of its domain.
    """
    import polars as pl

    if type(seed) is not int or seed < 0:
        raise ParameterError("seed is out of its domain", got=repr(seed)[:40], rule="a whole number, 0 or more")
    if type(n) is not int or not 1_000 <= n <= 10_000_000:
        raise ParameterError("n is out of its domain", got=repr(n)[:40], rule="1,000 to 10,000,000 payments")
    schema = Schema.from_toml(resources.files(__package__).joinpath("samples/card_payments.toml").read_text("utf-8"))
    rng = np.random.default_rng(seed)
    tables: dict[str, pl.DataFrame] = {}
    left, next_person = n, 1
    for number, (name, bank) in enumerate(_BANKS.items()):
        rows = left if number == len(_BANKS) - 1 else round(n * bank.share)
        persons = rows // PAYMENTS_PER_PERSON
        columns = _payments(rng, bank, rows, persons)
        columns["person_id"] += next_person
        tables[name] = pl.DataFrame({column.name: columns[column.name] for column in schema.columns})
        left -= rows
        next_person += persons
    return tables, schema


def _payments(rng: np.random.Generator, bank: _Bank, rows: int, persons: int) -> Columns:
    """Simulate one bank: honest payments, bursts of fraud, and what follows from their order in time."""
    frauds = max(BURST, round(rows * FRAUD_SHARE))
    usual_log = rng.normal(np.log(bank.amounts), 0.35, persons)
    honest = _honest(rng, rows - frauds, usual_log, bank.abroad)
    fraud = _fraud(rng, frauds, usual_log, bank)
    columns = {key: np.concatenate([honest[key], fraud[key]]) for key in honest}
    columns["fraud"] = np.repeat(np.array([0, 1], dtype=np.int8), [rows - frauds, frauds])
    person, minute = columns.pop("person_id"), columns.pop("minute")
    since_last, recent = _history(rng, person, minute)
    columns |= {
        "person_id": person,
        "amount": np.round(np.clip(columns["amount"], 0.5, 9_999), 2),
        "amount_over_usual": np.round(columns["amount"] / (30 * np.exp(usual_log[person])), 3),
        "hour": np.round(minute / 60 % 24, 2),
        "distance_km": np.round(columns["distance_km"], 1),
        "minutes_since_last": np.round(since_last, 1),
        "payments_24h": recent,
        "card_age_days": np.floor(rng.uniform(0, 1825, persons)[person]),
    }
    order = np.argsort(minute, kind="stable")
    return {key: values[order] for key, values in columns.items()}


def _honest(rng: np.random.Generator, rows: int, usual_log: Floats, abroad: float) -> Columns:
    persons = len(usual_log)
    activity = rng.gamma(1.5, 1.0, persons)
    person = rng.choice(persons, rows, p=activity / activity.sum())
    merchant = rng.choice(len(_MERCHANTS), rows, p=_MERCHANT_SHARES)
    shares = np.array(_COUNTRY_SHARES)
    shares[1:] *= abroad
    shares[0] = 1 - shares[1:].sum()
    country = rng.choice(len(_COUNTRIES), rows, p=shares)
    online = np.array(_MERCHANTS)[merchant] == "online"
    # People shop on few days and then in several places, so that several payments a day are nothing unusual.
    day = rng.integers(0, DAYS, (persons, 4))[person, rng.integers(0, 4, rows)]
    # Two humps of the day, at noon and in the early evening; a few payments at any time.
    hour = np.where(rng.random(rows) < 0.5, rng.normal(12.5, 2.2, rows), rng.normal(18.0, 2.0, rows))
    hour = np.where(rng.random(rows) < 0.06, rng.uniform(0, 24, rows), hour) % 24
    log_amount = np.array(_MERCHANT_LOG_AMOUNTS)[merchant] + usual_log[person] + rng.normal(0, 0.6, rows)
    distance = np.array(_COUNTRY_KM)[country] * rng.lognormal(0, 0.8, rows)
    chip = np.where(rng.random(rows) < 0.62, "contactless", "chip")
    chip = np.where(rng.random(rows) < 0.004, "magnetic stripe", chip)
    return {
        "person_id": person,
        "minute": (day * 24 + hour) * 60,
        "amount": np.exp(log_amount),
        "distance_km": np.clip(np.where(online, 0.0, distance), 0, 20_000),
        "merchant": np.array(_MERCHANTS)[merchant],
        "channel": np.where(online, "online", chip),
        "country": np.array(_COUNTRIES)[country],
    }


def _fraud(rng: np.random.Generator, rows: int, usual_log: Floats, bank: _Bank) -> Columns:
    """Bursts with one victim: theft far away, card testing online, or a takeover that looks honest."""
    episode = np.arange(rows) // BURST
    episodes = episode[-1] + 1
    kind = rng.choice(3, episodes, p=bank.kinds)[episode]
    columns = _honest(rng, rows, usual_log, bank.abroad)  # a takeover keeps its victim's habits
    columns["person_id"] = rng.integers(0, len(usual_log), episodes)[episode]
    columns["amount"] = np.exp(rng.normal(4.3, 0.7, rows) + usual_log[columns["person_id"]])

    # Payments of one episode follow each other: the pause from one to the next, summed from the first.
    pause = rng.exponential(np.array([45.0, 2.0, 2000.0])[kind]) + 0.2
    elapsed = np.cumsum(pause)
    start = rng.uniform(0, (DAYS - 7) * 1440, episodes)[episode]
    columns["minute"] = np.minimum(start + elapsed - elapsed[episode * BURST], DAYS * 1440 - 1)

    shop = rng.choice(["electronics", "jewellery", "cash", "gift cards"], rows, p=(0.4, 0.25, 0.2, 0.15))
    country = np.array(_FAR)[rng.integers(0, len(_FAR), episodes)][episode]
    theft, testing = kind == 0, kind == 1
    for key, at_theft, at_testing in (
        ("amount", rng.lognormal(6.1, 0.7, rows), rng.uniform(0.5, 3.0, rows)),
        ("distance_km", rng.uniform(6_000, 12_000, rows), np.zeros(rows)),
        ("merchant", shop, np.full(rows, "online")),
        ("channel", np.where(rng.random(rows) < 0.5, "magnetic stripe", "chip"), np.full(rows, "online")),
        ("country", country, country),
    ):
        columns[key] = np.select([theft, testing], [at_theft, at_testing], columns[key])
    return columns


def _history(rng: np.random.Generator, person: Ints, minute: Floats) -> tuple[Floats, Ints]:
    """Minutes since the card's payment before, and its number of payments in the 24 hours before."""
    order = np.lexsort((minute, person))
    # One increasing key for all persons: a window of 24 hours never reaches into the person before.
    key = person[order] * (DAYS * 1440.0 * 4) + minute[order]
    place = np.arange(len(key))
    recent = place - np.searchsorted(key, key - 1440.0, side="left")
    gap = np.diff(key, prepend=-np.inf)
    first = np.diff(person[order], prepend=-1) != 0
    gap[first] = rng.uniform(600, 40_000, int(first.sum()))
    since_last, payments = np.empty(len(key)), np.empty(len(key), dtype=np.int64)
    since_last[order], payments[order] = np.clip(gap, 0, DAYS * 1440), recent
    return since_last, payments
