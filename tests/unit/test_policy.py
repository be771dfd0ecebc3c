"""The pure decisions of the control plane: placement, lost teachers, the share of the gain, errors."""

import pickle

import pytest

from orchestrator.cluster.failures import MAX_ATTEMPTS, Failures, often
from orchestrator.cluster.resources import Machines, Node, Placement, place
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.config.student import StudentSpec
from orchestrator.plan import students
from orchestrator.reporting import report
from orchestrator.teachers import policy as failures
from orchestrator.teachers.policy import Action, Loss
from workers.errors import RequestError, RunError, StillhouseError
from workers.faults import START


def ensemble(**keys: object) -> EnsembleSpec:
    model = {"kind": "python", "factory": "models:mlp"}
    return EnsembleSpec.model_validate({"model": model, "training": {"epochs": 1}, **keys})


def machines(cpus: float = 2, gpus: float = 0, nodes: int = 1) -> Machines:
    """So many nodes of so much each."""
    return Machines((Node(cpus, gpus),) * nodes, cuda=False)


@pytest.mark.parametrize(
    ("keys", "has", "size", "actors", "num_gpus"),
    [
        ({"size": 10}, machines(2), 10, 2, 0),
        ({"size": 10}, machines(16), 10, 10, 0),
        ({"size": 10}, machines(16, 4), 10, 4, 1),
        ({"size": 4}, machines(16, 8), 4, 4, 1),
        ({"size": "auto"}, machines(16, 8), 8, 8, 1),
        ({"size": "auto"}, machines(6), 6, 6, 0),
        ({"size": 8, "resources_per_member": {"num_gpus": 0.5}}, machines(16, 4), 8, 8, 0.5),
        ({"size": 3, "resources_per_member": {"num_cpus": 2}}, machines(4), 3, 2, 0),
        ({"size": 8}, machines(4, 8), 8, 4, 1),
        ({"size": 3, "resources_per_member": {"num_gpus": 0.6}}, machines(8, 2), 3, 2, 0.6),
        ({"size": 25, "resources_per_member": {"num_gpus": 0.28}}, machines(25, 7), 25, 21, 0.28),  # 7.000000000000001
        ({"size": 6, "num_actors": 3}, machines(8), 6, 3, 0),
        ({"size": 10}, machines(2, 1, nodes=5), 10, 5, 1),
        ({"size": 9, "resources_per_member": {"num_cpus": 2}}, machines(3, nodes=2), 9, 2, 0),
        ({"size": "auto", "resources_per_member": {"num_gpus": 2}}, machines(8, 3, nodes=3), 3, 3, 2),
    ],
)
def test_a_placement_spreads_members_evenly_over_its_actors(
    keys: dict[str, object], has: Machines, size: int, actors: int, num_gpus: float
) -> None:
    found = place(ensemble(**keys), has)
    assert (found.size, found.actors, found.num_gpus) == (size, actors, num_gpus)
    assert [k for group in found.groups() for k in group] == list(range(size))
    assert max(map(len, found.groups())) - min(map(len, found.groups())) <= 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"size": 10, "resources_per_member": {"num_gpus": 1}},
            "asked for 1 for each of 10 members, 10 in all; .* has 4",
        ),
        ({"size": 1, "resources_per_member": {"num_cpus": 9}}, "asked for 9 a member; the largest node has 2"),
        ({"size": 9, "num_actors": 9}, "asked for 9; the cluster holds 2"),
        ({"size": "auto", "weights": [1, 2, 3]}, "3 numbers for 2 members"),
    ],
)
def test_too_much_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        place(ensemble(**keys), machines(2, 4))


def test_a_member_that_no_node_can_hold_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no node has 1 cores and 5 GPUs for a member\. Found 2 and 4, 2 and 4"):
        place(ensemble(size=1, resources_per_member={"num_gpus": 5}), machines(2, 4, nodes=2))


