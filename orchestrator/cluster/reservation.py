"""Reserves resources on the cluster, with a timeout, for all teachers at once.

Two runs that each held half of the cores would deadlock. So a placement group reserves the teachers' resources as a
whole; it also shows the autoscaler the whole demand at once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster import ray_private
from orchestrator.cluster.autoscaler import ROLES
from orchestrator.cluster.resources import Placement
from workers.errors import RunError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

logger = logging.getLogger(__name__)

HELD = 0.95
"""Share of an actor's cores that it reserves. So a student's worker, which reserves a hundredth of a core, still fits
beside teachers that use all cores."""
ROUNDING = 1e-6
"""Tolerance for a quotient of amounts, which Ray rounds to 1/10,000."""
POLL_S = 1.0
PATIENCE_S = 15.0
"""Waiting time after which the user is notified of missing resources."""


def of_an_actor(placement: Placement) -> dict[str, float]:
    """The resources that each teacher's actor reserves."""
    return placement.held | {"CPU": HELD * placement.num_cpus}


def of_teachers(placement: Placement) -> Need:
    """The resources that all teachers need at once."""
    return Need("teachers", placement.actors, of_an_actor(placement), placement.held)


@contextmanager
def reserved(
    need: Need,
    timeout_s: float,
    say: Callable[[str], None] = logger.warning,
    check_stopped: Callable[[], None] = lambda: None,
) -> Iterator[PlacementGroup]:
    """A placement group with one bundle per piece, removed at the end of the block.

    Raises: `RunError` where the cluster lacks resources for it within `timeout_s`; exceptions of `check_stopped`.
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
    """The nodes that will be preempted or drained."""
    try:
        return ray_private.draining_nodes()
    except Exception as error:  # without the notice, the pool restarts a lost teacher later
        logger.debug("no news of nodes that are about to go: %s", error)
        return set()


@dataclass(frozen=True)
class Need:
    """A demand for resources: `count` pieces, each of which reserves `each` on one node, in Ray's terms.

    what: plural noun for the pieces. shown: the resources in messages, without the share of a core that a worker
    reserves only as a token.
    """

    what: str
    count: int
    each: Mapping[str, float]
    shown: Mapping[str, float]

    def __str__(self) -> str:
        each = amounts(self.shown)
        return f"{self.what} ({self.count}" + (f", {each} each)" if each else ")")

    def fits(self, free: Iterable[Mapping[str, float]], count: int) -> bool:
        """Whether nodes with these free resources can hold `count` of them."""
        return sum(self._fit(node) for node in free) >= count

    def _fit(self, node: Mapping[str, float]) -> float:
        asked = {name: amount for name, amount in self.each.items() if amount > 0}
        return min((int(node.get(name, 0.0) / amount + ROUNDING) for name, amount in asked.items()), default=math.inf)


class Waiting:
    """Waits for resources: after a while it reports what is missing, and after the timeout it gives up."""

    def __init__(self, need: Need, timeout_s: float, say: Callable[[str], None], least: int | None = None) -> None:
        """least: number of pieces that must fit at once (default: all)."""
        self.need, self.timeout_s, self.say = need, timeout_s, say
        self.least = need.count if least is None else least
        self.began_s = time.monotonic()
        self.told: set[bool] = set()

    def check(self, begun: bool = False, granted: Callable[[], bool] = lambda: False) -> None:
        """Raise `RunError` where the last call with `begun` was too long ago. begun: whether a piece runs.

        granted: whether Ray has assigned resources to a piece that has not started yet; called only for a message.
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
        return f"waiting for room for {self.need}. The cluster has {inventory()}"

    def given_up(self, granted: bool) -> RunError:
        """The error for missing resources, or for resources that Ray did not use, with the fix."""
        kept = "What was complete is kept; the same command resumes."
        if granted or self._fits():
            return RunError(
                f"Ray did not start {self.need} within {self.timeout_s:g} s, though the cluster has room: it has "
                f"{inventory()}. `ray status` and Ray's logs say why; `ensemble.start_timeout_s` lets it wait longer. "
                f"{kept}"
            )
        return RunError(
            f"no room on the cluster after {self.timeout_s:g} s for {self.need}. It has {inventory()}. Add nodes, ask "
            f"for less, or let it wait longer by `ensemble.start_timeout_s`. {kept}"
        )

    def _fits(self) -> bool:
        return self.need.fits(ray_private.free_by_node(), self.least)


def demanded(each: Mapping[str, float]) -> float:
    """The number of pending tasks with this demand; infinity where Ray does not report it."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        asked = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
        alike = (bundle for demand in asked for bundle in demand.bundles_by_count)
        return sum(bundle.count for bundle in alike if bundle.bundle == {k: v for k, v in each.items() if v})
    except Exception as error:  # of a Ray of another version
        logger.debug("no news of what waits for resources: %s", error)
        return math.inf


def inventory() -> str:
    """The nodes and resources of the cluster, and which of these are free."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = ["CPU", *(name for name in ("GPU", *ROLES) if name in total)]
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    known, left = ({name: of.get(name, 0.0) for name in names} for of in (total, free))
    return f"{nodes} node{'s' * (nodes != 1)}; {_listed(known)}; free now: {_listed(left)}"


def amounts(resources: Mapping[str, float]) -> str:
    """Resources per piece as text; a share of a role appears as the nodes of that role."""
    roles = [f"on a node for the role '{name}'" for name in ROLES if resources.get(name)]
    return ", ".join([*(f"{amount:g} {name}" for name, amount in resources.items() if name not in ROLES), *roles])


def _listed(resources: Mapping[str, float]) -> str:
    """Resources as text, rounded, since the hundredth of a core of a worker is negligible."""
    return ", ".join(f"{round(amount, 1):g} {name}" for name, amount in resources.items())
