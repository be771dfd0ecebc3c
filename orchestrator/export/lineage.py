"""What an exported student follows from: run, configuration, data, members, soft targets, code and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.reporting.report import Report
from orchestrator.run_folder import paths, stores
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK
from workers.data.dataset import Dataset
from workers.models import checkpoints
from workers.redact import redacted
from workers.user_code import origins, provenance

EXPORTERS = ("onnx", "onnxscript", "onnxruntime", "transformers", "safetensors")
"""Modules whose distributions and versions are recorded beside those of a run, where they are installed."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """configuration, student: sha256 of the file. soft_targets: fingerprint of the store; empty in reports of earlier
    versions. members: sha256 of the weights by name, from that store; empty where it was removed. data: digests of the
    splits that the run read. code: of the student's factory, by file. trained_by, exported_by: versions."""

    run: str
    seed: int
    folder: str
    configuration: str
    student: str
    soft_targets: str
    members: Mapping[str, str]
    data: Mapping[str, str]
    code: Mapping[str, str]
    trained_by: Mapping[str, str]
    exported_by: Mapping[str, str]


def of(folder: str, dataset: Dataset, report: Report, weights: str) -> Lineage:
    """The lineage of the student of the run in `folder`. weights: URI of the student's."""
    run = RunFolder(folder)
    record = store.read(storage.join(run.shown("student"), paths.NETWORK), NETWORK)
    what = {} if record is None else record.what
    return Lineage(
        run=report.name,
        seed=report.seed,
        folder=redacted(folder),
        configuration=storage.file_sha256(run.config),
        student=checkpoints.sha256(weights),
        soft_targets=report.soft_targets.fingerprint,
        members=_members(run, report),
        data=_data(dataset, report),
        code={name.removeprefix("code."): digest for name, digest in what.items() if name.startswith("code.")},
        trained_by={} if record is None else record.versions,
        exported_by={**provenance.versions(), **dict(filter(None, map(origins.provider, EXPORTERS)))},
    )


def _data(dataset: Dataset, report: Report) -> Mapping[str, str]:
    """The digests of the splits that the report has; of an earlier version those of today."""
    of_run = {} if report.origin is None else report.origin.data
    return of_run or {name: digest for name, digest in dataset.digests.items() if digest}


def _members(run: RunFolder, report: Report) -> Mapping[str, str]:
    """The digests of the weights that made the report's soft targets, trained or loaded."""
    found = stores.store_of(run, report.soft_targets.fingerprint)
    taught = {} if found is None else {each.name: each.sha256 for each in found[1].members}
    return {each.name: taught.get(each.name, "") for each in report.members}
