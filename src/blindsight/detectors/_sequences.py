"""Base of the detectors that look at windows of a series.

A record's score is that of the window that ends with it: it looks back, never ahead. Where a series (or what follows a
gap) has too few records yet, its first one stands in for those before it.

Privacy of windows. One record more or less in the middle of a series moves every later window that is counted from the
start, so that no sum over such windows has a bounded sensitivity. With ``aligned=True`` windows stand on a public grid
of time and do not overlap: one record changes one window, and everything that is summed is a sum over these windows.
Without it every sum states what one record can really do, which no noise could hide: a private fit is refused before
anything is charged.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Network, Windowed
from blindsight.data import (
    Records,
    Schema,
    Windows,
    doubtful_order,
    gather,
    joined,
    looking_back,
    records,
    segments,
    series_key,
    windows,
)
from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._base import local_total
from ._domains import choice, flag, number, whole_number
from ._inputs import local_scaling
from ._network import public_inputs
from ._over_chunks import Following, each_once, following, over_all, over_touched
from ._own_records import held_out, own_chunks
from ._parameters import Parameters, Weights
from ._queries import Local, Query, SumQuery
from ._round_vector import Trained
from ._torch import TorchDetector, loop

if TYPE_CHECKING:
    import torch

    from ._window_modules import WindowModule

__all__ = ["SequenceDetector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_WINDOW, MAX_HORIZON, MAX_STRIDE = 1024, 256, 100_000
OFF_THE_GRID = 2.0**41
"""Sensitivity of a sum over windows off the grid: one record moves every later window, of up to 2**40, out of one place
and into another."""
HELD_BLOCK = 16
"""Windows that overlap are held out in blocks of this many spans."""


class SequenceDetector(TorchDetector):
    """Base of the detectors that look at windows of a series.

    A subclass states :meth:`_window_module`; its constructor has the parameters named below and those of
    :class:`TorchDetector`.

    Attributes
    ----------
    window, stride, horizon : int
        Rows looked at; rows from one training window to the next; rows to foretell (0: reconstruct the window).
    interval, tolerance : float or None, float
        Declared distance between records in the time column's unit, and the fraction by which it may be off; a larger
        distance is a gap, which no window crosses. Without it the order of the records counts.
    aligned : bool
        Train and count on windows that stand on the grid of the interval and do not overlap: what differential privacy
        needs.
    normalise : {"none", "window"}
        "window": every window by its own mean and deviation, so that its shape counts and its level does not.
    point : {"window", "last"}
        A record's score: the mean error of its window, or the error of the window's last row alone.
    """

    window: int
    stride: int
    horizon: int
    interval: float | None
    tolerance: float
    aligned: bool
    normalise: str
    point: str

    @abstractmethod
    def _window_module(self, schema: Schema) -> WindowModule:
        """Build the module; import it from ``_window_modules`` inside."""

    def _module(self, schema: Schema) -> torch.nn.Module:
        return self._window_module(schema)

    @property
    def inputs_(self) -> Windowed:
        """The public inputs of :attr:`network_`: of the window that ends with a record."""
        self._check_fitted()
        return Windowed(
            rows=public_inputs(self.schema_, self._scaling()),
            window=self.window,
            horizon=self.horizon,
            by_window=self.normalise == "window",
            interval=None if self.interval is None else float(self.interval),
            tolerance=float(self.tolerance),
        )

    @property
    def network_(self) -> Network:
        """The secret network as a value; ``network_.scores(inputs_.encode(windows))`` are the scores of windows."""
        found = super().network_
        return replace(found, compared=self._width(self.schema_)) if self.point == "last" else found

    def _validate(self) -> None:
        super()._validate()
        whole_number("window", self.window, 2, MAX_WINDOW)
        whole_number("stride", self.stride, 1, MAX_STRIDE)
        whole_number("horizon", self.horizon, 0, MAX_HORIZON)
        if self.interval is not None:
            number("interval", self.interval, 0.0, math.inf, open_low=True, open_high=True)
        number("tolerance", self.tolerance, 0.0, 0.5, open_high=True)
        flag("aligned", self.aligned)
        if self.aligned and self.interval is None:
            raise ParameterError(
                "Aligned windows need the distance between records", fix="set interval, in the time column's unit"
            )
        choice("normalise", self.normalise, ("none", "window"))
        choice("point", self.point, ("window", "last"))

    @property
    def span(self) -> int:
        """Rows that one score depends on."""
        return self.window + self.horizon

    # -- windows ----------------------------------------------------------------------------------------------------

    def _found(self, whole: Records, *, stride: int | None = None) -> Windows:
        """The windows that are trained on and counted."""
        return windows(
            np.asarray(whole.X),
            length=self.window,
            horizon=self.horizon,
            stride=self.stride if stride is None else stride,
            time=whole.time,
            entity=series_key(whole),
            interval=self.interval,
            tolerance=self.tolerance,
            aligned=self.aligned,
        )

    def _flat_windows(self, Z: Floats, starts: Ints) -> Floats:
        return Z[starts[:, None] + np.arange(self.span)].reshape(len(starts), self.span * Z.shape[1])

    def _held(self, found: Windows) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which windows are trained on and which are held out.

        Aligned ones by their own content, so that one record changes one window's part; overlapping ones by blocks of
        rows, and those between two blocks are in neither part.
        """
        fraction = self._held_fraction
        if self.aligned:
            held = held_out(self._flat_windows(np.asarray(found.X), found.starts), fraction)
            return ~held, held
        blocks = np.column_stack([found.starts, found.starts + self.span - 1]) // (HELD_BLOCK * self.span)
        parts = [held_out(column[:, None].astype(np.float64), fraction) for column in blocks.T]
        return ~parts[0] & ~parts[1], parts[0] & parts[1]

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's signature)
        """Fit alone; see :meth:`Detector.fit`. DataError where no series is long enough for one window."""
        self._validate()
        schema = self.schema if self.schema is not None else Schema.infer(X)
        whole = gather(schema, X, warn=False)
        if not len(self._found(whole)):
            raise self._no_window(len(whole))
        scaling = local_scaling(schema, np.asarray(whole.X)) if self.scales == "local" else None
        del whole
        memory: dict[str, bytes] = {}
        cache: dict[str, object] = {}
        self.run(schema, lambda query: local_total(query, schema, X, memory=memory, cache=cache))
        self.local_scaling_ = scaling
        self._warn_of_few_learned()
        return self

    @property
    def _counted(self) -> str:
        return f"windows of {self.span} records" if self.aligned else super()._counted

    @property
    def _lack(self) -> str:
        kind = "no aligned window of {} records" if self.aligned else "no series is long enough for a window of {} rows"
        return f"{super()._lack}: {kind.format(self.span)}"

    def _no_window(self, rows: int) -> DataError:
        return DataError(
            f"There is no aligned window of {self.span} records",
            got=f"{rows} records",
            rule=f"{self.span} records, {self.interval:g} apart, from a multiple of {self.span} intervals on",
            fix="check interval against the time column's unit, or choose a shorter window",
        )

    def _next_fit_query(self) -> Query | None:
        query = super()._next_fit_query()
        return self._bounded(query) if isinstance(query, SumQuery) else query

    def _bounded(self, query: SumQuery) -> SumQuery:
        """Say before anything is charged that windows off the grid have no bounded sensitivity."""
        return query if self.aligned else replace(query, sensitivity_l2=OFF_THE_GRID)

    def _check_noise(self, local: Local) -> None:
        super()._check_noise(local)
        assert local.noise is not None
        self.check_privacy("person" if local.noise.by_person else "record")

    def check_privacy(self, unit: str) -> None:
        """Refuse windows off the grid, and the unit "person": see the module's *Privacy of windows*."""
        super().check_privacy(unit)
        if not self.aligned:
            raise ParameterError(
                "These windows have no bounded sensitivity",
                got="aligned=False under differential privacy",
                rule="one record more or less moves every later window of its series",
                fix="set aligned=True and interval=..., the time between records, and give records with a time column",
            )
        if unit == "person":
            raise ParameterError(
                "A person's windows cannot be bounded",
                got="unit='person'",
                rule="a few records of each person, chosen at random, make no window",
                fix="use unit='record': it covers one window of a series",
            )

    def _train(self, local: Local, start: Parameters, correction: Weights | None) -> Trained:
        data = local.cache.get("data")
        if data is None:
            data = local.cache["data"] = self._read(local)
        trained: Trained = loop().train(
            lambda: self._module(self.schema_),
            start,
            data,
            local,
            training=self._training,
            momentum=0.0 if self._training.scaffold else self.momentum,
            correction=correction,
            # a private step is divided by the mean number of windows, not of records
            mean_rows=max((self.mean_rows_ or 1.0) / self.span, 1.0),
            seed=(self.seed, self.round_),
        )
        return trained

    def _read(self, local: Local) -> Any:
        """One party's windows as training data; a party without any adds nothing."""
        from ._window_modules import WindowRows

        chunks = own_chunks(local)
        whole = joined(chunks) if chunks else None
        if whole is None or (not self.aligned and not self._is_long_enough(whole)):
            none = WindowRows(np.zeros((0, self._width(self.schema_)), np.float32), np.zeros(0, np.int64), self.span)
            return loop().Data(train=none, held=none, person=None)
        self._warn_of_order(self.schema_, whole)
        found = self._found(whole)
        train, held = self._held(found)
        Z = self._party_inputs(np.asarray(found.X)).astype(np.float32)
        return loop().Data(
            train=WindowRows(Z, found.starts[train], self.span),
            held=WindowRows(Z, found.starts[held], self.span),
            person=None,
        )

    def _own_rows(self, X: Any) -> Any:
        """All windows of one party's own records, to tune a copy on."""
        from ._window_modules import WindowRows

        whole = gather(self.schema_, X, warn=False)
        found = self._found(whole)
        if not len(found):
            raise self._no_window(len(whole))
        return WindowRows(self._party_inputs(np.asarray(found.X)).astype(np.float32), found.starts, self.span)

    def _is_long_enough(self, whole: Records) -> bool:
        return bool((np.diff(self._segments(whole).bounds) >= self.span).any())

    def _segments(self, whole: Records) -> Any:
        return segments(
            len(whole),
            time=whole.time,
            entity=series_key(whole),
            interval=self.interval,
            tolerance=self.tolerance,
            row0=whole.row0,
        )

    def _loss_query(self) -> SumQuery:
        """Sum and number of the held-out windows' losses; one aligned window a record, see :class:`RoundDetector`."""

        def contribution(whole: Records) -> Ints:
            if not self.aligned and not self._is_long_enough(whole):
                return np.zeros(2, dtype=np.int64)
            found = self._found(whole)
            Z = self._party_inputs(np.asarray(found.X))
            losses = self._window_losses(Z, found.starts[self._held(found)[1]], last=False)
            return self._loss_levels(losses)

        add = over_touched(contribution, self._cells) if self._stand_alone else over_all(contribution)
        return self._bounded(replace(super()._loss_query(), add=add))

    # -- scoring ------------------------------------------------------------------------------------------------------

    @property
    def _windows_at_once(self) -> int:
        """Windows scored together: their activations stay within some tens of MiB whatever the sizes asked for."""
        widest = max(max(shape, default=1) for shape in self._layout.shapes.values())
        return max(1, min(4096, (1 << 22) // (self.span * widest)))

    def _window_losses(self, Z: Floats, starts: Ints, *, last: bool) -> Floats:
        """Errors of windows of ordered input rows, shape (len(starts),)."""
        step = self._windows_at_once
        parts = [
            self._errors(self._flat_windows(Z, starts[i : i + step]), last=last) for i in range(0, len(starts), step)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _errors(self, flat: Floats, *, last: bool) -> Floats:
        import torch

        net = self._net(self.parameters_).eval()
        with torch.no_grad():
            errors = net.errors(torch.from_numpy(flat))  # type: ignore[operator]
        values: Floats = (errors[:, -1] if last else errors.mean(dim=1)).numpy()
        return values

    def _losses(self, Z: Floats) -> Floats:
        """Score of each flattened window, shape (n, span * m) -> (n,)."""
        step = self._windows_at_once
        parts = [self._errors(Z[i : i + step], last=self.point == "last") for i in range(0, len(Z), step)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _scores_of(self, chunk: Records, *, at_party: bool = False) -> Ints:
        """Score of every record, that of the window ending with it, in the chunk's order; shape (n,), int64."""
        before = chunk.before if isinstance(chunk, Following) else None
        if before is not None:
            whole = replace(joined([before, chunk]), row0=chunk.row0 - len(before))
            return self._scores_of(whole, at_party=at_party)[len(before) :]
        found = self._segments(chunk)
        Z = (self._party_inputs if at_party else self._inputs)(np.asarray(chunk.X)[found.order])
        scores = np.empty(len(Z), dtype=np.int64)
        for rows, places in looking_back(found, self.span, self._windows_at_once):
            scores[rows] = self._scored(Z[places].reshape(len(rows), -1))
        return scores

    def _integer_scores(self, X: Floats) -> Ints:
        """Refused: rows without their series have no score."""
        raise ParameterError(
            f"Records of a {type(self).__name__} are not scored one by one",
            got=f"{len(X)} rows without time and entity",
            rule="a score is that of the window that ends with the record",
            fix="use decision_function, predict or stream",
        )

    def decision_function(self, X: Any) -> Floats:
        """Anomaly score of each record, from itself and the records of its series before it.

        Parameters
        ----------
        X : as in :meth:`fit`
            Series in order of time; give enough records before those of interest.

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        DataError
            Time goes back within a series.
        """
        return super().decision_function(X)

    def _chunks(self, schema: Schema, X: Any, *, for_scoring: bool = False) -> Iterator[Records]:
        """Chunks, with the records that their windows look back at; all at once where what counts is a window as such,
        or depends on all records."""
        if (self.aligned and not for_scoring) or self._scales_itself:
            chunks: Iterator[Records] = iter([gather(schema, X, for_scoring=for_scoring, warn=for_scoring)])
        else:
            read = records(schema, X, for_scoring=for_scoring, with_series=True, warn=for_scoring)
            chunks = following(read, self.span - 1)
        for chunk in chunks:
            if for_scoring and chunk.row0 == 0:
                self._warn_of_order(schema, chunk)
            yield chunk

    def _warn_of_order(self, schema: Schema, whole: Records) -> None:
        """Warn the records' owner, once, where their order says little of the time between them."""
        if odd := doubtful_order(schema, whole, self.interval):
            warnings.warn(odd, BlindsightWarning, stacklevel=4)

    @property
    def _scales_itself(self) -> bool:
        """Whether inputs depend on all records of a party."""
        return self.scales == "local" and self.local_scaling_ is None

    @property
    def _stand_alone(self) -> bool:
        """Whether a window's part in a sum depends on its own records alone."""
        return self.aligned and not self._scales_itself

    def _cells(self, whole: Records) -> Ints:
        """Number of the place on the grid, in its series, of the aligned window that each record may be in."""
        assert whole.time is not None
        assert self.interval is not None
        key = series_key(whole)
        codes = np.zeros(len(whole), np.int64) if key is None else np.unique(key, return_inverse=True)[1].reshape(-1)
        places = np.rint(whole.time / self.interval) // self.span
        pairs: Ints = np.unique(np.column_stack([codes, places]), axis=0, return_inverse=True)[1].reshape(-1)
        return pairs

    def _cases(self, chunk: Records) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Every record with its label; aligned: every window, anomalous where one of its records is."""
        assert chunk.label is not None
        if not self.aligned:
            return self._scores_of(chunk, at_party=True), chunk.label != 0
        found = self._found(chunk)
        return self._aligned_scores(found), (chunk.label[found.rows] != 0).any(axis=1)

    def _aligned_scores(self, found: Windows) -> Ints:
        """Scores of aligned windows' last records."""
        Z = self._party_inputs(np.asarray(found.X))
        return self._scored(self._flat_windows(Z, found.starts))

    def _counting(self, name: str, length: int, count: Callable[[Records], Ints]) -> SumQuery:
        if self._stand_alone:
            add = over_touched(count, self._cells)
        else:
            add = over_all(count) if self._scales_itself else each_once(count, self.span - 1)
        return self._bounded(replace(super()._counting(name, length, count), add=add))

    def window_scores(self, X: Any, *, stride: int | None = None) -> tuple[Ints, Floats]:
        """Score ranges: whole windows, the mean error of each.

        Parameters
        ----------
        X : as in :meth:`fit`
        stride : int, optional
            Rows from one window to the next; the span without it, so that they do not overlap.

        Returns
        -------
        rows : ndarray of shape (m, 2), int64
            First and last row of each window in ``X``.
        scores : ndarray of shape (m,), float64
        """
        self._check_fitted()
        whole = gather(self.schema_, X, for_scoring=True)
        found = self._found(whole, stride=stride or self.span)
        losses = self._window_losses(self._inputs(np.asarray(found.X)), found.starts, last=False)
        scores = np.rint(self._clean(losses, 2.0**20) / self.score_scale_) * self.score_scale_
        return found.rows[:, [0, -1]] if len(found) else np.zeros((0, 2), dtype=np.int64), scores

    def score_query(self) -> SumQuery:
        """Return the sum behind every threshold: a histogram of the scores of records, on a public grid.

        Privacy
        -------
        Aligned: the scores of the aligned windows' last records; one record adds or removes one of them, L2 sensitivity
        1. Otherwise the scores of all records, of which one record moves any number: exact sums only.
        """
        edges = self._score_grid()

        def count(whole: Records) -> Ints:
            scores = self._aligned_scores(self._found(whole)) if self.aligned else self._scores_of(whole, at_party=True)
            return np.bincount(np.searchsorted(edges, scores, side="right"), minlength=edges.size + 1)

        return self._counting("threshold", edges.size + 1, count)

    def stream(self, rolling: Any = None) -> Any:
        """Score one record at a time, keeping the last ones of every series; see :class:`SeriesStream`."""
        from ._stream import SeriesStream

        return SeriesStream(self, rolling)