def test_a_student_is_not_left_waiting_for_gpus() -> None:
    spec = {"model": {"factory": "models:mlp"}, "training": {"epochs": 1}, "num_workers": [2, 4]}
    has = Machines((Node(8, 1),), cuda=True)
    with pytest.raises(RequestError, match="asked for 2, a GPU each; the cluster has 1"):
        students.check(StudentSpec.model_validate(spec), has)
    students.check(StudentSpec.model_validate(spec), machines(1))


def test_threads_do_not_follow_the_number_of_actors() -> None:
    assert {Placement(10, actors, 1.0, 0.0).threads for actors in (1, 2, 10)} == {1}


@pytest.mark.parametrize(
    ("policy", "loss", "action"),
    [
        ("wait", Loss(0, others=0), Action.RESTART),
        ("wait", Loss(MAX_ATTEMPTS - 1, others=5), Action.RESTART),
        ("wait", Loss(MAX_ATTEMPTS, others=5), Action.FAIL),
        ("wait", Loss(0, others=5, apart=True), Action.RESTART),
        ("reweight", Loss(0, others=1), Action.REWEIGHT),
        ("reweight", Loss(MAX_ATTEMPTS, others=1), Action.DROP),
        ("reweight", Loss(0, others=1, apart=True), Action.DROP),
        ("reweight", Loss(0, others=0), Action.REWEIGHT),
        ("reweight", Loss(0, others=0, apart=True), Action.REWEIGHT),
        ("reweight", Loss(MAX_ATTEMPTS, others=0), Action.FAIL),
        ("fail", Loss(0, others=9), Action.FAIL),
        ("wait", Loss(1, others=5, repeated=True), Action.FAIL),
        ("reweight", Loss(1, others=1, repeated=True), Action.DROP),
        ("reweight", Loss(1, others=1, apart=True, repeated=True), Action.DROP),
        ("reweight", Loss(1, others=0, repeated=True), Action.FAIL),
        ("fail", Loss(0, others=9, repeated=True), Action.FAIL),
    ],
)
def test_what_a_lost_teacher_leads_to(policy: str, loss: Loss, action: Action) -> None:
    assert failures.decide(policy, loss) is action


DEATH = None


@pytest.mark.parametrize(
    ("failures", "restarted", "how"),
    [
        ([(0, 0), (0, 0)], [True, False], " again in a fresh process"),
        ([(START, 0), (START, 0)], [True, False], " again in a fresh process"),
        ([(2, 2), (3, 3), (5, 5), (6, 6), (9, 9)], [True] * 5, " after 1 restarts in a row"),
        ([(2, 2), (DEATH, 2), (2, 2)], [True, True, False], " again in a fresh process"),
        ([(DEATH, 1)] * 4, [True, True, True, False], " after 3 restarts in a row"),
        ([(DEATH, 1), (DEATH, 1), (DEATH, 1), (DEATH, 2)], [True] * 4, " after 1 restarts in a row"),
        ([(3, 2), (2, 2), (1, 2), (0, 2)], [True, True, True, False], " after 3 restarts in a row"),
        ([(3, 2), (3, 3)], [True, False], " again in a fresh process"),  # from an older checkpoint to the same epoch
    ],
)
def test_what_a_failure_of_training_leads_to(
    failures: list[tuple[int | None, int]], restarted: list[bool], how: str
) -> None:
    """Each failure is the epoch of an exception, or a death, and how many epochs were complete."""
    found = Failures()
    assert [found.may_restart(at, reached) for at, reached in failures] == restarted
    assert often(found.attempts, found.repeated) == how


def test_the_share_of_the_gain() -> None:
    assert report.gain_transferred(0.589, 0.611, 0.608) == pytest.approx(19 / 22)
    assert report.gain_transferred(0.6, 0.6, 0.7) is None
    assert report.gain_transferred(0.6, 0.7, 0.55) == pytest.approx(-0.5)


@pytest.mark.parametrize("kind", [StillhouseError, RunError, RequestError])
def test_errors_cross_processes(kind: type[StillhouseError]) -> None:
    found = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(found) is kind and str(found) == "what happened"
    assert {RunError: 1, RequestError: 2}.get(kind, 1) == found.exit_status
