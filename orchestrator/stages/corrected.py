"""The student with a bias for some classes, which its transfer set left out (Hinton et al. 2015, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from orchestrator.cluster.resources import Placement
from orchestrator.config.schema import CORRECTED
from orchestrator.run_folder import paths
from orchestrator.stages.context import Context
from orchestrator.stages.predictions import computed, predict, record_of, result_of
from workers.artifacts import store
from workers.artifacts.kinds import PREDICTIONS
from workers.data import labels
from workers.evaluation import tasks as jobs
from workers.evaluation.tasks import Subject
from workers.inference import teacher


@dataclass(frozen=True)
class Bias:
    """The bias for the logits of some classes. reused: an earlier run computed it, and the predictions with it."""

    value: float
    reused: bool


def corrected(run: Context, student: Subject, records: dict[str, str], place: Placement) -> Bias | None:
    """The bias of `evaluation.corrected_classes`; the student's predictions with it join the records of the test split.

    None without such classes.
    """
    classes = run.config.evaluation.corrected_classes
    if not classes:
        return None
    ids = labels.ids_of("evaluation.corrected_classes", classes, run.dataset.classes, run.dataset.label_names)
    record = run.artifacts.uri(paths.predictions(CORRECTED, "test"))
    digests = {split: run.dataset.digests[split] for split in ("train", "test")}
    key = PREDICTIONS.key(**teacher.follows_from(student[0]), **computed(student[1]), classes=ids, data=digests)
    reused = run.artifacts.obtain(key, partial(record_of, CORRECTED, "test")) is not None
    if not reused:
        train = predict(run, [student], "train", place).records
        job = jobs.Correction(ids, train["student"], records["student"], (record, key))
        result_of(run, "correcting", jobs.correct, job, place, name=CORRECTED)
        run.artifacts.register(key, paths.predictions(CORRECTED, "test"))
    records[CORRECTED] = record
    kept = store.read(record, PREDICTIONS)
    assert kept is not None, "it was committed above, or found"
    return Bias(float(kept.facts["bias"]), reused)


def bias_note(run: Context, bias: float) -> str:
    """The report's note on a bias."""
    classes = ", ".join(str(each) for each in run.config.evaluation.corrected_classes)
    return (
        f"`{CORRECTED}` is the student with a bias of {bias:+z.2f} for the logit{'s' * (', ' in classes)} of "
        f"{classes}, found on the training split."
    )
