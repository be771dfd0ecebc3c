"""What a report has beside its figures: examples, curves of training, and what the run follows from."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orchestrator.observers import tracking_record
from orchestrator.observers.tracking_record import CODE, COMMIT_TAG
from orchestrator.reporting import differing
from orchestrator.reporting.report import Agreement, DifferingExample, EpochFigures, Origin
from orchestrator.stages.context import Context
from orchestrator.stages.trained import Trained
from workers import __version__
from workers.data.examples import Examples
from workers.evaluation import agreement as answers
from workers.redact import redacted
from workers.training.loop import Epoch

MOST_EPOCHS = 200
"""Epochs of one system that a report keeps; of more, every second, third, ... one, the best and the last."""
PACKAGES = ("torch", "ray", "numpy", "transformers", "scikit-learn")
COUNTS = tuple(Agreement.model_fields)
FIGURES = tuple(name for name in EpochFigures.model_fields if name != "epoch")


def appendix(run: Context, found: answers.AgreementSums | None, baseline: Trained, student: Trained) -> dict[str, Any]:
    """Fields of a `Report`. found: the answers of ensemble and student; None where they are too large to be kept."""
    return {
        "agreement": None if found is None else Agreement(**{name: getattr(found, name) for name in COUNTS}),
        "examples": [] if found is None or run.test_inputs is None else _examples(run, found, run.test_inputs),
        "training": {each.member.name: _epochs(each.history) for each in (baseline, student)},
        "origin": _origin(run),
    }


def _examples(run: Context, found: answers.AgreementSums, x: Examples) -> list[DifferingExample]:
    look = differing.Look(run.config.report.image_shape, run.dataset.encodings)
    return differing.examples(found.rows, x, run.dataset.test.rows, look)


def _epochs(history: Sequence[Epoch]) -> list[EpochFigures]:
    count = len(history)
    step = -(-count // MOST_EPOCHS) or 1
    best = max(range(count), key=lambda k: history[k].validation_accuracy, default=0)
    kept = sorted({*range(step - 1, count, step), best, count - 1}) if count else []
    return [
        EpochFigures(epoch=history[k].epoch + 1, **{name: getattr(history[k], name) for name in FIGURES}) for k in kept
    ]


def _origin(run: Context) -> Origin:
    record = tracking_record.read(run.config.folder)
    tags = {} if record is None else record.tags
    code = {name.removeprefix(CODE): value for name, value in tags.items() if name.startswith(CODE)}
    return Origin(
        command=redacted(run.options.command),
        config=run.config.to_redacted_yaml(),
        versions={"python": platform.python_version(), "stillhouse": __version__, **_versions()},
        data={name: digest for name, digest in run.dataset.digests.items() if digest},
        code=code | ({"commit": tags[COMMIT_TAG]} if COMMIT_TAG in tags else {}),
    )


def _versions() -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
