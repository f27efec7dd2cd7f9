"""Base of the detectors whose model is a PyTorch module; the module does the rest.

Contract for a subclass (autoencoder.py is the example)::

    class MyDetector(TorchDetector):
        name = "MyDetector"
        default_training = Training(...)              # where training=None
        gain = 1.0                                    # of the initial weights

        def __init__(self, *, <own plain parameters>, contamination=.1, training=None, scales="learned", seed=0,
                     schema=None): ...                # stores only
        def _validate(self): super()._validate(); ... # bound every size: parameters come from other parties
        def _module(self, schema): ...                # import torch inside; return a torch.nn.Module

The module has ``losses(z) -> (n,)`` for inputs z of shape (n, m), float32 when training and float64 when scoring: the
per-record loss is the score, at least 0, higher is more anomalous. ``forward(z)`` gives what a student learns from its
teacher in distillation. m is ``Inputs.width(schema)``: standardised numbers within +-20, then one-hot categories;
:meth:`RoundDetector._inputs` may be overridden to make other inputs. It has no buffers and no BatchNorm: statistics of
a batch are of several records, and travel in no update. Parameters are named and ordered as ``named_parameters()``
does. The ones that the module starts at one constant (norm weights, activation coefficients) keep it; other vectors
start at 0, matrices as :func:`initial_uniform` says, the same at every party.
For DP-SGD every parameter must sit in a layer that Opacus knows, or in one whose forward ``functorch`` can trace; an
LSTM is ``opacus.layers.DPLSTM``, attention ``opacus.layers.DPMultiheadAttention``.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Network, Standardised, Windowed
from blindsight.data import Schema
from blindsight.errors import MissingExtraError, ParameterError

from ._domains import number, whole_number
from ._inputs import Inputs
from ._network import network_of, public_inputs
from ._parameters import Parameters, Weights, check_parameters, initial_uniform
from ._queries import Local
from ._round_vector import Trained
from ._rounds import RoundDetector

if TYPE_CHECKING:
    import torch

__all__ = ["TorchDetector"]

Floats = npt.NDArray[np.float64]

SCORING_ROWS = 4096


def loop() -> Any:
    """The training loop's module; MissingExtraError where torch is not installed."""
    try:
        return importlib.import_module("blindsight.detectors._loop")
    except ImportError as error:
        raise MissingExtraError(
            "Deep detectors need PyTorch and Opacus",
            got=f"no module named {error.name}",
            fix="pip install 'blindsight[deep]'",
        ) from error


