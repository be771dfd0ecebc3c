"""The data: its files, how examples vary, and masked tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workers.specs.base import Count, FactoryName, FactorySpec, Kwargs, NoBool, NonNegative, Seed, Share, Spec, Whole

FILES = ("train", "test", "validation", "unlabeled")
"""Keys that name the files of splits."""
ARRAYS = (*FILES, "label_column", "feature_columns", "group_column")
OWN = "module:Class"
"""Stands for all kinds of one's own in `KEYS`."""
KEYS: dict[str, tuple[str, ...]] = {
    "npz": ARRAYS,
    "parquet": ARRAYS,
    "table": ARRAYS,
    "images": (*FILES, "image_size", "image_mode"),
    "idx": FILES,
    "text": (*FILES, "text_column", "label_column", "group_column", "max_length", "masking"),
    "python": ("factory", "kwargs", "folder"),
    OWN: (*FILES, "kwargs", "folder"),
}
"""By kind, the keys that it reads, besides those that are of no kind."""
ELSEWHERE = {
    "group_column": "; a data factory returns `(x, y, groups)`",
    "max_length": "; a model has one, too",
}
"""By key, what takes its place in other kinds."""
LABEL, LABEL_OF_TEXTS = "y", "label"
"""The column of labels where none is given, and that of texts."""


def keys_of(kind: str) -> tuple[str, ...]:
    """The keys that a kind reads, besides those that are of no kind; none of an unknown kind."""
    return KEYS.get(OWN if ":" in kind else kind, ())


