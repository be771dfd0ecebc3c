"""What an exported student follows from: run, configuration, data, members, soft targets, code and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.run_config import RunConfig
from orchestrator.reporting.report import Report
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK
from workers.data.dataset import Dataset
from workers.models import checkpoints
from workers.redact import redacted
from workers.targets.soft_targets import manifest_at
from workers.user_code import origins, provenance

EXPORTERS = ("onnx", "onnxscript", "onnxruntime", "transformers", "safetensors")
"""Modules whose distributions and versions are recorded beside those of a run, where they are installed."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """configuration, student: sha256 of the file. soft_targets: fingerprint of the store; empty where it was removed.
    members: digests by name. data: digests of the splits that the run read. code: of the student's factory, by file.
    trained_by, exported_by: versions."""

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


def of(folder: str, config: RunConfig, dataset: Dataset, report: Report, weights: str) -> Lineage:
    """The lineage of the student of the run in `folder`. weights: URI of the student's."""
    run = RunFolder(folder)
    record = store.read(storage.join(run.shown("student"), paths.NETWORK), NETWORK)
    members = {each.name: _weights_of(run, each.name) for each in report.members}
    what = {} if record is None else record.what
    return Lineage(
        run=report.name,
        seed=report.seed,
        folder=redacted(folder),
        configuration=storage.file_sha256(run.config),
        student=checkpoints.sha256(weights),
        soft_targets=_fingerprint(run, report, members),
        members=members,
        data=_data(dataset, report),
        code={name.removeprefix("code."): digest for name, digest in what.items() if name.startswith("code.")},
        trained_by={} if record is None else record.versions,
        exported_by={**provenance.versions(), **dict(filter(None, map(origins.provider, EXPORTERS)))},
    )


def _data(dataset: Dataset, report: Report) -> Mapping[str, str]:
    """The digests of the splits that the report has; of an earlier version those of today."""
    of_run = {} if report.origin is None else report.origin.data
    return of_run or {name: digest for name, digest in dataset.digests.items() if digest}


def _weights_of(run: RunFolder, member: str) -> str:
    """sha256 of a member's weights; empty where the run loaded them from elsewhere."""
    record = store.read(storage.join(run.shown(member), paths.NETWORK), NETWORK)
    files = {} if record is None else record.files
    return next((digest for name, digest in files.items() if name.startswith("model.")), "")


def _fingerprint(run: RunFolder, report: Report, members: Mapping[str, str]) -> str:
    """The fingerprint of the soft targets of these members at the report's T; of several the latest."""
    place = storage.parent(run.soft_targets("0"))
    found = []
    for name in storage.names(place):
        manifest = manifest_at(storage.join(place, name))
        if manifest is None:
            continue
        weights = {each.name: each.sha256 for each in manifest.members}
        same = all(weights.get(member) == digest for member, digest in members.items() if digest)
        if manifest.complete and same and manifest.temperature == report.soft_targets.temperature:
            written = [each.changed or 0.0 for each in storage.entries(storage.join(place, name))]
            found.append((max(written), manifest.fingerprint))
    return max(found)[1] if found else ""
