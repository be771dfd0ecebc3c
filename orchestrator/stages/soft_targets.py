"""Computes the store of soft targets for a transfer set, part by part.

The run verifies and reuses finished parts of earlier runs; the teachers compute the others. Where the cluster has room
for both, the pass runs in a thread while the student trains on the finished parts.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.cluster import reservation
from orchestrator.observers.events import TeacherBack, TeacherLost, TeacherMoves
from orchestrator.observers.fanout import Fanout, Progress
from orchestrator.plan.plan import Plan
from orchestrator.reporting.report import Bound, SoftTargets
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import combination, kept_logits
from orchestrator.stages.context import Context
from orchestrator.teachers import checks
from orchestrator.teachers.actors import starter
from orchestrator.teachers.pool import Hooks, Hosting, TeacherPool
from workers import mixture_weights, storage, telemetry
from workers.artifacts import catalogue
from workers.artifacts import parts as part_files
from workers.artifacts.key import Key
from workers.artifacts.kinds import LOGITS, SOFT_TARGETS
from workers.data.dataset import Split
from workers.inference import teacher
from workers.inference.actor import TeacherWork, probe_rows
from workers.inference.reduce import Assembly, Rule
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor
from workers.targets import soft_targets as store
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import LogitsReader
from workers.targets.soft_targets import Manifest, MemberRecord, Numerics, Part
from workers.training.ray_worker import Store

logger = logging.getLogger(__name__)

ALL_MEMBERS_COMPUTE = (
    "the soft targets are computed by all members, since no run here has kept their logits. With `distillation.keep: "
    "members` another temperature computes nothing, and a new member its own logits alone."
)


@dataclass(kw_only=True)
class SoftTargetPass:
    """A pass of the teachers: the store for the student, and its manifest once it is complete."""

    folder: str
    key: Key
    layout: PartLayout
    planned: Manifest
    parts: dict[int, Part]
    """Finished parts by number; the pass adds to them."""
    missing: list[int]
    """Numbers of the parts that the pass has to compute."""
    kept: dict[str, MemberLogits]
    """Caches of members' logits, which replace forward passes."""
    streams: bool = False
    """Whether the student trains during the pass."""
    refused: frozenset[str] = frozenset()
    """Files of parts that the pass replaces."""
    survivors_too: bool = False
    """Whether parts with missing members are accepted."""
    logits: LogitsReader | None = None
    """The student's reader for a schedule of T."""
    bound_by: Bound = "teacher"
    manifest: Manifest | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def reused(self) -> bool:
        """Whether all parts came from earlier runs."""
        return not self.missing

    def store(self) -> Store:
        """The workers' view: the parts that exist by now, and the folder for the others."""
        return Store(
            self.folder,
            self.layout,
            dict(self.parts),
            self.streams,
            self.refused,
            temperature=self.planned.temperature,
            logits=self.logits,
        )

    def in_use(self) -> Key:
        """The key of the soft targets for a student, the same before, during and after the pass.

        Under `reweight` the parts that lack members are not in it, since the pass decides on them. So a finished
        student is compared with `content` as well, and an unfinished one with `fewer`.
        """
        return Key("soft targets in use", 1, store=self.key, survivors_too=self.survivors_too, fewer=[])

    def fewer(self) -> tuple[str, ...]:
        """sha256 of the parts by now that lack members. A student resumes checkpoints of the same ones alone."""
        planned = _all_members(self.planned)
        parts = [part for _, part in sorted(self.parts.items())]
        return tuple(part.sha256 for part in parts if part.members != planned)

    def complete(self) -> Manifest:
        """Wait for all parts and return the manifest.

        Raises: the exception that ended the pass early.
        """
        if self.thread is not None:
            self.thread.join()
        if self.error is not None:
            raise self.error
        assert self.manifest is not None
        return self.manifest

    def check_stopped(self) -> None:
        """Raise InterruptedError where the run is stopping."""
        if self.stop.is_set():
            raise InterruptedError("the pass was stopped with its run")

    def content(self) -> str:
        """sha256 over all soft targets; waits until they are complete."""
        return store.content(self.complete().parts)

    def summary(self) -> SoftTargets:
        """The report's section on soft targets."""
        manifest = self.complete()
        return SoftTargets(
            examples=sum(part.rows for part in manifest.parts),
            bytes=sum(part.size for part in manifest.parts),
            temperature=manifest.temperature,
            fingerprint=manifest.fingerprint,
            combine=manifest.combine,
            weights=dict(zip(_all_members(manifest), manifest.weights, strict=True)),
            seconds=manifest.seconds,
            reused=self.reused,
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
        store.take_up(made.folder)
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
        kept = kept_logits.of_members(run, _logits_keys(run, members))
    complete = len(there)
    if config.distillation.keeps_logits:
        there = kept_logits.with_logits(there, layout, kept)
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
        logits=kept_logits.reader(run, planned, kept, rule) if config.distillation.is_scheduled else None,
        manifest=before if before is not None and before.parts == list(there.values()) else None,
    )


def _work(run: Context, made: SoftTargetPass, members: Sequence[Member]) -> None:
    """Compute the missing parts; stores an exception in `made`."""
    try:
        with run.events.stage("soft targets") as stage:
            stage.reused = made.reused
            if made.missing:
                _ask_teachers(run, made, members, stage)
            elif made.manifest is None:
                made.manifest = _declare(made, 0.0)
            if run.config.distillation.keeps_logits:  # also where the run of the pass was killed after its last part
                kept_logits.commit(run, _logits_keys(run, members), made.layout)
            run.artifacts.register(made.key, paths.soft_targets(made.key.digest))
    except BaseException as error:  # `SoftTargetPass.complete` raises it
        made.error = error
        if made.streams:
            _abandon(made.folder)


