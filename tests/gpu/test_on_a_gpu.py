"""What a GPU changes and what it must not. Needs `workers/` alone, no Ray cluster.

What does not depend on the device runs on a CPU too; the rest is skipped where torch sees no GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.makers import MODELS, NUMERICS, blobs, in_memory
from workers import ensemble
from workers.data.dataset import Dataset, Split
from workers.faults import Fault
from workers.inference import actor, teacher
from workers.inference.teacher import Asked, Member, Teacher
from workers.models import checkpoints, stacking, torch_module
from workers.models.precision import computed_in
from workers.specs.members import SpecialistRule
from workers.specs.models import ModelSpec
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.targets.layout import PartLayout
from workers.targets.member_mixture import MemberMixture
from workers.training import loop
from workers.training.loader import HardLabels, batches
from workers.training.loop import Progress, Task

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
CPU = torch.device("cpu")
WEIGHTS = {f"member-{k}": 0.25 for k in range(4)}
SPEC = TrainingSpec(epochs=3, batch_size=64, learning_rate=5e-3, precision="float32")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )


ARCHITECTURES = [mlp, normalised, convolutions]


def members(make: Callable[[], nn.Module] = mlp) -> dict[str, nn.Module]:
    """Members whose running statistics are not those that they began with."""
    made = {}
    for seed, name in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        made[name] = make()
        made[name](torch.randn(64, 8))
    return made


def soften(one: Teacher) -> Tensor:
    x = torch.from_numpy(blobs(5000, 0)[0])
    (total,) = one.soften_all([Asked(x)], temperature=2.0, weights=WEIGHTS, combine="arithmetic")
    return total


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two means."""
    return float((ensemble.mean(one, "arithmetic") - ensemble.mean(other, "arithmetic")).abs().max())


@needs_gpu
@pytest.mark.parametrize("make", ARCHITECTURES)
def test_a_teacher_answers_as_on_a_cpu_and_twice_the_same(make: Callable[[], nn.Module]) -> None:
    on_gpu = soften(Teacher(members(make), "float32"))
    assert torch.equal(on_gpu, soften(Teacher(members(make), "float32")))
    tolerance = 1e-5 if make is not convolutions else 2e-3  # cuDNN convolves in TF32
    assert apart(on_gpu, soften(Teacher(members(make), "float32", device=CPU))) < tolerance


@needs_gpu
def test_bfloat16_is_what_auto_means_and_stays_near() -> None:
    assert computed_in(torch.device("cuda"), "auto") == "bfloat16"
    assert 0 < apart(soften(Teacher(members())), soften(Teacher(members(), "float32"))) < 0.02


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [*ARCHITECTURES, lambda: nn.Linear(8, 3)])
def test_in_bfloat16_logits_keep_their_digits(device: str, make: Callable[[], nn.Module]) -> None:
    one = Teacher(members(make), "bfloat16", device=torch.device(device))
    x = torch.randn(50_000, 8)
    one.prepare(False, x)
    assert not one._whole
    for name in WEIGHTS:
        (total,) = one.soften_all([Asked(x)], temperature=1.0, weights={name: 1.0}, combine="arithmetic")
        top = total.topk(2, dim=-1).values
        assert float((top[:, 0] == top[:, 1]).double().mean()) < 1e-4


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", ARCHITECTURES)
def test_stacked_members_answer_as_single_ones(make: Callable[[], nn.Module], precision: Any) -> None:
    one = Teacher(members(make), precision)
    x = torch.from_numpy(blobs(1024, 0)[0])
    assert one.prepare(False, x) is False
    alone = soften(one)
    assert one.prepare(True, x) is True and not one.takes_turns
    assert all(not p.is_cuda for module in one.modules.values() for p in module.parameters())  # but once, in the stack
    assert apart(soften(one), alone) < (0.02 if precision == "bfloat16" or make is convolutions else 1e-6)
    assert one.prepare(False, x) is False and torch.equal(soften(one), alone)


