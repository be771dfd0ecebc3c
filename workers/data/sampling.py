"""Which training examples a member learns from: ids of the training split, drawn by the member's own seed. Pure.

An epoch has as many examples as the split, whatever the sample. Only the specification goes to a worker, which draws
the same ids again. So a resumed training sees the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from workers.data import labels
from workers.data.arrays import Index
from workers.data.dataset import Dataset
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.specs.members import ClassSample, MemberSample

Draw = Callable[[int], Index]
"""Maps the number of an epoch to the ids [N] of its examples, in an order without a meaning."""
DRAWN = 0xBA6
"""Part of the seed of a draw, which differs from that of the order of examples."""


def draw_of(sample: MemberSample, data: Dataset, seed: int) -> Draw | None:
    """The draw of a sample; None for all examples, each once in an epoch.

    `bootstrap` draws N of N with replacement, the same ones in each epoch (Breiman 1996). Classes are drawn anew in
    each epoch, from labelled examples, with replacement where there are too few.
    """
    if isinstance(sample, ClassSample):
        ids = _ids_of("sample", sample, data)
        return lambda epoch: of_classes(data.train.y, ids, sample.share, [seed, DRAWN, epoch])
    return None if sample == "all" else lambda epoch: bootstrap(len(data.train), [seed, DRAWN])


def bootstrap(count: int, seed: Sequence[int]) -> Index:
    """`count` ids of as many examples, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, count, count)


def of_classes(y: Index, classes: Sequence[int], share: float, seed: Sequence[int]) -> Index:
    """N ids of examples with the labels `y` [N], of which `share` are of these classes and the rest of the others.

    Each part is drawn without replacement, or with it where there are too few; all where the other part has none.
    """
    random, inside = np.random.default_rng(seed), np.isin(y, classes)
    parts = [np.flatnonzero(inside), np.flatnonzero(~inside & (y != UNLABELLED))]
    count = min(max(round(share * len(y)), 1), len(y) - 1)
    counts = [count, len(y) - count] if all(map(len, parts)) else [len(y)]
    filled = [part for part in parts if len(part)]
    return np.concatenate(
        [random.choice(part, size, replace=size > len(part)) for part, size in zip(filled, counts, strict=True)]
    )


def determining(sample: MemberSample, data: Dataset) -> dict[str, Any]:
    """What a sample adds to the cache key of a member; nothing for all examples, as in keys before samples."""
    if isinstance(sample, ClassSample):
        return {"sample": {"classes": _ids_of("sample", sample, data), "share": sample.share}}
    return {} if sample == "all" else {"sample": sample}


def check(key: str, sample: MemberSample, data: Dataset) -> None:
    """Raise `RequestError` where the training split has no such sample. key: of the sample in the configuration."""
    if not isinstance(sample, ClassSample):
        return
    train = data.train
    if not train.rows.is_one_each:
        raise RequestError(
            f"{key}.classes: the elements of an example have labels of their own, so that no example is of one class. "
            "Expected `all` or `bootstrap`."
        )
    ids = _ids_of(key, sample, data)
    without = [k for k in ids if not (train.y == k).any()]
    if without:
        named = labels.name_of(data.label_names)(without[0])
        raise RequestError(
            f"{key}.classes: class {named} has no labelled example in the training split. Expected classes that it has."
        )
    if not (~np.isin(train.y, (*ids, UNLABELLED))).any():
        raise RequestError(
            f"{key}.classes: these are all classes of the training split, so that none is left for the other "
            f"{1 - sample.share:.0%} of the examples. Name fewer classes, or leave `sample` out."
        )


def _ids_of(key: str, sample: ClassSample, data: Dataset) -> tuple[int, ...]:
    return labels.ids_of(f"{key}.classes", sample.classes, data.classes, data.label_names)
