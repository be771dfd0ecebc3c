"""What can be asked for: frozen descriptions of models, data and training.

Plain pydantic and no torch, so that the control plane can read, check and pass them on without loading
anything heavy. `orchestrator.config.run_config` composes these into the configuration of a run. A key that is not
described here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    model_validator,
)


def _no_bool(value: Any) -> Any:
    """YAML's `yes` and `true` are numbers to Python, and never what was meant by one."""
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected a number")
    return value


NoBool = BeforeValidator(_no_bool)
"""Last in each of the types below: bounds before it are bounds of the JSON Schema, too."""

Precision = Literal["auto", "float32", "bfloat16"]
Number = Annotated[float, Field(allow_inf_nan=False), NoBool]
Share = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False), NoBool]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), NoBool]
Whole = Annotated[int, Field(ge=0), NoBool]
Count = Annotated[int, Field(ge=1), NoBool]
FACTORY = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
FactoryName = Annotated[str, Field(pattern=FACTORY)]
KIND = r"^([A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"
"""A name in a table, or `module:Class`."""
KindName = Annotated[str, Field(pattern=KIND)]


class Spec(BaseModel):
    """Base of all specs: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants", use_attribute_docstrings=True)


class FactorySpec(Spec):
    """A function of the user's own, and its arguments."""

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


ExampleWeights = Literal["entropy", "agreement"] | FactorySpec
"""A rule by which each example has member weights of its own (`workers.mixture_weights`): a name, or the user's own
function from probabilities [M, N, K] to weights [M, N]."""


class SpecialistRule(Spec):
    """The rule by which generalists and specialists answer together (`workers.specialists`)."""

    classes: tuple[tuple[int, ...], ...]
    """The ids of each member's own classes; empty for a generalist, which tells all classes apart."""

    def among(self, members: Sequence[int]) -> SpecialistRule:
        """The rule of some of the members, by their numbers."""
        return SpecialistRule(classes=tuple(self.classes[k] for k in members))


ExampleRule = ExampleWeights | SpecialistRule
"""A rule that needs the answers of all members to an example."""


def _form_of_weights(values: Any) -> str:
    if isinstance(values, (list, tuple)):
        return "(numbers)"
    return "(rule)" if isinstance(values, (dict, FactorySpec)) else "(name)"


MemberWeights = Annotated[
    Annotated[Literal["uniform", "validation", "entropy", "agreement"], Tag("(name)")]
    | Annotated[tuple[NonNegative, ...], Tag("(numbers)")]
    | Annotated[FactorySpec, Tag("(rule)")],
    Discriminator(_form_of_weights),
]
"""Of the members in the mean: by a name, a number each, or a rule for each example."""


class ClassSample(Spec):
    """Examples of which some classes make up a fixed share, as of a specialist (Hinton et al. 2015, section 5.2)."""

    classes: Annotated[tuple[Whole | str, ...], Field(min_length=1)]
    """The classes, by id or name."""
    share: Share = 0.5
    """Their share of the examples of an epoch; the others are drawn at random from all other classes."""


MemberSample = Annotated[
    Annotated[Literal["all", "bootstrap"], Tag("(name)")] | Annotated[ClassSample, Tag("(classes)")],
    Discriminator(lambda values: "(classes)" if isinstance(values, (dict, ClassSample)) else "(name)"),
]
"""What a member learns from: all training examples, a bootstrap sample of them, or some classes above all."""

Learner = Literal["network", "estimator"]
"""How a model learns: by steps of the training loop, or by one `fit`. What neither does is only loaded."""


