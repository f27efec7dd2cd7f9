"""The privacy of a call, as it was asked for."""

from __future__ import annotations

from dataclasses import replace
from types import EllipsisType

from blindsight.errors import ParameterError
from blindsight.privacy import DifferentialPrivacy

__all__ = ["asked_privacy", "for_describing"]


def for_describing(privacy: DifferentialPrivacy | None) -> DifferentialPrivacy | None:
    """The privacy asked for, all of it for "describe" unless the shares give that a part."""
    if privacy is None or "describe" in privacy.shares:
        return privacy
    return replace(privacy, shares={"describe": 1.0})


def asked_privacy(privacy: object, what: str) -> DifferentialPrivacy | None:
    """What was asked for, if it is one of the two things that can be.

    Raises
    ------
    ParameterError
    """
    if privacy is None or isinstance(privacy, DifferentialPrivacy):
        return privacy
    number = isinstance(privacy, int | float) and not isinstance(privacy, bool)
    epsilon = f"{privacy:g}" if number else "1.0"
    raise ParameterError(
        f"Say how private the {what} is to be",
        got="nothing" if isinstance(privacy, EllipsisType) else f"privacy={privacy!r}"[:80],
        rule="privacy=bs.DifferentialPrivacy(...), or privacy=None for exact sums where every policy allows them",
        fix=f"privacy=bs.DifferentialPrivacy(epsilon={epsilon}, delta=1e-6)"
        + ("; the one of the fit: its 'evaluation' share is spent here" if what == "evaluation" else ""),
    )
