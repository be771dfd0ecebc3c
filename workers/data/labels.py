"""Validation of class ids, and notes on them for the user."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Index
from workers.data.examples import Columns, Examples, explicit_positions
from workers.data.label_names import listed
from workers.data.positions import Positions
from workers.data.ragged import Ragged, per_row
from workers.errors import RequestError
from workers.specs.data import LABEL, LABEL_OF_TEXTS

NameOf = Callable[[int], str]
UNLABELLED = -1
"""The label that stands for none."""
OF_TORCH = -100
"""The label that torch's cross entropy leaves out."""
LABELLED = ("train", "validation", "test")
"""Splits with labels. The others are `unlabeled`, and those of stages of the student, such as `stages.td1`."""
MEASURED = ("validation", "test")
"""Splits that systems are measured on."""
FEW = 5
"""Labelled examples per class below which a note warns that it is hardly learned."""
MOSTLY = 0.97
"""Share of one class above which accuracy is hardly informative."""
NAMED = 5
"""Most classes that a message names."""


def label_fix(label: str, found: Collection[str]) -> str:
    """What to do where a file has no column of labels of this name. found: the names of its columns."""
    if label == LABEL and LABEL_OF_TEXTS in found:
        return f"Where '{LABEL_OF_TEXTS}' has the labels, set `data.label_column: {LABEL_OF_TEXTS}`."
    return "Set `data.label_column`; a file without labels can be `data.unlabeled` alone."


def class_ids(name: str, x: Examples, y: NDArray[np.generic] | Ragged | None) -> Index:
    """The labels [P] int64 of a split's positions, -1 for none.

    Raises: `RequestError` where `y` does not have a class id per position.
    """
    assert y is not None, "only the unlabelled split has no labels"
    if isinstance(y, Ragged):
        return _of_elements(name, x, y)
    if explicit_positions(x) is not None:
        raise RequestError(
            f"data.{name}: y is one array, and x has positions of its own; expected a row of labels for each example "
            "(`Ragged`, or a list of arrays), as long as its positions."
        )
    if y.ndim != 1 or y.dtype.kind not in "iufb":
        raise RequestError(
            f"data.{name}: y is {y.dtype} of shape {list(y.shape)}; expected class ids, an integer for each "
            "example, shape [N]."
        )
    if _is_scalar(x) or len(x) != len(y):
        raise RequestError(
            f"data.{name}: x has {'no' if _is_scalar(x) else len(x)} examples and y has {len(y)} labels; expected as "
            "many of one as of the other."
        )
    return _whole(name, y)


def _is_scalar(x: Examples) -> bool:
    return not isinstance(x, Columns) and len(x.shape) == 0


def _of_elements(name: str, x: Examples, y: Ragged) -> Index:
    """Labels of the elements that are positions: of an example's positions, in their order."""
    where = explicit_positions(x)
    if where is None or not np.array_equal(where.lengths, y.lengths):
        found = "no positions" if where is None else f"{int(where.lengths.sum()):,} positions"
        raise RequestError(
            f"data.{name}: y has {int(y.lengths.sum()):,} labels in rows, and x has {found} in {len(x):,} examples; "
            "expected a label for each element of the ragged columns of x, or for each of its positions."
        )
    if y.flat.ndim != 1 or y.dtype.kind not in "iufb":
        raise RequestError(f"data.{name}: y holds rows of {y.dtype}; expected class ids, an integer for each element.")
    return _whole(name, y.flat, "element")


def _whole(name: str, y: NDArray[np.generic], of: str = "example") -> Index:
    if y.dtype.kind == "f" and len(broken := np.flatnonzero(~(np.isfinite(y) & (y == np.floor(y))))):
        raise RequestError(
            f"data.{name}: y holds {y[broken[0]]} at {of} {broken[0]}; expected integer class ids. Round or correct "
            f"it; {UNLABELLED} stands for no label, in data.train alone."
        )
    if y.dtype.kind in "uf" and len(y) and y.max() >= 2**63:  # could overflow to -1, which means no label
        raise RequestError(
            f"data.{name}: y holds {y.max()}; expected class ids from 0, and -1 where there is no label."
        )
    ids = y.astype(np.int64)
    if len(ids) and ids.min() == -1 and ids.max() == 1 and not (ids == 0).any():
        raise RequestError(
            f"data.{name}: the labels are -1 and +1. Expected class ids from 0, and -1 only for examples without a "
            "label: write 0 and 1 instead, y = (y + 1) // 2."
        )
    return ids


