"""Transformer autoencoder: attention over a window, a narrow code, attention on the way back.

Parties sum: clipped updates of local training on windows, round by round. Score: mean squared error over the window
that ends with the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsight.data import Schema
from blindsight.errors import ParameterError

from ._domains import whole_number
from ._sequences import SequenceDetector
from ._training import Training

if TYPE_CHECKING:
    from ._window_modules import WindowModule

__all__ = ["TransformerAutoEncoder"]


class TransformerAutoEncoder(SequenceDetector):
    """Error of an attention encoder and decoder over windows of a series (Vaswani et al. 2017, arXiv 1706.03762).

    Parameters
    ----------
    width : int in [2, 256]
        Width of a row inside the network, and of the code.
    heads : int
        Attention heads; a divisor of `width`.
    blocks : int in [1, 8]
        Blocks on each side of the code.
    window : int in [2, 1024]
        Records that the network looks at.
    stride : int
        Records from one training window to the next.
    horizon : int in [0, 256]
        Records after the window that are to be foretold; 0 reconstructs the window itself.
    interval : float, optional
        Declared distance between records, in the time column's unit: a larger one is a gap, which no window crosses.
    tolerance : float in [0, .5)
        Fraction of the interval by which a distance may be off.
    aligned : bool
        Windows on the public grid of the interval, without overlap: what differential privacy needs.
    normalise : {"none", "window"}
        "window": every window by its own mean and deviation.
    point : {"window", "last"}
        A record's score: the mean error of the window that ends with it, or the error of its last row alone.
    contamination : float in (0, .5]
    training, scales, seed, schema
        As for :class:`AutoEncoder`.

    Privacy
    -------
    A party releases one clipped vector a round, inside the masked sum. ``unit="record"`` needs ``aligned=True``: one
    record is then in one window, and one window's gradient is what DP-SGD clips. ``unit="person"`` is refused.
    """

    name = "TransformerAutoEncoder"
    by_operators = True
    default_training = Training(rounds=20, learning_rate=0.2, clip_norm=10.0)

    def __init__(
        self,
        *,
        width: int = 16,
        heads: int = 2,
        blocks: int = 1,
        window: int = 32,
        stride: int = 1,
        horizon: int = 0,
        interval: float | None = None,
        tolerance: float = 0.1,
        aligned: bool = False,
        normalise: str = "none",
        point: str = "window",
        contamination: float = 0.1,
        training: Training | None = None,
        scales: str = "learned",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.width = width
        self.heads = heads
        self.blocks = blocks
        self.window = window
        self.stride = stride
        self.horizon = horizon
        self.interval = interval
        self.tolerance = tolerance
        self.aligned = aligned
        self.normalise = normalise
        self.point = point
        self.contamination = contamination
        self.training = training
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        whole_number("width", self.width, 2, 256)
        whole_number("blocks", self.blocks, 1, 8)
        whole_number("heads", self.heads, 1, self.width)
        if self.width % self.heads:
            raise ParameterError("heads does not divide width", got=f"{self.width} / {self.heads}", rule="no remainder")

    def _window_module(self, schema: Schema) -> WindowModule:
        from ._window_modules import TransformerNet

        return TransformerNet(
            self.window,
            self.horizon,
            self._width(schema),
            self.width,
            self.heads,
            self.blocks,
            by_window=self.normalise == "window",
        )