class TakesColumns(Spec):
    """A model that may take some of the data's columns."""

    inputs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The columns that the model takes, by their names. Left out: all. One dense column is its argument, a tensor
    [B, ...]; several, or rows of different lengths, are keyword arguments."""
    tokenizer: str | None = None
    """A folder of Hugging Face `transformers` with a tokenizer, or its `tokenizer.json`: a path relative to the
    configuration file, or any fsspec URI. The model then takes `input_ids` and `attention_mask` instead of texts."""
    max_length: Count | None = None
    """Where longer sequences of tokens are cut. Left out: never; sequences that a model cannot take are refused."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"folder", "depends_on", "path", "tokenizer", "checkpoint"})
    """Keys that say where a file lies; only its content determines what the model computes."""

    def for_classes(self, classes: int, names: tuple[str, ...]) -> Any:
        """The same model for data with these classes. names: of the classes; empty where labels are numbers."""
        return self

    def determining(self) -> dict[str, Any]:
        """The keys that determine what the model computes, without the places of files."""
        unset = {key for key in ("inputs", "max_length") if getattr(self, key) is None}  # as in keys without them
        return self.model_dump(mode="json", exclude={*self.PLACES, *unset})


class SpecialClasses(Spec):
    """The classes that a specialist tells apart; it answers all others as one (Hinton et al. 2015, section 5)."""

    classes: Annotated[tuple[Whole | str, ...], Field(min_length=1)]
    """By id or name. Filled in with their ids, ascending."""
    correction: Number = 0.0
    """Added to the logit of all others outside training: the log of the odds by which its training sample favoured its
    classes. Filled in where the run trains it."""
    of: Whole = 0
    """Filled in with the number of all classes."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, where they are filled in."""
        return tuple(k for k in self.classes if isinstance(k, int))


class MaySpecialise(TakesColumns):
    """A model that may answer some classes as one."""

    special: SpecialClasses | None = None
    """Of a specialist that is loaded: its own classes. `ensemble.members.specialists` fills it in of those that the run
    trains. Left out: it tells all classes apart."""

    def determining(self) -> dict[str, Any]:
        return {key: value for key, value in super().determining().items() if value is not None or key != "special"}


class ModelSpec(FactorySpec, MaySpecialise):
    """`factory(**kwargs)` returns a `torch.nn.Module` from a batch to logits [B, K]."""

    kind: Literal["python"] = "python"
    """A network of torch, built by a factory in Python."""

    learner: ClassVar[Learner | None] = "network"
    weights_name: ClassVar[str] = "model.safetensors"
    """The file that its weights are kept in."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions that it needs beside those of Stillhouse and of its factory."""
    file: ClassVar[None] = None
    """The file that it is loaded from, where the model itself names one."""

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.factory}'"

    def determining(self) -> dict[str, Any]:
        return {key: value for key, value in super().determining().items() if key != "kind"}  # as in keys before kinds


class FileModel(TakesColumns):
    """A model that is complete in one file. It is loaded and never trained."""

    path: str
    """A path, relative to the configuration file, or any fsspec URI."""

    learner: ClassVar[Learner | None] = None
    weights_name: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def file(self) -> str:
        """The file that it is loaded from."""
        return self.path

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.path}'"


class OnnxModel(FileModel):
    """A graph for ONNX Runtime, on a CPU or, where its provider is installed, on CUDA."""

    kind: Literal["onnx"]
    """A file of ONNX, whose weights are in it."""
    output: Literal["auto", "logits", "probabilities"] = "auto"
    """What the graph returns. `auto`: probabilities where the rows of real examples are >= 0 and sum to 1."""
    output_name: str | None = None
    """Which of several outputs of the graph is taken."""


class SklearnFile(FileModel):
    """A classifier of scikit-learn with `predict_proba`, kept by skops, which holds no pickle."""

    kind: Literal["sklearn"]
    """A file of skops."""
    trusted: tuple[str, ...] = ()
    """Types beyond those that skops trusts which the file may hold, such as `sklearn.tree._tree.Tree`."""


class SklearnModel(FactorySpec, TakesColumns):
    """`factory(**kwargs)` returns an estimator of scikit-learn, which is fitted here."""

    kind: Literal["sklearn"]
    """A classifier with `predict_proba`, or a regressor that is fitted to probabilities."""
    trusted: tuple[str, ...] = ()
    """As of a file. Those of packages that the factory's estimator is made of need not be listed."""

    learner: ClassVar[Learner | None] = "estimator"
    weights_name: ClassVar[str] = "model.skops"
    packages: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")
    file: ClassVar[None] = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.factory}'"


AUTO = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "masked-lm": "AutoModelForMaskedLM",
}
"""The class of transformers for each task."""


