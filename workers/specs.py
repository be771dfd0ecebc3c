"""What can be asked for: frozen descriptions of models, data and training.

Plain pydantic and no torch, so that the control plane can read, check and pass them on without loading
anything heavy. `orchestrator.config.run_config` composes these into the configuration of a run. A key that is not
described here is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _no_bool(value: Any) -> Any:
    """YAML's `yes` and `true` are numbers to Python, and never what was meant by one."""
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected a number")
    return value


NoBool = BeforeValidator(_no_bool)
"""Last in each of the types below: bounds before it are bounds of the JSON Schema, too."""

Precision = Literal["auto", "float32", "bfloat16"]
Share = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False), NoBool]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), NoBool]
Whole = Annotated[int, Field(ge=0), NoBool]
Count = Annotated[int, Field(ge=1), NoBool]
FACTORY = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
FactoryName = Annotated[str, Field(pattern=FACTORY)]


class Spec(BaseModel):
    """Base of all specs: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants", use_attribute_docstrings=True)


class FactorySpec(Spec):
    """A function that somebody else wrote, and what it is called with."""

    factory: FactoryName
    """`module:function`, found beside the configuration file, else installed, on PYTHONPATH, or in the working
    directory."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the call."""
    folder: str = ""
    """Where the module is looked for first, relative to the configuration file. Filled in with the configuration's own
    folder, or with the working directory where only that has the module."""
    depends_on: tuple[str, ...] = ()
    """Files that the results follow from, besides those that are seen to be read. Filled in with `data.depends_on`."""


class ModelSpec(FactorySpec):
    """A model: `factory(**kwargs)` returns a `torch.nn.Module` from a batch to logits [B, K]."""

    kind: Literal["python"] = "python"
    """A factory in Python."""


class IdxFiles(Spec):
    """One split of an idx data set, as its two files."""

    images: str
    """A path or URI, gzipped or not."""
    labels: str
    """The same of the class ids."""


class AugmentSpec(FactorySpec):
    """How examples are varied for the student: `factory(x [B, ...], draws, **kwargs)` returns as many of one shape.

    Each row follows from itself and from `draws` (`workers.data.augment.Draws`) alone.
    """

    views: Annotated[int, Field(ge=1, le=2**15 - 1), NoBool] = 1
    """Versions of each example. The teachers label them all; epoch e of the student sees version e modulo `views`."""


