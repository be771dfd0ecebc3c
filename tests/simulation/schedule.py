"""Schedules of simulated passes, drawn from a seed: the pool, and its faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

POLICIES = ("wait", "reweight", "fail")
START_TIMEOUT_S = 60.0


@dataclass
class PieceFault:
    """A member fails at a piece. how: `raise`, `raise unnamed`, `nan` or `shape`. times: maximal number."""

    how: str
    times: float


@dataclass
class Schedule:
    """A pool, its parts, and its faults."""

    seed: int
    policy: str
    groups: list[list[str]]
    weights: dict[str, float]
    parts: list[tuple[int, range]]
    on_workers: bool
    at_once: int
    stacked: bool | None
    """Whether an earlier run computed with stacked members; None: actors choose."""
    pieces: dict[tuple[str, int], PieceFault] = field(default_factory=dict)
    """By member and piece."""
    starts: list[tuple[int, int, str]] = field(default_factory=list)
    """Slot, index of the start, and fault: `raise`, `die`, `never` or `slow`."""
    moments: list[tuple[float, str, int]] = field(default_factory=list)
    """Time in seconds, fault (`die`, `hang`, `notice` or `ended`), and slot of the actor."""
    jobs: dict[int, str] = field(default_factory=dict)
    """Fault of the n-th job: `raise`, `applied` (and raised), `always`, `final`,
    `slow`, `hang`, `lost` or `lost unnamed`."""
    late: float = 0.0
    """The share of slow answers."""


def draw(seed: int) -> Schedule:
    """The schedule of a seed: small, since few parts show most faults, and with several faults, since they interact."""
    rng = Random(seed)
    r = rng.random
    groups = [[f"{slot}.{k}" for k in range(1 + (r() < 0.35))] for slot in range(1 + int(r() * 3.4))]
    names = [name for group in groups for name in group]
    weights = {name: 0.0 if r() < 0.08 else 1.0 + (r() < 0.3) for name in names}
    if not any(weights.values()):
        weights[names[0]] = 1.0
    each = 1 + (r() < 0.4)
    count = 1 + int(r() * 6)
    gap = int(r() < 0.2)  # skips a part that an earlier run completed
    parts = [(n, range(n * each, (n + 1) * each)) for n in range(count + gap) if not (gap and n == 1)]
    schedule = Schedule(
        seed=seed,
        policy=POLICIES[0 if r() < 0.42 else 1 if r() < 0.83 else 2],
        groups=groups,
        weights=weights,
        parts=parts,
        on_workers=r() < 0.4,
        at_once=1 + int(r() * 3),
        stacked=None if r() < 0.8 else r() < 0.5,
    )
    for _ in range(int(r() * 6)):
        _FAULTS[int(r() * len(_FAULTS))](schedule, rng)
    return schedule


def _fail_at_a_piece(schedule: Schedule, rng: Random) -> None:
    r = rng.random
    names, pieces = list(schedule.weights), [piece for _, part in schedule.parts for piece in part]
    how = ("raise", "raise", "raise unnamed", "nan", "shape")[int(r() * 5)]
    times = 1.0 if r() < 0.5 else float("inf")
    schedule.pieces[names[int(r() * len(names))], pieces[int(r() * len(pieces))]] = PieceFault(how, times)


def _fail_to_start(schedule: Schedule, rng: Random) -> None:
    r = rng.random
    slot, how = int(r() * len(schedule.groups)), ("raise", "die", "never", "slow")[int(r() * 4)]
    first, times = int(r() * 3), 1 + int(r() * 5)
    schedule.starts += [(slot, n, how) for n in range(first, first + times)]


def _at_a_moment(schedule: Schedule, rng: Random) -> None:
    r = rng.random
    what = ("die", "die", "die", "hang", "hang", "notice", "notice")[int(r() * 7)] if r() < 0.97 else "ended"
    schedule.moments.append((r() * 14.0, what, int(r() * len(schedule.groups))))


def _die_often(schedule: Schedule, rng: Random) -> None:
    r = rng.random
    slot, every = int(r() * len(schedule.groups)), 1.0 + 5.0 * r()
    schedule.moments += [(k * every, "die", slot) for k in range(2, 3 + int(r() * 5))]


def _fail_a_job(schedule: Schedule, rng: Random) -> None:
    r = rng.random
    lost = ("hang", "lost", "lost", "lost unnamed") * schedule.on_workers
    hows = ("raise", "applied", "slow", "always", "final", *lost)
    for _ in range(1 + int(r() * 2)):
        schedule.jobs[int(r() * 10)] = hows[int(r() * len(hows))]


def _answer_late(schedule: Schedule, rng: Random) -> None:
    schedule.late = 0.3 * rng.random()


_FAULTS = (
    _fail_at_a_piece,
    _fail_at_a_piece,
    _fail_to_start,
    _at_a_moment,
    _at_a_moment,
    _at_a_moment,
    _die_often,
    _fail_a_job,
    _fail_a_job,
    _answer_late,
)
