"""A data set, read and checked: what trains, what is held out, and what the teachers label.

`load` reads every kind through `readers`, then checks all that can be known before training, so that a wrong label
costs seconds and not hours. The transfer set is the training examples followed by the unlabelled ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import inputs as inputs_
from workers import provenance, readers
from workers.augment import augmented
from workers.errors import RequestError
from workers.inputs import Index, Inputs, Joined, Rows
from workers.losses import UNLABELLED
from workers.seeds import seeded
from workers.specs import AugmentSpec, DataSpec

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

    def labelled(self, views: int) -> Split:
        """What the hard-label baseline learns from: the training examples, varied as the student's are."""
        return replace(self.train, x=augmented(self.augment, self.train.x, self.seed, views))

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 over every example of each split, by its name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {
            name: hashlib.sha256(inputs_.digest(split.x).encode() + split.y.tobytes()).hexdigest()
            for name, split in splits.items()
        }
        found["unlabeled"] = "" if self.unlabeled is None else inputs_.digest(self.unlabeled)
        return found


def load(spec: DataSpec, seed: int) -> Dataset:
    """Read what `spec` names and check it. `seed` draws the validation set where none is given, and what a data
    factory draws from the global generators.

    Raises: `RequestError`, naming the split, what was found and what was expected.
    """
    provenance.check_depends_on(spec.depends_on)
    with seeded(seed):
        found = readers.read(spec)
    splits = {name: Split(x, _labels(name, x, y)) for name, (x, y) in found.items() if name != "unlabeled"}
    unlabeled = found["unlabeled"][0] if "unlabeled" in found else None
    train = splits["train"]
    if len(train) == 0:
        raise _empty("train")
    classes = spec.classes or int(train.y.max(initial=UNLABELLED)) + 1
    if classes < 1:
        raise RequestError("data.train: no example has a label (all are -1); expected class ids from 0.")
    if classes == 1:
        raise RequestError("data.train: every label is 0, and there is one class; expected at least two.")
    _check(splits, unlabeled, classes, declared=spec.classes is not None)  # as it was given: examples are named by it
    if "validation" not in splits:
        train, splits["validation"] = _draw_validation(train, spec.validation_share or DEFAULT_VALIDATION_SHARE, seed)
    dataset = Dataset(train, splits["validation"], splits["test"], unlabeled, classes, spec.augment, seed)
    _ = dataset.transfer  # where the augmentation is tried
    return dataset


def _labels(name: str, x: Inputs, y: NDArray[np.generic] | None) -> Index:
    assert y is not None, "only the unlabelled split has no labels"
    if y.ndim != 1 or y.dtype.kind not in "iufb":
        raise RequestError(
            f"data.{name}: y is {y.dtype} of shape {list(y.shape)}; expected class ids, an integer for each "
            "example, shape [N]."
        )
    if len(x.shape) == 0 or len(x) != len(y):
        raise RequestError(
            f"data.{name}: x has {x.shape[0] if x.shape else 'no'} examples and y has {len(y)} labels; expected as "
            "many of one as of the other."
        )
    if y.dtype.kind == "f" and not bool((np.isfinite(y) & (y == np.floor(y))).all()):
        raise RequestError(f"data.{name}: y holds fractions or NaN; expected whole class ids.")
    return y.astype(np.int64)


def _empty(name: str) -> RequestError:
    return RequestError(f"data.{name}: no examples. Expected at least one; check how the split was made.")


def _check(splits: Mapping[str, Split], unlabeled: Inputs | None, classes: int, declared: bool) -> None:
    shape = tuple(splits["train"].x.shape[1:])
    every = [(name, split.x) for name, split in splits.items()]
    if unlabeled is not None:
        every.append(("unlabeled", unlabeled))
    for name, x in every:
        if len(x) == 0:
            raise _empty(name)
        if tuple(x.shape[1:]) != shape:
            raise RequestError(
                f"data.{name}: examples of shape {list(x.shape[1:])}; expected {list(shape)} as in train."
            )
        if x.dtype.kind not in "fiub":
            raise RequestError(f"data.{name}: x is of type {x.dtype}; expected numbers.")
    for name, split in splits.items():
        lowest = UNLABELLED if name == "train" else 0
        wrong = np.flatnonzero((split.y < lowest) | (split.y >= classes))
        if len(wrong):
            source = "`data.classes`" if declared else "one more than train's largest"
            raise RequestError(
                f"data.{name}: label {split.y[wrong[0]]} of example {wrong[0]} is outside the "
                f"{classes} classes 0 to {classes - 1} ({source}); {len(wrong)} such "
                f"{'label' if len(wrong) == 1 else 'labels'} in all."
            )
    for name, x in every:  # last, because it reads everything
        if x.dtype.kind == "f":
            _check_finite(name, x)


def _check_finite(name: str, x: Inputs) -> None:
    for rows, values in inputs_.chunks(x):
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            first = rows.start + int(np.flatnonzero(bad)[0])
            raise RequestError(
                f"data.{name}: x of example {first} holds NaN or infinity; expected finite features. "
                "Clean the data or leave such examples out."
            )


def _draw_validation(train: Split, share: float, seed: int) -> tuple[Split, Split]:
    labelled = np.flatnonzero(train.y != UNLABELLED)
    count = round(len(labelled) * share)
    if count == 0 or count == len(labelled):
        raise RequestError(
            f"data.validation_share: {share} of {len(labelled)} labelled training examples is {count}; expected at "
            "least one example on each side. Give a `validation` split or another share."
        )
    held = np.sort(np.random.default_rng([seed, 0x5E7A51DE]).permutation(labelled)[:count])
    kept = np.setdiff1d(np.arange(len(train)), held)
    return _take(train, kept), _take(train, held)


def _take(split: Split, rows: Index) -> Split:
    x = split.x[rows] if type(split.x) is np.ndarray else Rows(split.x, rows)  # of what is mapped, no copy
    return replace(split, x=x, y=split.y[rows])