def _ask_teachers(run: Context, made: SoftTargetPass, members: Sequence[Member], stage: Progress) -> None:
    """Reserve resources for the teachers, and let them label the missing parts."""
    config, dataset, placement = run.config, run.dataset, run.plan.teachers
    events, planned = run.events, made.planned
    numerics = _numerics(run.plan, made.parts.values())
    with reservation.reserved(
        reservation.of_teachers(placement), config.ensemble.start_timeout_s, events.note, made.check_stopped
    ) as group:
        work = TeacherWork(planned.classes, made.layout, numerics, made.kept, config.name)
        start = starter(run.data, work, placement, group)
        check = _check(dataset.transfer, members, made, numerics)
        pool = TeacherPool(
            Hosting(members, combination.needed(members, planned.weights), placement.groups(), numerics.stacked),
            start,
            config.ensemble,
            Hooks(partial(_emit_teacher, events), made.check_stopped, check),
        )
        rule = Rule(
            planned.combine,
            planned.dtype,
            planned.top_k,
            planned.temperature,
            combination.rule_of(config.ensemble, members),
            [member.name for member in members],
        )
        _compute(run, made, pool, Computing(rule, numerics, stage))
    events.note("soft targets complete: teachers released")


def _emit_teacher(events: Fanout, action: str, members: Sequence[str], evidence: str) -> None:
    """Emit the event for a change of a teacher."""
    match action:
        case "back":
            events.emit(TeacherBack(members))
        case "moves":
            events.emit(TeacherMoves(members, evidence))
        case _:
            events.emit(TeacherLost(members, action, evidence))


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
        "precision": run.config.ensemble.precision,
    }


def _logits_keys(run: Context, members: Sequence[Member]) -> dict[str, Key]:
    """The cache key of each member's logits."""
    what = _answers_follow_from(run)
    if run.config.ensemble.precision == "auto":
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


def _all_members(planned: Manifest) -> list[str]:
    """The names of the members that a complete part has."""
    return [record.name for record in planned.members]


def _accepted(run: Context, planned: Manifest, found: dict[int, Part]) -> dict[int, Part]:
    """Those of the existing parts that this run accepts.

    It accepts parts with missing members only under `on_member_loss: reweight`. If parts are missing, all have to have
    one precision, since `auto` depends on the device.
    """
    ensemble, plan = run.config.ensemble, run.plan
    survivors = ensemble.on_member_loss == "reweight"
    kept = {n: part for n, part in sorted(found.items()) if survivors or part.members == _all_members(planned)}
    if len(kept) < plan.layout.parts and ensemble.precision == "auto":
        kept = {number: part for number, part in kept.items() if part.numerics.device == plan.device}
    return kept


def _numerics(plan: Plan, there: Collection[Part]) -> Numerics:
    """The teachers' numerics: those of the existing parts if this device supports them."""
    for part in there:
        if part.numerics.device == plan.device:
            return part.numerics
    if there:
        logger.warning("soft targets of another device are completed on %s: last bits may differ", plan.device)
    return plan.numerics


def _check(
    transfer: Split, members: Sequence[Member], made: SoftTargetPass, numerics: Numerics
) -> Callable[[TeacherPool], None]:
    """A check of started teachers, which raises where their outputs are wrong."""
    classes, known = made.planned.classes, {member.name: member for member in members}
    ids = made.layout.piece_ids(0)[: min(numerics.micro_batch, probe_rows(classes))]

    def check(pool: TeacherPool) -> None:
        probes = pool.probes()
        checks.check(probes, transfer.labels_of(ids), classes)
        for name in pool.one_of_each_node():
            x = predictor.collator(known[name].model)(transfer.x, ids)
            checks.check_copy(probes[name], known[name], x, numerics)

    return check


@dataclass(frozen=True)
class Computing:
    """How the missing parts are computed, and what is told of it."""

    rule: Rule
    numerics: Numerics
    stage: Progress


def _compute(run: Context, made: SoftTargetPass, pool: TeacherPool, how: Computing) -> None:
    """Compute every missing part, then write the manifest."""
    planned, layout, missing = made.planned, made.layout, made.missing
    positions = run.dataset.transfer.rows
    done, rows = 0, sum(int(positions.of(layout.ids(number)).sum()) for number in missing)
    with pool:
        assembly = Assembly(
            folder=made.folder,
            layout=layout,
            classes=planned.classes,
            rule=how.rule,
            numerics=how.numerics.model_copy(update={"stacked": pool.stacked}),
            numbering=run.dataset.numbering,
        )
        near = run.plan.reduces_on_workers
        started = time.perf_counter()
        for number, part in zip(missing, pool.stream(missing, planned.temperature, assembly, near=near), strict=True):
            made.parts[number] = part
            done += part.rows
            telemetry.count(telemetry.SOFT_TARGET_EXAMPLES, part.rows)
            telemetry.count(telemetry.SOFT_TARGET_BYTES, part.size)
            seconds = time.perf_counter() - started
            how.stage.update(done, rows, f"{done:,} of {rows:,}, {done / seconds:,.0f} examples/s")
    made.bound_by = pool.bound_by
    made.manifest = _declare(made, seconds)


def _declare(made: SoftTargetPass, seconds: float) -> Manifest:
    """Write the manifest of a complete store, and remove replaced parts."""
    parts = made.parts
    manifest = made.planned.model_copy(
        update={"parts": [parts[number] for number in sorted(parts)], "seconds": round(seconds, 3), "complete": True}
    )
    store.write_manifest(made.folder, manifest)
    kept = {part.path for part in manifest.parts}
    for _, name, _ in part_files.files(made.folder):
        if name not in kept:  # replaced by the pass
            storage.remove(storage.join(made.folder, name))
    return manifest
