"""Models and trainings of a size that fits the data and takes a few minutes on a laptop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.start.look import Seen

MEMBERS = 5
RATE = 4.0e10
"""Floating-point operations a second of one core, in the training of small networks: a cautious guess."""
STEP_S = 0.001
"""Seconds that a step takes beside its operations."""
CORES = 2
MEMBER_S = 40.0
"""Seconds of training a member."""
STEPS = (300, 4000)
"""Least and most steps of a training, within the most epochs."""
EPOCHS = (2, 60)
TOKENS = 128
"""Tokens at which texts are cut."""
VOCABULARY = 8000
"""Most tokens of a tokenizer that is made of the texts."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """factory: the function in models.py. member, student: its keyword arguments. training, student_training,
    baseline_training: as in the configuration; the last is empty where it is the student's. minutes: of members,
    student and baseline, roughly, on two cores."""

    factory: str
    member: dict[str, Any]
    student: dict[str, Any]
    training: dict[str, Any]
    student_training: dict[str, Any]
    baseline_training: dict[str, Any]
    minutes: float = 0.0


def recipe(seen: Seen, vocabulary: int) -> Recipe:
    """The recipe for the data. vocabulary: the number of tokens of texts, otherwise 0."""
    family = family_of(seen)
    member, student = FAMILIES[family](seen)
    if seen.is_text:
        member, student = ({**kwargs, "vocabulary": vocabulary} for kwargs in (member, student))
    labelled, unlabeled = seen.examples["train"], seen.examples.get("unlabeled", 0)
    batch = batch_size(labelled, unlabeled)

    def training(kwargs: dict[str, Any], examples: int) -> tuple[dict[str, Any], float]:
        """The settings, and the seconds that they take."""
        operations = 6.0 * multiplications(family, kwargs, seen) * examples
        epochs = _epochs(examples, batch, operations)
        settings = {"epochs": epochs, "batch_size": batch, "learning_rate": 1.0e-3, "schedule": "cosine"}
        return settings, epochs * (operations / RATE + STEP_S * examples / batch)

    of_member, member_s = training(member, labelled)
    of_student, student_s = training(student, labelled + unlabeled)
    of_baseline, baseline_s = training(student, labelled)
    seconds = MEMBERS * member_s / CORES + student_s + baseline_s
    own = of_baseline if unlabeled else {}
    return Recipe(
        factory=family,
        member=member,
        student=student,
        training=of_member,
        student_training=of_student,
        baseline_training=own,
        minutes=seconds / 60,
    )


def family_of(seen: Seen) -> str:
    """`textcnn` for texts, `cnn` for images, else `mlp`."""
    if seen.is_text:
        return "textcnn"
    of_image = len(seen.shape) in (2, 3) and min(side_of(seen.shape)) >= 8
    return "cnn" if of_image else "mlp"


def channels_of(shape: tuple[int, ...]) -> tuple[int, bool]:
    """The channels of an image of this shape, and whether they are its last dimension."""
    if len(shape) == 2:
        return 1, False
    last = shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4)
    return (shape[-1], True) if last else (shape[0], False)


def side_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return (shape[0], shape[1]) if channels_of(shape)[1] else (shape[1], shape[2])


def _mlp(seen: Seen) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {"inputs": math.prod(seen.shape), "classes": seen.classes}
    return {**common, "hidden": 256, "layers": 2, "dropout": 0.2}, {**common, "hidden": 64, "layers": 1}


def _cnn(seen: Seen) -> tuple[dict[str, Any], dict[str, Any]]:
    channels, last = channels_of(seen.shape)
    common: dict[str, Any] = {"channels": channels, "classes": seen.classes}
    common |= {"channels_last": True} if last else {}
    common |= {"scale": seen.scale} if seen.scale != 1.0 else {}
    return {**common, "width": 24, "dropout": 0.2}, {**common, "width": 8}


def _textcnn(seen: Seen) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {"classes": seen.classes}
    return {**common, "size": 64, "filters": 64, "dropout": 0.3}, {**common, "size": 32, "filters": 16, "dropout": 0.1}


FAMILIES = {"mlp": _mlp, "cnn": _cnn, "textcnn": _textcnn}
"""Keyword arguments of member and student, by the function in models.py."""


def multiplications(family: str, kwargs: Mapping[str, Any], seen: Seen) -> float:
    """Multiplications of a forward pass for one example, of the networks in models.py."""
    if family == "mlp":
        hidden = kwargs["hidden"]
        return float(hidden * (kwargs["inputs"] + (kwargs["layers"] - 1) * hidden + kwargs["classes"]))
    if family == "cnn":
        (height, width), w = side_of(seen.shape), kwargs["width"]
        return float(height * width * 9 * w * (kwargs["channels"] + 2 * w / 4 + 8 * w / 16))
    return float(TOKENS / 2 * kwargs["size"] * kwargs["filters"] * (2 + 3 + 4))


def batch_size(examples: int, unlabeled: int = 0) -> int:
    """A batch for so many examples, by which no last batch is one example alone: batch normalisation needs two."""
    wanted = 32 if examples < 2000 else 64 if examples < 20_000 else 256 if examples < 500_000 else 1024
    return next(b for b in range(wanted, 1, -1) if all(n % b != 1 for n in (examples, examples + unlabeled)))


def _epochs(examples: int, batch: int, operations: float) -> int:
    steps = math.ceil(examples / batch)
    affordable = MEMBER_S * RATE / operations
    wanted = min(affordable, STEPS[1] / steps)
    return round(max(EPOCHS[0], min(EPOCHS[1], max(wanted, min(STEPS[0] / steps, affordable)))))
