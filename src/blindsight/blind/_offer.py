"""The offer: all that a record owner needs to know of a model, and nothing of its weights but two sizes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from blindsight.circuits import Encoder, encoder_from_json, encoder_to_json
from blindsight.errors import BlindsightError, WireError

from ._envelope import Bytes32
from ._plan import MAX_PLAIN_BITS, MIN_PLAIN_BITS, BlindParameters

__all__ = ["Offer"]

MAX_OFFER_BYTES = 1 << 24
MAGIC = b"BSOF"


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    packing: Literal["rows", "columns"]
    upload: Literal["seeded", "unseeded"]
    entries: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    degree: Literal[4096, 8192]
    plain_bits: Annotated[int, msgspec.Meta(ge=MIN_PLAIN_BITS, le=MAX_PLAIN_BITS)]
    weight_bits: Annotated[int, msgspec.Meta(ge=0, le=62)]


class _Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1] = 1
    parameters: _Parameters
    encoder: dict[str, Any]
    schema: dict[str, Any]
    score_scale: float
    secret: bool
    scorer: Bytes32


def _plain(value: object) -> object:
    """Encode NumPy scalars in an encoder or schema as the numbers that they are."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"an offer cannot carry a {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(_Offer)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model as its record owners see it.

    Parameters
    ----------
    parameters : BlindParameters
    encoder : Encoder
        Public.
    schema : dict
        JSON form of the schema, carried as it is.
    score_scale : float
        ``decision_function`` is the integer score times this.
    secret : bool
        Whether the model's holder calls the model secret (declared ranges).
    scorer : bytes
        X25519 public key of the scorer, 32 bytes.

    Security
    --------
    An offer is not signed: fetch it through a channel that authenticates the scorer. A forged offer cannot weaken the
    encryption (the primes come from a closed set), but its scorer may answer anything.
    """

    parameters: BlindParameters
    encoder: Encoder
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
        p = self.parameters
        body = _Offer(
            parameters=_Parameters(
                packing=p.packing,
                upload=p.upload,
                entries=p.entries,
                degree=p.degree,  # type: ignore[arg-type]
                plain_bits=p.plain_bits,
                weight_bits=p.weight_bits,
            ),
            encoder=encoder_to_json(self.encoder),
            schema=self.schema,
            score_scale=self.score_scale,
            secret=self.secret,
            scorer=self.scorer,
        )
        encoded = MAGIC + _encoder.encode(body)
        if len(encoded) > MAX_OFFER_BYTES:
            raise WireError("The offer is too long", got=f"{len(encoded)} bytes", rule=f"at most {MAX_OFFER_BYTES}")
        return Offer(
            parameters=p,
            encoder=self.encoder,
            schema=self.schema,
            score_scale=self.score_scale,
            secret=self.secret,
            scorer=self.scorer,
            encoded=encoded,
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
            raise WireError("These bytes are not an offer", rule="docs/wire-blind.md, 'Offer', version 1")
        try:
            body = _decoder.decode(memoryview(data)[len(MAGIC) :])
            p = body.parameters
            parameters = BlindParameters(
                packing=p.packing,
                upload=p.upload,
                entries=p.entries,
                degree=p.degree,
                plain_bits=p.plain_bits,
                weight_bits=p.weight_bits,
            )
            encoder = encoder_from_json(body.encoder)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BlindsightError) as error:
            raise WireError(
                "The offer is malformed",
                got=str(error)[:200],
                rule="docs/wire-blind.md, 'Offer', version 1",
                fix="fetch it again from the model's holder",
            ) from error
        if encoder.length != parameters.entries:
            raise WireError(
                "The offer contradicts itself",
                got=f"{parameters.entries} entries, encoder of {encoder.length}",
                rule="equal",
            )
        if not (math.isfinite(body.score_scale) and body.score_scale > 0):
            raise WireError("The offer's score scale is out of range", rule="finite and positive")
        return cls(
            parameters=parameters,
            encoder=encoder,
            schema=body.schema,
            score_scale=body.score_scale,
            secret=body.secret,
            scorer=body.scorer,
            encoded=data,
        )
