"""A data set, read and checked: what trains, what is held out, and what the teachers label.

`load` reads every kind through `readers`, then checks all that can be known before training, so that a wrong label
costs seconds and not hours. The transfer set is the training examples followed by the unlabelled ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from workers.data import arrays as inputs_
from workers.data import labels, memmap, overlap, readers, scan, values
from workers.data.arrays import Index, Inputs, Joined, Rows
from workers.data.augment import augmented
from workers.data.labels import UNLABELLED
from workers.data.numbering import Numbering
from workers.data.scan import Found
from workers.errors import RequestError
from workers.seeds import seeded
from workers.specs import AugmentSpec, DataSpec
from workers.user_code import observed, provenance

DEFAULT_VALIDATION_SHARE = 0.1
"""Set aside where the configuration and the data name no validation split."""


@dataclass(frozen=True)
class Split:
    """N examples: `x` [N, ...], `y` [N] int64 class ids, -1 where there is no label."""

    x: Inputs
    y: Index

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """The checked splits of one run."""

    train: Split
    validation: Split
    test: Split
    unlabeled: Inputs | None
    classes: int
    augment: AugmentSpec | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What the user should know about the data or the request, though it is not wrong; one sentence each."""
    kept: Index | None = None
    """The rows of `data.train`, as it was given, that train; None where all do."""
    given: int = 0
    """Rows of `data.train` as it was given, where validation is drawn from it."""
    scanned: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`inputs.digest` of splits that have been read, by their names."""

    @property
    def views(self) -> int:
        """Versions of each example of the transfer set."""
        return 1 if self.augment is None else self.augment.views

    @cached_property
    def augmentation(self) -> dict[str, Any]:
        """What the augmentation follows from; empty without one."""
        if self.augment is None:
            return {}
        spec, few = self.augment, self.train.x[:2]
        inputs = provenance.of_factory(spec, lambda: augmented(spec, few, self.seed, self.views)[:2])
        return {**spec.model_dump(mode="json", exclude={"folder", "depends_on"}), **inputs, "seed": self.seed}

    @cached_property
    def transfer(self) -> Split:
        """What the teachers label: the training examples, then the unlabelled ones with label -1.

        Where it has several views, `x` has them one after another and `y` is of each.
        """
        x, y = self.train.x, self.train.y
        if self.unlabeled is not None:
            x = Joined((x, self.unlabeled))
            y = np.concatenate([y, np.full(len(self.unlabeled), UNLABELLED, np.int64)])
        return Split(augmented(self.augment, x, self.seed, self.views), y)

    @property
    def numbering(self) -> Numbering:
        """How the examples of the transfer set are called in the data as they were given."""
        return Numbering(len(self.transfer), self.views, self.kept, self.given)

    def noted(self, *notes: str) -> Dataset:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def labelled(self, views: int) -> Split:
        """What the hard-label baseline learns from: the training examples, varied as the student's are."""
        return replace(self.train, x=augmented(self.augment, self.train.x, self.seed, views))

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 over every example of each split, by its name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {
            name: hashlib.sha256(self._digest(name, split.x).encode() + split.y.tobytes()).hexdigest()
            for name, split in splits.items()
        }
        found["unlabeled"] = "" if self.unlabeled is None else self._digest("unlabeled", self.unlabeled)
        return found

    def _digest(self, name: str, x: Inputs) -> str:
        return self.scanned.get(name) or inputs_.digest(x)


def large_batch(key: str, batch_size: int, examples: int) -> list[str]:
    """A note where the batch that `key` (such as `student.training`) asks for is larger than its training set."""
    if batch_size <= examples:
        return []
    return [
        f"{key}.batch_size: {batch_size:,} is more than the {examples:,} examples, so an epoch is a single step; "
        f"{max(1, examples // 10):,} or fewer would make ten or more."
    ]


