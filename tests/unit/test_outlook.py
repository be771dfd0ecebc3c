"""What a run will take, from known rates: exact figures, what does not fit, and what another cluster would change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.resources import Machines, Node
from orchestrator.config.run_config import RunConfig
from orchestrator.plan import plan_file
from orchestrator.plan.designs import designs
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.fit import largest_in_memory, misfits
from orchestrator.plan.outlook import READ_BYTES_S, Case, Outlook, makespan, outlook
from orchestrator.plan.plan import plan
from orchestrator.plan.rates import BACKWARD, CPU_FLOPS, Rates, TrainingRate, of_shapes
from orchestrator.plan.summary import Planned, of_designs, verdict
from orchestrator.plan.what_if import fastest, smallest, variations
from orchestrator.plan.whole import Runs, Timed, whole
from orchestrator.plan.workload import Workload
from tests.makers import write_config
from workers.data.memory import size
from workers.models.profile import Profile

FOUR_CORES = Machines((Node(4, 0, memory=2.0**34),), cuda=False)
GPUS = Machines((*[Node(4, 1, frozenset({"teacher"}))] * 5, Node(4, 1, frozenset({"student"}))), cuda=True)
WORK = Workload(train=1000, lessons=1000, validation=300, test=600, transfer=2000, views=2)
RATES = Rates(
    members=(TrainingRate(start_s=2.0, example_s=0.001, between_s=0.5),),
    predictions_s=3.0,
    pass_start_s=4.0,
    forward_s=0.0005,
    baseline=TrainingRate(start_s=5.0, example_s=0.002),
    student=(TrainingRate(start_s=6.0, example_s=0.004),),
    student_units=4.0,
    evaluation_s=7.0,
)
PROFILE = Profile(parameters=1000, weight_bytes=4000, forward_flops=1e6, activation_bytes=1000.0)


def case(folder: Path, machines: Machines = FOUR_CORES, classes: int = 3, **changes: Any) -> Case:
    asked = {
        "ensemble__size": 5,
        "ensemble__training": {"epochs": 2, "batch_size": 100},
        "ensemble__resources_per_member": {"num_cpus": 2 if not machines.cuda else 1},
        "student__training": {"epochs": 3, "batch_size": 100},
        "distillation__stream": False,
    }
    config = RunConfig.load(str(write_config(folder, **(asked | changes))))
    data = DataFacts(examples=WORK.transfer, views=WORK.views, classes=classes, values=8)
    facts = Facts(data, machines)
    profiles = {"ensemble.model": PROFILE, "student.model": PROFILE}
    return Case(config=config, facts=facts, plan=plan(config, facts), work=WORK, profiles=profiles)


def alone(of: Case, rates: Rates = RATES) -> Runs:
    return Runs(Timed(of, rates))


def seconds(found: Outlook) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found.stages}


def test_every_stage_follows_from_the_rates(tmp_path: Path) -> None:
    of = case(tmp_path)
    assert of.plan.teachers.actors == 2  # of 2 cores each, for 5 members
    found = outlook(of, RATES)
    member = 2 * ((1000 + 300 / BACKWARD) * 0.001 + 0.5)
    assert seconds(found) == pytest.approx(
        {
            "members": 2.0 + 3 * member,  # 5 members, 2 at a time, in processes that start once
            "predictions": 3.0 + 900 * 5 * 0.0005 / 2,
            "baseline": 5.0 + 3 * (1000 + 100) * 0.002,
            "soft targets": 4.0 + 4000 * 3 * 0.0005,  # the actor with 3 members
            "student": 6.0 + 3 * (2000 + 100) * 0.004,
            "evaluation": 7.0 + 2 * 600 * 0.002 / BACKWARD,
        }
    )
    assert found.seconds == pytest.approx(sum(seconds(found).values()))
    assert found.pass_seconds == pytest.approx(6.0) and found.bound_by == "student"
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["members"].core_hours == pytest.approx(5 * member * 2 / 3600)
    assert by_name["soft targets"].core_hours == pytest.approx(6.0 * 2 * 2 / 3600)
    assert by_name["soft targets"].stored == found.soft_targets == 4000 * 3 * 4
    assert by_name["soft targets"].moved == 4000 * 3 * 4 * 2
    assert found.price is None and found.gpu_hours == 0


def test_a_student_on_twice_the_cores_takes_half_the_time(tmp_path: Path) -> None:
    of = case(tmp_path)
    slow = outlook(of, replace(RATES, student_units=8.0))  # the rates were measured on twice the cores
    assert seconds(slow)["student"] == pytest.approx(6.0 + 2 * 3 * 2100 * 0.004)


def test_a_student_that_trains_during_the_pass_overlaps_with_it(tmp_path: Path) -> None:
    of = case(tmp_path, distillation__stream=True)
    assert of.plan.streams
    found = outlook(of, RATES)
    assert found.seconds == pytest.approx(sum(seconds(found).values()) - seconds(found)["soft targets"])


def test_hours_of_gpus_and_cores_have_their_prices(tmp_path: Path) -> None:
    prices = {"gpu_hour_price": 2.0, "core_hour_price": 0.1}
    of = case(tmp_path, GPUS, report=prices)
    found = outlook(of, replace(RATES, student_units=1.0))
    members = next(stage for stage in found.stages if stage.name == "members")
    assert "1 CPU and 1 GPU each" in members.where
    assert members.gpu_hours == pytest.approx(5 * (2 + 2 * 1.6) / 3600)
    assert found.price == pytest.approx(2.0 * found.gpu_hours + 0.1 * found.core_hours)


MAKESPANS = [
    ([], 3, 0.0),
    ([2.0, 2.0, 2.0], 1, 6.0),
    ([2.0, 2.0, 2.0], 2, 4.0),
    ([5.0, 1.0, 1.0, 1.0], 2, 5.0),
    ([1.0, 1.0], 8, 1.0),
]


@pytest.mark.parametrize(("durations", "slots", "expected"), MAKESPANS)
def test_tasks_start_in_their_order_on_the_first_free_slot(durations: list[float], slots: int, expected: float) -> None:
    assert makespan(durations, slots) == expected


def test_estimates_divide_operations_by_speed(tmp_path: Path) -> None:
    of = case(tmp_path)
    rates = of_shapes(of.config, of.plan, of.profiles)
    assert rates.forward_s == pytest.approx(1e6 / (2 * CPU_FLOPS))
    assert rates.members[0] is not None and rates.student_units == 4.0
    assert rates.members[0].example_s > BACKWARD * rates.forward_s > rates.student[0].example_s - 1e-3 / 100
    on_gpu = case(tmp_path, GPUS)
    slow, fast = (of_shapes(on_gpu.config, on_gpu.plan, of.profiles, flops) for flops in (1e12, 1e13))
    assert slow.forward_s == pytest.approx(10 * fast.forward_s) == pytest.approx(1e-6)
    unknown = of_shapes(of.config, of.plan, dict.fromkeys(of.profiles))
    assert unknown.forward_s > 0


def test_what_does_not_fit_is_named_with_figures(tmp_path: Path) -> None:
    of = case(tmp_path)
    found = outlook(of, RATES)
    assert list(misfits(alone(of), found, free=None)) == []
    (disk,) = misfits(alone(of), found, free=10)
    assert disk.startswith("storage: the run stores") and "10 bytes free" in disk
    small = replace(of, facts=replace(of.facts, machines=Machines((Node(4, 0, memory=2.0**29),), cuda=False)))
    lacking = {each.split(":")[0]: each for each in misfits(alone(small), found, free=None)}
    assert list(lacking) == ["members", "baseline", "soft targets", "student"]
    assert "num_cpus" in lacking["members"] and "fewer `num_workers` of the student" in lacking["student"]
    on_gpu = case(tmp_path, GPUS)
    large = replace(on_gpu, profiles=dict.fromkeys(of.profiles, replace(PROFILE, weight_bytes=2**35)),
                    facts=replace(on_gpu.facts, machines=replace(GPUS, gpu_memory=2.0**34)))  # fmt: skip
    rates = replace(RATES, student_units=1.0)
    (first, *_) = misfits(alone(large, rates), outlook(large, rates), free=None)
    assert first.startswith("members: a process needs 128.0 GiB") and "a GPU has 16.0 GiB" in first
    halves = {"num_cpus": 1, "num_gpus": 0.5}
    shared = case(tmp_path, GPUS, ensemble__resources_per_member=halves)
    shared = replace(shared, profiles=dict.fromkeys(of.profiles, replace(PROFILE, weight_bytes=2**31)),
                     facts=replace(shared.facts, machines=replace(GPUS, gpu_memory=1.2 * 2.0**33)))  # fmt: skip
    (only, *_) = misfits(alone(shared, rates), outlook(shared, rates), free=None)
    assert only.startswith("members: 2 processes on one GPU need 16.0 GiB")


def test_a_copy_takes_room_in_an_object_store_alone(tmp_path: Path) -> None:
    tracked = {"tracking__registered_model": "small"}
    local, remote = case(tmp_path, **tracked), case(tmp_path, storage="memory://runs", **tracked)
    stored = [{stage.name: stage.stored for stage in outlook(of, RATES).stages} for of in (local, remote)]
    weights = PROFILE.weight_bytes
    assert [of["members"] for of in stored] == [5 * weights, 2 * 5 * weights]
    assert [of["baseline"] for of in stored] == [weights, 2 * weights]
    assert [of["student"] for of in stored] == [2 * weights, 3 * weights]  # with the package for MLflow
    further = [whole(Runs(Timed(of, RATES), {"tiny": Timed(of, RATES)})) for of in (local, remote)]
    copies = [[each.stored for each in found.stages if each.name == "copies-tiny"] for found in further]
    assert copies == [[], [sum(stored[1].values()) - stored[1]["student"] - stored[1]["evaluation"]]]
    again = [case(tmp_path, generations=3, storage=place) for place in (str(tmp_path), "memory://runs")]
    copies = [[each.stored for each in whole(alone(of)).stages if each.name == "copies-generation-1"] for of in again]
    assert copies == [[], [outlook(again[1], RATES).stored]]


def test_ten_large_members_fit_a_disk_of_half_as_much_again(tmp_path: Path) -> None:
    of = case(tmp_path, ensemble__size=10)
    large = replace(of, profiles={**of.profiles, "ensemble.model": replace(PROFILE, weight_bytes=10**10)})
    assert [each for each in misfits(alone(large), outlook(large, RATES), 150 * 10**9) if "storage" in each] == []


def test_the_data_are_part_of_the_memory_of_a_node(tmp_path: Path) -> None:
    of = case(tmp_path)
    held = replace(of, facts=replace(of.facts, data=replace(of.data, held=2**33)))
    needed, with_data = (largest_in_memory(alone(each))[1] for each in (of, held))
    assert with_data - needed == 2 * 2**33  # of the driver, and shared by all other processes
    several = replace(held, facts=replace(held.facts, machines=Machines(FOUR_CORES.nodes * 2, cuda=False)))
    assert largest_in_memory(alone(several))[1] < with_data - 2**33  # the driver may be on another node
    first = next(misfits(alone(held), outlook(held, RATES), None))
    assert first.startswith("members: the processes of a node need 17.") and "with the data" in first
    nodes = tuple(replace(node, object_store=2.0**32) for node in FOUR_CORES.nodes * 2)
    running = replace(held, facts=replace(held.facts, machines=Machines(nodes, cuda=False)))
    assert largest_in_memory(alone(several))[1] - largest_in_memory(alone(running))[1] == 2**33
    (lacking,) = misfits(alone(running), outlook(running, RATES), None)
    assert lacking.startswith("data: they take 8.0 GiB of Ray's shared memory, and the smallest node has 4.0 GiB")
    for data, machines in (
        (replace(held.data, texts=2**33), running.machines),  # replaced by tokens before they are shared
        (held.data, Machines(nodes[:1], cuda=False)),  # Ray in place
    ):
        fits = replace(held, facts=replace(held.facts, data=data, machines=machines))
        assert not any(each.startswith("data:") for each in misfits(alone(fits), outlook(fits, RATES), None))


def test_more_examples_take_more_memory() -> None:
    data, more = DataFacts(examples=2000, views=1, classes=3, values=8, held=1000), WORK.of_size(20_000)
    assert (WORK.everything, more.everything) == (2900, 20_900)
    assert data.of_size(20_000, more.everything / WORK.everything).held == round(1000 * 20_900 / 2900)


def test_at_the_scale_of_speech_top_k_is_what_fits(tmp_path: Path) -> None:
    """14,000 classes and 700 million frames (Hinton et al. 2015, section 3)."""
    of = case(tmp_path, GPUS, classes=14_000)
    facts = replace(of.facts, data=replace(of.data, examples=700_000_000, views=1))
    of = replace(of, facts=facts, plan=plan(of.config, facts), work=replace(of.work.of_size(700_000_000), views=1))
    found = outlook(of, RATES)
    assert found.soft_targets == 700_000_000 * 14_000 * 4 and of.plan.reduces_on_workers
    several = list(variations(alone(of)))
    smaller = smallest(found, several)
    assert smaller is not None and smaller.change == "distillation.top_k: 64"
    assert smaller.outlook.soft_targets < found.soft_targets / 100
    faster = fastest(found, several)
    assert faster is not None and faster.change.startswith("twice the student's workers")
    assert not [each for each in several if each.outlook.seconds > found.seconds]


SCALES: dict[str, tuple[int, int, float, float, dict[str, str]]] = {
    # classes, examples, rows of soft targets per example, seconds of an example, and what each design stores
    "700 million frames of speech": (
        14_000,
        700_000_000,
        1.0,
        1.0e-5,
        {
            "all classes, float32": "35.7 TiB",
            "all classes, float16": "17.8 TiB",
            "top_k: 64, float32": "341.6 GiB",
            "top_k: 16, float16": "70.4 GiB",
        },
    ),
    "a trillion tokens, of which 15 in 100 are masked": (
        150_000,
        10_000_000_000,
        15.0,
        3.0e-4,
        {
            "all classes, float32": "79.9 PiB",
            "all classes, float16": "40.0 PiB",
            "top_k: 64, float32": "71.5 TiB",
            "top_k: 16, float16": "14.7 TiB",
        },
    ),
}


def scaled(of: Case, classes: int, examples: int, positions: float) -> Case:
    """The case with more data, of which every other split stays small."""
    data = replace(of.data, classes=classes, examples=examples, views=1, positions=positions)
    facts = replace(of.facts, data=data)
    work = replace(of.work.of_size(examples), views=1, validation=0, test=0)
    return replace(of, facts=facts, plan=plan(of.config, facts), work=work)


@pytest.mark.parametrize("name", SCALES)
def test_which_design_is_feasible_at_the_papers_scale(name: str, tmp_path: Path) -> None:
    classes, examples, positions, example_s, stored = SCALES[name]
    of = scaled(case(tmp_path, GPUS, ensemble__size=10), classes, examples, positions)
    fast = replace(RATES, student=(TrainingRate(start_s=6.0, example_s=example_s),), student_units=1.0)
    found = designs(alone(of, fast), None)
    assert {each.name: size(each.stored) for each in found} == stored
    assert [each.name for each in found if each.holds] == ["top_k: 64, float32", "top_k: 16, float16"]
    assert [each.name for each in found if each.configured] == ["all classes, float32"]
    dense = found[0]
    assert dense.read_s == pytest.approx(examples * positions * classes * 4 / READ_BYTES_S) and dense.waits
    assert dense.computed_s == pytest.approx(examples * example_s)
    assert not any(each.holds for each in designs(alone(of, fast), 2**30)), "the disk has no space for any"
    written = (Path(__file__).parents[2] / "docs" / "PLANNING.md").read_text()
    assert all(figure in written for figure in stored.values())


def test_the_plan_says_which_design_is_feasible(tmp_path: Path) -> None:
    of = scaled(case(tmp_path, GPUS), 14_000, 700_000_000, 1.0)
    runs = alone(of, replace(RATES, student=(TrainingRate(start_s=6.0, example_s=1.0e-5),), student_units=1.0))
    found = Planned(name="n", outlook=whole(runs), probed=0, misfits=(), variations=(), designs=designs(runs, None))
    text = verdict(found)
    assert "all classes, float32, is not feasible: they take 35.7 TiB, an epoch reads for 21.8 h" in text
    assert "A feasible one is top_k: 64, float32: they take 341.6 GiB" in text
    _, dense, *_, last = of_designs(found)
    assert (dense[0], dense[-1]) == ("all classes, float32 (as configured)", "no")
    assert (last[0], last[1], last[-1]) == ("top_k: 16, float16", "70.4 GiB", "yes")
    assert "No other format" in verdict(replace(found, designs=designs(runs, 2**30)))
    small = case(tmp_path)
    assert of_designs(replace(found, designs=designs(alone(small), None))) == []


def test_a_student_that_reads_longer_than_it_computes_waits(tmp_path: Path) -> None:
    of = scaled(case(tmp_path, GPUS), 14_000, 1_000_000, 1.0)
    slow, fast = (
        outlook(of, replace(RATES, student=(TrainingRate(start_s=6.0, example_s=example_s),), student_units=1.0))
        for example_s in (1.0, 1.0e-6)
    )
    assert seconds(slow)["student"] == pytest.approx(6.0 + 3 * 1_000_000)
    assert seconds(fast)["student"] == pytest.approx(6.0 + 3 * 1_000_000 * 14_000 * 4 / READ_BYTES_S)


def test_an_epoch_reads_one_view(tmp_path: Path) -> None:
    small = case(tmp_path)
    by_name = {stage.name: stage for stage in outlook(small, RATES).stages}
    assert by_name["student"].moved == 2000 * 2 * 3 * 4 * small.plan.student.most, "each view once, then from memory"
    large = replace(small, plan=replace(small.plan, sizes=replace(small.plan.sizes, soft_targets=2**34)))
    by_name = {stage.name: stage for stage in outlook(large, RATES).stages}
    assert by_name["student"].moved == 3 * 2**33 * large.plan.student.most


def test_a_schedule_of_temperature_reads_logits(tmp_path: Path) -> None:
    of = case(tmp_path, distillation__temperature={"from": 4.0, "to": 1.0, "schedule": "linear"})
    by_name = {stage.name: stage for stage in outlook(of, RATES).stages}
    assert by_name["student"].moved == 4000 * 5 * 3 * 4 * of.plan.student.most


def test_an_order_that_no_node_can_hold_is_named(tmp_path: Path) -> None:
    machines = replace(GPUS, nodes=tuple(replace(node, memory=2.0**34) for node in GPUS.nodes))
    of = scaled(case(tmp_path, machines), 3, 10_000_000_000, 1.0)
    (first, *_) = misfits(alone(of), outlook(of, RATES), None)
    assert first.startswith("data: the random order of 10,000,000,000 examples takes 74.5 GiB in each process")


def test_settings_that_a_term_cannot_learn_from_are_not_proposed(tmp_path: Path) -> None:
    asked = {"objective": [{"term": "logits_mse"}], "stream": False}
    of = scaled(case(tmp_path, GPUS, distillation=asked), 14_000, 700_000_000, 1.0)
    runs = alone(of, replace(RATES, student_units=1.0))
    assert not [each.change for each in variations(runs) if "top_k" in each.change]
    assert [each.name for each in designs(runs, None)] == ["all classes, float32", "all classes, float16"]


def test_a_small_run_has_no_advice_to_store_less(tmp_path: Path) -> None:
    of = case(tmp_path)
    assert smallest(outlook(of, RATES), list(variations(alone(of)))) is None


def test_seeds_and_further_students_are_part_of_the_plan(tmp_path: Path) -> None:
    of = case(tmp_path, seeds=3, report={"core_hour_price": 0.1})
    slow = replace(RATES, baseline=TrainingRate(start_s=5.0, example_s=0.02), evaluation_s=8.0)
    main, other = outlook(of, RATES), outlook(of, slow)
    tiny = replace(
        of, config=of.config.model_copy(update={"student": of.config.student.model_copy(update={"seed": 1})})
    )
    found = whole(Runs(Timed(of, RATES), {"tiny": Timed(tiny, slow)}))
    ours = ("baseline", "student", "evaluation")
    assert [each.name for each in found.stages] == [
        *(each.name for each in main.stages),
        *(f"{name}-tiny" for name in ours),
        "2 more seeds",
    ]
    once = main.seconds + sum(seconds(other)[name] for name in ours)
    assert found.seconds == pytest.approx(3 * once)
    assert found.stored == pytest.approx(3 * (main.stored + sum(s.stored for s in other.stages if s.name in ours)))
    assert found.price == pytest.approx(0.1 * found.core_hours) and found.core_hours > 3 * main.core_hours
    (wider, *_) = variations(Runs(Timed(of, RATES), {"tiny": Timed(tiny, slow)}))
    assert wider.change == "twice the nodes for members" and once < wider.outlook.seconds < found.seconds
    born_again = case(tmp_path, generations=3)
    again, taught_by_one = whole(alone(born_again)), replace(RATES, forward_s=0.002 / BACKWARD)
    one = seconds(outlook(case(tmp_path, ensemble__size=1), taught_by_one))
    assert again.stages[-1].name == "2 more generations"
    assert again.seconds == pytest.approx(main.seconds + 2 * (sum(one.values()) - one["members"]))
    streaming = case(tmp_path, seeds=3, distillation__stream=True)
    assert whole(alone(streaming)).seconds == pytest.approx(3 * outlook(streaming, RATES).seconds)
    other = of.config.student.model_copy(update={"baseline_training": of.config.student.recipe})
    shared = replace(of, config=of.config.model_copy(update={"student": other}))
    both = whole(Runs(Timed(of, RATES), {"tiny": Timed(shared, RATES)}))
    assert "student-tiny" in seconds(both) and "baseline-tiny" not in seconds(both)
    little = replace(of, facts=replace(of.facts, machines=Machines((Node(4, 0, memory=2.0**29),), cuda=False)))
    both = Runs(Timed(little, RATES), {"tiny": Timed(little, RATES)})
    names = [each.split(":")[0] for each in misfits(both, found, free=None)]
    assert names == ["members", "baseline", "soft targets", "student", "baseline-tiny", "student-tiny"]


def test_an_ensemble_that_grows_is_planned_in_full_and_at_its_least(tmp_path: Path) -> None:
    of = case(tmp_path, ensemble__stop_when_flat=0.1)
    found = {each.change: each for each in variations(alone(of))}
    least = found["`stop_when_flat` stops after its first round"]
    fixed = case(tmp_path, ensemble__size=3)
    assert least.outlook.seconds == pytest.approx(outlook(fixed, RATES).seconds)
    assert least.outlook.seconds < outlook(of, RATES).seconds
    assert fastest(outlook(of, RATES), [least]) is None  # the data decide it, not the user
    assert not [each for each in variations(alone(fixed)) if "stop_when_flat" in each.change]


def test_a_plan_is_found_by_its_configuration_alone(tmp_path: Path) -> None:
    of = case(tmp_path, storage=str(tmp_path / "runs"))
    assert plan_file.read(of.config) is None
    plan_file.write(of.config, outlook(of, RATES))
    found = plan_file.read(of.config)
    assert found is not None and found.stages["baseline"] == pytest.approx(11.6) and found.bytes == 48_000
    assert plan_file.read(of.config.model_copy(update={"seed": 5})) is None
    ensemble = of.config.ensemble.model_copy(update={"stop_when_flat": 0.1})
    assert plan_file.read(of.config.model_copy(update={"ensemble": ensemble})) is not None
    (tmp_path / "runs" / of.config.name / "plan.json").write_text("{")
    assert plan_file.read(of.config) is None


def test_a_plan_is_made_where_it_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    of = case(tmp_path, storage=str(tmp_path / "file"))
    assert "cannot be written (NotADirectoryError" in plan_file.write(of.config, outlook(of, RATES))


def test_estimates_count_a_member_that_computes_beside_the_student(tmp_path: Path) -> None:
    term = {"objective": [{"term": "soft"}, {"term": "hidden_mse"}]}
    plain, looks = case(tmp_path), case(tmp_path, distillation=term)
    profiles = {"ensemble.model": replace(PROFILE, forward_flops=7e8), "student.model": PROFILE}
    alone, beside = (of_shapes(of.config, of.plan, profiles).student[0].example_s for of in (plain, looks))
    assert beside == pytest.approx(alone + 7e8 / (CPU_FLOPS * plain.plan.student.cores))