class TransformersModel(MaySpecialise):
    """A network of the package transformers, from a folder that `save_pretrained` wrote, or new by a configuration."""

    kind: Literal["transformers"]
    """A network of Hugging Face `transformers`. Code in a folder is never run."""
    checkpoint: str | None = None
    """The folder that training begins from, or of a member that is complete: a path relative to the configuration
    file, or any fsspec URI."""
    config: dict[str, Any] | None = None
    """Instead of `checkpoint`: the keys of a configuration of transformers, `model_type` among them, for random
    weights."""
    task: Literal["sequence-classification", "token-classification", "masked-lm"] = "sequence-classification"
    """What the network computes: logits of each text, of each of its tokens, or of the vocabulary for masked tokens
    (`data.masking`). The last two take `input_ids`, and no texts."""
    frozen: tuple[str, ...] = ()
    """Parts of the network that training leaves as they are, by their names, such as `embeddings` or `layer.0`."""
    labels: tuple[str, ...] = ()
    """Filled in with the names of the data's classes. A checkpoint's classes are matched with them by name."""
    classes: Whole = 0
    """Filled in with their number."""

    learner: ClassVar[Learner | None] = "network"
    weights_name: ClassVar[str] = "model.safetensors"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")
    file: ClassVar[None] = None

    @model_validator(mode="after")
    def _one_source(self) -> TransformersModel:
        if (self.checkpoint is None) == (self.config is None):
            raise ValueError("give `checkpoint` (a folder) or `config` (the keys of a new network's configuration)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs `model_type`, such as `bert`")
        if self.tokenizer is None and self.checkpoint is None and self.task == "sequence-classification":
            raise ValueError("`config` has no tokenizer; give `tokenizer`, a folder that has one")
        return self

    @model_validator(mode="before")
    @classmethod
    def _own_tokenizer(cls, values: Any) -> Any:
        """The tokenizer of the checkpoint, unless another one is given."""
        if isinstance(values, dict) and values.get("tokenizer") is None and values.get("checkpoint") is not None:
            return {**values, "tokenizer": values["checkpoint"]}
        return values

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.checkpoint}'" if self.checkpoint is not None else f"'{(self.config or {})['model_type']}'"

    def determining(self) -> dict[str, Any]:
        return {key: value for key, value in super().determining().items() if value or key != "frozen"}

    def for_classes(self, classes: int, names: tuple[str, ...]) -> TransformersModel:
        return self.model_copy(update={"classes": classes, "labels": names})


class OwnModel(FactorySpec, TakesColumns):
    """A kind of the user's own: a subclass of `workers.models.predictor.Predictor`."""

    kind: FactoryName
    """`module:Class`."""
    path: str | None = None
    """The file that it is loaded from. Left out: it is fitted here, as a `Fittable`."""
    factory: FactoryName = ""
    """Filled in with `kind`."""

    weights_name: ClassVar[str] = "model.bin"
    packages: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _made_by_its_kind(cls, values: Any) -> Any:
        return {**values, "factory": values.get("kind")} if isinstance(values, dict) else values

    @property
    def learner(self) -> Learner | None:
        return "estimator" if self.path is None else None

    @property
    def file(self) -> str | None:
        """The file that it is loaded from."""
        return self.path

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.kind}'"


MODEL_KINDS = ("python", "transformers", "onnx", "sklearn")
OWN = "module:Class"


def _kind_of_model(values: Any) -> str:
    """The tag of the spec that describes a model."""
    kind = values.get("kind", "python") if isinstance(values, dict) else getattr(values, "kind", "python")
    if isinstance(kind, str) and ":" in kind:
        return f"({OWN})"
    if kind == "sklearn":
        has_factory = "factory" in values if isinstance(values, dict) else isinstance(values, SklearnModel)
        return "(sklearn factory)" if has_factory else "(sklearn file)"
    return f"({kind})"


def _known_kind(values: Any) -> Any:
    """Raises: ValueError, naming the kinds that are known."""
    if isinstance(values, dict):
        kind = values.get("kind", "python")
        if kind not in MODEL_KINDS and not (isinstance(kind, str) and ":" in kind):
            known = ", ".join(MODEL_KINDS)
            raise ValueError(f"unknown kind {kind!r}; expected {known}, or a class of your own as `{OWN}`")
    return values


