"""What the record owner's process and the scorer's process say to each other: one letter, then bytes."""

from __future__ import annotations

import msgspec

from blindsight import errors
from blindsight.errors import BlindsightError, ProtocolError

__all__ = ["ScorerFacts", "decode_answer", "failure", "success"]

OFFER, FACTS, SCORE = b"o", b"f", b"s"


class ScorerFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model's holder tells a record owner besides the offer, by its own choice.

    Parameters
    ----------
    threshold : float
        Score above which a record alerts.
    bits_per_record : float
        At most.
    bits_released : int
        So far, to all owners.
    rows_to_extract : int
        Well-chosen scores after which every other can be computed.
    parameters : str
    """

    threshold: float
    bits_per_record: float
    bits_released: int
    rows_to_extract: int
    parameters: str


class _Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    what: str
    got: str | None
    rule: str | None
    fix: str | None


def success(payload: bytes) -> bytes:
    """Frame an answer."""
    return b"+" + payload


def failure(error: BlindsightError) -> bytes:
    """Frame an error; the scorer's errors hold nothing of a record, which it never saw."""
    return b"-" + msgspec.msgpack.encode(_Failure(type(error).__name__, error.what, error.got, error.rule, error.fix))


def decode_answer(frame: bytes) -> bytes:
    """Return the payload of an answer, or raise the scorer's error.

    Raises
    ------
    BlindsightError
        What the scorer raised.
    ProtocolError
        The frame is malformed.
    """
    if frame[:1] == b"+":
        return frame[1:]
    try:
        if frame[:1] != b"-" or len(frame) > 1 << 16:
            raise ValueError("neither an answer nor an error")
        told = msgspec.msgpack.decode(frame[1:], type=_Failure)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ProtocolError("The scorer's process answered garbage", got=str(error)[:200]) from error
    kind = getattr(errors, told.kind, None) if told.kind in errors.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, BlindsightError)):
        kind = ProtocolError
    raise kind(f"Scorer: {told.what}", got=told.got, rule=told.rule, fix=told.fix)
