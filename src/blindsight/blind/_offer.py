"""The offer: all that a record owner needs to know of a model, and nothing of its weights but two sizes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from blindsight.circuits import (
    Encoder,
    Inputs,
    Windowed,
    encoder_from_json,
    encoder_to_json,
    inputs_from_json,
    inputs_to_json,
)
from blindsight.errors import BlindsightError, WireError

from ._ckks_plan import CkksParameters
from ._envelope import Bytes32
from ._plan import MAX_PLAIN_BITS, MAX_THRESHOLDS, MIN_PLAIN_BITS, BlindParameters

__all__ = ["Offer"]

MAX_OFFER_BYTES = 1 << 24
MAGIC = b"BSOF"


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    packing: Literal["rows", "columns"]
    upload: Literal["seeded", "unseeded"]
    entries: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    degree: Literal[4096, 8192]
    plain_bits: Annotated[int, msgspec.Meta(ge=MIN_PLAIN_BITS, le=MAX_PLAIN_BITS)]
    weight_bits: Annotated[int, msgspec.Meta(ge=0, le=62)]
    thresholds: Annotated[int, msgspec.Meta(ge=0, le=MAX_THRESHOLDS)] = 0


class _Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="version", tag=1):
    parameters: _Parameters
    encoder: dict[str, Any]
    schema: dict[str, Any]
    score_scale: float
    secret: bool
    scorer: Bytes32


class _CkksParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    degree: Literal[8192, 16384]
    count: Annotated[int, msgspec.Meta(ge=1, le=15)]
    kept: Annotated[int, msgspec.Meta(ge=1, le=15)]
    entries: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    squares: Literal[1, 2]
    input_bits: Annotated[int, msgspec.Meta(ge=10, le=60)]
    scale_bits: Annotated[int, msgspec.Meta(ge=20, le=400)]
    score_bits: Annotated[int, msgspec.Meta(ge=-64, le=128)]
    tolerance_bits: Annotated[int, msgspec.Meta(ge=-64, le=128)]
    upload: Literal["seeded", "unseeded"]


class _CkksOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="version", tag=2):
    parameters: _CkksParameters
    inputs: dict[str, Any]
    schema: dict[str, Any]
    secret: bool
    scorer: Bytes32


def _plain(value: object) -> object:
    """Encode NumPy scalars in an encoder or schema as the numbers that they are."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"an offer cannot carry a {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(_Offer | _CkksOffer)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model as its record owners see it.

    Parameters
    ----------
    parameters : BlindParameters or CkksParameters
    encoder : Encoder or Inputs
        Public; ``Inputs`` go with CKKS.
    schema : dict
        JSON form of the schema, carried as it is.
    score_scale : float
        ``decision_function`` is the integer score times this; 1 for CKKS.
    secret : bool
        Whether the model's holder calls the model secret (declared ranges).
    scorer : bytes
        X25519 public key of the scorer, 32 bytes.

    Security
    --------
    An offer is not signed: fetch it through a channel that authenticates the scorer. A forged offer cannot weaken the
    encryption (the primes come from a closed set), but its scorer may answer anything.
    """

    parameters: BlindParameters | CkksParameters
    encoder: Encoder | Inputs
    schema: dict[str, Any]
    score_scale: float
    secret: bool
    scorer: bytes
    encoded: bytes = field(default=b"", repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoded offer."""
        return hashlib.sha256(self.encoded).digest()

    def encode(self) -> Offer:
        """Return a copy that knows its bytes."""
        encoded = MAGIC + _encoder.encode(self._body())
        if len(encoded) > MAX_OFFER_BYTES:
            raise WireError("The offer is too long", got=f"{len(encoded)} bytes", rule=f"at most {MAX_OFFER_BYTES}")
        return replace(self, encoded=encoded)

    def _body(self) -> _Offer | _CkksOffer:
        p, encoder = self.parameters, self.encoder
        if isinstance(p, CkksParameters) and isinstance(encoder, Inputs):
            fields = {name: getattr(p, name) for name in _CkksParameters.__struct_fields__}
            return _CkksOffer(
                parameters=_CkksParameters(**fields),
                inputs=inputs_to_json(encoder),
                schema=self.schema,
                secret=self.secret,
                scorer=self.scorer,
            )
        if isinstance(p, CkksParameters) or isinstance(encoder, Inputs):
            raise WireError("The offer contradicts itself", rule="CKKS parameters go with real inputs")
        return _Offer(
            parameters=_Parameters(**{name: getattr(p, name) for name in _Parameters.__struct_fields__}),
            encoder=encoder_to_json(encoder),
            schema=self.schema,
            score_scale=self.score_scale,
            secret=self.secret,
            scorer=self.scorer,
        )

    @classmethod
    def decode(cls, data: bytes) -> Offer:
        """Read an untrusted offer.

        Raises
        ------
        WireError
            Malformed, too long, of another version, or inconsistent in itself.
        """
        if not isinstance(data, bytes) or not data.startswith(MAGIC) or len(data) > MAX_OFFER_BYTES:
            raise WireError("These bytes are not an offer", rule="docs/wire-blind.md, 'Offer'")
        try:
            body = _decoder.decode(memoryview(data)[len(MAGIC) :])
            offer = _read(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BlindsightError) as error:
            raise WireError(
                "The offer is malformed",
                got=str(error)[:200],
                rule="docs/wire-blind.md, 'Offer'",
                fix="fetch it again from the model's holder",
            ) from error
        if isinstance(offer.encoder, Windowed):
            raise WireError("The offer contradicts itself", got="windows", rule="operators score windows")
        entries = offer.encoder.width if isinstance(offer.encoder, Inputs) else offer.encoder.length
        if entries != offer.parameters.entries:
            raise WireError(
                "The offer contradicts itself",
                got=f"{offer.parameters.entries} entries, encoder of {entries}",
                rule="equal",
            )
        if not (math.isfinite(offer.score_scale) and offer.score_scale > 0):
            raise WireError("The offer's score scale is out of range", rule="finite and positive")
        return replace(offer, encoded=data)


def _read(body: _Offer | _CkksOffer) -> Offer:
    fields = msgspec.structs.asdict(body.parameters)
    if isinstance(body, _CkksOffer):
        return Offer(
            parameters=CkksParameters(**fields),
            encoder=inputs_from_json(body.inputs),
            schema=body.schema,
            score_scale=1.0,
            secret=body.secret,
            scorer=body.scorer,
        )
    return Offer(
        parameters=BlindParameters(**fields),
        encoder=encoder_from_json(body.encoder),
        schema=body.schema,
        score_scale=body.score_scale,
        secret=body.secret,
        scorer=body.scorer,
    )
