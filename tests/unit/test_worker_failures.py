"""Why the workers of a student are started again or not, without Ray Train."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator.stages.worker_failures import GivenUp, Restarts, cause, place, told
from workers.errors import RunError
from workers.faults import START, Fault

DIED = WorkerHealthCheckFailedError("Worker health check failed.", ActorDiedError())
PEER = Fault("RuntimeError", "Connection closed by peer", of="rank 0 of 2", at=2, by_peer=True)
BAD = Fault("ValueError", "no such class\nof 3", of="rank 1 of 2", at=2)


class Queue:
    """Keeps what is put into it, as the actor of a `ray.util.queue.Queue` is asked to."""

    def __init__(self) -> None:
        self.actor = self.put_nowait = self
        self.got: list[Any] = []

    def remote(self, item: Any) -> None:
        self.got.append(item)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0: PEER, 1: BAD}, BAD),
        ({0: PEER, 1: DIED}, DIED),
        ({0: BAD, 1: DIED}, BAD),
        ({0: BAD, 1: RunError("diverged")}, "diverged"),
        ({0: PEER}, PEER),
        ({1: BAD, 0: Fault("KeyError", "'a'")}, "KeyError: 'a'"),
    ],
)
def test_the_cause_is_not_what_only_shows_it(errors: dict[int, Exception], expected: Any) -> None:
    found = cause(errors)
    assert str(found) == expected if isinstance(expected, str) else found is expected


def test_a_lost_worker_is_described_by_rays_last_message() -> None:
    assert str(told(DIED)) == "ActorDiedError: The actor died unexpectedly before finishing this task."
    assert place(BAD) == " (rank 1 of 2, epoch 3)" and place(Fault("", "", of="rank 0 of 2")) == " (rank 0 of 2)"
    assert place(told(DIED)) == "" and told(DIED).at == START


def test_the_same_epoch_twice_ends_the_training_and_the_first_time_is_noted() -> None:
    queue = Queue()
    restarts = Restarts("student", queue)
    restarts.after_exception(None, {0: PEER, 1: BAD})
    assert queue.got == [
        (
            "student",
            "training the student (rank 1 of 2, epoch 3) failed (ValueError: no such class); its workers are started "
            "again from the last checkpoint",
        )
    ]
    with pytest.raises(GivenUp) as found:
        restarts.after_exception(None, {1: BAD})
    assert found.value.raised is BAD and found.value.repeated and len(queue.got) == 1


def test_deaths_have_a_budget_that_an_epoch_renews() -> None:
    restarts = Restarts("student", Queue())
    for _ in range(3):
        restarts.after_exception(None, {0: PEER, 1: DIED})
    restarts.after_report(None, [], None)
    for _ in range(3):
        restarts.after_exception(None, {0: PEER})  # a death that is not yet seen
    with pytest.raises(GivenUp) as found:
        restarts.after_exception(None, {1: DIED})
    assert found.value.attempts == 3 and not found.value.repeated


def test_errors_of_the_run_and_preempted_nodes_are_no_matter_of_a_budget() -> None:
    restarts = Restarts("student", Queue())
    with pytest.raises(GivenUp, match="diverged"):
        restarts.after_exception(None, {0: RunError("training diverged")})
    gone = ActorDiedError()
    gone._preempted = True
    for _ in range(9):
        restarts.after_exception(None, {0: PEER, 1: WorkerHealthCheckFailedError("gone", gone)})
