"""How a network is trained, and how an estimator is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from workers.specs.base import (
    Count,
    FactoryName,
    Fraction,
    KindName,
    Kwargs,
    NonNegative,
    Positive,
    Precision,
    Share,
    Spec,
)
from workers.specs.models import AnyModel, Network


class TrainingSpec(Spec):
    """How a network is trained: members, baseline and student alike."""

    epochs: Count
    """Passes over the training examples; of a student, over the transfer set."""
    batch_size: Count = 256
    """Examples a step, over all workers together, so that the result does not depend on their number."""
    learning_rate: Positive = 1.0e-3
    """Peak learning rate; `schedule` and `warmup_share` reduce it."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """`adam` (AdamW once `weight_decay` is set) or `sgd` with `momentum`."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`."""
    weight_decay: NonNegative = 0.0
    """Decoupled with `adam` (Loshchilov and Hutter 2019), an L2 penalty with `sgd`."""
    decays: Literal["auto", "all", "matrices"] = "auto"
    """The parameters that `weight_decay` applies to. `matrices`: those of two or more dimensions, so neither biases nor
    norms. `auto`: `matrices` for models of kind `transformers`, else `all`."""
    layer_decay: Share | None = None
    """Layer-wise decay of the learning rate (Howard and Ruder 2018): each layer learns at this multiple of the rate of
    the layer above it. The layers are those of the network's longest `ModuleList` of equal layers."""
    schedule: Literal["constant", "cosine", "linear"] | FactoryName = "constant"
    """Schedule of the learning rate after the warm-up: `constant`, or `cosine` or `linear` from `learning_rate` towards
    zero. Or `module:Class` of your own: an object that is called with the share of these steps that is done, 0 to 1,
    and returns a factor of `learning_rate`."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of a `schedule` of your own."""
    folder: str = ""
    """For a `schedule` of your own: as `folder` of a factory."""
    depends_on: tuple[str, ...] = ()
    """For a `schedule` of your own: as `depends_on` of a factory."""
    warmup_share: Fraction = 0.0
    """The first share of all steps, in which the learning rate rises linearly from zero."""
    gradient_clip: Positive | None = None
    """Largest global norm of a step's gradient."""
    micro_batch_size: Count | None = None
    """Examples of a forward and backward pass on one worker; gradients of a batch's pieces are added. Left out: all at
    once. Validation and prediction take as many at a time; left out: 1,024, fewer for large examples and for texts on a
    CPU."""
    precision: Precision = "auto"
    """Precision of matrix products in training, validation and prediction. `auto`: bfloat16 on GPUs that support it,
    else float32."""
    compile: bool = False
    """Compile the network with `torch.compile`: slower to start, on a GPU often faster."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights are kept: the last, or the best in validation accuracy (early stopping)."""

    LATER: ClassVar[Mapping[str, Any]] = {"decays": "all", "layer_decay": None, "kwargs": {}}

    @property
    def cuts_batches(self) -> bool:
        """Whether a worker may compute a batch in pieces."""
        return self.micro_batch_size is not None and self.micro_batch_size < self.batch_size

    def for_model(self, model: AnyModel) -> TrainingSpec:
        """The same settings, with `decays: auto` decided for a model."""
        return self.model_copy(update={"decays": model.default_decays}) if self.decays == "auto" else self

    def determining(self, model: AnyModel) -> dict[str, Any]:
        """The settings that determine the trained network of a model."""
        return self.for_model(model).keyed(without={"folder", "depends_on"})


class FitSpec(Spec):
    """How an estimator is trained: by one `fit`, on all examples at once."""

    fit: KindName = "auto"
    """How it takes soft targets. `copies`: each example once for each class, weighted by its probability; for
    classifiers. `probabilities`: as the numbers that a regressor predicts. `auto`: as the estimator is. Or
    `module:function` of your own, called with the estimator and `workers.models.predictor.Lessons`; of `module:Class`
    an instance is."""

    epochs: ClassVar[int] = 1
    batch_size: ClassVar[None] = None
    micro_batch_size: ClassVar[None] = None
    precision: ClassVar[Precision] = "float32"
    compile: ClassVar[bool] = False

    def determining(self, model: AnyModel) -> dict[str, Any]:
        """The settings that determine the fitted estimator of a model."""
        return self.keyed()


def _kind_of_training(values: Any) -> str:
    if isinstance(values, dict):
        return "(fit)" if values.keys() <= FitSpec.model_fields.keys() else "(epochs)"
    return "(fit)" if isinstance(values, FitSpec) else "(epochs)"


AnyTraining = Annotated[
    Annotated[TrainingSpec, Tag("(epochs)")] | Annotated[FitSpec, Tag("(fit)")], Discriminator(_kind_of_training)
]
"""How a model is trained: a network by epochs, an estimator by `training: {}`."""


def check_recipe(model: AnyModel, training: AnyTraining, key: str) -> None:
    """Raises: ValueError where a model of this kind is not trained so. key: `training`, or what it is called."""
    if model.learner is None:
        raise ValueError(
            f"`{key}` is given, and the model {model.label} of kind '{model.kind}' is only loaded: no fitter trains "
            "it. Fitters train the kinds python and sklearn (with a `factory`), and your own"
        )
    if isinstance(model, Network) and isinstance(training, FitSpec):
        raise ValueError(f"`{key}` has no `epochs`; a network is trained for so many epochs")
    if model.learner == "estimator" and isinstance(training, TrainingSpec):
        raise ValueError(
            f"`{key}` has `epochs`, and an estimator of kind '{model.kind}' is fitted at once; expected `{key}: {{}}`. "
            "Its own settings belong in `kwargs` of its factory"
        )