AnyModel = Annotated[
    Annotated[ModelSpec, Tag("(python)")]
    | Annotated[TransformersModel, Tag("(transformers)")]
    | Annotated[OnnxModel, Tag("(onnx)")]
    | Annotated[SklearnModel, Tag("(sklearn factory)")]
    | Annotated[SklearnFile, Tag("(sklearn file)")]
    | Annotated[OwnModel, Tag(f"({OWN})")],
    Discriminator(_kind_of_model),
    BeforeValidator(_known_kind),
]
"""A model of any kind; `kind` decides, and `python` may be left out."""
NetworkModel = ModelSpec | TransformersModel
"""A model that is a torch module, which the training loop trains."""


def special_of(model: AnyModel) -> SpecialClasses | None:
    """The classes of a specialist; None for a model that tells all classes apart."""
    return model.special if isinstance(model, MaySpecialise) else None


COMPANION = re.compile(
    r"config\.json|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja"
    r"|vocab\.(txt|json)|merges\.txt|(spiece|sentencepiece[\w.]*|tokenizer)\.model"
)
"""Names of the files beside the weights that other software needs to load them."""
WEIGHTS = tuple(kind.weights_name for kind in (ModelSpec, SklearnModel, OwnModel))
"""Names of the files that trained models are kept in."""


def model_of(values: dict[str, Any]) -> AnyModel:
    """The specification in the values that its `model_dump` gave."""
    found: AnyModel = TypeAdapter(AnyModel).validate_python(values)
    return found


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
    baseline: bool = True
    """Whether the baseline's examples vary, too, with a new version in each epoch; `false`: it learns from them as they
    are."""


class MaskingSpec(Spec):
    """Makes texts examples of masked language modelling: some of their tokens are to be predicted."""

    tokenizer: str
    """A folder of Hugging Face `transformers` with a tokenizer, or its `tokenizer.json`, as of a model. All models take
    its tokens."""
    max_length: Count | None = None
    """Where longer sequences of tokens are cut. Left out: never."""
    probability: Share = 0.15
    """The share of a text's tokens to predict, at least one. Of them 80% are masked, 10% replaced by a random token."""
    smoothing: NonNegative = 0.7
    """Rare tokens are chosen more often, in proportion to count^-smoothing; 0: all alike."""
    copies: Annotated[int, Field(ge=1, le=1000), NoBool] = 1
    """Copies of each text that is trained on, each with other tokens masked."""
    positions: Literal["masked", "all"] = "masked"
    """What gets soft targets: the masked tokens, or all tokens of the text. Labels are of masked ones alone."""
    seed: Annotated[int, Field(ge=0, lt=2**63), NoBool] = 0
    """Of the masks."""


