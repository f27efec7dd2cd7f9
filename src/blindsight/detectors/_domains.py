"""Domains of parameters: one check and one wording for each kind of value."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from blindsight.errors import ParameterError

__all__ = ["choice", "flag", "is_number", "number", "out_of_domain", "seed_number", "whole_number"]

MAX_SHOWN = 60
"""Characters shown of a refused value: it may be another party's."""

MAX_SEED = (1 << 63) - 1


def out_of_domain(name: str, value: object, rule: str, *, fix: str | None = None) -> ParameterError:
    """Return the error that refuses a parameter's value."""
    return ParameterError(f"{name} is out of its domain", got=repr(value)[:MAX_SHOWN], rule=rule, fix=fix)


def whole_number(name: str, value: object, low: int, high: int, *, fix: str | None = None) -> None:
    """Refuse what is no int from ``low`` to ``high``, both included; a bool is none.

    Raises
    ------
    ParameterError
        Whose fix, unless given, is the parameter's default.
    """
    if type(value) is not int or not low <= value <= high:
        fix = f"leave {name} out for its default" if fix is None else fix
        raise out_of_domain(name, value, f"a whole number, {low} to {high}", fix=fix)


def seed_number(value: object) -> None:
    """Refuse a ``seed`` that is no int in [0, 2**63).

    Raises
    ------
    ParameterError
    """
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise out_of_domain("seed", value, "a whole number, 0 <= seed < 2**63")


def number(
    name: str,
    value: object,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
    fix: str | None = None,
) -> None:
    """Refuse what is no real number from ``low`` to ``high``; an open end is not itself allowed.

    Raises
    ------
    ParameterError
        Also for NaN, a bool and text.
    """
    fine = is_number(value) and low <= value <= high
    if not fine or (open_low and value == low) or (open_high and value == high):
        above, below = "<" if open_low else "<=", "<" if open_high else "<="
        raise out_of_domain(name, value, f"{low:g} {above} {name} {below} {high:g}", fix=fix)


def choice(name: str, value: object, options: tuple[str, ...]) -> None:
    """Refuse what is none of the words ``options``, of which there are at least two.

    Raises
    ------
    ParameterError
    """
    if not isinstance(value, str) or value not in options:
        words = [f"'{option}'" for option in options]
        raise out_of_domain(name, value, ", ".join(words[:-1]) + " or " + words[-1])


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises
    ------
    ParameterError
    """
    if type(value) is not bool:
        raise out_of_domain(name, value, "True or False")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a parameter is a real number: not a bool, not text."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
