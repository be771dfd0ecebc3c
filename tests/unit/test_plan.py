"""What a run decides before it starts, from configuration and facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.resources import Machines, Node, Placement
from orchestrator.config.run_config import RunConfig
from orchestrator.config.student import StudentSpec
from orchestrator.plan import hidden, students
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.plan import REDUCED_ON_WORKERS, Plan, plan
from tests.makers import write_config
from workers.errors import RequestError
from workers.specs.objective import HiddenSpec

SMALL = DataFacts(examples=1000, views=1, classes=3, values=8)
LAPTOP = Machines((Node(2, 0),), cuda=False)
ONE_GPU = Machines((Node(8, 1),), cuda=True)
CLUSTER = Machines((Node(8, 0, frozenset({"student"})), *[Node(4, 1, frozenset({"teacher"}))] * 3), cuda=True)


def planned(folder: Path, machines: Machines = LAPTOP, data: DataFacts = SMALL, **changes: Any) -> Plan:
    return plan(RunConfig.load(str(write_config(folder, **changes))), Facts(data, machines))


def test_a_plan_for_a_laptop_has_its_cores_alone(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert (made.teachers.size, made.teachers.actors, made.teachers.num_cpus) == (3, 3, 0.5)
    assert made.device == "cpu" and made.numerics.bits == 32 and made.numerics.threads == 1
    assert (made.student.least, made.student.most, made.student.threads) == (1, 1, 2)
    assert made.student.gpus == 0 and made.student.cores == 2.0
    assert made.layout.examples == 1000 and made.layout.parts == 1 and not made.reduces_on_workers


def test_work_that_holds_no_gpu_computes_on_the_cpu(tmp_path: Path) -> None:
    def devices(machines: Machines, **each: float) -> tuple[str, str, str]:
        made = planned(tmp_path, machines, ensemble__resources_per_member=each)
        return made.teachers.device, made.device, made.student.alone.device

    assert devices(ONE_GPU, num_gpus=0) == ("cpu", "cpu", "cuda")
    assert devices(ONE_GPU, num_gpus=0.25) == ("cuda", "cuda", "cuda")
    assert devices(replace(ONE_GPU, cuda=False), num_gpus=0.25) == ("cpu", "cpu", "cpu")  # declared alone


@pytest.mark.parametrize(
    ("machines", "asked", "recorded", "in_keys"),
    [
        (LAPTOP, "auto", "float32", "auto"),  # as in keys of earlier versions
        (LAPTOP, "bfloat16", "bfloat16", "bfloat16"),
        (ONE_GPU, "auto", "float32", "float32"),  # which has no bfloat16
        (replace(ONE_GPU, bfloat16=True), "auto", "bfloat16", "bfloat16"),
        (replace(ONE_GPU, bfloat16=True), "float32", "float32", "float32"),
    ],
)
def test_the_precision_of_a_pass_follows_from_the_machines(
    tmp_path: Path, machines: Machines, asked: Any, recorded: str, in_keys: str
) -> None:
    made = planned(tmp_path, machines, ensemble__precision=asked)
    assert made.numerics.precision == recorded and machines.settled(asked, made.device) == in_keys


def test_a_forward_pass_of_texts_fits_the_caches_of_a_cpu(tmp_path: Path) -> None:
    tokens = replace(SMALL, values=27, embedded=1024)
    laptop, gpu = (planned(tmp_path, machines, data=tokens) for machines in (LAPTOP, ONE_GPU))
    assert (laptop.numerics.micro_batch, gpu.numerics.micro_batch) == (64, 512)
    assert laptop.layout == gpu.layout  # so that parts do not depend on the device
    assert planned(tmp_path, data=tokens, ensemble__micro_batch_size=9).numerics.micro_batch == 9
    assert planned(tmp_path).numerics.micro_batch == 1024


STREAMS = [
    (LAPTOP, "auto", 0.5, False),  # half a core is left
    (LAPTOP, True, 0.5, True),
    (LAPTOP, False, 0.1, False),
    (Machines((Node(4, 0),), cuda=False), "auto", 1.0, True),
    (ONE_GPU, "auto", 1.0, False),  # the teachers hold the GPU
    (ONE_GPU, True, 1.0, False),
    (Machines((Node(8, 4),), cuda=True), "auto", 1.0, True),
    (Machines((Node(8, 4),), cuda=True), False, 1.0, False),
]


@pytest.mark.parametrize(("machines", "stream", "cpus", "expected"), STREAMS)
def test_the_student_streams_where_there_is_room(
    tmp_path: Path, machines: Machines, stream: Any, cpus: float, expected: bool
) -> None:
    resources = {"num_cpus": cpus}
    made = planned(tmp_path, machines, distillation__stream=stream, ensemble__resources_per_member=resources)
    assert made.streams is expected


def test_roles_of_nodes_are_kept_apart(tmp_path: Path) -> None:
    students = Machines((Node(8, 1, frozenset({"student"})), *[Node(4, 1, frozenset({"teacher"}))] * 3), cuda=True)
    made = planned(tmp_path, students)
    assert made.teachers.roles.keys() == {"teacher"} and made.student.held.keys() == {"CPU", "GPU", "student"}
    assert made.device == "cuda" and made.streams and made.student.gpus == 1.0
    with pytest.raises(RequestError, match=r"student\.num_workers: asked for 1, a GPU each; the cluster has 0"):
        planned(tmp_path, CLUSTER)


def test_wide_answers_are_reduced_where_they_are(tmp_path: Path) -> None:
    def of(classes: int, **changes: Any) -> Plan:
        return planned(tmp_path, data=DataFacts(1000, 1, classes, 8), **changes)

    assert not of(REDUCED_ON_WORKERS - 1).reduces_on_workers
    wide = of(REDUCED_ON_WORKERS)
    assert wide.reduces_on_workers and wide.numerics.bits == 64
    assert of(REDUCED_ON_WORKERS, distillation__top_k=4).numerics.bits == 32
    each = of(REDUCED_ON_WORKERS // 3 + 1, ensemble__weights="entropy")  # three members' logits travel
    assert each.reduces_on_workers and each.numerics.bits == 32
    assert each.sizes.answers == 3 * 4 * (REDUCED_ON_WORKERS // 3 + 1)


def test_bytes_follow_from_rows_classes_members_and_their_types(tmp_path: Path) -> None:
    data = DataFacts(examples=10_000, views=2, classes=100, values=8)
    dense = planned(tmp_path, data=data).sizes
    assert (dense.soft_targets, dense.logits) == (10_000 * 2 * 400, 0)
    half = planned(tmp_path, data=data, distillation__dtype="float16", distillation__keep="members").sizes
    assert (half.soft_targets, half.logits) == (10_000 * 2 * 200, 3 * 10_000 * 2 * 400)
    top = planned(tmp_path, data=data, distillation__dtype="float16", distillation__top_k=8).sizes
    assert top.soft_targets == 10_000 * 2 * (8 * 6 + 12)
    falling = {"from": 4.0, "to": 1.0, "schedule": "linear"}
    scheduled = planned(tmp_path, data=data, distillation__temperature=falling).sizes
    assert scheduled.logits == 3 * 10_000 * 2 * 400 and scheduled.held_by_worker > 2 * dense.held_by_worker


def test_elastic_workers_share_a_node(tmp_path: Path) -> None:
    made = planned(tmp_path, Machines((Node(8, 0), Node(8, 0)), cuda=False), student__num_workers=[2, 4])
    assert (made.student.least, made.student.most, made.student.threads) == (2, 4, 4)
    assert made.student.threads_alone == 8


def test_a_head_without_cores_and_unknown_memories_count_for_nothing(tmp_path: Path) -> None:
    machines = Machines((Node(0, 0, memory=1.0), Node(8, 0, memory=9.0), Node(8, 0)), cuda=False)
    assert planned(tmp_path, machines).student.threads == 8
    assert machines.of("student").least_memory == 9.0 and LAPTOP.least_memory == 0.0


GB = 2**30
STUDENT = {"model": {"factory": "models:mlp"}, "training": {"epochs": 1, "learning_rate": 0.1}}
TEACHERS = {False: Placement(1, 1, 1.0, 0.0), True: Placement(1, 1, 1.0, 1.0)}


def cpu_only(cpus: float, memory: float = 0.0) -> Machines:
    return Machines((Node(cpus, 0, memory=memory),), cuda=False)


def with_gpus(gpus: float, gpu_memory: float) -> Machines:
    return Machines((Node(8, gpus, memory=900 * GB),), cuda=True, gpu_memory=gpu_memory)


PLACES: list[tuple[str, int, Machines, str | None]] = [
    ("auto", 0, LAPTOP, None),
    ("actor", 0, LAPTOP, None),
    ("auto", GB, LAPTOP, "worker"),  # its memory is unknown
    ("auto", GB, cpu_only(2, 6 * GB), "worker"),
    ("auto", GB, cpu_only(2, 5 * GB), "actor"),
    ("auto", GB, cpu_only(1, 5 * GB), "worker"),  # no core is left for an actor
    ("worker", GB, cpu_only(2, 5 * GB), "worker"),
    ("actor", GB, cpu_only(2, 99 * GB), "actor"),
    ("auto", 10 * GB, with_gpus(2, 16 * GB), "actor"),
    ("auto", 10 * GB, with_gpus(1, 16 * GB), "worker"),  # the student takes the only one
    ("auto", 10 * GB, with_gpus(2, 80 * GB), "worker"),
]


def placed(where: str, member: int, machines: Machines, **student: Any) -> str | None:
    workers = students.place(StudentSpec.model_validate({**STUDENT, **student}), machines)
    return hidden.place(HiddenSpec(where=where), member, workers, TEACHERS[machines.cuda], machines)


@pytest.mark.parametrize("case", range(len(PLACES)))
def test_hidden_states_are_computed_where_there_is_memory_and_room(case: int) -> None:
    where, member, machines, expected = PLACES[case]
    assert placed(where, member, machines) == expected


def test_workers_of_one_node_share_its_memory() -> None:
    assert placed("auto", GB, cpu_only(4, 6 * GB), num_workers=2) == "actor"


def test_an_actor_without_room_is_refused() -> None:
    with pytest.raises(RequestError, match=r"hidden\.where: actor, which takes 1 CPU and 1 GPU beside the student's 1"):
        placed("actor", GB, with_gpus(1, 80 * GB))


def test_a_student_beside_an_actor_does_not_stream(tmp_path: Path) -> None:
    asked = {"objective": [{"term": "hidden_cosine"}], "hidden": {"where": "actor"}}
    config = RunConfig.load(str(write_config(tmp_path, distillation=asked)))
    wide = Machines((Node(16, 0),), cuda=False)
    assert not plan(config, Facts(SMALL, wide, GB)).streams and plan(config, Facts(SMALL, wide)).streams