class DataSpec(Spec):
    """The data: a transfer set with labels, held-out sets, and optionally inputs without labels."""

    kind: Literal["npz", "parquet", "table", "images", "idx", "text", "python"] | FactoryName
    """The kind of file; `table` for CSV, TSV, JSON lines and Parquet with categories and empty cells; `images` for
    folders of images; `text` for texts (JSON lines, CSV, TSV, Parquet, folders of `datasets`); `python` for a
    function that returns the splits; or `module:Class` of your own: it is made with `kwargs`, and called with the URI
    of each split it returns (x, y)."""
    root: str = ""
    """The folder or fsspec URI that relative paths below start from. Left out: the configuration file's folder."""
    train: str | IdxFiles | None = None
    """A path, relative to the configuration file, or any fsspec URI. npz: x [N, ...], y [N] class ids, -1 for none."""
    test: str | IdxFiles | None = None
    """What every system is measured on."""
    validation: str | IdxFiles | None = None
    """What `keep: best` and `weights: validation` decide by."""
    validation_share: Share | None = None
    """Instead of `validation`: the share of the training examples set aside, drawn with the seed."""
    test_share: Share | None = None
    """Instead of `test`: the share of the labelled training examples set aside, the same ones for every `seed`; those
    of a group (`group_column`) together."""
    unlabeled: str | None = None
    """Inputs that join the transfer set and get soft targets only."""
    transfer_without: tuple[Whole | str, ...] = ()
    """Classes, by id or name, whose labelled training examples the transfer set leaves out: members learn from them,
    student and baseline do not."""
    transfer_share: Share | None = None
    """The share of the training examples, and of `unlabeled`, that the transfer set has, drawn with the seed; members
    learn from all. A smaller share is a part of a larger one. The masked copies of a text stay together, and groups
    (`group_column`) where `test` is drawn from `train`."""
    depends_on: tuple[str, ...] = ()
    """Files or folders, relative to this configuration or any fsspec URI, that models or data read and no import or
    `open` of Python shows: what is reused changes with their content."""
    augment: AugmentSpec | None = None
    """How the examples vary that student and baseline learn from; members, validation and test see them as they are."""
    classes: Count | None = None
    """How many classes there are. Left out: one more than the largest label of the training set."""
    allow_overlap: bool = False
    """Accept splits that are the same examples, as a trial of a set-up may want; otherwise they are refused."""
    label_column: str | None = None
    """The column of labels: of Parquet and the array of npz class ids, of `table` and `text` class ids or class names.
    Left out: `y`, of texts `label`."""
    text_column: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = "text"
    """`kind: text`: the column of the texts; two columns for pairs of texts."""
    max_length: Annotated[Count | None, Field(exclude=True)] = None
    """`kind: text`: short for `max_length` of `masking`, or else of every model of texts that has none of its own."""
    group_column: str | None = None
    """Of `test`: which examples belong together when intervals are drawn, such as those of a user, a document or an
    utterance. A column of texts, of a table or of Parquet, or an array [N] of an npz; a data factory returns
    `(x, y, groups)`. Left out: each example is drawn by itself."""
    feature_columns: tuple[str, ...] | None = None
    """`kind: parquet`: the columns of numbers, or the one column of equally long lists. `kind: table`: columns of
    numbers, categories or lists. Left out: all but the label. `kind: npz`: the one array of the examples, `x`."""
    image_size: tuple[Count, Count] | None = None
    """`kind: images`: [height, width] that every image is scaled to; what is too long is cut at the edges."""
    image_mode: Literal["rgb", "grey"] = "rgb"
    """`kind: images`: whether examples are [3, height, width] or [1, height, width]."""
    factory: FactoryName | None = None
    """`kind: python`: a function that returns `{"train": (x, y), "test": (x, y), ...}`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function, or of the class that `kind` names."""
    folder: str = ""
    """Where its module is looked for first, relative to the configuration file."""

    masking: MaskingSpec | None = None
    """`kind: text`: predict masked tokens instead of labels; `label_column` is not read, and the classes are the tokens
    of the vocabulary."""
    stages: dict[str, str] = Field(default_factory=dict)
    """Filled in with the files of `student.stages`."""

    @property
    def labels_from(self) -> str:
        """The column of labels."""
        return self.label_column or ("label" if self.kind == "text" else "y")

    @property
    def texts_from(self) -> tuple[str, ...]:
        """The columns of texts."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def code(self) -> str | None:
        """The user's own code that reads the data, as `module:name`."""
        return self.kind if ":" in self.kind else self.factory

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> DataSpec:
        if self.kind == "python":
            if self.factory is None:
                raise ValueError("kind 'python' needs `factory: module:function`")
            if self.train or self.test or self.validation or self.unlabeled:
                raise ValueError("kind 'python' takes its splits from `factory`, not from file keys")
        else:
            if self.factory is not None:
                raise ValueError(f"`factory` belongs to kind 'python', not '{self.kind}'")
            if self.max_length is not None and self.kind != "text":
                raise ValueError(f"`max_length` belongs to kind 'text', not '{self.kind}'; a model has one, too")
            if self.kwargs and ":" not in self.kind:
                raise ValueError(f"`kwargs` belong to kind 'python' or one of your own, not '{self.kind}'")
            needed = ("train",) if self.test_share is not None else ("train", "test")
            missing = [key for key in needed if getattr(self, key) is None]
            if missing:
                share = ", or `test_share`" if missing == ["test"] else ""
                raise ValueError(f"kind '{self.kind}' needs `{missing[0]}`: a path or an fsspec URI{share}")
            if self.kind == "images" and self.image_size is None:
                raise ValueError("kind 'images' needs `image_size: [height, width]`")
            if self.kind != "idx" and (
                isinstance(self.train, IdxFiles)
                or isinstance(self.test, IdxFiles)
                or isinstance(self.validation, IdxFiles)
            ):
                raise ValueError(f"`images` and `labels` belong to kind 'idx', not '{self.kind}'")
        if self.masking is not None and (self.kind != "text" or self.augment is not None or self.classes is not None):
            raise ValueError(
                "`masking` makes texts examples of their own; expected kind 'text', without `augment` and `classes`"
            )
        if self.masking is not None and self.masking.copies > 1 and self.validation is None:
            raise ValueError(
                "`masking.copies` is above 1, and a validation split that is drawn from copies would have training "
                "texts; expected `validation`, a file"
            )
        for split in ("validation", "test"):
            if getattr(self, split) is not None and getattr(self, f"{split}_share") is not None:
                raise ValueError(f"give `{split}` or `{split}_share`, not both")
        if self.masking is not None and self.test_share is not None:
            raise ValueError("`masking` makes copies of texts, so a drawn test split would share texts; give `test`")
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
    decays: Literal["auto", "all", "matrices"] = "auto"
    """The parameters that `weight_decay` applies to. `matrices`: those of two or more dimensions, so neither biases nor
    norms. `auto`: `matrices` for networks of transformers, else `all`."""
    layer_decay: Share | None = None
    """Layer-wise decay of the learning rate (Howard and Ruder 2018): each layer learns at this multiple of the rate of
    the layer above it. The layers are those of the network's longest `ModuleList` of equal layers."""
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

    def decays_in(self, *, of_transformers: bool) -> Literal["all", "matrices"]:
        """The parameters that decay in a network, which may be one of transformers."""
        if self.decays == "auto":
            return "matrices" if of_transformers else "all"
        return self.decays

    def determining(self, model: AnyModel) -> dict[str, Any]:
        """The settings that determine the trained network of a model."""
        decays = self.decays_in(of_transformers=isinstance(model, TransformersModel))
        found = {**self.model_dump(mode="json"), "decays": decays}
        as_before = {"decays": "all", "layer_decay": None}  # keys before these settings did not have them
        return {key: value for key, value in found.items() if key not in as_before or as_before[key] != value}


