"""Loads a data set: reads its files, checks them, draws the splits that have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workers import hashing
from workers.data import (
    elements,
    examples,
    groups,
    label_names,
    labels,
    masked_texts,
    masking,
    memmap,
    overlap,
    readers,
    scan,
    tokens,
    transfer,
    values,
)
from workers.data.arrays import Index
from workers.data.augment import read as read_files
from workers.data.dataset import Dataset, Split
from workers.data.drawing import drawn, held_out, unlabelled_of_drawn
from workers.data.examples import Columns, Examples, columns_of, described
from workers.data.ragged import Ragged
from workers.data.scan import Found
from workers.data.splits import Groups, Labels
from workers.data.tokens import Tokenization
from workers.errors import RequestError
from workers.seeds import seeded
from workers.specs.data import DataSpec, MaskingSpec
from workers.user_code import observed, provenance


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


def load_whole(
    spec: DataSpec, seed: int, kept: Callable[[str, Tokenization], Ragged | None] = lambda texts, how: None
) -> Dataset:
    """As `load`, with the masked texts of train and of measured splits tokenized, in this process; a run does that in
    tasks. Those of other splits, which may be many, stay as they are.

    kept: the tokens of texts with a digest, where a run has kept them.
    """
    dataset = load(spec, seed)
    if spec.masking is None:
        return dataset
    needed = {name: x for name, x in dataset.inputs.items() if name in labels.LABELLED}
    how, texts = masking.tokenization(spec.masking), masked_texts.texts_of(needed)
    tokens_of = {source: kept(source, how) or masked_texts.tokenized(of, how) for source, (_, of) in texts.items()}
    return dataset.with_inputs(masked_texts.with_tokens(needed, tokens_of))


class _Checked(NamedTuple):
    """The splits of a data set. seen: what is compared between splits, the texts of masked ones. y: the labels of each
    split [P]; none of masked texts, whose masks make them."""

    inputs: dict[str, Examples]
    seen: dict[str, Examples]
    y: dict[str, Index]
    classes: int
    names: tuple[str, ...] = ()


def _load(spec: DataSpec, seed: int) -> Dataset:
    notes: list[str] = []
    with seeded(seed), observed.recording() as record:
        whole = readers.read(spec, notes)
    opened = record.read()
    given = {name: _watched(x, opened) for name, (x, _) in whole.splits.items()}
    examples.check_not_empty(given)
    inputs, seen, y, classes, names = (
        _labelled(spec, given, {name: y for name, (_, y) in whole.splits.items()}, notes)
        if spec.masking is None
        else _masked(spec, spec.masking, given)
    )
    grouped = {name: _groups(spec, name, of, len(inputs[name])) for name, of in whole.groups.items()}
    of_train, train = grouped.get("train"), Split(inputs["train"], y.get("train"))
    held = drawn(train, spec, inputs, of_train, seed)
    left_out = unlabelled_of_drawn(train, held, of_train, notes)
    measured = groups.of_measured(grouped, held)
    notes += groups.notes(measured.get("test"))
    kept = np.setdiff1d(np.arange(len(train)), np.concatenate([*held.values(), left_out])) if held else None
    apart = {name: held_out(name, train, rows) for name, rows in held.items()}
    if kept is not None and y:
        y |= {"train": train.labels_of(kept)} | {name: split.y for name, split in apart.items()}
    every = scan.sampled_every(sum(len(x) for x in seen.values()))
    found = _scan(seen, held, left_out, every)  # last, since it reads everything
    numbers = {name: _numbers(Split(inputs[name], y[name])) for name in inputs if name in y and name != "train"}
    if y:
        numbers |= _numbers_of_parts(train, held if kept is None else {"train": kept, **held})
    notes += _shared(found, numbers, [*held], every, spec.allow_overlap)
    notes += values.check_ranges({name: of for name, of in found.items() if name in seen}, seen["train"])
    notes += values.pixels(seen["train"], found["train"])
    if y:  # tokens of a vocabulary are rare as they are
        counted = "examples" if train.rows.is_one_each else "positions"
        notes += labels.notes(y, _positions(inputs.get("unlabeled")), classes, counted, names)
    dataset = Dataset(
        train=train if kept is None else train.take(kept),
        validation=apart.get("validation") or Split(inputs["validation"], y.get("validation")),
        test=apart.get("test") or Split(inputs["test"], y.get("test")),
        groups=measured,
        encodings=tuple(whole.encodings),
        unlabeled=inputs.get("unlabeled"),
        stages={name: inputs[name] for name in spec.stages},
        classes=classes,
        label_names=names,
        augment=spec.augment,
        seed=seed,
        notes=tuple(notes),
        kept=kept,
        held_out=tuple(held),
        given=len(train),
        given_unlabeled=len(inputs.get("unlabeled", ())),
        copies=spec.copies_of("train"),
        scanned={name: of.digest for name, of in found.items()} if y else {},
    )
    dataset = _for_transfer(spec, dataset, of_train)
    _ = dataset.transfer  # checks the augmentation
    return dataset


def _check_labels(
    inputs: Mapping[str, Examples], y: Mapping[str, Index], classes: int, *, declared: bool, named: bool
) -> None:
    """Raise `RequestError` where a label [P] of a split is no class, or one that train never has.

    declared: whether the configuration gives the number of classes, of which train may then lack some. named: whether
    the labels are names in the files, whose unknown ones are refused already.
    """
    for name, ids in y.items():
        rows = Split(inputs[name], ids).rows
        labels.check_range(name, ids, rows, classes, declared=declared)
        if name != "train" and not declared and not named:
            labels.check_known(name, ids, y["train"], rows)


def _labelled(spec: DataSpec, given: dict[str, Examples], of: Mapping[str, Labels], notes: list[str]) -> _Checked:
    """The splits with their labels, `of` each as a reader returns them. Appends notes on the names of classes."""
    inputs = _located(given, {name: y for name, y in of.items() if isinstance(y, Ragged)})
    resolved, names = label_names.resolved({name: y for name, y in of.items() if name in labels.LABELLED})
    y = {name: labels.class_ids(name, inputs[name], of_split) for name, of_split in resolved.items()}
    classes = labels.count(y["train"], spec.classes, names)
    notes += label_names.alike(names, y["train"])
    _check_shapes(inputs)
    _leave_out_unlabelled(inputs, y)
    # before a split is drawn, so that messages have the user's row numbers
    _check_labels(inputs, y, classes, declared=spec.classes is not None, named=bool(names))
    values.check_types(inputs)
    return _Checked(inputs, inputs, y, classes, names)


def _masked(spec: DataSpec, how: MaskingSpec, given: dict[str, Examples]) -> _Checked:
    """The splits of masked texts, `given` as texts. The classes are the tokens of the vocabulary."""
    texts = {name: x for name, x in given.items() if isinstance(x, Columns)}
    return _Checked(masked_texts.begun(texts, spec), given, {}, tokens.vocabulary(how.tokenizer))


def _groups(spec: DataSpec, split: str, values: Groups, count: int) -> Index:
    """The group of each of the `count` examples of a split, [count] int64: the same for all copies of a text."""
    copies = spec.copies_of(split)
    return np.tile(groups.numbered(split, values, count // copies), copies)


def _leave_out_unlabelled(inputs: dict[str, Examples], y: dict[str, Index]) -> None:
    """Leave elements without a label out of the splits that systems are measured on; train has one in each example."""
    for name, x in inputs.items():
        if name in labels.MEASURED:
            inputs[name], y[name] = elements.labelled(name, x, y[name])
        else:
            elements.check_each_has_one(name, x)


def _for_transfer(spec: DataSpec, data: Dataset, grouped: Index | None) -> Dataset:
    """The data set with the transfer set that `data.transfer_without` and `transfer_share` ask for.

    grouped: [given] the group of each row of `data.train`; None: each is one of its own.
    """
    data = replace(data, augment_files=read_files(spec.augment))
    share, train = spec.transfer_share, data.train
    without: tuple[int, ...] = ()
    if spec.transfer_without:
        without = labels.left_out(spec.transfer_without, train.y, train.rows, data.classes, data.label_names)
    if share is None and not without:
        return data
    units = transfer.copied(len(train), spec.copies_of("train"))
    if grouped is not None:
        units = grouped if data.kept is None else grouped[data.kept]
    kept = np.flatnonzero(~np.isin(train.y, without)) if without else None
    taught = transfer.of_train(share, train.has_label, units=units, seed=data.seed, kept=kept)
    data = replace(data, without=without, taught=taught, transfer_share=share)
    if share is None:
        return data
    if spec.masking is None:
        data = data.noted(*transfer.note(train.y, data.lessons.y, without, data.label_names))
    if data.unlabeled is None:
        return data
    units = transfer.copied(len(data.unlabeled), spec.copies_of("unlabeled"))
    drawn = transfer.of_share(share, np.arange(len(units)), units, data.seed)
    if not len(drawn):
        nothing = f"data.transfer_share: {share} of {len(units)} examples of data.unlabeled is 0, so it adds none."
        return replace(data.noted(nothing), unlabeled=None, drawn=drawn)
    x = examples.take(data.unlabeled, drawn)
    return replace(data, unlabeled=x, drawn=drawn, scanned={**data.scanned, "unlabeled": examples.digest(x)})


def _positions(x: Examples | None) -> int:
    return 0 if x is None else len(examples.positions_of(x, len(x)))


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
            raise RequestError(
                f"data.{name}: examples of {shape}{_shapes(x)}; expected {_shapes(first)} as in train. Convert both "
                "splits by the same preprocessing."
            )
        for column, of_each in columns_of(x).items():
            _check_column(name, column, of_each)


def _shapes(x: Examples) -> str:
    return described(x) if isinstance(x, Columns) else examples.shape_of(x)


def _check_column(name: str, column: str, values: examples.AnyColumn) -> None:
    if values.dtype.kind not in "fiub":
        raise RequestError(
            f"data.{name}: {column} is of type {values.dtype}; expected numbers. Convert the column, or leave it out."
        )
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
