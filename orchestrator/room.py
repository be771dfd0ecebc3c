"""Room on the cluster for all teachers at once, or for none of them: Ray's placement groups.

Two runs that each held half of the cores would wait for each other for ever. So the room is taken as a whole, which
also tells an autoscaler at once what is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.autoscaling import ROLES
from orchestrator.cluster import Placement
from workers.errors import RunError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

logger = logging.getLogger(__name__)

HELD = 0.95
"""Of the cores that an actor is to have, those that it holds: so a student's worker, which holds a hundredth, finds a
place beside teachers that take all."""
POLL_S = 1.0
PATIENCE_S = 15.0
"""How long nobody is told that there is no room yet."""


def of_an_actor(placement: Placement) -> dict[str, float]:
    """What each teacher's actor holds."""
    held = {"CPU": HELD * placement.num_cpus, "GPU": placement.num_gpus, **placement.roles}
    return {name: amount for name, amount in held.items() if amount}


@contextmanager
def reserved(
    placement: Placement,
    timeout_s: float,
    say: Callable[[str], None] = logger.warning,
    check_stopped: Callable[[], None] = lambda: None,
) -> Iterator[PlacementGroup]:
    """A placement group with a bundle for each of the ensemble's actors, given back at the end.

    Raises: `RunError` where the cluster has no room for them within `timeout_s`; what `check_stopped` raises.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    bundle = of_an_actor(placement)
    group = placement_group([dict(bundle) for _ in range(placement.actors)], strategy="PACK")
    try:
        waiting = Waiting(f"teachers: {placement.actors} times {amounts(bundle)}", timeout_s, say)
        while not group.wait(POLL_S):
            check_stopped()
            waiting.check()
        yield group
    finally:
        remove_placement_group(group)


class Waiting:
    """For room on the cluster: says after a while what is missing, and in the end gives up."""

    def __init__(self, what: str, timeout_s: float, say: Callable[[str], None]) -> None:
        self.what, self.timeout_s, self.say = what, timeout_s, say
        self.began_s = time.monotonic()
        self.said = False

    def check(self) -> None:
        """Raise `RunError` where it was too long."""
        waited_s = time.monotonic() - self.began_s
        if waited_s > self.timeout_s:
            raise RunError(
                f"no room on the cluster after {self.timeout_s:g} s for {self.what}. It has {_has()}. Add nodes, ask "
                "for less, or let it wait longer by `ensemble.start_timeout_s`. What was complete is kept; the same "
                "command resumes."
            )
        if waited_s > PATIENCE_S and not self.said:
            self.said = True
            self.say(f"waiting for room for {self.what}. The cluster has {_has()}")


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
