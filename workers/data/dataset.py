"""A loaded and validated data set: training, validation and test split, and the transfer set for the teachers.

`load` reads every kind through `readers`, then validates the data as far as possible before training, so that a wrong
label costs seconds and not hours. The transfer set is the training examples followed by the unlabelled ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workers import hashing
from workers.data import (
    elements,
    examples,
    groups,
    label_names,
    labels,
    memmap,
    overlap,
    readers,
    scan,
    tokens,
    transfer,
    values,
)
from workers.data.arrays import Index, spread
from workers.data.augment import augmented, named_files
from workers.data.augment import read as read_files
from workers.data.examples import Columns, Examples, columns_of, described
from workers.data.labels import UNLABELLED
from workers.data.numbering import Numbering
from workers.data.positions import Positions
from workers.data.ragged import Ragged
from workers.data.scan import Found
from workers.errors import RequestError
from workers.seeds import seeded
from workers.specs.data import AugmentSpec, DataSpec
from workers.user_code import observed, provenance

DEFAULT_VALIDATION_SHARE = 0.1
"""Share of training examples held out where neither configuration nor data has a validation split."""
DRAWN = ("validation", "test")
"""Splits that may be drawn from the training examples."""
VALIDATION_SEED, TEST_SEED = 0x5E7A51DE, 0x7E575E7
NO_ROWS: Index = np.zeros(0, np.int64)


SERVED = 200
"""Test examples that latency is measured on."""
SAMPLED = 64
"""Examples that a sample has of each split, where it has so many."""


@dataclass(frozen=True)
class Split:
    """N examples `x`, and `y` [P] int64 class ids, one per position, -1 for no label.

    `x` may hold several views of the examples, one after another; they share the labels.
    """

    x: Examples
    y: Index

    @cached_property
    def rows(self) -> Positions:
        """The rows of `y`: one for each example, or one for each of its positions."""
        where = examples.explicit_positions(self.x)
        return examples.positions_of(self.x, len(self.y) if where is None else len(where))

    def __len__(self) -> int:
        return self.rows.examples

    def labels_of(self, ids: Index) -> Index:
        """The labels of some of the examples, one example after another."""
        return self.y[self.rows.rows(ids)]


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
    given: int = 0
    """Rows of `data.train` before the validation split was drawn from it."""
    scanned: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`examples.digest` of splits that have been read, by their names."""

    stages: Mapping[str, Examples] = field(default_factory=dict)
    """Examples without labels for stages of the student, by `stages.<name>`."""
    test_groups: Index | None = None
    """The group of each test example, a number from 0; None: each example is a group of its own."""
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
        return {**told, **inputs, "seed": self.seed}

    @property
    def baseline_augmentation(self) -> dict[str, Any]:
        """As `augmentation`, of the baseline's examples."""
        return {} if self.augment is None or not self.augment.baseline else self.augmentation

    @cached_property
    def lessons(self) -> Split:
        """The training examples that student and baseline learn from: those that the transfer set has."""
        return self.train if self.taught is None else _take(self.train, self.taught)

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
        x, y = self.lessons.x, self.lessons.y
        if self.unlabeled is not None:
            more = examples.positions_of(self.unlabeled, len(self.unlabeled))
            x = examples.joined((x, self.unlabeled))
            y = np.concatenate([y, np.full(len(more), UNLABELLED, np.int64)])
        return Split(augmented(self.augment, x, self.seed, self.views, self.augment_files), y)

    @property
    def numbering(self) -> Numbering:
        """Maps examples of the transfer set to rows of the user's data."""
        where, kept = examples.explicit_positions(self.transfer.x), self.kept
        if self.taught is not None:
            kept = self.taught if kept is None else kept[self.taught]
        return Numbering(len(self.transfer), self.views, kept, self.given, where, self.drawn)

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

        chosen, tested = some(len(self.train), least), some(len(self.test))
        taught = None
        if self.taught is not None:
            lessons = self.taught[some(len(self.taught), least)]
            chosen = np.union1d(chosen, lessons)
            taught = np.searchsorted(chosen, lessons)
        return replace(
            self,
            train=_take(self.train, chosen),
            validation=_take(self.validation, some(len(self.validation))),
            test=_take(self.test, tested),
            test_groups=None if self.test_groups is None else self.test_groups[tested],
            unlabeled=None if self.unlabeled is None else inputs(self.unlabeled),
            taught=taught,
            drawn=None if self.drawn is None else self.drawn[some(len(self.drawn))],
            stages={name: inputs(x) for name, x in self.stages.items()},
            kept=chosen if self.kept is None else self.kept[chosen],
            scanned={},  # digests of the whole splits
        )

    def noted(self, *notes: str) -> Dataset:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def of_stage(self, name: str) -> Split:
        """The examples of a stage of the student: those of `stages` have no labels; the transfer set where `name` is
        empty."""
        if not name:
            return self.transfer
        x = self.stages[name]
        return Split(x, np.full(len(examples.positions_of(x, len(x))), UNLABELLED, np.int64))

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
            hashed = hashlib.sha256(self._digest(name, split.x).encode() + split.y.tobytes())
            where = examples.explicit_positions(split.x)
            if where is not None:  # those that are left have labels
                hashed.update(examples.digest_column(where).encode())
            found[name] = hashed.hexdigest()
        found["unlabeled"] = "" if self.unlabeled is None else self._digest("unlabeled", self.unlabeled)
        return found | {name: self._digest(name, x) for name, x in self.stages.items()}

    def hashed(self) -> Dataset:
        """The same with known digests, for which no values are needed any more."""
        return replace(self, scanned={name: self._digest(name, x) for name, x in self.inputs.items()})

    @property
    def test_digest(self) -> str:
        """sha256 over the test examples, their labels and their groups."""
        groups = b"" if self.test_groups is None else self.test_groups.tobytes()
        return hashlib.sha256(self.digests["test"].encode() + groups).hexdigest()

    def _digest(self, name: str, x: Examples) -> str:
        return self.scanned.get(name) or examples.digest(x)


