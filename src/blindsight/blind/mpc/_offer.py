"""What a model's holder tells the owners through the operators: how to encode records, and what is computed."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from blindsight.circuits import (
    Encoder,
    Inputs,
    Monomials,
    Quantised,
    encoder_from_json,
    encoder_to_json,
    inputs_from_json,
    inputs_to_json,
)
from blindsight.errors import BlindsightError, WireError

from ._program import Program

__all__ = ["MAX_OFFER_BYTES", "MpcOffer"]

MAX_OFFER_BYTES = 1 << 26


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    program: msgspec.Raw
    inputs: dict[str, Any]
    schema: dict[str, Any]
    score_scale: float
    secret: bool


class MpcOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Program, public encoding, schema and unit of a score; never a weight.

    Parameters
    ----------
    program : Program
    inputs : Encoder, Standardised or Windowed
        Public.
    schema : dict
        JSON form of the model's schema.
    score_scale : float
        Unit of a whole score; 1 for a network.
    secret : bool
        Whether the public encoding tells nothing that was learned from data.
    """

    program: Program
    inputs: Encoder | Inputs
    schema: dict[str, Any]
    score_scale: float
    secret: bool

    def encode(self) -> bytes:
        """JSON bytes."""
        inputs = self.inputs
        body = _Body(
            version=1,
            program=msgspec.Raw(self.program.encode()),
            inputs=encoder_to_json(inputs) if isinstance(inputs, Encoder) else inputs_to_json(inputs),
            schema=self.schema,
            score_scale=self.score_scale,
            secret=self.secret,
        )
        return msgspec.json.encode(body)

    @classmethod
    def decode(cls, data: bytes) -> MpcOffer:
        """Read untrusted bytes; WireError on anything malformed or inconsistent."""
        try:
            if len(data) > MAX_OFFER_BYTES:
                raise ValueError("too long")
            body = msgspec.json.decode(data, type=_Body)
            program = Program.decode(bytes(body.program))
            read = encoder_from_json if program.whole else inputs_from_json
            inputs = read(body.inputs)
            if body.version != 1 or not (math.isfinite(body.score_scale) and body.score_scale > 0):
                raise ValueError("version or score scale")
            if isinstance(inputs, Quantised):
                raise ValueError("operators compute quadratic forms of whole numbers")
            if _width(inputs) != program.inputs or isinstance(inputs, Monomials) != (program.form == "quadratic"):
                raise ValueError("encoding and program do not fit")
        except (msgspec.MsgspecError, ValueError, RecursionError, UnicodeDecodeError, BlindsightError) as error:
            raise WireError(
                "The offer of a model is malformed",
                got=str(error)[:200],
                fix="ask the model's holder to share it again",
            ) from error
        return cls(program=program, inputs=inputs, schema=body.schema, score_scale=body.score_scale, secret=body.secret)

    def records(self, X: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Encode feature rows, or windows of them, as the program wants them: (rows, inputs), int64 or float64."""
        if isinstance(self.inputs, Monomials):
            return self.inputs.homogeneous(self.inputs.quantise(X))
        return self.inputs.encode(X)


def _width(inputs: Encoder | Inputs) -> int:
    if isinstance(inputs, Monomials):
        return inputs.n_features + 1
    return inputs.length if isinstance(inputs, Encoder) else inputs.width
