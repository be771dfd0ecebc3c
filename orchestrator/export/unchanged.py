"""Whether student and data still are those of the run: weights, what the network is built from, and the examples.

Weights say little without their code: after a change of it they load as well, and compute another function. So what
builds the network is compared with the record that the run left beside the weights. Where that cannot decide, the
student is measured on the test examples, and has to repeat the report's figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from orchestrator.export import formats
from orchestrator.export.formats import Student
from orchestrator.reporting.report import Report
from orchestrator.run_folder import paths
from workers import storage
from workers.artifacts import key as keys
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK, Record
from workers.data.arrays import Float64
from workers.data.dataset import Dataset
from workers.data.label_names import listed
from workers.data.labels import LABELLED
from workers.errors import RequestError
from workers.evaluation import metrics
from workers.evaluation.metrics import BRIER, CORRECT, EXAMPLES, Inference
from workers.inference.teacher import Member
from workers.models import predictor
from workers.models import provenance as model_provenance
from workers.specs.models import AnyModel
from workers.user_code import provenance

DECIDES = ("code", "files", "model", "tokenizer")
"""Parts of a record whose change makes another network."""
MAY_DECIDE = ("built", "checkpoint", "environment", "packages")
"""Parts that also change where the function may be the same, as with another version of torch or of a package."""
TOLERANCE = 0.01
"""Largest accepted mean difference to the report, of correctness and of Brier scores of examples: a run may have
computed them in bfloat16."""


def student_of(member: Member, dataset: Dataset, of_run: Float64) -> Student:
    """Load the student of a run, of whose weights the record lies beside them.

    of_run: sums [B, COLUMNS] of the student over blocks of the test examples, from the run. Raises: `RequestError`
    where weights, code, files or settings of the model are no longer those of the run.
    """
    record = _record(member)
    _changes(member.model, record)  # first, since weights may not fit into a changed network
    with provenance.in_use(member.model), torch.no_grad():
        student = formats.student_of(member, dataset)
        student.predictor(student.sample)  # reads files that the network reads when it is asked
    if record is None or record.format < NETWORK.version or _changes(member.model, record):
        _check_figures(student, dataset, of_run)
    return student


def check_data(dataset: Dataset, report: Report, test: str) -> None:
    """Raise `RequestError` where the data changed since the run in what an export follows from: the classes, the test
    examples, and of a table the training examples, where these decide how its columns become numbers.

    test: digest of the run's test examples, `Dataset.test_digest`.
    """
    of_run = {} if report.origin is None else report.origin.data
    changed = [name for name in LABELLED if of_run and dataset.digests[name] != of_run.get(name)]
    if list(dataset.label_names) != report.labels or dataset.classes != (report.classes or dataset.classes):
        where = ", ".join(f"data.{name}" for name in changed) or "data"
        raise RequestError(
            f"{where}: the classes are no longer those of the run; found "
            f"{_shown(dataset.label_names, dataset.classes)}, expected "
            f"{_shown(report.labels, report.classes)}. Restore the files, or run again."
        )
    if dataset.test_digest != test:
        masked = ", or an earlier version of Stillhouse masked them" if dataset.test.labels is None else ""
        raise RequestError(
            "data.test: the examples are no longer those of the run (they, their labels or groups have changed"
            f"{masked}), so figures would not compare. Restore them, or run again."
        )
    if "train" in changed and any(each.categories or each.fill is not None for each in dataset.encodings):
        raise RequestError(
            "data.train: the examples are no longer those of the run. They decide the categories of a table's columns "
            "and the numbers for empty cells, which the export would take from others. Restore them, or run again."
        )


def _shown(names: Sequence[str], count: int) -> str:
    return f"{len(names):,} ({listed(names)})" if names else f"{count:,}"


def _record(member: Member) -> Record | None:
    """The record beside the weights; None without one. Raises: `RequestError` where the weights are not its own."""
    uri = storage.join(storage.parent(member.weights), paths.NETWORK)
    record = store.read(uri, NETWORK)
    if record is not None and not store.is_whole(uri, record):
        raise RequestError(
            f"'{member.weights}': no longer the weights that the run wrote, by their checksum in '{uri}'. Restore "
            "them: the same `stillhouse run` copies them here, or trains the student again."
        )
    return record


def _changes(model: AnyModel, record: Record | None) -> str:
    """What differs from the record and may change the network, in words; empty where nothing does.

    Raises: `RequestError` for what certainly makes another network.
    """
    if record is None or record.format < NETWORK.version:
        return ""
    now = NETWORK.key(**model_provenance.of_model(model)).flat()
    read_elsewhere = {name for name in record.what.keys() - now.keys() if name.startswith("files.")}
    before, after = (
        {
            name: value
            for name, value in of.items()
            if name.partition(".")[0] in DECIDES + MAY_DECIDE and name not in read_elsewhere
        }
        for of in (record.what, now)
    )
    certain = keys.changes(*({name: v for name, v in of.items() if _decides(name)} for of in (before, after)))
    if certain:
        raise RequestError(
            f"student.model: no longer the network of the run, whose weights would compute another function in it "
            f"({certain}). Expected the model as the run found it: check it out as it was, or run again."
        )
    return keys.changes(before, after)


def _decides(name: str) -> bool:
    return name.partition(".")[0] in DECIDES


def _check_figures(student: Student, dataset: Dataset, of_run: Float64) -> None:
    """Raise `RequestError` unless the student repeats its figures in the run's report."""
    ids, how = np.arange(len(dataset.test)), Inference("float32", on="cpu")
    predicted = metrics.log_probabilities(
        student.predictor, dataset.test.x, how, collator=predictor.collator(student.member.model)
    )
    found = metrics.measure(predicted, dataset.test.labels_of(ids), metrics.blocks_of(dataset, "test", ids)).of_blocks
    columns = [CORRECT, BRIER]
    off = np.abs(found[:, columns] - of_run[:, columns]).sum(axis=0) / found[:, EXAMPLES].sum()
    if not (off <= TOLERANCE).all():
        accuracies = (of[:, CORRECT].sum() / of[:, EXAMPLES].sum() for of in (found, of_run))
        raise RequestError(
            "student.model: no longer the network of the run: on the test examples its accuracy is {:.2%}, in the "
            "report {:.2%}, and Brier scores differ by {:.2g} on average. Expected the report's figures: check the "
            "model and its packages out as they were, or run again.".format(*accuracies, off[1])
        )
