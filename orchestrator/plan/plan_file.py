"""The plan that `stillhouse plan` leaves in a run's folder, for the run's report to show beside its own figures."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ValidationError

from orchestrator.config.run_config import RunConfig
from orchestrator.plan.outlook import Outlook
from orchestrator.run_folder import owned
from orchestrator.run_folder.paths import RunFolder
from workers import storage


class KeptPlan(BaseModel):
    """Planned seconds of each stage, and of the teachers' pass in it. config: sha256 of the configuration."""

    config: str
    stages: dict[str, float]
    pass_seconds: float
    bytes: int


def write(config: RunConfig, found: Outlook) -> str:
    """Keep a plan of `config`, as settled, in a folder that a run may write to.

    Returns why it is not kept, since a plan is worth showing without storage; empty where it is kept.
    """
    kept = KeptPlan(
        config=_digest(config),
        stages={stage.name: stage.seconds for stage in found.stages},
        pass_seconds=found.pass_seconds,
        bytes=found.soft_targets,
    )
    try:
        owned.mark(config.folder)
        storage.write_text(RunFolder(config.folder).plan, kept.model_dump_json(indent=2) + "\n")
    except Exception as error:  # each storage has its own error classes
        return f"'{config.folder}' cannot be written ({type(error).__name__}: {error})"
    return ""


def read(config: RunConfig) -> KeptPlan | None:
    """The plan of exactly this configuration; None without one."""
    content = storage.read_if_there(RunFolder(config.folder).plan)
    if content is None:
        return None
    try:
        found = KeptPlan.model_validate_json(content)
    except ValidationError:
        return None
    return found if found.config == _digest(config) else None


def _digest(config: RunConfig) -> str:
    """Without `stop_when_flat`: a plan is of all members, and so is the plan of a run that trained them all."""
    content = config.model_dump(mode="json", exclude={"tracking": True, "ensemble": {"stop_when_flat"}})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