def large_batch(key: str, batch_size: int, examples: int) -> list[str]:
    """A note where the batch size under `key` (such as `student.training`) exceeds the training set."""
    if batch_size <= examples:
        return []
    return [
        f"{key}.batch_size: {batch_size:,} is more than the {examples:,} examples, so an epoch is a single step; "
        f"{max(1, examples // 10):,} or fewer would make ten or more."
    ]


def load(spec: DataSpec, seed: int) -> Dataset:
    """Load and validate the data of `spec`.

    seed: for drawing a missing validation split, and for the global generators in a data factory.

    Raises: `RequestError` with the split, the found and the expected value.
    """
    provenance.check_depends_on(spec.depends_on)
    try:
        return _load(spec, seed)
    except MemoryError as error:
        raise RequestError(
            f"data: reading it needs more memory than is available ({str(error) or 'MemoryError'}). Use a machine with "
            "more, or fewer examples; a large uncompressed .npz (numpy.savez) is mapped instead of read."
        ) from error


def _load(spec: DataSpec, seed: int) -> Dataset:
    notes: list[str] = []
    with seeded(seed), observed.recording() as record:
        whole = readers.read(spec, notes)
    read, opened = whole.splits, record.read()
    inputs = {name: _watched(x, opened) for name, (x, _) in read.items()}
    if empty := [name for name, x in inputs.items() if _is_empty(x)]:
        raise RequestError(f"data.{empty[0]}: no examples. Expected at least one; check how the split was made.")
    inputs = _located(inputs, {name: y for name, (_, y) in read.items() if isinstance(y, Ragged)})
    given, names = label_names.resolved({name: y for name, (_, y) in read.items() if name in labels.LABELLED})
    y = {name: labels.class_ids(name, inputs[name], of_split) for name, of_split in given.items()}
    declared = spec.classes if spec.masking is None else tokens.vocabulary(spec.masking.tokenizer)
    classes = labels.count(y["train"], declared, names)
    notes += label_names.alike(names, y["train"])
    _check_shapes(inputs)
    grouped = groups.numbered(whole.groups, len(inputs.get("test", inputs["train"])), notes)
    for name, x in inputs.items():
        if name in DRAWN:
            inputs[name], y[name] = elements.labelled(name, x, y[name])
        else:
            elements.check_each_has_one(name, x)
    for name, ids in y.items():  # before the split, so that messages have the user's row numbers
        labels.check_range(name, ids, Split(inputs[name], ids).rows, classes, declared=declared is not None)
    values.check_types(inputs)
    train = Split(inputs["train"], y["train"])
    held = _drawn(train, spec, y, grouped, seed)
    left_out = _unlabelled_of_test(train, held, grouped, notes)
    kept = np.setdiff1d(np.arange(len(train)), np.concatenate([*held.values(), left_out])) if held else None
    apart = {name: _held_out(name, train, rows) for name, rows in held.items()}
    if kept is not None:
        y |= {"train": train.labels_of(kept)} | {name: split.y for name, split in apart.items()}
    every = scan.sampled_every(sum(len(x) for x in inputs.values()))
    found = _scan(inputs, held, left_out, every)  # last, since it reads everything
    numbers = {name: _numbers(Split(inputs[name], y[name])) for name in inputs if name in y and name != "train"}
    numbers |= _numbers_of_parts(train, held if kept is None else {"train": kept, **held})
    notes += _shared(found, numbers, [*held], every, spec.allow_overlap)
    notes += values.check_ranges({name: of for name, of in found.items() if name in inputs}, train.x)
    notes += values.pixels(train.x, found["train"])
    if spec.masking is None:  # tokens of a vocabulary are rare as they are
        counted = "examples" if train.rows.is_one_each else "positions"
        notes += labels.notes(y, _positions(inputs.get("unlabeled")), classes, counted, names)
    dataset = Dataset(
        train=train if kept is None else _take(train, kept),
        validation=apart.get("validation") or Split(inputs["validation"], y["validation"]),
        test=apart.get("test") or Split(inputs["test"], y["test"]),
        test_groups=grouped if grouped is None or "test" not in held else groups.renumbered(grouped[held["test"]]),
        unlabeled=inputs.get("unlabeled"),
        stages={name: inputs[name] for name in spec.stages},
        classes=classes,
        label_names=names,
        augment=spec.augment,
        seed=seed,
        notes=tuple(notes),
        kept=kept,
        given=len(train),
        scanned={name: of.digest for name, of in found.items()},
    )
    dataset = _for_transfer(spec, dataset, grouped if "test" in held else None)
    _ = dataset.transfer  # checks the augmentation
    return dataset


