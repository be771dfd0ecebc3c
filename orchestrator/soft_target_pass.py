"""From teachers to the store: soft targets computed once for a transfer set, or found there already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray
from numpy.typing import NDArray

from orchestrator.cluster import Machines, Placement
from orchestrator.config import RunConfig
from orchestrator.console import Line
from orchestrator.journal import Journal
from orchestrator.report import Bound, SoftTargets
from orchestrator.teachers import TeacherPool
from workers import checkpoints, factories, storage
from workers import soft_targets as store
from workers.data import Dataset
from workers.soft_targets import Manifest, MemberRecord, Part
from workers.teacher import MICRO_BATCH, Member


@dataclass(frozen=True)
class SoftTargetPass:
    """Soft targets as the student takes them: [N, K] float32 in Ray's memory, N the transfer set."""

    content: str
    """sha256 over the parts: the student follows from these very numbers."""
    values: ray.ObjectRef[NDArray[np.float32]]
    summary: SoftTargets
    bound_by: Bound
    lost_members: list[str]
    """Members that some part was made without, in this run or in the one that it is reused from."""


def soft_targets(
    config: RunConfig,
    dataset: Dataset,
    data: ray.ObjectRef[Dataset],
    members: Sequence[Member],
    weights: Sequence[float],
    machines: Machines,
    placement: Placement,
    journal: Journal,
) -> SoftTargetPass:
    """The store of this transfer set, these members, temperature and rule; made where it is not there."""
    records = [MemberRecord(name=m.name, sha256=checkpoints.sha256(m.weights)) for m in members]
    mark = store.fingerprint(
        train=dataset.digests["train"],
        unlabeled=dataset.digests["unlabeled"],
        members=[record.sha256 for record in records],
        model=config.ensemble.model.model_dump(mode="json", exclude={"folder"}),
        code=factories.digest(config.ensemble.model.factory, config.ensemble.model.folder),
        weights=list(weights),
        temperature=config.distillation.temperature,
        combine=config.ensemble.combine,
    )
    folder = storage.join(config.folder, "soft_targets", mark)
    bound_by: Bound = "teacher"
    with journal.stage("soft targets") as stage:
        manifest = store.find(folder)
        if manifest is not None and config.ensemble.on_member_loss != "reweight" and manifest.missing_members():
            manifest = None  # made by survivors, which this run does not accept
        stage.reused = manifest is not None
        if manifest is None:
            pool = TeacherPool(members, weights, data, config.ensemble, placement, journal.lost)
            planned = Manifest(
                fingerprint=mark,
                temperature=config.distillation.temperature,
                combine=config.ensemble.combine,
                weights=list(weights),
                classes=dataset.classes,
                members=records,
                parts=[],
                micro_batch=MICRO_BATCH,
                device=f"{'cuda' if machines.cuda and placement.num_gpus else 'cpu'}, {placement.threads} threads",
                seconds=0.0,
                complete=False,
            )
            manifest = _compute(planned, folder, pool, len(dataset.transfer), stage)
            bound_by = pool.bound_by
        values = store.read(folder, manifest)
    summary = SoftTargets(
        examples=len(values),
        bytes=sum(storage.size(storage.join(folder, part.path)) for part in manifest.parts),
        temperature=manifest.temperature,
        combine=manifest.combine,
        seconds=manifest.seconds,
        reused=stage.reused,
    )
    return SoftTargetPass(manifest.content(), ray.put(values), summary, bound_by, manifest.missing_members())


def _compute(manifest: Manifest, folder: str, pool: TeacherPool, rows: int, stage: Line) -> Manifest:
    """Every part as its chunk arrives, then the manifest."""
    parts: list[Part] = []
    with pool:
        started = time.perf_counter()
        for chunk in pool.stream(rows, manifest.temperature):
            parts.append(store.write_part(folder, len(parts), chunk.start, chunk.probabilities, chunk.members))
            seconds = time.perf_counter() - started
            stage.update(chunk.stop, rows, f"{chunk.stop:,} of {rows:,}, {chunk.stop / seconds:,.0f} examples/s")
    made = manifest.model_copy(update={"parts": parts, "seconds": round(seconds, 3), "complete": True})
    store.write_manifest(folder, made)
    return made