def count(train: Index, declared: int | None, names: Sequence[str] = ()) -> int:
    """The number of classes: of the names, else as declared, else the largest label of the training set plus one.

    Raises: `RequestError` where the labels cannot be class ids from 0.
    """
    if names and declared not in (None, len(names)):
        raise RequestError(
            f"data.classes: {declared}, and the labels have {len(names)} names: {listed(names)}. Leave it out."
        )
    declared = len(names) or declared
    largest = int(train.max(initial=UNLABELLED))
    if largest < 0:
        raise RequestError(
            "data.train: no example has a label (all are empty or below 0), and the baseline needs some. Expected "
            "class ids from 0, or names: add labels."
        )
    if declared == 1 and largest > 0:
        raise RequestError(
            f"data.classes: 1, and labels go up to {largest}; expected at least two classes. Leave it out."
        )
    if (declared or largest + 1) == 1:
        raise RequestError(
            "data.train: every label is 0, and there is one class; expected at least two. Add examples of other "
            "classes."
        )
    if declared is None and not (train == 0).any():
        least = int(train[train >= 0].min())
        raise RequestError(
            f"data.train: labels go from {least} to {largest}, and no example is of class 0; expected class ids from "
            f"0. Do labels start at {least}? Then subtract {least}. Where class 0 is left out on purpose, set "
            f"`data.classes: {largest + 1}`."
        )
    return declared or largest + 1


def check_range(name: str, y: Index, rows: Positions, classes: int, declared: bool) -> None:
    """Raise `RequestError` where a label is outside the classes; only train may have -1, for no label."""
    wrong = np.flatnonzero((y < (UNLABELLED if name == "train" else 0)) | (y >= classes))
    if len(wrong):
        source = "`data.classes`" if declared else "one more than train's largest"
        raise RequestError(
            f"data.{name}: label {y[wrong[0]]} of example {rows.example_of(int(wrong[0]))} is outside the "
            f"{classes} classes 0 to {classes - 1} ({source}); {len(wrong)} such "
            f"{'label' if len(wrong) == 1 else 'labels'} in all. {_fix(name, y[wrong])}"
        )


def check_known(name: str, y: Index, train: Index, rows: Positions) -> None:
    """Raise `RequestError` where a split has a label that train never has, as `label_names` does for names.

    y, train: [P] labels of the split and of train, class ids, of train also -1. rows: of `y`.
    """
    known = np.unique(train[train != UNLABELLED])
    unknown = np.flatnonzero(~np.isin(y, known))
    if len(unknown):
        raise RequestError(
            f"data.{name}: the label {y[unknown[0]]} of example {rows.example_of(int(unknown[0]))} is none that "
            f"data.train has, which are of {in_words(known, ())}; {len(unknown):,} such "
            f"{'label' if len(unknown) == 1 else 'labels'} in all. Correct them, or leave such examples out. Where "
            f"train has no label of the class on purpose, set `data.classes: {known.max() + 1}`."
        )


def _fix(name: str, wrong: Index) -> str:
    """What to do about labels outside the classes, by what they may stand for."""
    if (wrong == OF_TORCH).all():
        return f"Where {OF_TORCH} stands for no label, as in torch, write {UNLABELLED}."
    if name != "train" and (wrong == UNLABELLED).all():
        return "-1 stands for no label, in data.train alone. If it is a class, let all labels start at 0: y = y + 1."
    return "Correct them, or set `data.classes`." if wrong.max() >= 0 else "Correct them."


def ids_of(key: str, given: Sequence[int | str], classes: int, names: Sequence[str]) -> tuple[int, ...]:
    """The ids of classes that a key gives by id or name, ascending. Raises: `RequestError` where there is no such."""
    if names:  # such as 1 to 5, whose ids are 0 to 4: where names are numbers, a number is a name
        known = {name: k for k, name in enumerate(names)}
        if not any(name.lstrip("-").isdecimal() for name in names):
            known |= {str(k): k for k in range(classes)}
    else:
        known = {str(k): k for k in range(classes)}
    unknown = [each for each in given if str(each) not in known]
    if unknown:
        expected = f"one of {', '.join(map(repr, names[:NAMED]))}" if names else f"a number from 0 to {classes - 1}"
        raise RequestError(f"{key}: there is no class {unknown[0]!r}; expected {expected}.")
    return tuple(sorted({known[str(each)] for each in given}))


