"""A released model on its way to the parties: who gets it, and what became of it at each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from blindsight import modelfile
from blindsight.channels import Channel
from blindsight.detectors import Detector
from blindsight.errors import ParameterError, ProtocolError

from ._wire import MAX_MODEL_BYTES, Deliver, Kept, Refusal, decode_reply, encode

__all__ = ["chosen_receivers", "send_to_parties"]


def chosen_receivers(names: Sequence[str], to: Iterable[str] | Literal["all"]) -> list[str]:
    """Which of these parties "all" or a list of names means, sorted.

    Raises
    ------
    ParameterError
        One is none of them.
    """
    chosen = list(names) if to == "all" else sorted(set(to))
    unknown = sorted(set(chosen) - set(names))
    if unknown or (isinstance(to, str) and to != "all"):
        raise ParameterError(
            "A model cannot be sent there",
            got=repr(to)[:80] if isinstance(to, str) else ", ".join(unknown)[:200],
            rule="'all', or names of " + ", ".join(names)[:300],
        )
    return chosen


def send_to_parties(channel: Channel, model: Detector, names: Sequence[str], timeout_s: float) -> dict[str, str]:
    """Deliver a model that a run has released; what became of it at each party, in words.

    Raises
    ------
    ParameterError
        The model is of no run of a federation, or too large for a message.
    """
    if not names:
        return {}
    run, file = (model.provenance_ or {}).get("run"), modelfile.dumps(model)
    if not isinstance(run, str) or len(file) > MAX_MODEL_BYTES:
        raise ParameterError(
            "The model cannot be sent",
            got="no run in its provenance" if not isinstance(run, str) else f"{len(file):,} bytes",
            rule=f"a model that a federation has fitted, of at most {MAX_MODEL_BYTES:,} bytes",
        )
    request = encode(Deliver(run, file))
    answers = channel.exchange(dict.fromkeys(names, request), timeout_s)
    return {name: _kept(name, answers.get(name), hashlib.sha256(file).hexdigest()) for name in names}


def _kept(name: str, answer: bytes | None, sha256: str) -> str:
    """What became of a delivered model at a party, in words."""
    if answer is None:
        return "did not answer"
    try:
        reply = decode_reply(answer)
    except ProtocolError as error:
        return str(error)
    if isinstance(reply, Refusal):
        return str(reply.error(name))
    if not isinstance(reply, Kept):
        return "answered something else"
    same = "" if reply.sha256 == sha256 else "; it had this model before, made at another time"
    return f"kept as version {reply.version}{same}"
