"""What coordinator and party say to each other: strict msgpack, one tag per message.

The securesum messages inside ``Reply.body`` and ``Continue.body`` have their own format (docs/wire-securesum.md).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from blindsight import errors
from blindsight.errors import BlindsightError, RefusedError, WireError

__all__ = [
    "MAX_ENDED",
    "Begin",
    "Continue",
    "Deliver",
    "Greeting",
    "Hello",
    "Kept",
    "Ledgers",
    "Refusal",
    "Reply",
    "Step",
    "Terms",
    "decode_reply",
    "decode_request",
    "encode",
    "glance",
]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9._/:-]+$")]
MAX_PARTICIPANTS = 1024
MAX_ENDED = 32
MAX_BODY_BYTES = 1 << 28
Body = Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
MAX_MODEL_BYTES = 1 << 25
Model = Annotated[bytes, msgspec.Meta(max_length=MAX_MODEL_BYTES)]
Statement = Annotated[bytes, msgspec.Meta(max_length=4096)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e6)]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Differential privacy as asked for; see ``privacy.DifferentialPrivacy``."""

    epsilon: Positive
    delta: Annotated[float, msgspec.Meta(gt=0, lt=0.1)]
    unit: Literal["record", "person", "party"]
    max_records_per_person: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None
    max_records_per_party: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None
    shares: dict[Name, Annotated[float, msgspec.Meta(gt=0, le=1)]]
    colluders: Annotated[int, msgspec.Meta(ge=0, le=255)]
    trust: Literal["federation", "local"]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One private sum, described completely: each party rebuilds the query from it and computes nothing else."""

    federation: Name
    run: Id
    step: Id
    purpose: Literal["fit", "threshold", "evaluation", "describe"]
    part: Annotated[str, msgspec.Meta(max_length=40)]
    dataset: Literal["training", "evaluation"]
    participants: Annotated[list[tuple[Name, Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]]],
                            msgspec.Meta(max_length=MAX_PARTICIPANTS)]  # fmt: skip
    threshold: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTICIPANTS)]
    schema_digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    detector: dict[str, Any] | None
    model: Model | None
    privacy: Terms | None
    sums: Literal["masked", "he", "paillier"] = "masked"

    @property
    def release_id(self) -> str:
        """Name of the release: unique in the federation."""
        return f"{self.run}/{self.step}"


class Ledgers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What parties tell each other of their ledgers, beside a sum's messages; see ``_heads``.

    ``recalled``: the newest statement that somebody keeps of a party. ``heads``: a party's statement of this sum.
    ``signatures``: countersignatures.
    """

    recalled: Annotated[dict[Name, Statement], msgspec.Meta(max_length=MAX_PARTICIPANTS)] = {}
    heads: Annotated[dict[Name, Statement], msgspec.Meta(max_length=MAX_PARTICIPANTS)] = {}
    signatures: Annotated[dict[Name, Signature], msgspec.Meta(max_length=MAX_PARTICIPANTS)] = {}


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="hello"):
    """Who are you?"""


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="begin", omit_defaults=True):
    """Start a sum: check it against the policy and answer with the first message of the protocol.

    ``recall`` asks for what the party has seen of the others' ledgers. ``ended`` names runs of which the coordinator
    has written down how they ended: it will not ask for an answer of theirs again; see ``_sums``.
    """

    step: Step
    recall: bool = False
    ended: Annotated[list[Id], msgspec.Meta(max_length=MAX_ENDED)] = []


class Continue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="continue", omit_defaults=True):
    """The next message of the protocol of a sum already begun."""

    release_id: Annotated[str, msgspec.Meta(max_length=241)]
    body: Body
    ledgers: Ledgers | None = None


class Deliver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="deliver"):
    """The model that a run has released, as its file: to be checked, and kept."""

    run: Id
    model: Model


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="greeting"):
    """A party's name, identity and schema."""

    name: Name
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    schema_digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    version: Annotated[str, msgspec.Meta(max_length=40)]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="reply", omit_defaults=True):
    """The party's message of the protocol; of a query without masking, its vector: int64, little endian.

    ``notice`` says why the party added nothing to a round of training; sent only where no privacy was asked for.
    """

    body: Body
    notice: Annotated[str, msgspec.Meta(max_length=200)] = ""
    ledgers: Ledgers | None = None


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kept"):
    """The party has checked a delivered model and keeps it under this version of its own."""

    version: Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """The party said no, and why. Never a value of a record: see :meth:`of`."""

    kind: Name
    what: Text
    got: Text | None = None
    rule: Text | None = None
    fix: Text | None = None

    @classmethod
    def of(cls, error: BlindsightError, *, before_data: bool) -> Refusal:
        """Describe an error to the coordinator.

        Parameters
        ----------
        error : BlindsightError
        before_data : bool
            True when it was raised before any record was read.

        Privacy
        -------
        What was raised before any record was read travels whole, and so do refusals by rule and protocol errors: they
        speak of policy, budget and messages. Any other error, and every DataError, may name a row or a value, so that
        only its kind crosses; the text stays in the party's own log.
        """
        kind = type(error).__name__
        safe = before_data and not isinstance(error, errors.DataError)
        if safe or isinstance(error, RefusedError | errors.ProtocolError):
            what, got, rule, fix = (
                text[:2000] if text is not None else None for text in (error.what, error.got, error.rule, error.fix)
            )
            return cls(kind, what or kind, got, rule, fix)
        return cls(
            kind,
            f"The party could not compute ({kind})",
            None,
            None,
            "read the party's own log, party.log in its folder",
        )

    def error(self, party: str) -> BlindsightError:
        """Rebuild the error at the coordinator; unknown kinds become a ProtocolError."""
        cls = getattr(errors, self.kind, None) if self.kind in errors.__all__ else None
        if not (isinstance(cls, type) and issubclass(cls, BlindsightError)):
            cls = errors.ProtocolError
        return cls(f"{party}: {self.what}", got=self.got, rule=self.rule, fix=self.fix)


Request = Hello | Begin | Continue | Deliver
Answer = Greeting | Reply | Kept | Refusal

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Serialise a message."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """Parse what the coordinator sent; WireError on anything that is not exactly a request."""
    try:
        request: Request = _requests.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _garbled(error) from error
    return request


class _Glance(msgspec.Struct, frozen=True):
    type: str
    kind: str = ""


_glances = msgspec.msgpack.Decoder(_Glance)


def glance(answer: bytes) -> tuple[str, str]:
    """What an answer of our own is, ``greeting``, ``reply``, ``kept`` or ``refusal``, and of which kind a refusal is.

    No more of it is read: bodies are long.
    """
    seen = _glances.decode(answer)
    return seen.type, seen.kind


def decode_reply(data: bytes) -> Answer:
    """Parse what a party sent; WireError on anything that is not exactly an answer."""
    try:
        answer: Answer = _answers.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _garbled(error) from error
    return answer


def _garbled(error: Exception) -> WireError:
    return WireError(
        "A message is malformed",
        got=str(error)[:200],
        rule="docs/wire-formats.md, 'Federation'",
        fix="check versions",
    )
