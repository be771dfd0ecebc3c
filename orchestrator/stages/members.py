"""The members of the ensemble: trained by the run, or loaded from configured files."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.observers.events import SystemAdded
from orchestrator.run_folder import owned
from orchestrator.stages import specialists, training
from orchestrator.stages.context import Context
from orchestrator.stages.trained import Trained
from workers.inference.teacher import Member


def members(run: Context) -> list[Trained]:
    """Every member, in the order of their numbers."""
    spec, events = run.config.ensemble, run.events
    groups = spec.of_each(run.plan.teachers.size)
    names = [f"member-{k}" for k in range(len(groups))]
    for name in names:
        events.emit(SystemAdded(name, "member"))
    events.emit(SystemAdded("ensemble", "ensemble"))
    found = {k: Trained(Member(names[k], groups[k].model, uri), [], reused=True) for k, uri in spec.given().items()}
    epochs = {k: group.training.epochs for k, group in enumerate(groups) if group.training is not None}
    if epochs:
        of_name = {names[k]: number for k, number in epochs.items()}
        run.heartbeat.expect(of_name)
        with events.stage("members", list(of_name), -(-sum(epochs.values()) // len(epochs))) as stage:
            general = {k: groups[k] for k in epochs if groups[k].specialists is None}
            trained = training.train_members(run, general) if general else {}
            if len(general) < len(epochs):
                known = sorted((found | trained).items())
                generalists = [each.member for k, each in known if not groups[k].has_specialists]
                groups = specialists.filled(run, generalists)
                trained |= training.train_members(run, {k: groups[k] for k in epochs}, done=general)
            stage.reused = all(member.reused for member in trained.values())
        for member in trained.values():
            events.trained(member.member.name, member.history, member.reused)
        found |= trained
    owned.remove_shown(run.config.folder, "member", [str(k) for k in epochs])
    return [member for _, member in sorted(found.items())]


def known(of: Sequence[Trained]) -> int:
    """The number of members that an earlier run trained; loaded members have no history and do not count."""
    return sum(member.reused and bool(member.history) for member in of)