@needs_gpu
def test_small_members_are_stacked_in_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is faster: by a timing that the test decides."""
    times = iter([2.0, 1.0])
    monkeypatch.setattr(stacking, "_seconds", lambda forward, x: next(times))
    one = Teacher(members(normalised), "bfloat16")
    assert one.prepare(None, torch.from_numpy(blobs(1024, 0)[0])) is True


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", ARCHITECTURES)
def test_members_that_do_not_fit_take_turns(
    device: str, make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = torch.device(device)
    expected = soften(Teacher(members(make), "float32", device=place))
    monkeypatch.setattr(teacher, "_staying", lambda modules, device: frozenset({"member-2"}))
    turns = Teacher(members(make), "float32", device=place)
    assert turns.takes_turns and torch.equal(soften(turns), expected)
    x = torch.from_numpy(blobs(5000, 0)[0])
    pieces = [Asked(x[:2048]), Asked(x[2048:])]  # whole micro-batches
    found = turns.soften_all(pieces, temperature=2.0, weights=WEIGHTS, combine="arithmetic")
    assert torch.equal(torch.cat(found), expected)
    for name, module in turns.modules.items():
        at = {t.device.type for t in (*module.parameters(), *module.buffers())}
        assert at == {device if name == "member-2" else "cpu"}


class Full(nn.Module):
    """Runs out of memory as often as it is told."""

    times = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        if Full.times:
            Full.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        y: Tensor = self.inner(x)
        return y


@pytest.mark.parametrize("device", DEVICES)
def test_out_of_memory_is_tried_once_more_and_changes_no_bit(device: str) -> None:
    place = torch.device(device)
    Full.times = 0
    made = members(Full)
    expected = soften(Teacher(copy.deepcopy(made), "float32", device=place))
    one = Teacher(made, "float32", device=place)
    Full.times = 1
    assert torch.equal(soften(one), expected) and one.takes_turns
    Full.times = 2
    with pytest.raises(Fault, match="OutOfMemoryError"):
        soften(one)
    assert torch.equal(soften(one), expected)


@needs_gpu
def test_a_device_that_is_really_full_is_recovered_from() -> None:
    one = Teacher(members(), "float32")
    expected = soften(one)
    free, _ = torch.cuda.mem_get_info()
    held = [torch.empty(free - 2**27, dtype=torch.uint8, device="cuda")]
    forward = nn.Linear.forward

    def hungry(self: nn.Linear, x: Tensor) -> Tensor:
        if held:
            torch.empty(2**29, dtype=torch.uint8, device="cuda")
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", hungry)
        with pytest.raises(Fault, match="OutOfMemoryError"):
            soften(one)
        held.clear()
        assert torch.equal(soften(one), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_device_is_the_recorded_one_and_bytes_are_sent_as_bytes(device: str, kind: Any, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    spec = ModelSpec(factory="models:mlp", folder=str(tmp_path))
    member = Member("member-0", spec, str(tmp_path / "0.safetensors"))
    checkpoints.save(torch_module.build(spec, seed=0).state_dict(), member.weights)
    x, y = blobs(50, 0)
    split = Split((np.abs(x) * 50).astype(kind), y)
    host: Any = actor.TeacherActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    numerics = NUMERICS.model_copy(update={"device": device})
    one = host([member], Dataset(split, split, split, None, 3), actor.TeacherWork(3, PartLayout(50, 64), numerics))
    assert one.teacher.device.type == device == numerics.device
    sent = one._gather(np.arange(50))
    assert sent.dtype == (torch.uint8 if device == "cuda" and kind is np.uint8 else torch.float32)
    rows, answer = one.soften(0, 2.0, {"member-0": 1.0}, "arithmetic")
    own = teacher.load(member)
    logits = own(torch.from_numpy(np.asarray(split.x[:]).astype(np.float32))).logits
    expected = torch.softmax(logits.detach() / 2.0, -1)
    ids = PartLayout(50, 64).ids(0)
    np.testing.assert_allclose(answer / 2**30, expected.numpy()[ids], atol=1e-5)
    assert rows == 50


@pytest.fixture
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A process group of one, which meets in a file and needs no port."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl" if request.param == "cuda" else "gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(spec: TrainingSpec, soft: bool, device: str, wrap: bool = False) -> Progress:
    train, validation = Split(*blobs(500, 1)), Split(*blobs(200, 2))
    task = Task(HardLabels(train), validation)
    if soft:
        targets = torch.softmax(torch.from_numpy(train.x[:, :3]), -1).numpy()
        task = Task(in_memory(train, targets), validation, DistillationSpec(soft_weight=1.0, hard_weight=0.0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).to(device)
    progress = loop.begin(DistributedDataParallel(model) if wrap else model, spec, 500)
    for _ in loop.epochs(progress, task, spec, seed=0):
        pass
    return progress


@pytest.mark.parametrize(
    ("alone", "device"), [("cpu", "cpu"), pytest.param("cuda", "cuda", marks=needs_gpu)], indirect=["alone"]
)
def test_data_parallel_on_one_device_is_as_without(alone: None, device: str) -> None:
    one, other = trained(SPEC, True, device), trained(SPEC, True, device, wrap=True)
    for a, b in zip(one.history, other.history, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("soft", [False, True])
def test_training_is_the_same_twice_and_near_in_bfloat16(soft: bool, device: str) -> None:
    one, other = trained(SPEC, soft, device), trained(SPEC, soft, device)
    assert one.history[-1].train_loss == pytest.approx(other.history[-1].train_loss, rel=1e-5)
    assert one.history[-1].train_loss < one.history[0].train_loss
    half = trained(SPEC.model_copy(update={"precision": "bfloat16"}), soft, device)
    assert half.history[-1].train_loss == pytest.approx(one.history[-1].train_loss, abs=0.1)


@needs_gpu
def test_the_feed_sends_bytes_and_gives_what_models_take() -> None:
    x, y = blobs(500, 1)
    split = Split((np.abs(x) * 50).astype(np.uint8), y)
    on_cpu = [batch.x.clone() for batch in batches(HardLabels(split), 0, 64, 0, CPU)]
    on_gpu = [batch.x.cpu() for batch in batches(HardLabels(split), 0, 64, 0, torch.device("cuda"))]
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(on_cpu, on_gpu, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["entropy", "agreement", SpecialistRule(classes=((), (0, 1), (2, 3)))])
def test_logits_are_averaged_where_the_student_is_without_a_lost_member(rule: Any, device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.full((20, 3), 1 / 3, dtype=torch.float64)
    weights[5:12, 2] = 0.0
    kept = MemberMixture(torch.randn(20, 3, 5, generator=draw), weights, "arithmetic", 32, rule)
    found = kept.to(device).at(3.0).probabilities
    assert found.device.type == device
    torch.testing.assert_close(found.cpu(), kept.at(3.0).probabilities, rtol=1e-5, atol=1e-7)
