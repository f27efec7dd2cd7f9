"""LSTM autoencoder: a recurrent network that retells a window, or foretells what comes after it.

Parties sum: clipped updates of local training on windows, round by round. Score: mean squared error over the window
that ends with the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsight.data import Schema

from ._domains import whole_number
from ._sequences import SequenceDetector
from ._training import Training

if TYPE_CHECKING:
    from ._window_modules import WindowModule

__all__ = ["LSTMAutoEncoder"]


class LSTMAutoEncoder(SequenceDetector):
    """Error of a recurrent encoder and decoder over windows of a series (Malhotra et al. 2016, arXiv 1607.00148).

    Parameters
    ----------
    hidden : int in [1, 512]
        Width of the state; the last one is all that the decoder is told.
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

    name = "LSTMAutoEncoder"
    by_operators = True
    default_training = Training(rounds=20, learning_rate=0.2, clip_norm=10.0)

    def __init__(
        self,
        *,
        hidden: int = 32,
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
        self.hidden = hidden
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
        whole_number("hidden", self.hidden, 1, 512)

    def _window_module(self, schema: Schema) -> WindowModule:
        from ._window_modules import LSTMNet

        return LSTMNet(
            self.window, self.horizon, self._width(schema), self.hidden, by_window=self.normalise == "window"
        )
