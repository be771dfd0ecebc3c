"""What a GPU changes and what it must not: skipped where there is none. Needs `workers/` alone, no Ray cluster."""

import pytest
import torch
from torch import nn

from tests.makers import blobs, in_memory
from workers import ensemble, teacher, train_loop
from workers.data import Split
from workers.feed import HardLabels
from workers.precision import computed_in
from workers.specs import DistillationSpec, TrainingSpec
from workers.teacher import Teacher
from workers.train_loop import Progress, Task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")
WEIGHTS = {f"member-{k}": 0.25 for k in range(4)}
SPEC = TrainingSpec(epochs=3, batch_size=64, learning_rate=5e-3, precision="float32")


def modules() -> dict[str, nn.Module]:
    made = {}
    for seed, name in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        made[name] = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    return made


def soften(one: Teacher) -> torch.Tensor:
    x = torch.from_numpy(blobs(5000, 0)[0])
    return one.soften(x, temperature=2.0, weights=WEIGHTS, combine="arithmetic")


def trained(spec: TrainingSpec, soft: bool) -> Progress:
    train, validation = Split(*blobs(500, 1)), Split(*blobs(200, 2))
    task = Task(HardLabels(train), validation)
    if soft:
        targets = torch.softmax(torch.from_numpy(train.x[:, :3]), -1).numpy()
        task = Task(in_memory(train, targets), validation, DistillationSpec(soft_weight=1.0, hard_weight=0.0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to("cuda")
    progress = train_loop.begin(model, spec, 500)
    for _ in train_loop.epochs(progress, task, spec, seed=0):
        pass
    return progress


def test_a_teacher_answers_as_on_a_cpu_and_twice_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = soften(Teacher(modules(), "float32"))
    assert torch.equal(on_gpu, soften(Teacher(modules(), "float32")))
    monkeypatch.setattr(teacher.evaluate, "device", lambda: torch.device("cpu"))
    on_cpu = soften(Teacher(modules(), "float32"))
    difference = ensemble.mean(on_gpu, "arithmetic") - ensemble.mean(on_cpu, "arithmetic")
    assert difference.abs().max() < 1e-5


def test_bfloat16_is_what_auto_means_and_stays_near() -> None:
    assert computed_in(torch.device("cuda"), "auto") == "bfloat16"
    difference = ensemble.mean(soften(Teacher(modules())), "arithmetic") - ensemble.mean(
        soften(Teacher(modules(), "float32")), "arithmetic"
    )
    assert 0 < difference.abs().max() < 0.02


def test_stacked_members_answer_as_single_ones() -> None:
    one = Teacher(modules(), "float32")
    alone = soften(one)
    one.prepare(True, torch.empty(0))
    assert (soften(one) - alone).abs().max() / 2**30 < 1e-6


def test_members_that_do_not_fit_come_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = soften(Teacher(modules(), "float32"))
    monkeypatch.setattr(teacher, "_fit", lambda modules, device: False)
    waves = Teacher(modules(), "float32")
    assert torch.equal(soften(waves), expected)
    assert all(not p.is_cuda for module in waves.modules.values() for p in module.parameters())


@pytest.mark.parametrize("soft", [False, True])
def test_the_feed_runs_ahead_and_training_is_the_same_twice(soft: bool) -> None:
    one, other = trained(SPEC, soft), trained(SPEC, soft)
    assert one.history[-1].train_loss == pytest.approx(other.history[-1].train_loss, rel=1e-5)
    assert one.history[-1].train_loss < one.history[0].train_loss
    half = trained(SPEC.model_copy(update={"precision": "bfloat16"}), soft)
    assert half.history[-1].train_loss == pytest.approx(one.history[-1].train_loss, abs=0.1)
