"""Measures an exported artefact like any other system of the run: from its files, on the run's test examples.

Everything runs in this process, on a CPU and with one thread, so that no cluster is needed and latencies compare with
those of the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from orchestrator.export.formats import Made, Student
from orchestrator.reporting import statistics
from orchestrator.reporting.statistics import Difference
from workers.data.arrays import Float64, spread
from workers.data.dataset import Dataset
from workers.device import one_thread
from workers.errors import RunError
from workers.evaluation import latency, metrics
from workers.evaluation.bootstrap import Interval
from workers.evaluation.latency import BATCH
from workers.evaluation.metrics import CORRECT, Inference
from workers.models import predictor
from workers.models.predictor import Predictor

EXPORT = "export"
"""The artefact's name among the run's systems."""
CHECKED = 1000
"""Test examples on which the artefact is compared with the student in torch, at most."""
TOLERANCE = 1e-3
"""Largest accepted difference between the probabilities of the student in torch and of an export in float."""
CALLS = 500
"""Calls whose latency is measured."""
CPU = torch.device("cpu")
FLOAT = Inference("float32", on=CPU.type)


@dataclass(frozen=True)
class Agreement:
    """How the artefact's probabilities compare with those of the student in torch. difference: the largest. same_class:
    the share of examples on which both predict the same class."""

    examples: int
    difference: float
    same_class: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The artefact on the test split.

    figures, intervals: accuracy, NLL, Brier score and ECE by name, with 95% intervals. over_student, over_ensemble: in
    accuracy. share, share_interval: its accuracy over the ensemble's; the interval is of `level`. student_share: that
    of the student in the run's report. correct: test examples that the export, the student and the ensemble
    name right. latency_ms: of one example. per_second: examples, in batches of `BATCH`; in int8 one by one. bytes: of
    the files that it is computed from.
    """

    examples: int
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval | None]
    over_student: Difference
    over_ensemble: Difference
    share: float
    share_interval: Interval | None
    level: float
    student_share: float
    correct: Mapping[str, int]
    latency_ms: Mapping[str, float]
    per_second: float
    parameters: int
    bytes: int
    agreement: Agreement


def measure(
    made: Made, student: Student, dataset: Dataset, systems: Mapping[str, Float64], *, level: float, quantized: bool
) -> Measured:
    """Measure an artefact.

    systems: sums of the run's systems over blocks of the test examples. level: of the interval of the share. quantized:
    whether it may part from the student. Raises: `RunError` where it parts from the student, or answers NaN.
    """
    # An int8 graph scales activations by the batch, so that `load.py`, too, computes examples one by one.
    how = replace(FLOAT, micro_batch=1) if quantized else FLOAT
    with one_thread():
        found = predictor.load(made.model, made.weights)
        agreement = _agreement(found, made, student, dataset, how)
        if not quantized and not agreement.difference <= TOLERANCE:
            raise RunError(
                f"the export parts from the student: on {agreement.examples:,} test examples its probabilities differ "
                f"by up to {agreement.difference:.2g}, and {agreement.same_class:.2%} have the same class; expected at "
                f"most {TOLERANCE:g}. Nothing was written. `--format torch` exports the module itself."
            )
        sums = _sums(found, made, dataset, how)
        times, batch_s = _times(found, made, dataset, how.micro_batch or BATCH)
    blocks = {**systems, EXPORT: sums.of_blocks}
    pairs = [(EXPORT, "student"), (EXPORT, "ensemble")]
    estimates = statistics.estimate(blocks, pairs)
    share, interval = statistics.share(sums.of_blocks, systems["ensemble"], level)
    return Measured(
        examples=sums.examples,
        figures=dict(zip(metrics.FIGURES, metrics.figures(sums.of_blocks.sum(axis=0)).tolist(), strict=True)),
        intervals=estimates.intervals[EXPORT],
        over_student=estimates.differences[0],
        over_ensemble=estimates.differences[1],
        share=share,
        share_interval=interval,
        level=level,
        correct={name: round(float(blocks[name][:, CORRECT].sum())) for name in (EXPORT, "student", "ensemble")},
        student_share=statistics.share_of(systems["student"], systems["ensemble"]),
        latency_ms=latency.percentiles(times),
        per_second=(how.micro_batch or BATCH) / batch_s,
        parameters=student.predictor.parameters,
        bytes=_size(Path(made.weights)),
        agreement=agreement,
    )


def _agreement(found: Predictor, made: Made, student: Student, dataset: Dataset, how: Inference) -> Agreement:
    ids = spread(len(dataset.test), min(CHECKED, len(dataset.test)))
    x = dataset.test.x[ids]
    expected, exported = (
        np.exp(metrics.log_probabilities(each, x, computed, collator=predictor.collator(model)))
        for each, model, computed in ((student.predictor, student.member.model, FLOAT), (found, made.model, how))
    )
    same = expected.argmax(axis=1) == exported.argmax(axis=1)
    return Agreement(len(ids), float(np.abs(expected - exported).max()), float(same.mean()))


def _sums(found: Predictor, made: Made, dataset: Dataset, how: Inference) -> metrics.Sums:
    """The sums of the artefact's predictions."""
    split = dataset.test
    predicted = metrics.log_probabilities(found, split.x, how, collator=predictor.collator(made.model))
    missing = np.flatnonzero(np.isnan(predicted).any(axis=1))
    if len(missing):
        raise RunError(
            f"the export returned NaN for test example {split.rows.example_of(int(missing[0]))}; expected finite "
            "logits. Nothing was written. `--format torch`, without `--quantize`, exports the module itself."
        )
    ids = np.arange(len(split))
    return metrics.measure(predicted, split.labels_of(ids), metrics.blocks_of(dataset, "test", ids))


def _times(found: Predictor, made: Made, dataset: Dataset, batch: int) -> tuple[Float64, float]:
    """Latencies of one example in ms: [CALLS], and seconds for a batch of so many."""
    found.to(CPU)
    collator, x = predictor.collator(made.model), dataset.served
    one, many = (latency.answers(found, collator, x, CPU, size=size) for size in (1, batch))
    return latency.times_ms(one, CPU, CALLS), latency.batch_s(many, CPU)


def _size(weights: Path) -> int:
    """Bytes of the weights: a file, or those in a folder of transformers."""
    files = [weights] if weights.is_file() else list(weights.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)
