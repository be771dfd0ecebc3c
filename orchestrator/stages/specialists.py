"""The specialists of a run: their own classes, as configured or by what the generalists confuse, and their recipe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.config.ensemble import MemberGroup
from orchestrator.config.run_config import RunConfig
from orchestrator.reporting import by_class
from orchestrator.stages import evaluation
from orchestrator.stages.context import Context
from workers.data import labels, sampling
from workers.data.dataset import Dataset
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.evaluation import confusable
from workers.inference.teacher import Member
from workers.models.special import correction
from workers.seeds import seed_of
from workers.specs.members import ClassSample
from workers.specs.models import AnyModel, Network, SpecialClasses

SHARE = 0.5
"""Share of a specialist's training examples that are of its own classes."""
Classes = tuple[int, ...]


def check(config: RunConfig, dataset: Dataset) -> None:
    """Raise `RequestError` where classes of specialists are not those of the data, or cannot be found."""
    for key, group in zip(config.ensemble.keys(), config.ensemble.groups, strict=True):
        if group.specialists is None:
            continue
        if group.specialists == "auto":
            _check_auto(key, group.count, dataset)
        for number, classes in enumerate(_given(key, group, dataset)):
            own = f"{key}.specialists.{number}"
            if len(classes) == dataset.classes:
                raise RequestError(
                    f"{own}: these are all {dataset.classes} classes, so that no other is left; expected fewer."
                )
            sampling.check(own, _sample(classes, dataset), dataset)


def _check_auto(key: str, size: int, dataset: Dataset) -> None:
    if not dataset.train.rows.is_one_each:
        raise RequestError(
            f"{key}.specialists: the elements of an example have labels of their own, so that no example is of one "
            "class. Leave it out."
        )
    most = dataset.classes // confusable.LEAST
    if size > most:
        raise RequestError(
            f"{key}.size: {size} groups of {dataset.classes} classes; expected at most {most}, so that each has at "
            f"least {confusable.LEAST}."
        )
    if dataset.classes > confusable.MOST_CLASSES:
        raise RequestError(
            f"{key}.specialists: auto, and the data have {dataset.classes:,} classes; expected at most "
            f"{confusable.MOST_CLASSES:,}, or a list of the classes of each."
        )


def tried(group: MemberGroup, dataset: Dataset) -> AnyModel:
    """The model whose training is tried before a run: of specialists with some own classes, as these may be unknown."""
    return group.model if group.specialists is None else _specialist(group, (0,), dataset).model


def filled(run: Context, generalists: Sequence[Member]) -> list[MemberGroup]:
    """The group of each member. Those of specialists have their own classes, their sample and the correction of it.

    generalists: trained, with whose predictions confusable classes are found.
    """
    ensemble, found = run.config.ensemble, list[MemberGroup]()
    for key, group in zip(ensemble.keys(), ensemble.groups, strict=True):
        if group.specialists is None:
            found += [group] * (run.plan.teachers.size if len(ensemble.groups) == 1 else group.count)
            continue
        of_each = _given(key, group, run.dataset)
        if group.specialists == "auto":
            seed = seed_of(run.config.seed, "specialists", len(found))
            of_each = evaluation.confusable_groups(run, generalists, group.count, seed)
        first = len(found)
        found += [_specialist(group, classes, run.dataset) for classes in of_each]
        run.note(
            "specialists: "
            + "; ".join(f"member-{first + k} of {_told(own, run.dataset)}" for k, own in enumerate(of_each))
        )
    return found


def _given(key: str, group: MemberGroup, dataset: Dataset) -> Sequence[Classes]:
    """The ids of the classes in a list of the configuration; none for `auto`."""
    given = group.specialists if isinstance(group.specialists, tuple) else ()
    return [
        labels.ids_of(f"{key}.specialists.{number}", classes, dataset.classes, dataset.label_names)
        for number, classes in enumerate(given)
    ]


def _specialist(group: MemberGroup, classes: Classes, dataset: Dataset) -> MemberGroup:
    assert isinstance(group.model, Network)
    known = dataset.train.y[dataset.train.y != UNLABELLED]
    own = int(np.clip(np.isin(known, classes).sum(), 1, len(known) - 1))  # a rehearsal may have drawn none
    special = SpecialClasses(classes=classes, correction=correction(SHARE, own / len(known)), of=dataset.classes)
    model = group.model.model_copy(update={"special": special})
    return group.model_copy(update={"model": model, "sample": _sample(classes, dataset)})


def _sample(classes: Classes, dataset: Dataset) -> ClassSample:
    names = dataset.label_names
    return ClassSample(classes=tuple(names[k] if names else k for k in classes), share=SHARE)


def _told(classes: Classes, dataset: Dataset) -> str:
    """The names of classes, or their ids where labels are numbers."""
    return ", ".join(by_class.name(dataset.label_names, k) for k in classes)
