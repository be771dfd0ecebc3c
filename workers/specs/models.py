"""Models of all kinds; `kind` decides which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from workers.specs.base import Count, FactoryName, FactorySpec, Number, Spec, Whole

Learner = Literal["network", "estimator"]
"""How a model learns: by steps of the training loop, or by one `fit`. What neither does is only loaded."""


class Model(Spec):
    """A model of any kind, which may take some of the data's columns."""

    inputs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The columns that the model takes, by their names. Left out: all. One dense column is its argument, a tensor
    [B, ...]; several, or rows of different lengths, are keyword arguments."""
    tokenizer: str | None = None
    """A folder of Hugging Face `transformers` with a tokenizer, or its `tokenizer.json`: a path relative to the
    configuration file, or any fsspec URI. The model then takes `input_ids` and `attention_mask` instead of texts."""
    max_length: Count | None = None
    """Where longer sequences of tokens are cut. Left out: never; sequences that a model cannot take are refused."""

    LATER: ClassVar[Mapping[str, Any]] = {"inputs": None, "max_length": None}
    PLACES: ClassVar[frozenset[str]] = frozenset({"folder", "depends_on", "path", "tokenizer", "checkpoint"})
    """Keys that say where a file lies; only its content determines what the model computes."""
    default_decays: ClassVar[Literal["all", "matrices"]] = "all"
    """What `decays: auto` of a training means for it."""
    weights_name: ClassVar[str] = ""
    """The file that its weights are kept in; empty for a kind that is never trained."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions that it needs beside those of Stillhouse and of its factory."""

    @property
    def learner(self) -> Learner | None:
        """How it learns; None for a model that is only loaded."""
        return None

    @property
    def file(self) -> str | None:
        """The file that it is loaded from, where the model itself names one."""
        return None

    @property
    def begins_from(self) -> str | None:
        """The folder that training begins from, or that is a complete member; None where the kind has none."""
        return None

    @property
    def predicts_masked(self) -> bool:
        """Whether its outputs are of a vocabulary, for masked tokens."""
        return False

    def complete_at(self, folder: str) -> Any:
        """The model that is complete in a folder, once trained; None where the folder has its weights alone."""
        return None

    def for_classes(self, classes: int, names: tuple[str, ...]) -> Any:
        """The same model for data with these classes. names: of the classes; empty where labels are numbers."""
        return self

    def determining(self) -> dict[str, Any]:
        """The keys that determine what the model computes, without the places of files."""
        return self.keyed(without=self.PLACES)


class SpecialClasses(Spec):
    """The classes that a specialist tells apart; it answers all others as one (Hinton et al. 2015, section 5)."""

    classes: Annotated[tuple[Whole | str, ...], Field(min_length=1)]
    """By id or name. The run replaces names by ids, ascending."""
    correction: Number = 0.0
    """Added to the logit of all others outside training: the log of the odds by which its training sample favoured its
    classes. The run sets it where it trains the specialist."""
    of: Whole = 0
    """Set by the run, not by you: the number of all classes."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, where the run has set them."""
        return tuple(k for k in self.classes if isinstance(k, int))


class Network(Model):
    """A torch module, which the training loop trains. It may answer some classes as one."""

    special: SpecialClasses | None = None
    """For a specialist that is loaded: its own classes. The run sets it for those that it trains
    (`ensemble.members.specialists`). Left out: it tells all classes apart."""

    LATER: ClassVar[Mapping[str, Any]] = {**Model.LATER, "special": None}
    weights_name: ClassVar[str] = "model.safetensors"

    @property
    def learner(self) -> Learner:
        return "network"


class Made(FactorySpec):
    """A model that the user's factory makes."""

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"'{self.factory}'"


class ModelSpec(Made, Network):
    """`factory(**kwargs)` returns a `torch.nn.Module` from a batch to logits [B, K]."""

    kind: Literal["python"] = "python"
    """A network of torch, built by a factory in Python."""

    LATER: ClassVar[Mapping[str, Any]] = {**Network.LATER, "kind": "python"}


