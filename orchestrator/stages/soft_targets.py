"""Computes the store of soft targets for a transfer set, part by part.

The run verifies and reuses finished parts of earlier runs; the teachers compute the others. Where the cluster has
resources for both, the pass runs in a thread while the student trains on the finished parts.
"""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import combination, member_logits
from orchestrator.stages.context import Context
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.stages.teaching import ask_teachers, declare
from workers import mixture_weights
from workers.artifacts import catalogue
from workers.artifacts.key import Key
from workers.artifacts.kinds import LOGITS, SOFT_TARGETS
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.targets import soft_targets as store
from workers.targets.member_logits import MemberLogits
from workers.targets.soft_targets import Manifest, MemberRecord, Part

logger = logging.getLogger(__name__)

ALL_MEMBERS_COMPUTE = (
    "all members compute the soft targets: this storage has no logits of theirs to make them of. `distillation.keep: "
    "members` keeps these; another temperature then computes nothing, and a new member its own logits alone."
)


@contextmanager
def soft_targets(
    run: Context, members: Sequence[Member], weights: Sequence[float], *, known: int = 0
) -> Iterator[SoftTargetPass]:
    """The store of this transfer set, these members, temperature and rule: complete, or in progress.

    The pass ends before the block does. It ends before the block begins where the cluster cannot hold teachers and
    student at the same time. known: number of members that an earlier run trained.
    """
    made = _found(run, members, weights)
    if made.missing:
        store.remove_manifest(made.folder)  # it lists missing parts
        store.unmark_abandoned(made.folder)
        if known and not made.kept and not made.parts:
            run.note(ALL_MEMBERS_COMPUTE)
    if made.streams:
        made.thread = threading.Thread(target=_work, args=(run, made, members), name="soft targets", daemon=True)
        made.thread.start()
    else:
        _work(run, made, members)
        made.complete()
    try:
        yield made
    except BaseException as error:
        ended = made.error
        made.stop.set()
        if made.thread is not None:
            made.thread.join()
        if ended is not None and (isinstance(error, Exception) or not isinstance(ended, InterruptedError)):
            raise ended from None  # the pass's error is the cause of the student's
        raise
    made.complete()


def _found(run: Context, members: Sequence[Member], weights: Sequence[float]) -> SoftTargetPass:
    """Look up the store in the folders of this run and of others; the pass with finished and missing parts."""
    config, plan = run.config, run.plan
    records = [MemberRecord(name=m.name, sha256=checkpoints.sha256(m.weights)) for m in members]
    key = _key(run, members, weights)
    planned = _planned(run, records, weights, key)
    folder = RunFolder(config.folder).soft_targets(key.digest)
    run.note(catalogue.note("the soft targets", [run.artifacts.obtain(key, paths.soft_targets)]))
    layout, rule = plan.layout, combination.rule_of(config.ensemble, members)
    found = store.salvage(folder)
    there = _accepted(run, planned, found)
    kept: dict[str, MemberLogits] = {}
    if config.distillation.keeps_logits or len(there) < layout.parts:
        kept = member_logits.of_members(run, _logits_keys(run, members))
    complete = len(there)
    if config.distillation.keeps_logits:
        there = member_logits.with_logits(there, layout, kept)
    again = complete - len(there)
    if again and not config.distillation.is_scheduled:
        run.events.note(f"{again:,} of {layout.parts:,} parts are computed again, for the members' logits (`keep`)")
    missing = [number for number in range(layout.parts) if number not in there]
    before = None if missing else store.manifest_at(folder)
    return SoftTargetPass(
        folder=folder,
        key=key,
        layout=layout,
        planned=planned,
        parts=there,
        missing=missing,
        kept=kept,
        streams=bool(missing) and plan.streams and not again,  # a part made again has the name of the refused one
        refused=frozenset(part.path for number, part in found.items() if number not in there),
        survivors_too=config.ensemble.on_member_loss == "reweight",
        logits=member_logits.reader(run, planned, kept, rule) if config.distillation.is_scheduled else None,
        manifest=before if before is not None and before.parts == list(there.values()) else None,
    )


