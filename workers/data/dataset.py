"""A loaded and validated data set: training, validation and test split, and the transfer set for the teachers.

The transfer set is the training examples followed by the unlabelled ones. `loading` makes it from files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data import examples, masked_texts
from workers.data.arrays import Index, spread
from workers.data.augment import augmented, named_files
from workers.data.encoded_tables import Encoding
from workers.data.examples import Examples
from workers.data.labels import MEASURED, UNLABELLED, has_label
from workers.data.masked_texts import MaskedColumns
from workers.data.numbering import Numbering
from workers.data.positions import Positions
from workers.data.ragged import per_row
from workers.specs.data import AugmentSpec
from workers.user_code import provenance

NO_ROWS: Index = np.zeros(0, np.int64)
SERVED = 200
"""Test examples that latency is measured on."""
SAMPLED = 64
"""Examples that a sample has of each split, where it has so many."""


@dataclass(frozen=True)
class Split:
    """N examples `x`, and `labels` [P] int64 class ids, one per position, -1 for no label; None where masks make them.

    `x` may hold several views of the examples, one after another; they share the labels.
    """

    x: Examples
    labels: Index | None

    @property
    def y(self) -> Index:
        """The labels of all positions; those of masked texts are drawn each time."""
        return self.labels_of(np.arange(len(self))) if self.labels is None else self.labels

    @cached_property
    def rows(self) -> Positions:
        """The rows of `y`: one for each example, or one for each of its positions."""
        where = examples.explicit_positions(self.x)
        return examples.positions_of(self.x, len(self.y) if where is None else len(where))

    def __len__(self) -> int:
        return self.rows.examples

    def labels_of(self, ids: Index) -> Index:
        """The labels of some of the examples, one example after another."""
        if self.labels is None:
            assert isinstance(self.x, MaskedColumns)
            return self.x.labels(ids)
        return self.labels[self.rows.rows(ids)]

    def labelled_of(self, ids: Index) -> Index:
        """How many labels each of some of the examples has: [n] int64."""
        if isinstance(self.x, MaskedColumns):
            return self.x.labelled(ids)
        return per_row(self.labels_of(ids) != UNLABELLED, self.rows.edges(ids))

    def read(self, ids: Index) -> tuple[Examples, Index, Index]:
        """Examples of which some rows are those of `ids` [n], these rows [n], and their labels as of `labels_of`.

        Masks are drawn once for both, and are part of the examples.
        """
        if isinstance(self.x, MaskedColumns):
            x, labels = self.x.drawn(ids)
            return x, np.arange(len(ids)), labels
        return self.x, ids, self.labels_of(ids)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Whether each example has a label, at one of its positions at least: [N] bool."""
        return self.x.known if isinstance(self.x, MaskedColumns) else has_label(self.y, self.rows)

    def take(self, ids: Index) -> Split:
        """Some of the examples, with their labels."""
        return Split(examples.take(self.x, ids), None if self.labels is None else self.labels_of(ids))

    @classmethod
    def unlabelled(cls, x: Examples) -> Split:
        """Examples without labels."""
        if isinstance(x, MaskedColumns):
            return cls(x, None)
        return cls(x, np.full(len(examples.positions_of(x, len(x))), UNLABELLED, np.int64))