class DataSpec(Spec):
    """The data: a transfer set with labels, held-out sets, and optionally inputs without labels."""

    kind: Literal["npz", "parquet", "idx", "python"]
    """The kind of file, or `python` for a function that returns the splits."""
    root: str = ""
    """What relative paths below are relative to: a folder or an fsspec URI. Filled in with the
    configuration's own folder."""
    train: str | IdxFiles | None = None
    """A path, relative to the configuration file, or any fsspec URI. npz: x [N, ...], y [N] class ids, -1 for none."""
    test: str | IdxFiles | None = None
    """What every system is measured on."""
    validation: str | IdxFiles | None = None
    """What `keep: best` and `weights: validation` decide by."""
    validation_share: Share | None = None
    """Instead of `validation`: the share of the training examples set aside, drawn with the seed."""
    unlabeled: str | None = None
    """Inputs that join the transfer set and get soft targets only."""
    depends_on: tuple[str, ...] = ()
    """Files or folders, relative to this configuration or any fsspec URI, that models or data read and no import or
    `open` of Python shows: what is reused changes with their content."""
    augment: AugmentSpec | None = None
    """How the examples vary that student and baseline learn from; members, validation and test see them as they are."""
    classes: Count | None = None
    """How many classes there are. Left out: one more than the largest label of the training set."""
    allow_overlap: bool = False
    """Accept splits that are the same examples, as a trial of a set-up may want; otherwise they are refused."""
    label_column: str = "y"
    """`kind: parquet`: the column of class ids."""
    feature_columns: tuple[str, ...] | None = None
    """`kind: parquet`: the columns of numbers, or the one column of equally long lists. Left out: all
    but the label."""
    factory: FactoryName | None = None
    """`kind: python`: a function that returns `{"train": (x, y), "test": (x, y), ...}`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    folder: str = ""
    """Where its module is looked for first, relative to the configuration file."""

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> DataSpec:
        if self.kind == "python":
            if self.factory is None:
                raise ValueError("kind 'python' needs `factory: module:function`")
            if self.train or self.test or self.validation or self.unlabeled:
                raise ValueError("kind 'python' takes its splits from `factory`, not from file keys")
        else:
            if self.factory is not None or self.kwargs:
                raise ValueError(f"`factory` and `kwargs` belong to kind 'python', not '{self.kind}'")
            missing = [key for key in ("train", "test") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"kind '{self.kind}' needs `{missing[0]}`: a path or an fsspec URI")
            if self.kind != "idx" and (
                isinstance(self.train, IdxFiles)
                or isinstance(self.test, IdxFiles)
                or isinstance(self.validation, IdxFiles)
            ):
                raise ValueError(f"`images` and `labels` belong to kind 'idx', not '{self.kind}'")
        if self.validation is not None and self.validation_share is not None:
            raise ValueError("give `validation` or `validation_share`, not both")
        return self


class TrainingSpec(Spec):
    """How a network is trained: members, baseline and student alike."""

    epochs: Count
    """Passes over the training examples; of a student, over the transfer set."""
    batch_size: Count = 256
    """Examples a step, over all workers together, so that the result does not depend on their number."""
    learning_rate: Positive = 1.0e-3
    """At its highest; `schedule` and `warmup_share` lower it."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """`adam` (AdamW once `weight_decay` is set) or `sgd` with `momentum`."""
    momentum: Fraction = 0.9
    """Of `sgd`."""
    weight_decay: NonNegative = 0.0
    """Decoupled with `adam` (Loshchilov and Hutter 2019), an L2 penalty with `sgd`."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes from its start towards zero, step by step."""
    warmup_share: Fraction = 0.0
    """The first share of all steps, in which the learning rate rises linearly from zero."""
    gradient_clip: Positive | None = None
    """Largest global norm of a step's gradient."""
    micro_batch_size: Count | None = None
    """Examples of a forward and backward pass on one worker; gradients of a batch's pieces are added. Left out: all at
    once. Validation and prediction take as many at a time; left out: 1,024, fewer of large examples."""
    precision: Precision = "auto"
    """Of matrix products, in training, validation and prediction. `auto`: bfloat16 on GPUs that have it, else
    float32."""
    compile: bool = False
    """Compile the network with `torch.compile`: slower to start, on a GPU often faster."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights are kept: the last, or the best in validation accuracy (early stopping)."""


class DistillationSpec(Spec):
    """soft_weight * T^2 * CE(p, softmax(z/T)) + hard_weight * CE(y, softmax(z)); Hinton et al. 2015."""

    temperature: Annotated[float, Field(ge=1.0e-3, allow_inf_nan=False), NoBool] = 2.0
    """T. Close to 0 all probability is on one class, and below the least that is taken logits overflow."""
    soft_weight: NonNegative = 0.5
    """Of the cross entropy with the ensemble's softened probabilities, times T^2."""
    hard_weight: NonNegative = 0.5
    """Of the cross entropy with the labels."""
    dtype: Literal["float32", "float16"] = "float32"
    """How soft targets are stored."""
    top_k: Count | None = None
    """Of a large vocabulary, store the so many largest probabilities and the rest's mass as one bucket."""
    keep: Literal["mean", "members"] = "mean"
    """What of the teachers' pass is kept: soft targets alone, or each member's logits too, from which any other T, rule
    or choice of members is made without computing these members again."""
    stream: Literal["auto"] | bool = "auto"
    """The student begins on soft targets as they come. `auto`: where there is room for it beside the teachers, a GPU
    for each of its workers or, without GPUs, a core; true: on cores that it shares with them, too. Changes the time,
    never the student."""

    @model_validator(mode="after")
    def _some_loss(self) -> DistillationSpec:
        if self.soft_weight == 0.0 and self.hard_weight == 0.0:
            raise ValueError(
                "`soft_weight` and `hard_weight` are both 0, so there is nothing to learn from; set one of them above 0"
            )
        return self
