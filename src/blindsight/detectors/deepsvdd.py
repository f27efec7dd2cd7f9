"""Deep SVDD: a network that maps ordinary records close to one point (Ruff et al. 2018, ICML, one-class objective).

Parties sum: clipped updates of local training, round by round. Score: squared distance of the mapped record from the
centre.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from blindsight.data import Records, Schema
from blindsight.errors import ParameterError

from ._domains import choice
from ._queries import Query, SumQuery, Total
from ._state import State
from ._torch import TorchDetector, loop
from ._training import Training
from .autoencoder import check_sizes

if TYPE_CHECKING:
    import torch

    from ._parameters import Floats, Weights
    from ._queries import Ints

__all__ = ["DeepSVDD"]

CENTRE_BOUND = 4.0
CENTRE_LEVELS = 1024
CENTRE_SHARE = 0.05
LEAST = 0.1
"""Ruff's implementation keeps every coordinate of the centre this far from 0, so that zero weights do not win."""
PUBLIC_ROWS = 4096


class DeepSVDD(TorchDetector):
    """Squared distance from a centre in a small space that a network without bias terms maps to.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the layers; the last is the space's dimension.
    activation : {"leaky", "relu", "square"}
        Unbounded ones only: a bounded activation lets the network map everything to the centre (ibid., proposition 3).
    centre : {"learned", "public"}
        Mean of what the initial network makes of the parties' records, by one more private sum; or of standard normal
        public inputs, which costs nothing.
    contamination, training, scales, seed, schema
        As for :class:`AutoEncoder`.

    Privacy
    -------
    As for :class:`AutoEncoder`; ``centre="learned"`` adds one sum in which a record adds a vector of L2 norm at most
    ``1,024 * sqrt(dimension + 1)``, charged a twentieth of the fit's share.
    """

    name = "DeepSVDD"
    default_training = Training(rounds=10, learning_rate=0.02, clip_norm=10.0)
    feed_forward = True

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (64, 32),
        activation: str = "leaky",
        centre: str = "learned",
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "learned",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.centre = centre
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        check_sizes(self.hidden, self.activation)
        if self.activation == "tanh":
            raise ParameterError(
                "DeepSVDD cannot use a bounded activation",
                got="tanh",
                rule="it lets the network map every record to the centre (Ruff et al. 2018, proposition 3)",
                fix='use "leaky", "relu" or "square"',
            )
        choice("centre", self.centre, ("learned", "public"))

    def _settle(self, schema: Schema) -> None:
        self.centre_: Weights | None = None
        super()._settle(schema)
        if self.centre == "public":
            draw = np.random.Generator(np.random.Philox(key=self.seed))
            # uniform with variance 1: made of integers alone, so the same with every version of NumPy
            raw = draw.bit_generator.random_raw(PUBLIC_ROWS * self._width(schema))
            uniform = (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
            mapped = self._mapped(uniform.reshape(PUBLIC_ROWS, -1) * math.sqrt(3.0))
            self._set_centre(np.round(mapped.mean(axis=0) * CENTRE_LEVELS) / CENTRE_LEVELS)

    def _module(self, schema: Schema) -> torch.nn.Module:
        from ._modules import Encoding

        centre = np.zeros(self.hidden[-1]) if self.centre_ is None else self.centre_
        return Encoding((self._width(schema), *self.hidden), self.activation, [float(c) for c in centre])

    def _mapped(self, Z: Floats) -> Floats:
        """Where the present network maps inputs."""
        mapped: Floats = loop().outputs(self._net(self.parameters_), Z)
        return mapped

    def _set_centre(self, centre: Floats) -> None:
        away = np.where(centre < 0, -LEAST, LEAST)
        self.centre_ = np.where(np.abs(centre) < LEAST, away, centre).astype(np.float32)
        self._forget_net()

    # -- one more sum -------------------------------------------------------------------------------------------

    def _next_fit_query(self) -> Query | None:
        query = super()._next_fit_query()
        if self.centre_ is None and query is not None and query.name == "round/0":
            return self._centre_query()
        return query

    def _centre_query(self) -> SumQuery:
        """Sum of what the initial network makes of the records, each coordinate clipped, and their number."""
        dimension = self.hidden[-1]

        def add(accumulator: Ints, chunk: Records) -> None:
            mapped = np.nan_to_num(np.clip(self._mapped(self._party_inputs(chunk.X)), -CENTRE_BOUND, CENTRE_BOUND))
            levels = np.rint(mapped * CENTRE_LEVELS / CENTRE_BOUND).astype(np.int64)
            accumulator[:dimension] += levels.sum(axis=0)
            accumulator[dimension] += CENTRE_LEVELS * len(chunk)

        return SumQuery(
            name="centre",
            length=dimension + 1,
            sensitivity_l2=CENTRE_LEVELS * math.sqrt(dimension + 1),
            max_abs=CENTRE_LEVELS,
            add=add,
            fraction=CENTRE_SHARE,
        )

    def _advance_fit(self, query: Query, total: Total) -> None:
        if query.name != "centre":
            super()._advance_fit(query, total)
            return
        values = np.asarray(total.values, dtype=np.float64)
        centre = values[:-1] / max(values[-1], CENTRE_LEVELS) * CENTRE_BOUND
        self._set_centre(np.clip(centre, -CENTRE_BOUND, CENTRE_BOUND))

    def _taken(self) -> float:
        return super()._taken() + (CENTRE_SHARE if self.centre == "learned" else 0.0)

    # -- state ----------------------------------------------------------------------------------------------------

    def _dump(self) -> State:
        state = super()._dump()
        arrays = dict(state.arrays)
        if self.centre == "learned" and self.centre_ is not None:
            arrays["centre"] = self.centre_
        return State(values={**state.values, "centred": "centre" in arrays}, arrays=arrays)

    def _load(self, state: State) -> None:
        values, arrays = dict(state.values), dict(state.arrays)
        centre, summed = arrays.pop("centre", None), values.pop("centred")
        if type(summed) is not bool or summed != (centre is not None):
            raise ValueError("the centre is missing or unknown")
        if centre is not None:
            fine = centre.dtype == np.float32 and centre.shape == (self.hidden[-1],)
            if self.centre != "learned" or not fine or not (np.abs(centre) <= CENTRE_BOUND).all():
                raise ValueError("the centre does not fit the detector's parameters")
            self.centre_ = centre
        super()._load(State(values=values, arrays=arrays))
        if self.round_ > 0 and self.centre_ is None:
            raise ValueError("the centre is missing")
