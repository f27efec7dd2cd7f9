"""Whom each engine asks to trust, and what each side learns: the words that a plan shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Engine", "Reveal", "Trust", "trust_of"]

Engine = Literal["rows", "columns", "aby3", "cheetah"]
Reveal = Literal["score", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Assumptions of one engine.

    Parameters
    ----------
    collusion : str
        Who must not collude, for anything to stay secret.
    behaviour : str
        What each side must do for this to hold.
    owner_learns, holder_learns, operators_learn : str
        ``operators_learn`` is empty where there are none.
    assumption : str
        Hardness assumptions.
    post_quantum : bool
        Whether records and weights stay secret from somebody who keeps all messages until a quantum computer exists.
    """

    collusion: str
    behaviour: str
    owner_learns: str
    holder_learns: str
    operators_learn: str
    assumption: str
    post_quantum: bool


HOLDER = "how many records, and when"
ANSWER: dict[Reveal, str] = {"score": "the scores", "verdict": "one bit a record"}
OPERATORS = "the form of the model, how many records and when"

HE_SCORE = Trust(
    collusion="nobody: two sides",
    behaviour="the holder follows the protocol; the owner may do anything, within its bits",
    owner_learns=ANSWER["score"],
    holder_learns=HOLDER,
    operators_learn="",
    assumption="ring learning with errors (records); statistical masks and flood (weights)",
    post_quantum=True,
)
CKKS_SCORE = Trust(
    collusion="nobody: two sides",
    behaviour="the holder follows the protocol, and is never told a score; the owner may do anything, within its bits",
    owner_learns="the scores, with a small error",
    holder_learns=HOLDER,
    operators_learn="",
    assumption="ring learning with errors (records); statistical masks and flood (weights)",
    post_quantum=True,
)
HE_VERDICT = Trust(
    collusion="nobody: two sides",
    behaviour="both follow the comparison (semi-honest)",
    owner_learns=ANSWER["verdict"],
    holder_learns=HOLDER,
    operators_learn="",
    assumption="as for scores; and the comparison's oblivious transfers: Diffie-Hellman, learning parity with noise",
    post_quantum=False,
)


def trust_of(engine: Engine, reveal: Reveal, *, approximate: bool) -> Trust:
    """Assumptions of an engine.

    Parameters
    ----------
    engine : {"rows", "columns", "aby3", "cheetah"}
    reveal : {"score", "verdict"}
    approximate : bool
        Whether encrypted scores carry noise (CKKS).
    """
    if engine in ("rows", "columns"):
        if reveal == "verdict":
            return HE_VERDICT
        return CKKS_SCORE if approximate else HE_SCORE
    if engine == "aby3":
        return Trust(
            collusion="any two of the three operators",
            behaviour="all three follow the protocol (semi-honest): one that does not can change answers",
            owner_learns=ANSWER[reveal],
            holder_learns="nothing, unless it is an operator",
            operators_learn=OPERATORS,
            assumption="an honest majority; AES as a generator; the links' TLS, which is not post-quantum",
            post_quantum=False,
        )
    return Trust(
        collusion="the two operators",
        behaviour="both follow the protocol (semi-honest): one that does not can change answers",
        owner_learns=ANSWER[reveal],
        holder_learns="nothing, unless it is an operator",
        operators_learn=OPERATORS,
        assumption="ring learning with errors; oblivious transfers from Diffie-Hellman; the links' TLS",
        post_quantum=False,
    )