class FileModel(Model):
    """A model that is complete in one file. It is loaded and never trained."""

    path: str
    """A path, relative to the configuration file, or any fsspec URI."""

    @property
    def file(self) -> str:
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

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)


class SklearnFile(FileModel):
    """A classifier of scikit-learn with `predict_proba`, kept by skops, which holds no pickle."""

    kind: Literal["sklearn"]
    """A file of skops."""
    trusted: tuple[str, ...] = ()
    """Types beyond those that skops trusts which the file may hold, such as `sklearn.tree._tree.Tree`."""

    packages: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")


class SklearnModel(Made, Model):
    """`factory(**kwargs)` returns an estimator of scikit-learn, which is fitted here."""

    kind: Literal["sklearn"]
    """A classifier with `predict_proba`, or a regressor that is fitted to probabilities."""
    trusted: tuple[str, ...] = ()
    """As of a file. Those of packages that the factory's estimator is made of need not be listed."""

    weights_name: ClassVar[str] = "model.skops"
    packages: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")

    @property
    def learner(self) -> Learner:
        return "estimator"


AUTO = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "masked-lm": "AutoModelForMaskedLM",
}
"""The class of transformers for each task."""


class TransformersModel(Network):
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
    """Set by the run, not by you: the names of the data's classes. A checkpoint's classes are matched with them by
    name."""
    classes: Whole = 0
    """Set by the run, not by you: their number."""

    LATER: ClassVar[Mapping[str, Any]] = {**Network.LATER, "frozen": []}
    packages: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")
    default_decays: ClassVar[Literal["all", "matrices"]] = "matrices"

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

    @property
    def begins_from(self) -> str | None:
        return self.checkpoint

    @property
    def predicts_masked(self) -> bool:
        return self.task == "masked-lm"

    def complete_at(self, folder: str) -> TransformersModel:
        return self.model_copy(update={"checkpoint": folder, "config": None})

    def for_classes(self, classes: int, names: tuple[str, ...]) -> TransformersModel:
        return self.model_copy(update={"classes": classes, "labels": names})


class OwnModel(Made, Model):
    """A kind of the user's own: a subclass of `workers.models.predictor.Predictor`."""

    kind: FactoryName
    """`module:Class`."""
    path: str | None = None
    """The file that it is loaded from. Left out: it is fitted here, as a `Fittable`."""
    factory: FactoryName = ""
    """Set by the run, not by you: `kind`."""

    weights_name: ClassVar[str] = "model.bin"

    @model_validator(mode="before")
    @classmethod
    def _made_by_its_kind(cls, values: Any) -> Any:
        return {**values, "factory": values.get("kind")} if isinstance(values, dict) else values

    @property
    def learner(self) -> Learner | None:
        return "estimator" if self.path is None else None

    @property
    def file(self) -> str | None:
        return self.path


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
AnyNetwork = ModelSpec | TransformersModel
"""A network of any kind."""


def special_of(model: AnyModel) -> SpecialClasses | None:
    """The classes of a specialist; None for a model that tells all classes apart."""
    return model.special if isinstance(model, Network) else None


COMPANION = re.compile(
    r"config\.json|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja"
    r"|vocab\.(txt|json)|merges\.txt|(spiece|sentencepiece[\w.]*|tokenizer)\.model"
)
"""Names of the files beside the weights that other software needs to load them."""
WEIGHTS = tuple(kind.weights_name for kind in (ModelSpec, SklearnModel, OwnModel))
"""Names of the files that trained models are kept in."""


def is_of_model(name: str) -> bool:
    """Whether a file of this name is the weights of a trained model, or beside them for other software."""
    return name in WEIGHTS or COMPANION.fullmatch(name) is not None


def has_tokenizer(values: dict[str, Any]) -> bool:
    """Whether the values of a model, as written, have a tokenizer: one of their own, or of its checkpoint."""
    return values.get("tokenizer") is not None or values.get("kind") == "transformers"


def model_of(values: dict[str, Any]) -> AnyModel:
    """The specification in the values that its `model_dump` gave."""
    found: AnyModel = TypeAdapter(AnyModel).validate_python(values)
    return found