def left_out(
    without: Sequence[int | str], y: Index, rows: Positions, classes: int, names: Sequence[str]
) -> tuple[int, ...]:
    """The ids of the classes that `data.transfer_without` names. y: [P] labels of train.

    Raises: `RequestError` for a class that is none of these, where elements have labels, or where none is left.
    """
    if not without:
        return ()
    if not rows.is_one_each:
        raise RequestError(
            "data.transfer_without: the elements of an example have labels of their own, so that no example is of one "
            "class. Leave it out."
        )
    found = ids_of("data.transfer_without", without, classes, names)
    if not (~np.isin(y, (*found, UNLABELLED))).any():
        raise RequestError(
            "data.transfer_without: no labelled training example is left, and the baseline needs some. Name fewer "
            "classes."
        )
    return found


def notes(
    labels: Mapping[str, Index], unlabeled: int, classes: int, of: str = "examples", names: Sequence[str] = ()
) -> list[str]:
    """Notes on the labels [P] of train, validation and test, one sentence each.

    unlabeled: number of unlabelled examples. of: the plural noun for labelled items in messages. names: of the
    classes; empty where they are numbers.
    """
    named = name_of(names)
    found = [_counts(labels, unlabeled, of)] if (labels["train"] == UNLABELLED).any() else []
    counted = {name: np.unique(y[y >= 0], return_counts=True) for name, y in labels.items()}
    ids, examples = counted["train"]
    missing = _missing(ids, classes, named)
    if missing:
        found.append(
            f"data.train: no labelled example of {missing} ({classes} classes in all), so only soft targets can teach "
            "it. If that is not meant, check the labels or `data.classes`."
        )
    few = ids[examples < FEW]
    if len(few):
        listed = [f"{named(k)} ({n})" for k, n in zip(few[:NAMED], examples[examples < FEW], strict=False)]
        found.append(
            f"data.train: fewer than {FEW} labelled {of} of {_named(listed, len(few))}; hardly enough to learn "
            "from. Add examples, or join rare classes."
        )
    for name in ("validation", "test"):
        unseen = np.setdiff1d(ids, counted[name][0])
        if len(unseen) and len(labels[name]) >= classes:
            found.append(
                f"data.{name}: no example of {in_words(unseen, names)}, which train has; "
                "no figure says how well it is learnt. Draw the split from all classes."
            )
    return found + [note for name in ("train", "test") for note in _mostly_one(name, *counted[name], of, named)]


def has_label(y: Index, rows: Positions) -> NDArray[np.bool_]:
    """Whether each of N examples has a label, at one of its positions at least: [N] bool. y: [P] labels."""
    return per_row(y != UNLABELLED, rows.edges(np.arange(rows.examples))) > 0


def in_words(ids: Index, names: Sequence[str]) -> str:
    """Some classes in words: `class 3`, `classes 'cat', 'dog' and 12 more`. names: empty where they are numbers."""
    of = name_of(names)
    return _named([of(k) for k in ids[:NAMED]], len(ids))


def name_of(names: Sequence[str]) -> NameOf:
    """The function from a class id to its name in messages."""
    return lambda k: repr(names[k]) if names else str(k)


def _counts(labels: Mapping[str, Index], unlabeled: int, of: str) -> str:
    train = labels["train"]
    without = int((train == UNLABELLED).sum())
    others = [f"{name} {len(labels[name]):,}, all labelled" for name in ("validation", "test")]
    others += [f"unlabeled {unlabeled:,}"] if unlabeled else []
    return (
        f"data.train: {len(train) - without:,} of {len(train):,} {of} have a label and {without:,} have none (-1): "
        f"these get soft targets only. {'; '.join(others).capitalize()}."
    )


def _mostly_one(name: str, ids: Index, examples: Index, of: str, named: NameOf) -> list[str]:
    share = examples.max(initial=0) / max(examples.sum(), 1)
    if share < MOSTLY:
        return []
    most = named(int(ids[examples.argmax()]))
    return [
        f"data.{name}: {share:.1%} of the labelled {of} are of class {most}, and an answer that "
        "never changes is right as often; compare accuracy with that, or look at NLL."
    ]


def _missing(ids: Index, classes: int, named: NameOf) -> str:
    """Text with the classes that are missing in `ids` [n], which ascend; empty where none is."""
    edges = np.concatenate([[-1], ids, [classes]])
    first: list[str] = []
    for gap in np.flatnonzero(np.diff(edges) > 1)[:NAMED]:
        stop = min(edges[gap + 1], edges[gap] + 1 + NAMED)
        first += [named(k) for k in range(edges[gap] + 1, stop)]
    return _named(first[:NAMED], classes - len(ids)) if first else ""


def _named(first: Sequence[str], total: int) -> str:
    """`class 3`, `classes 3, 4`, `classes 3, 4, 5, 6, 7 and 12 more`."""
    more = f" and {total - len(first):,} more" if total > len(first) else ""
    return f"class{'' if total == 1 else 'es'} {', '.join(first)}{more}"