class FitSpec(Spec):
    """How an estimator is trained: by one `fit`, on all examples at once."""

    fit: str = "auto"
    """How it takes soft targets. `copies`: each example once for each class, weighted by its probability; for
    classifiers. `probabilities`: as the numbers that a regressor predicts. `auto`: as the estimator is. Or
    `module:function` of your own, called with the estimator and `workers.models.predictor.Lessons`."""

    epochs: ClassVar[int] = 1
    batch_size: ClassVar[None] = None
    micro_batch_size: ClassVar[None] = None
    precision: ClassVar[Precision] = "float32"
    compile: ClassVar[bool] = False

    def determining(self, model: AnyModel) -> dict[str, Any]:
        """The settings that determine the fitted estimator of a model."""
        return self.model_dump(mode="json")


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
    if model.learner == "network" and isinstance(training, FitSpec):
        raise ValueError(f"`{key}` has no `epochs`; a network is trained for so many epochs")
    if model.learner == "estimator" and isinstance(training, TrainingSpec):
        raise ValueError(
            f"`{key}` has `epochs`, and an estimator of kind '{model.kind}' is fitted at once; expected `{key}: {{}}`. "
            "Its own settings belong in `kwargs` of its factory"
        )


class OwnKind(Spec):
    """A kind of a table, or a class of the user's, and the settings that it is made with."""

    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings: keyword arguments of the class."""
    folder: str = ""
    """Of `module:Class`: as `folder` of a factory."""
    depends_on: tuple[str, ...] = ()
    """Of `module:Class`: as `depends_on` of a factory."""


class ScheduleSpec(OwnKind):
    """A number that changes in the course of a training, from its first step or epoch to its last."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    start: Annotated[Number, Field(alias="from")]
    """Its value at the first step."""
    end: Annotated[Number | None, Field(alias="to")] = None
    """Its value at the last step; not for `schedule: constant`."""
    schedule: Annotated[KindName, Field(examples=["constant", "linear", "cosine", "step"])] = "linear"
    """How it goes there: `constant`, `linear`, `cosine`, `step` (`kwargs: {at: 0.5}`, one share of the training or
    several), or `module:Class`."""
    by: Literal["epoch", "step"] = "step"
    """How often it changes."""

    @model_validator(mode="after")
    def _has_an_end(self) -> ScheduleSpec:
        if self.end is None and self.schedule != "constant":
            raise ValueError(f"`to` is missing: a {self.schedule} schedule goes from `from` to `to`")
        return self

    @property
    def is_constant(self) -> bool:
        """Whether it is known to stay as it is."""
        return self.schedule == "constant" or (self.start == self.end and ":" not in self.schedule)