def keys_of_others(kind: str) -> list[str]:
    """The keys that other kinds read, and this one does not."""
    return sorted({key for keys in KEYS.values() for key in keys} - {*keys_of(kind)})


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
    seed: Seed = 0
    """Seed of the masks."""


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
    """A path, relative to the configuration file, or any fsspec URI; of `parquet`, `table` and `text` also a folder of
    files, or a pattern such as `train-*.parquet`. npz: x [N, ...], y [N] class ids, -1 for none."""
    test: str | IdxFiles | None = None
    """What every system is measured on."""
    validation: str | IdxFiles | None = None
    """What all choices use: `keep: best`, `weights: validation`, `specialists: auto`, the best member,
    `stop_when_flat`, the best run of a sweep."""
    validation_share: Share | None = None
    """Instead of `validation`: the share of the training examples set aside, drawn with the seed; those of a group
    (`group_column`) together. Left out, without `validation`: a tenth."""
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
    (`group_column`)."""
    depends_on: tuple[str, ...] = ()
    """Files or folders, relative to this configuration or any fsspec URI, that models or data read and no import or
    `open` of Python shows: what is reused changes with their content."""
    augment: AugmentSpec | None = None
    """How the examples vary that student and baseline learn from; members, validation and test see them as they are."""
    classes: Count | None = None
    """How many classes there are. Left out: one more than the largest label of the training set, which then has each
    label of the other splits."""
    allow_overlap: bool = False
    """Accept a validation or test split of the same examples as train, as a trial of a set-up may want; otherwise it is
    refused."""
    label_column: str | None = None
    """The column of labels, class ids or class names; of npz the array of them. Left out: `y`, of texts `label`."""
    text_column: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = "text"
    """`kind: text`: the column of the texts; two columns for pairs of texts."""
    max_length: Annotated[Count | None, Field(exclude=True)] = None
    """`kind: text`: short for `max_length` of `masking`, or else of every model of texts that has none of its own."""
    group_column: str | None = None
    """Which examples belong together, such as those of a user, a document or an utterance: those of `test` and
    `validation` when intervals are drawn, those of `train` when other splits are. A column of texts, of a table or of
    Parquet, or an array [N] of an npz; a data factory returns `(x, y, groups)`. Left out: each is drawn by itself."""
    feature_columns: tuple[str, ...] | None = None
    """`kind: parquet`: the columns of numbers, or the one column of equally long lists. `kind: table`: columns of
    numbers, categories or lists. Left out: all but the label. `kind: npz`: the one array of the examples, `x`."""
    image_size: tuple[Count, Count] | None = None
    """`kind: images`: [height, width] that every image is scaled to; what is too long is cut at the edges."""
    image_mode: Literal["rgb", "grey"] = "rgb"
    """`kind: images`: whether examples are [3, height, width] or [1, height, width]."""
    factory: FactoryName | None = None
    """`kind: python`: a function that returns `{"train": (x, y), "test": (x, y), ...}`."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the function, or of the class that `kind` names."""
    folder: str = ""
    """Where its module is looked for first, relative to the configuration file."""

    masking: MaskingSpec | None = None
    """`kind: text`: predict masked tokens instead of labels; `label_column` is not read, and the classes are the tokens
    of the vocabulary."""
    stages: dict[str, str] = Field(default_factory=dict)
    """Set by the run, not by you: the files of `student.stages`."""

    @property
    def labels_from(self) -> str:
        """The column of labels."""
        return self.label_column or (LABEL_OF_TEXTS if self.kind == "text" else LABEL)

    @property
    def texts_from(self) -> tuple[str, ...]:
        """The columns of texts."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def code(self) -> str | None:
        """The user's own code that reads the data, as `module:name`."""
        return self.kind if ":" in self.kind else self.factory

    def copies_of(self, split: str) -> int:
        """How many examples each row of a split becomes, copy after copy: several of masked texts to train on."""
        return 1 if self.masking is None or split in ("validation", "test") else self.masking.copies

    @model_validator(mode="after")
    def _keys_are_of_the_kind(self) -> DataSpec:
        for key in keys_of_others(self.kind):
            of = [kind for kind, keys in KEYS.items() if key in keys]
            if getattr(self, key) != DataSpec.model_fields[key].get_default(call_default_factory=True):
                raise ValueError(
                    f"`{key}` belongs to kind {', '.join(map(repr, of))}, not '{self.kind}', which reads "
                    f"{', '.join(keys_of(self.kind))}{ELSEWHERE.get(key, '')}"
                )
        return self

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> DataSpec:
        if self.kind == "python":
            if self.factory is None:
                raise ValueError("kind 'python' needs `factory: module:function`")
        else:
            needed = ("train",) if self.test_share is not None else ("train", "test")
            missing = [key for key in needed if getattr(self, key) is None]
            if missing:
                share = ", or `test_share`" if missing == ["test"] else ""
                raise ValueError(f"kind '{self.kind}' needs `{missing[0]}`: a path or an fsspec URI{share}")
        if self.kind == "images" and self.image_size is None:
            raise ValueError("kind 'images' needs `image_size: [height, width]`")
        if self.kind != "idx" and any(isinstance(getattr(self, split), IdxFiles) for split in FILES):
            raise ValueError(f"`images` and `labels` belong to kind 'idx', not '{self.kind}'")
        if self.masking is not None and (self.augment is not None or self.classes is not None):
            raise ValueError("`masking` makes texts examples of their own; expected neither `augment` nor `classes`")
        if self.masking is not None and self.masking.copies > 1 and self.validation is None:
            raise ValueError(
                "`masking.copies` is above 1, and a validation split that is drawn from copies would have training "
                "texts; expected `validation`, a file"
            )
        if self.masking is not None and self.transfer_without:
            raise ValueError(
                "`transfer_without` leaves out the examples of some classes, and with `masking` each token has a class "
                "of its own; expected one of the two"
            )
        for split in ("validation", "test"):
            if getattr(self, split) is not None and getattr(self, f"{split}_share") is not None:
                raise ValueError(f"give `{split}` or `{split}_share`, not both")
        if self.masking is not None and self.test_share is not None:
            raise ValueError("`masking` makes copies of texts, so a drawn test split would share texts; give `test`")
        return self