class TorchDetector(RoundDetector):
    """A detector whose model is a PyTorch module: see the module's docstring for the contract.

    Scores are computed in float64 and rounded to 2**-20, so that they do not depend on the batch.
    """

    gain: ClassVar[float] = 1.0
    feed_forward: ClassVar[bool] = False
    """Whether :attr:`network_` is a chain of dense layers and activations: then it can be scored blind as it is."""
    by_operators: ClassVar[bool] = False
    """Whether :attr:`network_` has other layers, that multi-party computation alone scores."""

    @abstractmethod
    def _module(self, schema: Schema) -> torch.nn.Module:
        """Build the module: a function of schema and parameters; its initial values do not matter."""

    def _initial(self, schema: Schema) -> Parameters:
        loop()  # says which extra is missing
        import torch

        self._check_size(schema)
        # a parameter of one number always passes for a constant: at least the same one at every party
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self._module(schema)
        if next(module.buffers(), None) is not None:
            raise ParameterError(
                f"The module of {type(self).__name__} has buffers",
                got=", ".join(name for name, _ in module.named_buffers())[:120],
                rule="only parameters travel; running statistics are of several records",
                fix="use LayerNorm or GroupNorm instead of BatchNorm, and compute constants in forward",
            )
        named = {name: p.detach().numpy() for name, p in module.named_parameters()}
        drawn = initial_uniform({name: p.shape for name, p in named.items()}, self.seed, gain=self.gain)
        constant = {name: bool((p == p.flat[0]).all()) for name, p in named.items()}
        return {name: p.astype(np.float32) if constant[name] else drawn[name] for name, p in named.items()}

    def _check_size(self, schema: Schema) -> None:
        """Count the parameters before any memory is taken for them: their number may be another party's word."""
        import torch

        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in self._module(schema).parameters())
        except (NotImplementedError, RuntimeError):
            return  # a brought module that needs real tensors while it is built: counted when it is there
        check_parameters(size)

    def _net(self, parameters: Parameters) -> torch.nn.Module:
        """The module with these parameters, in float64, kept until they change."""
        kept = getattr(self, "_kept_net", None)
        if kept is None or kept[0] is not parameters:
            kept = (parameters, loop().loaded(self._module(self.schema_), parameters).double())
            self._kept_net = kept
        net: torch.nn.Module = kept[1]
        return net

    @property
    def inputs_(self) -> Standardised | Windowed:
        """The public inputs of :attr:`network_`."""
        self._check_fitted()
        return public_inputs(self.schema_, self._scaling())

    @property
    def network_(self) -> Network:
        """The secret network as a value, for the engines that score blind; CapacityError where it is not one.

        ``network_.scores(inputs_.encode(X))`` is ``decision_function(X)`` but for rounding.
        """
        self._check_fitted()
        return network_of(self._net(self.parameters_))

    def _losses(self, Z: Floats) -> Floats:
        net = self._net(self.parameters_)
        parts = [loop().losses(net, Z[i : i + SCORING_ROWS]) for i in range(0, len(Z), SCORING_ROWS)]
        losses: Floats = np.concatenate(parts) if parts else np.zeros(0)
        return losses

    def _train(self, local: Local, start: Parameters, correction: Weights | None) -> Trained:
        module = loop()
        data = local.cache.get("data")
        if data is None:
            data = module.read(local, self._party_inputs, self._held_fraction)
            local.cache["data"] = data
        trained: Trained = module.train(
            lambda: self._module(self.schema_),
            start,
            data,
            local,
            training=self._training,
            momentum=0.0 if self._training.scaffold else self.momentum,
            correction=correction,
            mean_rows=self.mean_rows_ or 1.0,
            seed=(self.seed, self.round_),
        )
        return trained

    def personalise(self, X: Any, *, epochs: int = 5, learning_rate: float | None = None, distil: float = 0.0) -> Self:
        """Return a copy tuned to one party's own records; the shared model stays as it is.

        Parameters
        ----------
        X : as in :meth:`fit`
        epochs : int in [1, 1000]
        learning_rate : float, optional
            That of ``training`` if not given.
        distil : float
            How strongly the copy is held to what the shared model answers (Hinton et al. 2015): weight of the mean
            squared distance of their outputs, added to the loss.

        Returns
        -------
        Self
            With a threshold from ``X``.

        Privacy
        -------
        Exact: the copy is marked personal (``is_personal_``), its certificate says so, and it must not be shared.
        """
        self._check_fitted()
        whole_number("epochs", epochs, 1, 1000)
        rate = self._training.learning_rate if learning_rate is None else learning_rate
        number("learning_rate", rate, 0.0, 1e6)
        number("distil", distil, 0.0, 1e6)
        mine = self._personal("tuned to one party's records")
        mine.quantised_ = {}
        tuned = loop().fine_tune(
            lambda: self._module(self.schema_),
            self.parameters_,
            mine._own_rows(X),
            epochs=epochs,
            learning_rate=float(rate),
            sampling_rate=self._training.sampling_rate,
            momentum=self.momentum,
            distil=float(distil),
            seed=(self.seed, self.round_),
        )
        if not np.isfinite(tuned).all():
            raise ParameterError("Fine-tuning diverged", got=f"learning_rate {rate:g}", fix="use a lower learning_rate")
        mine.parameters_ = mine._layout.named(tuned)
        return mine.calibrate(X)

    def _own_rows(self, X: Any) -> Any:
        """One party's own records as what the training loop takes batches of."""
        import torch

        return torch.from_numpy(self._party_inputs(self._matrix(X)).astype(np.float32))

    @staticmethod
    def _width(schema: Schema) -> int:
        return Inputs.width(schema)

    def _forget_net(self) -> None:
        """What :meth:`_module` builds has changed."""
        self.__dict__.pop("_kept_net", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept_net"}