def _for_transfer(spec: DataSpec, data: Dataset, grouped: Index | None) -> Dataset:
    """The data set with the transfer set that `data.transfer_without` and `transfer_share` ask for.

    grouped: [given] the group of each row of `data.train`; None: each is one of its own.
    """
    data = replace(data, augment_files=read_files(spec.augment))
    share, train = spec.transfer_share, data.train
    without = labels.left_out(spec.transfer_without, train.y, train.rows, data.classes, data.label_names)
    if share is None and not without:
        return data
    copies = 1 if spec.masking is None else spec.masking.copies
    units = transfer.copied(len(train), copies)
    if grouped is not None:
        units = grouped if data.kept is None else grouped[data.kept]
    taught = transfer.of_train(share, train.y, train.rows, units=units, seed=data.seed, without=without)
    data = replace(data, without=without, taught=taught, transfer_share=share)
    if share is None:
        return data
    if spec.masking is None:
        data = data.noted(*transfer.note(train.y, data.lessons.y, without, data.label_names))
    if data.unlabeled is None:
        return data
    units = transfer.copied(len(data.unlabeled), copies)
    drawn = transfer.of_share(share, np.arange(len(units)), units, data.seed)
    if not len(drawn):
        nothing = f"data.transfer_share: {share} of {len(units)} examples of data.unlabeled is 0, so it adds none."
        return replace(data.noted(nothing), unlabeled=None, drawn=drawn)
    x = examples.take(data.unlabeled, drawn)
    return replace(data, unlabeled=x, drawn=drawn, scanned={**data.scanned, "unlabeled": examples.digest(x)})