def _number_or_schedule(value: Any) -> str:
    return "(schedule)" if isinstance(value, (dict, ScheduleSpec)) else "(number)"


LEAST_TEMPERATURE = 1.0e-3
"""Close to 0 all probability is on one class, and below this logits overflow."""


def _at_least(least: float) -> AfterValidator:
    def check(spec: ScheduleSpec) -> ScheduleSpec:
        for key, value in (("from", spec.start), ("to", spec.end)):
            if value is not None and value < least:
                raise ValueError(f"`{key}` is {value:g}; expected a number of at least {least:g}")
        return spec

    return AfterValidator(check)


Weight = Annotated[
    Annotated[NonNegative, Tag("(number)")] | Annotated[ScheduleSpec, _at_least(0.0), Tag("(schedule)")],
    Discriminator(_number_or_schedule),
]
Temperature = Annotated[
    Annotated[float, Field(ge=LEAST_TEMPERATURE, allow_inf_nan=False), NoBool, Tag("(number)")]
    | Annotated[ScheduleSpec, _at_least(LEAST_TEMPERATURE), Tag("(schedule)")],
    Discriminator(_number_or_schedule),
]


TERM_NAMES = [
    "soft", "reverse_kl", "jensen_shannon", "logits_mse", "hard", "masked_lm", "hidden_cosine", "hidden_mse",
    "relations", "attention", "attention_transfer", "channel_kl", "relational_distance", "relational_angle",
]  # fmt: skip
"""Names of `workers.losses.TERMS`, which editors offer."""


class TermSpec(OwnKind):
    """One term of the objective: what is compared with what, and how much it counts."""

    term: Annotated[KindName, Field(examples=TERM_NAMES)]
    """What is compared: `soft`, `reverse_kl`, `jensen_shannon` (`kwargs: {beta: 0.5}`), `logits_mse`, `hard`,
    `masked_lm` (`hard` of masked tokens), `hidden_cosine`, `hidden_mse`, `relations`, `attention`,
    `attention_transfer`, `channel_kl`, `relational_distance`, `relational_angle`, or `module:Class`."""
    weight: Weight = 1.0
    """How much it counts: a number, or one that follows a schedule."""

    @property
    def is_off(self) -> bool:
        """Whether its weight is known to be 0 at every step."""
        if isinstance(self.weight, ScheduleSpec):
            return self.weight.start == 0.0 and self.weight.is_constant
        return self.weight == 0.0


class HiddenSpec(Spec):
    """The member whose hidden states or self-attention a term of the objective needs."""

    member: Whole = 0
    """Its number. Student and member take the same columns, and texts by the same tokenizer."""
    where: Literal["auto", "worker", "actor"] = "auto"
    """Where it computes: in each `worker` of the student's training, on its device, or in an `actor` of its own, which
    sends its answers. `auto`: in the workers, unless it is too large for their memory."""


