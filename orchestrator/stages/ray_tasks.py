"""Ray tasks of a stage: started, retried, and given up where the cluster lacks resources for any of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.tasks import Task, completed

if TYPE_CHECKING:
    from orchestrator.stages.context import BaseContext


def run_tasks(
    run: BaseContext, what: str, tasks: Sequence[Task], check: Callable[[Task], None] = lambda pending: None
) -> closing[Generator[tuple[Task, Any]]]:
    """Each task of one placement with its result, in the block of a `with`. what: the tasks, in messages.

    Pending tasks of a borrowed Ray are cancelled after the block. Those of a Ray that the run started end with this
    process, since Ray 2.60 may crash if a cancelled task ends meanwhile.
    Raises: `RunError` as `completed`, with a timeout of `ensemble.start_timeout_s`.
    """
    waiting = waiting_for(run, what, len(tasks), tasks[0].placement.held if tasks else {})
    return closing(completed(tasks, waiting, run.heartbeat, check, cancel=run.machines.borrowed))


def waiting_for(run: BaseContext, what: str, count: int, held: Mapping[str, float]) -> Waiting:
    """The wait until one of `count` processes has the resources `held`."""
    return Waiting(Need(what, count, held, held), run.config.ensemble.start_timeout_s, run.events.note, least=1)