def _positions(x: Examples | None) -> int:
    return 0 if x is None else len(examples.positions_of(x, len(x)))


def _is_empty(x: Examples) -> bool:
    """Whether there are no examples. A scalar, which has no length, is refused with its labels."""
    return len(x) == 0 if isinstance(x, Columns) else x.shape[:1] == (0,)


def _watched(x: Examples, opened: Collection[Path]) -> Examples:
    """The examples, with columns that read mapped files wrapped in `Watched`."""
    if not isinstance(x, Columns):
        return memmap.watched(x, opened)
    columns = {name: c if isinstance(c, Ragged) else memmap.watched(c, opened) for name, c in x.columns.items()}
    return replace(x, columns=columns)


def _located(inputs: Mapping[str, Examples], labels: Mapping[str, Ragged]) -> dict[str, Examples]:
    """The splits with their positions, elements of the same column in each. labels: of splits that have some for each
    element."""
    if not labels:
        return dict(inputs)
    train = elements.located("train", inputs["train"], labels.get("train"), "")
    return {
        name: train if name == "train" else elements.located(name, x, labels.get(name), train.elements_of)
        for name, x in inputs.items()
    }


def _drawn(train: Split, spec: DataSpec, given: Collection[str], grouped: Index | None, seed: int) -> dict[str, Index]:
    """The training examples of the splits that have no file, by the split: rows of `train`, ascending.

    The test split is the same for every `seed`, so that runs of several seeds are measured on the same examples. Groups
    [N] stay whole in it.
    """
    found: dict[str, Index] = {}
    taken = np.zeros(0, np.int64)
    if "test" not in given:
        assert spec.test_share is not None, "checked by DataSpec and by the reader"
        taken = found["test"] = _draw(train, "test", spec.test_share, [TEST_SEED], grouped=grouped)
    if "validation" not in given:
        share = spec.validation_share or DEFAULT_VALIDATION_SHARE
        found["validation"] = _draw(train, "validation", share, [seed, VALIDATION_SEED], without=taken)
    return found


def _held_out(name: str, train: Split, held: Index) -> Split:
    """The training examples that are held out as the split `name`."""
    taken = _take(train, held)
    return Split(*elements.labelled(name, taken.x, taken.y))


def _numbers(split: Split) -> Index:
    """One number per example for its labels: the label, or a non-negative hash of its positions' labels."""
    counts = split.rows.counts
    if counts is None:
        return split.y
    return (hashing.of_stretches(split.y, counts) >> np.uint64(2)).astype(np.int64)


def _numbers_of_parts(train: Split, parts: Mapping[str, Index]) -> dict[str, Index]:
    """`_numbers` of the training examples that each split has; of all where there are no parts."""
    of_train = _numbers(train)
    return {name: of_train[rows] for name, rows in parts.items()} if parts else {"train": of_train}


def _check_shapes(inputs: Mapping[str, Examples]) -> None:
    first = inputs["train"]
    for name, x in inputs.items():
        if not examples.same_columns(x, first):
            shape = "" if isinstance(x, Columns) else "shape "
            raise RequestError(f"data.{name}: examples of {shape}{_shapes(x)}; expected {_shapes(first)} as in train.")
        for column, of_each in columns_of(x).items():
            _check_column(name, column, of_each)