@dataclass(frozen=True)
class Dataset:
    """The checked splits of one run."""

    train: Split
    validation: Split
    test: Split
    unlabeled: Examples | None
    classes: int
    augment: AugmentSpec | None = None
    augment_files: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the files hold that arguments of `augment` name, by these."""
    without: tuple[int, ...] = ()
    """Classes whose training examples the transfer set leaves out."""
    transfer_share: float | None = None
    """The share of the examples that the transfer set has; None: all."""
    taught: Index | None = None
    """The rows of `train` that the transfer set has, ascending; None: all."""
    drawn: Index | None = None
    """The rows of `data.unlabeled` that `unlabeled` has, ascending; None: all."""
    seed: int = 0
    label_names: tuple[str, ...] = ()
    """The name of each class; empty where labels are numbers."""
    notes: tuple[str, ...] = ()
    """Notes for the user on data or request that are valid but noteworthy; one sentence each."""
    kept: Index | None = None
    """The rows of `data.train` that are not held out; None where all train."""
    held_out: tuple[str, ...] = ()
    """The splits that were drawn from `data.train`."""
    given: int = 0
    """Examples of `data.train` before the validation split was drawn from it."""
    given_unlabeled: int = 0
    """Examples of `data.unlabeled` before a share was drawn from it."""
    copies: int = 1
    """Examples that each row of `data.train` and `data.unlabeled` became, copy after copy."""
    scanned: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`examples.digest` of splits that have been read, by their names."""

    stages: Mapping[str, Examples] = field(default_factory=dict)
    """Examples without labels for stages of the student, by `stages.<name>`."""
    groups: Mapping[str, Index] = field(default_factory=dict)
    """The group of each example of `validation` and `test`, a number from 0; without, each is a group of its own."""
    encodings: Sequence[Encoding] = ()
    """Of a table, how its columns became the numbers of an example, in the order of these."""
    texts: Examples | None = None
    """Some test examples with their texts, where `test` has only the tokens."""

    @property
    def served(self) -> Examples:
        """A few test examples as a caller would send them, to measure latency on."""
        return self.test.x[spread(len(self.test.x), SERVED)] if self.texts is None else self.texts

    @property
    def views(self) -> int:
        """Versions of each example of the transfer set."""
        return 1 if self.augment is None else self.augment.views

    @cached_property
    def augmentation(self) -> dict[str, Any]:
        """The augmentation's part of a cache key; empty without one."""
        if self.augment is None:
            return {}
        spec, few = self.augment, self.train.x[: min(2, len(self.train))]
        read = spec.model_copy(update={"depends_on": (*spec.depends_on, *named_files(spec).values())})
        files = self.augment_files
        inputs = provenance.of_factory(read, lambda: augmented(spec, few, self.seed, self.views, files)[:2])
        told = spec.model_dump(mode="json", exclude={"folder", "depends_on", "baseline"})
        return {**told, **inputs, "seed": self.seed, **(self._grouped if self.views > 1 else {})}

    @property
    def baseline_augmentation(self) -> dict[str, Any]:
        """As `augmentation`, of the baseline's examples, which have a version for each epoch."""
        if self.augment is None or not self.augment.baseline:
            return {}
        return {**self.augmentation, **self._grouped}

    @property
    def _grouped(self) -> dict[str, str]:
        """What keys of several versions of an example have besides where rows differ in length: earlier versions of
        Stillhouse did not group such rows."""
        return {} if examples.lengths_of(self.train.x) is None else {"batches": "by length"}

    @cached_property
    def lessons(self) -> Split:
        """The training examples that student and baseline learn from: those that the transfer set has."""
        return self.train if self.taught is None else self.train.take(self.taught)

    @property
    def share(self) -> dict[str, Any]:
        """What the transfer set's share of the training examples adds to the baseline's and the student's key."""
        if self.transfer_share is None or self.taught is None:
            return {}
        return {"transfer_share": self.transfer_share, "taught": hashlib.sha256(self.taught.tobytes()).hexdigest()}

    @cached_property
    def transfer(self) -> Split:
        """The set that the teachers label: the lessons, then the unlabelled examples with label -1.

        With several views, `x` holds them one after another; `y` applies to each.
        """
        x, y = self.lessons.x, self.lessons.labels
        if self.unlabeled is not None:
            x = examples.joined((x, self.unlabeled))
            y = None if y is None else np.concatenate([y, Split.unlabelled(self.unlabeled).y])
        return Split(augmented(self.augment, x, self.seed, self.views, self.augment_files), y)

    @property
    def numbering(self) -> Numbering:
        """Maps examples of the transfer set to rows of the user's data."""
        where, kept = examples.explicit_positions(self.transfer.x), self.kept
        if self.taught is not None:
            kept = self.taught if kept is None else kept[self.taught]
        return Numbering(
            examples=len(self.transfer),
            views=self.views,
            kept=kept,
            given=self.given,
            positions=where,
            unlabeled=self.drawn,
            copies=self.copies,
            given_unlabeled=self.given_unlabeled,
        )

    def given_row(self, split: str, example: int) -> int:
        """The row of the user's file that an example of a split is; of a drawn split, its own row there."""
        of = {"train": self.kept, "unlabeled": self.drawn}.get(split)
        row = example if of is None else int(of[example])
        if self.copies == 1 or split in MEASURED:
            return row
        given = {"train": self.given, "unlabeled": self.given_unlabeled}.get(split, len(self.inputs[split]))
        return row % (given // self.copies)

    @property
    def inputs(self) -> dict[str, Examples]:
        """The inputs of each split, by its name."""
        found = {"train": self.train.x, "validation": self.validation.x, "test": self.test.x}
        return {**found, **({} if self.unlabeled is None else {"unlabeled": self.unlabeled}), **self.stages}

    def with_inputs(self, inputs: Mapping[str, Examples]) -> Dataset:
        """The same data set with other columns of the same examples, by split."""

        def changed(name: str, split: Split) -> Split:
            return replace(split, x=inputs.get(name, split.x))

        return replace(
            self,
            train=changed("train", self.train),
            validation=changed("validation", self.validation),
            test=changed("test", self.test),
            unlabeled=inputs.get("unlabeled", self.unlabeled),
            stages={name: inputs.get(name, x) for name, x in self.stages.items()},
        )

    def digest_of_inputs(self, split: str) -> str:
        """sha256 over the inputs of a split."""
        return self._digest(split, self.inputs[split])

    def sampled(self, share: float, least: int) -> Dataset:
        """The same data set with a share of each split, at even distances; of training at least `least` examples, and
        of those that the transfer set has as many, where there are so many."""

        def some(count: int, least: int = SAMPLED) -> Index:
            return spread(count, max(least, round(share * count)))

        def inputs(x: Examples) -> Examples:
            return examples.take(x, some(len(x)))

        chosen, apart = some(len(self.train), least), {name: some(len(getattr(self, name))) for name in MEASURED}
        taught = None
        if self.taught is not None:
            lessons = self.taught[some(len(self.taught), least)]
            chosen = np.union1d(chosen, lessons)
            taught = np.searchsorted(chosen, lessons)
        part = replace(
            self,
            train=self.train.take(chosen),
            validation=self.validation.take(apart["validation"]),
            test=self.test.take(apart["test"]),
            groups={name: of[apart[name]] for name, of in self.groups.items()},
            unlabeled=None if self.unlabeled is None else inputs(self.unlabeled),
            taught=taught,
            drawn=None if self.drawn is None else self.drawn[some(len(self.drawn))],
            stages={name: inputs(x) for name, x in self.stages.items()},
            kept=chosen if self.kept is None else self.kept[chosen],
            scanned={},  # digests of the whole splits
        )
        return part.with_inputs(masked_texts.reduced(part.inputs))

    def noted(self, *notes: str) -> Dataset:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def of_stage(self, name: str) -> Split:
        """The examples of a stage of the student: those of `stages` have no labels; the transfer set where `name` is
        empty."""
        if not name:
            return self.transfer
        return Split.unlabelled(self.stages[name])

    def labelled(self, views: int) -> Split:
        """Data of the hard-label baseline: the lessons, augmented like those of the student or as they are."""
        if self.augment is None or not self.augment.baseline:
            return self.lessons
        return replace(self.lessons, x=augmented(self.augment, self.lessons.x, self.seed, views, self.augment_files))

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 over every example of each split, by its name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {}
        for name, split in splits.items():
            hashed = hashlib.sha256(self._digest(name, split.x).encode())
            if split.labels is not None:  # else they follow from the inputs
                hashed.update(split.labels.tobytes())
                where = examples.explicit_positions(split.x)
                hashed.update(b"" if where is None else examples.digest_column(where).encode())  # of those with labels
            found[name] = hashed.hexdigest()
        found["unlabeled"] = "" if self.unlabeled is None else self._digest("unlabeled", self.unlabeled)
        return found | {name: self._digest(name, x) for name, x in self.stages.items()}

    def hashed(self) -> Dataset:
        """The same with known digests, for which no values are needed any more."""
        return replace(self, scanned={name: self._digest(name, x) for name, x in self.inputs.items()})

    @property
    def test_digest(self) -> str:
        """sha256 over the test examples, their labels and their groups."""
        groups = self.groups["test"].tobytes() if "test" in self.groups else b""
        return hashlib.sha256(self.digests["test"].encode() + groups).hexdigest()

    def _digest(self, name: str, x: Examples) -> str:
        return self.scanned.get(name) or examples.digest(x)
