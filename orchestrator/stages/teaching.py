"""The teachers' part of a pass: they label the missing parts of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.cluster import reservation
from orchestrator.observers.events import TeacherBack, TeacherLost, TeacherMoves
from orchestrator.observers.fanout import Fanout, Progress
from orchestrator.plan.plan import Plan
from orchestrator.stages import combination
from orchestrator.stages.context import Context
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.teachers import checks
from orchestrator.teachers.actors import starter
from orchestrator.teachers.pool import Hooks, Hosting, TeacherPool
from workers import storage, telemetry
from workers.artifacts import parts as part_files
from workers.data.dataset import Split
from workers.inference.actor import TeacherWork, probe_rows
from workers.inference.reduce import Reduction, Rule
from workers.inference.teacher import Member
from workers.models import predictor
from workers.targets import soft_targets as store
from workers.targets.soft_targets import Manifest, Numerics, Part

logger = logging.getLogger(__name__)


def ask_teachers(run: Context, made: SoftTargetPass, members: Sequence[Member], stage: Progress) -> None:
    """Reserve resources for the teachers, and let them label the missing parts."""
    config, dataset, placement = run.config, run.dataset, run.plan.teachers
    events, planned = run.events, made.planned
    numerics = _numerics(run.plan, made.parts.values())
    with reservation.reserved(
        reservation.of_teachers(placement), config.ensemble.start_timeout_s, events.note, made.check_stopped
    ) as group:
        work = TeacherWork(planned.classes, made.layout, numerics, made.kept, config.name)
        start = starter(run.data, work, placement, group)
        check = _check(dataset.transfer, members, made, numerics, events.note)
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
        reduction = Reduction(
            folder=made.folder,
            layout=made.layout,
            classes=planned.classes,
            rule=rule,
            numerics=numerics,
            numbering=dataset.numbering,
            reduces_on_workers=run.plan.reduces_on_workers,
        )
        _compute(made, pool, reduction, stage)
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


def _numerics(plan: Plan, there: Collection[Part]) -> Numerics:
    """The teachers' numerics: those of the existing parts if this device supports them."""
    for part in there:
        if part.numerics.device == plan.device:
            return part.numerics
    if there:
        logger.warning("soft targets of another device are completed on %s: last bits may differ", plan.device)
    return plan.numerics


def _check(
    transfer: Split, members: Sequence[Member], made: SoftTargetPass, numerics: Numerics, note: Callable[[str], None]
) -> Callable[[TeacherPool], None]:
    """A check of started teachers, which raises where their outputs are wrong. note: tells the user."""
    classes, known = made.planned.classes, {member.name: member for member in members}
    ids = made.layout.piece_ids(0)[: min(numerics.micro_batch, probe_rows(classes))]
    told: set[str] = set()

    def check(pool: TeacherPool) -> None:
        probes = pool.probes()
        for found in checks.check(probes, transfer.labels_of(ids), classes):
            if found not in told:  # a teacher that is back leads to another check
                told.add(found)
                note(found)
        for name in pool.one_of_each_node():
            x = predictor.collator(known[name].model)(transfer.x, ids)
            checks.check_copy(probes[name], known[name], x, numerics)

    return check


def _compute(made: SoftTargetPass, pool: TeacherPool, reduction: Reduction, stage: Progress) -> None:
    """Compute every missing part, then write the manifest."""
    planned, layout, missing = made.planned, made.layout, made.missing
    positions = reduction.numbering.rows
    done, rows = 0, sum(int(positions.of(layout.ids(number)).sum()) for number in missing)
    with pool:
        reduction = replace(reduction, numerics=reduction.numerics.model_copy(update={"stacked": pool.stacked}))
        started = time.perf_counter()
        for number, part in zip(missing, pool.stream(missing, planned.temperature, reduction), strict=True):
            made.parts[number] = part
            done += part.rows
            telemetry.count(telemetry.SOFT_TARGET_EXAMPLES, part.rows)
            telemetry.count(telemetry.SOFT_TARGET_BYTES, part.size)
            seconds = time.perf_counter() - started
            stage.update(done, rows, f"{done:,} of {rows:,}, {done / seconds:,.0f} examples/s")
    made.bound_by = pool.bound_by
    made.manifest = declare(made, seconds)


def declare(made: SoftTargetPass, seconds: float) -> Manifest:
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