def _work(run: Context, made: SoftTargetPass, members: Sequence[Member]) -> None:
    """Compute the missing parts; stores an exception in `made`."""
    try:
        with run.events.stage("soft targets") as stage:
            stage.reused = made.reused
            if made.missing:
                ask_teachers(run, made, members, stage)
            elif made.manifest is None:
                made.manifest = declare(made, 0.0)
            if run.config.distillation.keeps_logits:  # also where the run of the pass was killed after its last part
                member_logits.commit(run, _logits_keys(run, members), made.layout)
            run.artifacts.register(made.key, paths.soft_targets(made.key.digest))
    except BaseException as error:  # `SoftTargetPass.complete` raises it
        made.error = error
        if made.streams:
            _abandon(made.folder)


def _abandon(folder: str) -> None:
    """Signal to the student that the teachers will write no further part."""
    try:
        store.abandon(folder)
    except Exception as error:  # from any storage backend; then only an interrupt ends a waiting student
        logger.warning("'%s' cannot be written: %s", folder, error)
        _thread.interrupt_main()


def _answers_follow_from(run: Context) -> dict[str, Any]:
    """The inputs that determine any member's outputs, besides the member itself."""
    dataset = run.dataset
    return {
        "train": dataset.digests["train"],
        "unlabeled": dataset.digests["unlabeled"],
        "augment": dataset.augmentation,
        "numbering": dataset.numbering.digest(),
        "piece_rows": run.plan.layout.piece,
        "precision": run.machines.settled(run.config.ensemble.precision, run.plan.device),
    }


def _logits_keys(run: Context, members: Sequence[Member]) -> dict[str, Key]:
    """The cache key of each member's logits."""
    what = _answers_follow_from(run)
    if what["precision"] == "auto":
        what["device"] = run.plan.device
    return {member.name: LOGITS.key(**what, **teacher.follows_from(member)) for member in members}


def _key(run: Context, members: Sequence[Member], weights: Sequence[float]) -> Key:
    """The key of the store, from everything that determines its numbers."""
    ensemble, distillation = run.config.ensemble, run.config.distillation
    rule = combination.rule_of(ensemble, members)
    return SOFT_TARGETS.key(
        **_answers_follow_from(run),
        members=[teacher.key_of(member).digest for member in members],
        weights=list(weights) if rule is None else mixture_weights.follows_from(rule),
        temperature=distillation.first_temperature,
        combine=ensemble.combine,
        dtype=distillation.dtype,
        top_k=distillation.top_k,
        part_rows=run.plan.layout.rows,
    )


def _planned(run: Context, members: list[MemberRecord], weights: Sequence[float], key: Key) -> Manifest:
    """The manifest of the planned store, still without parts."""
    config, dataset, distillation = run.config, run.dataset, run.config.distillation
    return Manifest(
        fingerprint=key.digest,
        what=key.flat(),
        temperature=distillation.first_temperature,
        combine=config.ensemble.combine,
        weights=list(weights),
        classes=dataset.classes,
        dtype=distillation.dtype,
        top_k=distillation.top_k,
        examples=len(dataset.transfer),
        views=dataset.views,
        members=members,
        parts=[],
        seconds=0.0,
        complete=False,
    )


def _accepted(run: Context, planned: Manifest, found: dict[int, Part]) -> dict[int, Part]:
    """Those of the existing parts that this run accepts.

    It accepts parts with missing members only under `on_member_loss: reweight`, and parts of another precision never.
    For a GPU, earlier versions of Stillhouse recorded `auto`, which is float32 or bfloat16.
    """
    survivors, precision = run.config.ensemble.on_member_loss == "reweight", run.plan.numerics.precision
    of_precision = {number: part for number, part in sorted(found.items()) if part.numerics.precision == precision}
    return {n: part for n, part in of_precision.items() if survivors or part.members == planned.names}