def load(spec: DataSpec, seed: int) -> Dataset:
    """Read what `spec` names and check it. `seed` draws the validation set where none is given, and what a data
    factory draws from the global generators.

    Raises: `RequestError`, naming the split, what was found and what was expected.
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
        read = readers.read(spec, notes)
    opened = record.read()
    inputs = {name: memmap.watched(x, opened) for name, (x, _) in read.items()}
    y = {name: labels.class_ids(name, inputs[name], read[name][1]) for name in read if name != "unlabeled"}
    if len(y["train"]) == 0:
        raise _empty("train")
    classes = labels.count(y["train"], spec.classes)
    _check_shapes(inputs)
    for name, ids in y.items():  # as it was given: examples are named by it
        labels.check_range(name, ids, classes, declared=spec.classes is not None)
    values.check_types(inputs)
    train, held = Split(inputs["train"], y["train"]), None
    kept = None
    if "validation" not in y:
        held = _draw(train.y, spec.validation_share or DEFAULT_VALIDATION_SHARE, seed)
        kept = np.setdiff1d(np.arange(len(train)), held)
        y |= {"train": train.y[kept], "validation": train.y[held]}
    every = scan.sampled_every(sum(len(x) for x in inputs.values()))
    found = _scan(inputs, held, every)  # last of the checks, because it reads everything
    notes += _shared(found, y, held is not None, every, spec.allow_overlap)
    notes += values.check_ranges(found)
    notes += values.pixels(train.x, found["train"])
    notes += labels.notes(y, len(inputs.get("unlabeled", ())), classes)
    dataset = Dataset(
        train=train if kept is None else _take(train, kept),
        validation=Split(inputs["validation"], y["validation"]) if held is None else _take(train, held),
        test=Split(inputs["test"], y["test"]),
        unlabeled=inputs.get("unlabeled"),
        classes=classes,
        augment=spec.augment,
        seed=seed,
        notes=tuple(notes),
        kept=kept,
        given=len(train),
        scanned={name: of.digest for name, of in found.items()},
    )
    _ = dataset.transfer  # where the augmentation is tried
    return dataset


def _empty(name: str) -> RequestError:
    return RequestError(f"data.{name}: no examples. Expected at least one; check how the split was made.")


def _check_shapes(inputs: Mapping[str, Inputs]) -> None:
    shape = tuple(inputs["train"].shape[1:])
    for name, x in inputs.items():
        if len(x) == 0:
            raise _empty(name)
        if tuple(x.shape[1:]) != shape:
            raise RequestError(
                f"data.{name}: examples of shape {list(x.shape[1:])}; expected {list(shape)} as in train."
            )
        if x.dtype.kind not in "fiub":
            raise RequestError(f"data.{name}: x is of type {x.dtype}; expected numbers.")
    if math.prod(shape) == 0:
        raise RequestError(f"data.train: examples of shape {list(shape)} hold no number; expected features.")


def _draw(y: Index, share: float, seed: int) -> Index:
    """The labelled training examples that are held out for validation, ascending."""
    labelled = np.flatnonzero(y != UNLABELLED)
    count = round(len(labelled) * share)
    if count == 0 or count == len(labelled):
        raise RequestError(
            f"data.validation_share: {share} of {len(labelled)} labelled training examples is {count}; expected at "
            "least one example on each side. Give a `validation` split or another share."
        )
    return np.sort(np.random.default_rng([seed, 0x5E7A51DE]).permutation(labelled)[:count])


def _scan(inputs: Mapping[str, Inputs], held: Index | None, every: int) -> dict[str, Found]:
    """What each split's inputs are; `held` of the training examples are the validation split."""
    found = {}
    for name, x in inputs.items():
        if name == "train" and held is not None:
            found["train"], found["validation"] = scan.scan_apart(name, x, held, every)
        else:
            found[name] = scan.scan(name, x, every)
    return found


def _shared(found: Mapping[str, Found], y: Mapping[str, Index], drawn: bool, every: int, allowed: bool) -> list[str]:
    """Notes on examples that are in several splits; `drawn`: whether validation is from the training examples."""
    splits = {name: overlap.hashed(of, y.get(name)) for name, of in found.items()}
    as_given = {**splits}
    if drawn:
        as_given["train"] = splits["train"].and_also(as_given.pop("validation"))
    return overlap.check_same(as_given, allowed) + overlap.notes(splits, every)


def _take(split: Split, rows: Index) -> Split:
    x = split.x[rows] if type(split.x) is np.ndarray else Rows(split.x, rows)  # of what is mapped, no copy
    return replace(split, x=x, y=split.y[rows])
