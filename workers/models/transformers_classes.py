"""The classes of a checkpoint of transformers, by name, beside those of the data.

Where a checkpoint has them in another order, its logits are put into that of the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workers import storage
from workers.data.label_names import listed
from workers.errors import RequestError
from workers.models.checkpoints import CONFIG
from workers.specs.models import TransformersModel


def class_order(uri: str, has: Sequence[str], model: TransformersModel, *, may_add: bool) -> tuple[int, ...] | None:
    """For each class of the data, its place in a checkpoint's logits; None for a head that has to be made anew.

    has: the checkpoint's class names. Names that transformers makes up (`LABEL_0`) stand for the data's own order.
    Raises: `RequestError` where the names or their number differ, and the head may not be replaced.
    """
    wanted = model.labels
    if wanted and set(has) == set(wanted):
        return tuple(list(has).index(name) for name in wanted)
    if (_are_made_up(has) or not wanted) and len(has) == model.classes:
        return tuple(range(model.classes))
    if may_add:
        return None
    raise RequestError(
        f"checkpoint '{uri}' has the classes {listed(has)}, and the data {listed(wanted) or model.classes}. Expected "
        "the same names in any order: correct `id2label` in its config.json, or the labels of the data."
    )


def _are_made_up(names: Sequence[str]) -> bool:
    """Whether class names are those that transformers gives where it knows none."""
    return list(names) == [f"LABEL_{k}" for k in range(len(names))]


def notes_on_classes(label: str, has: Sequence[str], model: TransformersModel) -> tuple[str, ...]:
    """A note where a checkpoint's classes are taken in the order of the data's, since no names match them.

    label: of the checkpoint. has: its class names; empty where none are known.
    """
    wanted, made_up = model.labels, _are_made_up(has)
    if has and made_up and wanted and set(has) != set(wanted):
        return (
            f"{label} names no classes ({listed(has)}): they are taken to be {listed(wanted)}, in this order. Where "
            "they are not, put the names into `id2label` of its config.json.",
        )
    if not wanted and not made_up and list(has) != [str(k) for k in range(len(has))]:
        return (
            f"{label} has the classes {listed(has)}, and the labels of the data are numbers: they are taken to be 0 to "
            f"{len(has) - 1}, in this order. Where they are not, write the labels of the data as these names.",
        )
    return ()


def names_of(config: Any) -> tuple[str, ...]:
    """The class names of a checkpoint, in the order of its logits."""
    return tuple(str(config.id2label[k]) for k in sorted(config.id2label))


def names_beside(weights: str, *, begins: bool = False) -> tuple[str, ...]:
    """The class names in the configuration beside a file of weights, or in their folder; empty where it names none.

    begins: whether training begins with the weights. Then a file of other content is no configuration of theirs.
    """
    place = storage.join(weights if storage.is_folder(weights) else storage.parent(weights), CONFIG)
    beside = storage.read_if_there(place)
    try:
        names = json.loads(beside).get("id2label") if beside is not None else None
        return tuple(str(names[key]) for key in sorted(names, key=int)) if isinstance(names, dict) else ()
    except (ValueError, AttributeError) as error:
        if begins:
            return ()
        raise RequestError(
            f"checkpoint '{weights}': '{place}' beside it is no configuration of transformers ({error}). Correct it, "
            "or move the weights."
        ) from error