def _shapes(x: Examples) -> str:
    return described(x) if isinstance(x, Columns) else examples.shape_of(x)


def _check_column(name: str, column: str, values: examples.AnyColumn) -> None:
    if values.dtype.kind not in "fiub":
        raise RequestError(f"data.{name}: {column} is of type {values.dtype}; expected numbers.")
    of_value = values.of_value if isinstance(values, Ragged) else values.shape[1:]
    if math.prod(of_value) == 0:
        raise RequestError(
            f"data.{name}: examples of shape {examples.shape_of(values)} hold no number; expected features."
        )
    if isinstance(values, Ragged) and not values.lengths.all():
        empty = np.flatnonzero(values.lengths == 0)
        raise RequestError(
            f"data.{name}: {column} of example {empty[0]} is empty, and of {len(empty):,} in all; expected at least "
            "one element. Leave such examples out."
        )


def _draw(
    train: Split,
    name: str,
    share: float,
    seed: list[int],
    *,
    without: Index = NO_ROWS,
    grouped: Index | None = None,
) -> Index:
    """The labelled training examples that are held out as the split `name`, ascending.

    without: rows that are not drawn. grouped: [N] the group of each example, of which all or none are drawn.
    """
    labelled = np.flatnonzero(labels.has_label(train.y, train.rows))
    labelled = np.setdiff1d(labelled, without) if len(without) else labelled
    units = labelled if grouped is None else np.unique(grouped[labelled])
    count, of = round(len(units) * share), "labelled training examples" if grouped is None else "groups of examples"
    if count == 0 or count == len(units):
        raise RequestError(
            f"data.{name}_share: {share} of {len(units)} {of} is {count}; expected at least one on each side. Give a "
            f"`{name}` split or another share."
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(units)[:count])
    return drawn if grouped is None else labelled[np.isin(grouped[labelled], drawn)]


def _unlabelled_of_test(train: Split, held: Mapping[str, Index], grouped: Index | None, notes: list[str]) -> Index:
    """The training examples without a label of the groups that were drawn for `test`, ascending.

    A student would learn from the inputs of groups that it is tested on. Appends a note where there are some.
    """
    if grouped is None or "test" not in held:
        return NO_ROWS
    of_test = np.isin(grouped, grouped[held["test"]])
    found = np.flatnonzero(of_test & ~labels.has_label(train.y, train.rows))
    if len(found):
        notes.append(
            f"data.test_share: {len(found):,} examples without a label are of groups that are drawn for test, so they "
            "are left out of train."
        )
    return found


def _scan(inputs: Mapping[str, Examples], held: Mapping[str, Index], left_out: Index, every: int) -> dict[str, Found]:
    """Scan each split's inputs. held: the training examples that form other splits. left_out: those in no split."""
    found: dict[str, Found] = {}
    for name, x in inputs.items():
        if name == "train" and held:
            apart = [*held.values(), *([left_out] if len(left_out) else [])]
            scanned = scan.scan_apart(name, x, apart, every)[: 1 + len(held)]
            found |= dict(zip(("train", *held), scanned, strict=True))
        else:
            found[name] = scan.scan(name, x, every)
    return found


def _shared(
    found: Mapping[str, Found], y: Mapping[str, Index], drawn: Sequence[str], every: int, allowed: bool
) -> list[str]:
    """Notes on examples that are in several splits. drawn: the splits that are from the training examples."""
    splits = {name: overlap.hashed(of, y.get(name)) for name, of in found.items()}
    as_given = {**splits}
    for name in drawn:
        as_given["train"] = as_given["train"].and_also(as_given.pop(name))
    return overlap.check_same(as_given, allowed) + overlap.notes(splits, every)


def _take(split: Split, rows: Index) -> Split:
    return Split(examples.take(split.x, rows), split.labels_of(rows))
