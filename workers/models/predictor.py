"""The interface of a trained member or student: inputs -> outputs, independent of the library that computes them.

`KINDS` names the class of each kind of model; each has its own file. Teachers and evaluation call `load`, and then the
predictor, whatever the kind. Checks, exports and `doctor` also ask for the class of a spec, mostly for tokenizers and
checkpoints of `transformers`. Operations that need a torch module (packing, stacking, moving to a device) apply only
where `Predictor.module` is set.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.data.collate import Collator
from workers.data.collate import Inputs as Inputs
from workers.data.tokens import Tokenization
from workers.errors import RequestError
from workers.models import checkpoints
from workers.models.outputs import Outputs as Outputs
from workers.specs.base import Precision
from workers.specs.models import AnyModel
from workers.user_code import factories

KINDS = {
    "python": "workers.models.torch_module:TorchPredictor",
    "transformers": "workers.models.transformers_module:TransformersPredictor",
    "onnx": "workers.models.onnx:OnnxPredictor",
    "sklearn": "workers.models.sklearn:SklearnPredictor",
}
"""The class of each kind, imported when a model of it is loaded."""
FLOOR = 2.0**-24
"""Lower bound for the probabilities of models that return probabilities: a step of float32 just below 1. Smaller
ones, such as the exact 0 of a forest, are raised to it, so that their logarithms are finite."""


class Predictor(ABC):
    """A trained model. Its output for a row depends only on that row."""

    module: nn.Module | None = None
    """The torch module that computes the outputs; None for other libraries."""

    @property
    def parameters(self) -> int:
        """Number of learned parameters."""
        return 0

    @classmethod
    @abstractmethod
    def load(cls, model: Any, weights: str) -> Self:
        """Load the trained model that `model` describes. weights: URI of its weights.

        Raises: `RequestError` where the file is missing, damaged, or of another model. No code in the file is executed.
        """

    @abstractmethod
    def __call__(self, x: Inputs, precision: Precision = "float32") -> Outputs:
        """Compute the outputs for a batch of B examples on the predictor's device.

        x: a tensor [B, ...] float32 or int64 for one dense column, else `NamedInputs`. precision: of matrix products,
        where the kind supports several. Callers disable gradients.
        """

    @classmethod
    def settled(cls, model: Any, weights: str, x: Inputs) -> tuple[Any, tuple[str, ...]]:
        """`model` with its open choices settled on some real examples, and notes for the user.

        x: a batch [B, ...] of the model's collator.
        """
        return model, ()

    @classmethod
    def collator(cls, model: Any) -> Collator:
        """Builds the input batches of `model`. Models with equal collators share their batches."""
        tokens = None if model.tokenizer is None else Tokenization(model.tokenizer, model.max_length)
        return Collator(model.inputs, tokens)

    @classmethod
    def positions(cls, model: Any) -> int | None:
        """The longest sequence of tokens that `model` takes; None where any length fits."""
        return None

    @classmethod
    def notes_on(cls, model: Any) -> tuple[str, ...]:
        """Notes for the user on the model that training begins with."""
        return ()

    @classmethod
    def places(cls, model: Any) -> tuple[int, ...]:
        """For each class of the data, its place among the outputs that the weights compute; empty: its own id."""
        return ()

    @classmethod
    def begin(cls, model: Any, module: nn.Module, weights: str) -> list[str]:
        """Fill a network with the weights at a URI, which its training begins with; returns notes on the file.

        Raises: `RequestError` where they do not fit `module`, or have the classes in another order.
        """
        return checkpoints.load(module, weights)

    @classmethod
    def companions(cls, model: Any) -> Mapping[str, bytes]:
        """The files beside the weights that other software needs to load them, by name; of `COMPANION` names."""
        return {}

    @classmethod
    def made(cls, model: Any) -> Any:
        """The untrained object that the model's code builds; its provenance is part of the cache key."""
        return None

    def to(self, device: torch.device) -> Self:
        """Move the model to a device. Returns itself."""
        return self

    def prepare(self, x: Inputs, device: torch.device, precision: Precision) -> bool:
        """Prepare for many batches like `x`, which is in main memory. Returns whether it can use `precision`."""
        return True


@dataclass(frozen=True)
class Lessons:
    """The training data of an estimator, entirely in memory.

    x: [N, ...] float32 or int64. targets: [N, K] float32, a distribution over the classes for each row. weights: [N]
    float32 above 0, of each row, with a mean of 1. labels: [N] int64, where every target is one class; None where some
    are soft. seed: of all random numbers.
    """

    x: NDArray[Any]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    seed: int

    @property
    def classes(self) -> int:
        return int(self.targets.shape[1])


class Fittable(Predictor):
    """A model that learns by a single `fit`, in a separate process."""

    @classmethod
    @abstractmethod
    def fit(cls, model: Any, lessons: Lessons, how: str) -> Self:
        """Fit a new model. how: `FitSpec.fit`. Raises: `RequestError` where it cannot learn from `lessons`."""

    @abstractmethod
    def dump(self) -> bytes:
        """The content of the file that `load` reads."""

    def notes(self) -> tuple[str, ...]:
        """Notes for the user on the fitted model."""
        return ()


def kind_of(model: AnyModel) -> type[Predictor]:
    """The class of a model's kind. Raises: `RequestError` where the user's own class is not a `Predictor`."""
    if model.kind in KINDS:
        module, _, name = KINDS[model.kind].partition(":")
        found: Any = getattr(importlib.import_module(module), name)
    else:
        found = factories.load(model.kind, getattr(model, "folder", ""))
    if not (isinstance(found, type) and issubclass(found, Predictor)):
        raise RequestError(
            f"kind '{model.kind}' is {found!r}; expected a subclass of workers.models.predictor.Predictor."
        )
    return found


def collator(model: AnyModel) -> Collator:
    """Builds the model's input batches."""
    return kind_of(model).collator(model)


def load(model: AnyModel, weights: str) -> Predictor:
    """A trained model. Raises: as `Predictor.load`."""
    return kind_of(model).load(model, weights)


def fittable(model: AnyModel) -> type[Fittable]:
    """The class of a model that learns by `fit`. Raises: `RequestError` for other kinds."""
    found = kind_of(model)
    if not issubclass(found, Fittable):
        raise RequestError(
            f"the model {model.label} of kind '{model.kind}' is to be trained, and {found.__name__} has no `fit`. "
            "Expected a subclass of workers.models.predictor.Fittable, or a `path` that it is loaded from."
        )
    return found


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits [B, K] from probabilities: log of probabilities raised to `FLOOR` and scaled to sum to 1, in float32."""
    kept = probabilities.clamp_min(FLOOR)
    return (kept / kept.sum(dim=-1, keepdim=True)).log().float()


def dense(x: Inputs, kind: str) -> Tensor:
    """The batch of a model that takes one dense column. Raises: `RequestError` for other columns."""
    if isinstance(x, Tensor):
        return x
    raise RequestError(
        f"{kind} takes one dense column, and is given {', '.join(x.columns)}. Expected one in `inputs`, which names "
        "the columns that a model takes, and one label an example."
    )


def missing(package: str, extra: str, kind: str) -> RequestError:
    """The error where the package that a kind needs is not installed."""
    return RequestError(
        f"a model of kind '{kind}' needs the package {package}, which is not installed on this machine. Install it by "
        f"`pip install 'stillhouse[{extra}]'`, on every node."
    )