class DistillationSpec(Spec):
    """What the student learns from: weighted terms, by default
    soft_weight * T^2 * CE(p, softmax(z/T)) + hard_weight * CE(y, softmax(z)); Hinton et al. 2015."""

    temperature: Temperature = 2.0
    """T: a number or a schedule. For a schedule each member's logits are kept, and the student averages them at the
    T of its step; it starts once all of them are there."""
    objective: tuple[TermSpec, ...] | None = None
    """The terms, added in this order. Left out: `soft` and `hard` with the two weights below."""
    soft_weight: Weight | None = None
    """Of the term `soft`, in the short form of `objective`: the cross entropy with the ensemble's softened
    probabilities, times T^2. 0.5 where left out."""
    hard_weight: Weight | None = None
    """Of the term `hard`, in the short form of `objective`: the cross entropy with the labels. 0.5 where left out."""
    dtype: Literal["float32", "float16"] = "float32"
    """How soft targets are stored."""
    top_k: Count | None = None
    """Of a large vocabulary, store the so many largest probabilities and the rest's mass as one bucket."""
    hidden: HiddenSpec = HiddenSpec()
    """The member for terms that need hidden states or attention, such as `hidden_cosine` and `relations`."""
    keep: Literal["mean", "members"] = "mean"
    """What of the teachers' pass is kept: soft targets alone, or each member's logits too, from which any other T, rule
    or choice of members is made without computing these members again."""
    stream: Literal["auto"] | bool = "auto"
    """The student begins on soft targets as they come. `auto`: where there is room for it beside the teachers, a GPU
    for each of its workers or, without GPUs, a core; true: on cores that it shares with them, too. Changes the time,
    never the student."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("objective") is not None:
            return values
        given = {key: value for key, value in values.items() if value is not None}
        return {**values, "soft_weight": given.get("soft_weight", 0.5), "hard_weight": given.get("hard_weight", 0.5)}

    @model_validator(mode="after")
    def _one_objective(self) -> DistillationSpec:
        short = [key for key in ("soft_weight", "hard_weight") if getattr(self, key) is not None]
        if self.objective is not None and short:
            raise ValueError(
                f"`objective` and `{short[0]}` are both given; expected one of them: `{short[0]}` is the short form of "
                "a term in `objective`"
            )
        if self.objective == ():
            raise ValueError("`objective` is empty; expected at least one term")
        if all(term.is_off for term in self.every_term):
            what = "`soft_weight` and `hard_weight` are both" if self.objective is None else "all weights are"
            raise ValueError(f"{what} 0, so there is nothing to learn from; set one of them above 0")
        kinds = [term.model_dump(exclude={"weight", "depends_on"}) for term in self.every_term]
        for number, (term, kind) in enumerate(zip(self.every_term, kinds, strict=True)):
            if kind in kinds[:number]:
                raise ValueError(
                    f"`objective` has the term '{term.term}' twice with the same settings; expected each once, with "
                    "the sum of the weights"
                )
        return self

    @model_validator(mode="after")
    def _room_for_a_schedule(self) -> DistillationSpec:
        if not self.is_scheduled:
            return self
        if self.top_k is not None:
            raise ValueError(
                f"`top_k` is {self.top_k} and `temperature` a schedule: the largest probabilities at one T say nothing "
                "of those at another; leave `top_k` out, or set `temperature` to a number"
            )
        if self.stream is True:
            raise ValueError(
                "`stream` is true and `temperature` a schedule, for which the student waits until the logits of all "
                "members are kept; leave `stream` out, or set `temperature` to a number"
            )
        return self

    @property
    def every_term(self) -> tuple[TermSpec, ...]:
        """The terms in their order, from either form."""
        if self.objective is not None:
            return self.objective
        short = {"soft": self.soft_weight, "hard": self.hard_weight}
        return tuple(TermSpec(term=name, weight=weight) for name, weight in short.items() if weight is not None)

    @property
    def is_scheduled(self) -> bool:
        """Whether T changes in the course of the training."""
        return isinstance(self.temperature, ScheduleSpec) and not self.temperature.is_constant

    @property
    def first_temperature(self) -> float:
        """The T that the training begins with, and that soft targets are stored at."""
        found = self.temperature
        return found.start if isinstance(found, ScheduleSpec) else found

    @property
    def keeps_logits(self) -> bool:
        """Whether each member's logits are kept."""
        return self.keep == "members" or self.is_scheduled
