"""Room on the cluster: waited for no longer than was asked for, and taken for all teachers at once or for none.

Two runs that each held half of the cores would wait for each other for ever. So the room of teachers is taken as a
whole, by Ray's placement groups, which also tell an autoscaler at once what is needed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.cluster import ray_private
from orchestrator.cluster.autoscaler import ROLES
from orchestrator.cluster.resources import Placement
from workers.errors import RunError
from workers.processes import Where

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

logger = logging.getLogger(__name__)

HELD = 0.95
"""Of the cores that an actor is to have, those that it holds: so a student's worker, which holds a hundredth, finds a
place beside teachers that take all."""
SOMEWHERE = Where("", 0)
"""The place of a task that has reported, but not where it runs."""
ROUNDING = 1e-6
"""Of a quotient of amounts, which Ray keeps to the ten-thousandth."""
POLL_S = 1.0
PATIENCE_S = 15.0
"""How long to wait before the user is told that room is missing."""


def of_an_actor(placement: Placement) -> dict[str, float]:
    """What each teacher's actor holds."""
    return placement.held | {"CPU": HELD * placement.num_cpus}


def of_teachers(placement: Placement) -> Need:
    """What all the teachers need at once."""
    return Need("teachers", placement.actors, of_an_actor(placement), placement.held)


@contextmanager
def reserved(
    need: Need,
    timeout_s: float,
    say: Callable[[str], None] = logger.warning,
    check_stopped: Callable[[], None] = lambda: None,
) -> Iterator[PlacementGroup]:
    """A placement group with a bundle for each, given back at the end.

    Raises: `RunError` where the cluster has no room for them within `timeout_s`; what `check_stopped` raises.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(need.each) for _ in range(need.count)], strategy="PACK")
    try:
        waiting = Waiting(need, timeout_s, say)
        while not group.wait(POLL_S):
            check_stopped()
            waiting.check()
        yield group
    finally:
        remove_placement_group(group)


def leaving() -> set[str]:
    """The nodes that are about to go: preempted or drained."""
    try:
        return ray_private.draining_nodes()
    except Exception as error:  # without the notice a teacher is lost later, and started again then
        logger.debug("no news of nodes that are about to go: %s", error)
        return set()


class Watch(Protocol):
    """Where tasks run, and a way to tell the user: `orchestrator.cluster.heartbeat.Heartbeat`."""

    def where(self, name: str) -> Where | None:
        """Where the task of that name last began; None where it has reported nothing."""

    def note(self, text: str) -> None:
        """Tell the user."""


def is_any_alive(places: Iterable[Where | None]) -> bool:
    """Whether one of these processes is on a node that is there."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(place is not None and (place.node in alive or place == SOMEWHERE) for place in places)


@dataclass(frozen=True)
class Need:
    """What is waited for: `count` pieces, each of which holds `each` on one node, in Ray's terms.

    what: what they are, in the plural. shown: what to tell people that each asks for; nothing of a share of a core that
    a worker holds only to be counted.
    """

    what: str
    count: int
    each: Mapping[str, float]
    shown: Mapping[str, float]

    def __str__(self) -> str:
        each = amounts(self.shown)
        return f"{self.what} ({self.count}" + (f", {each} each)" if each else ")")

    def fits(self, free: Iterable[Mapping[str, float]], count: int | None = None) -> bool:
        """Whether nodes with these free resources have room for `count` of them (default: all)."""
        return sum(self._fit(node) for node in free) >= (self.count if count is None else count)

    def _fit(self, node: Mapping[str, float]) -> float:
        asked = {name: amount for name, amount in self.each.items() if amount > 0}
        return min((int(node.get(name, 0.0) / amount + ROUNDING) for name, amount in asked.items()), default=math.inf)


class Waiting:
    """For room on the cluster: says after a while what is missing, and in the end gives up."""

    def __init__(self, need: Need, timeout_s: float, say: Callable[[str], None], least: int | None = None) -> None:
        """least: of how many it is enough to have room for one after another (default: for all at once)."""
        self.need, self.timeout_s, self.say = need, timeout_s, say
        self.least = need.count if least is None else least
        self.began_s = time.monotonic()
        self.told: set[bool] = set()

    def check(self, begun: bool = False, granted: Callable[[], bool] = lambda: False) -> None:
        """Raise `RunError` where it was too long since this was last asked with `begun`: one of them runs.

        granted: whether Ray has given room to one, whose process is still to come; asked only where it is told.
        """
        if begun:
            self.began_s, self.told = time.monotonic(), set()
        waited_s = time.monotonic() - self.began_s
        if waited_s > self.timeout_s:
            raise self.given_up(granted())
        if waited_s > PATIENCE_S and len(self.told) < 2:
            has_room = granted() or self._fits()
            if has_room not in self.told:
                self.told.add(has_room)
                self.say(self._told(has_room))

    def _told(self, has_room: bool) -> str:
        if has_room:
            return f"the cluster has room for {self.need}; waiting for Ray to start the processes"
        return f"waiting for room for {self.need}. The cluster has {_has()}"

    def given_up(self, granted: bool) -> RunError:
        """That there was no room, or that Ray did not use it, and what to do."""
        kept = "What was complete is kept; the same command resumes."
        if granted or self._fits():
            return RunError(
                f"Ray did not start {self.need} within {self.timeout_s:g} s, though the cluster has room: it has "
                f"{_has()}. `ray status` and Ray's logs say why; `ensemble.start_timeout_s` lets it wait longer. {kept}"
            )
        return RunError(
            f"no room on the cluster after {self.timeout_s:g} s for {self.need}. It has {_has()}. Add nodes, ask for "
            f"less, or let it wait longer by `ensemble.start_timeout_s`. {kept}"
        )

    def _fits(self) -> bool:
        return self.need.fits(ray_private.free_by_node(), self.least)


def demanded(each: Mapping[str, float]) -> float:
    """How many tasks that hold so much Ray has no room for; infinity where it does not say."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        asked = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
        alike = (bundle for demand in asked for bundle in demand.bundles_by_count)
        return sum(bundle.count for bundle in alike if bundle.bundle == {k: v for k, v in each.items() if v})
    except Exception as error:  # of a Ray of another version
        logger.debug("no news of what waits for room: %s", error)
        return math.inf


def _has() -> str:
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = ["CPU", *(name for name in ("GPU", *ROLES) if name in total)]
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    has, left = ({name: of.get(name, 0.0) for name in names} for of in (total, free))
    return f"{nodes} node{'s' * (nodes != 1)}; {_listed(has)}; free now: {_listed(left)}"


def amounts(resources: Mapping[str, float]) -> str:
    """What each of several is to have, for people: a share of a role only says on which nodes."""
    roles = [f"on a node for the role '{name}'" for name in ROLES if resources.get(name)]
    return ", ".join([*(f"{amount:g} {name}" for name, amount in resources.items() if name not in ROLES), *roles])


def _listed(resources: Mapping[str, float]) -> str:
    """Rounded, since a worker that holds a hundredth of a core leaves as good as all of it."""
    return ", ".join(f"{round(amount, 1):g} {name}" for name, amount in resources.items())
