"""Room on the cluster: waited for no longer than was asked for, and taken for all teachers at once or for none.

Two runs that each held half of the cores would wait for each other for ever. So the room of teachers is taken as a
whole, by Ray's placement groups, which also tell an autoscaler at once what is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator.autoscaling import ROLES
from orchestrator.cluster import Placement
from workers.errors import RunError
from workers.processes import Where

if TYPE_CHECKING:
    import ray
    from ray.util.placement_group import PlacementGroup

logger = logging.getLogger(__name__)

T = TypeVar("T")

HELD = 0.95
"""Of the cores that an actor is to have, those that it holds: so a student's worker, which holds a hundredth, finds a
place beside teachers that take all."""
SOMEWHERE = Where("", 0)
"""Of a task that was heard of, though not where it is."""
POLL_S = 1.0
PATIENCE_S = 15.0
"""How long nobody is told that there is no room yet."""


def of_an_actor(placement: Placement) -> dict[str, float]:
    """What each teacher's actor holds."""
    return placement.held | {"CPU": HELD * placement.num_cpus}


@contextmanager
def reserved(
    who: str,
    bundle: Mapping[str, float],
    count: int,
    timeout_s: float,
    say: Callable[[str], None] = logger.warning,
    check_stopped: Callable[[], None] = lambda: None,
) -> Iterator[PlacementGroup]:
    """A placement group of `count` such bundles, given back at the end.

    Raises: `RunError` where the cluster has no room for them within `timeout_s`; what `check_stopped` raises.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(bundle) for _ in range(count)], strategy="PACK")
    try:
        waiting = Waiting(f"{who}: {count} times {amounts(bundle)}", timeout_s, say)
        while not group.wait(POLL_S):
            check_stopped()
            waiting.check()
        yield group
    finally:
        remove_placement_group(group)


def leaving() -> set[str]:
    """The nodes that are about to go: preempted, or drained by somebody."""
    from ray._private.state import state  # as Ray Train reads it; there is no public name for it

    try:
        return set(state.get_draining_nodes())
    except Exception as error:  # without the notice a teacher is lost later, and started again then
        logger.debug("no news of nodes that are about to go: %s", error)
        return set()


class Watch(Protocol):
    """Who hears of tasks: `orchestrator.journal.Journal`."""

    def where(self, name: str) -> Where | None:
        """Where the task of that name last began; None where it was not heard of."""

    def note(self, text: str) -> None:
        """Tell the user."""


def results(
    who: str, tasks: Mapping[str, ray.ObjectRef[T]], each: Mapping[str, float], timeout_s: float, watch: Watch
) -> list[T]:
    """What Ray tasks return, in order, that tell `watch` by their names where they begin. each: what one holds.

    Raises: `RunError` where for so long none of them is anywhere; what a task raises.
    """
    import ray

    found: dict[str, T] = {}
    pending = {task: name for name, task in tasks.items()}
    waiting = Waiting(f"{who}: {len(tasks)} times {amounts(each)}", timeout_s, watch.note)
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
        for task in done:
            found[pending.pop(task)] = ray.get(task)
        waiting.check(begun=bool(done) or is_any_alive(map(watch.where, pending.values())))
    return [found[name] for name in tasks]


def is_any_alive(places: Iterable[Where | None]) -> bool:
    """Whether one of these processes is on a node that is there."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(place is not None and (place.node in alive or place == SOMEWHERE) for place in places)


class Waiting:
    """For room on the cluster: says after a while what is missing, and in the end gives up."""

    def __init__(self, what: str, timeout_s: float, say: Callable[[str], None]) -> None:
        self.what, self.timeout_s, self.say = what, timeout_s, say
        self.began_s = time.monotonic()
        self.said = False

    def check(self, begun: bool = False) -> None:
        """Raise `RunError` where it was too long since this was last asked with `begun`: somebody has room."""
        if begun:
            self.began_s, self.said = time.monotonic(), False
        waited_s = time.monotonic() - self.began_s
        if waited_s > self.timeout_s:
            raise self.given_up()
        if waited_s > PATIENCE_S and not self.said:
            self.said = True
            self.say(f"waiting for room for {self.what}. The cluster has {_has()}")

    def given_up(self) -> RunError:
        """That there was no room, and what to do."""
        return RunError(
            f"no room on the cluster after {self.timeout_s:g} s for {self.what}. It has {_has()}. Add nodes, ask for "
            "less, or let it wait longer by `ensemble.start_timeout_s`. What was complete is kept; the same command "
            "resumes."
        )


def _has() -> str:
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = ["CPU", *(name for name in ("GPU", *ROLES) if name in total)]
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return f"{nodes} nodes; {amounts({n: total.get(n, 0.0) for n in names})}; free now: " + amounts(
        {name: free.get(name, 0.0) for name in names}
    )


def amounts(resources: Mapping[str, float]) -> str:
    """As people say it."""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
