"""Alternatives to Stillhouse, each in a separate process: the same teachers, student, data, loss and epochs.

    python -m benchmarks.contenders NAME --data FOLDER --members FOLDER --epochs 10

Each prints one line of JSON: the seconds of the distillation (`work_s`) and the student's accuracy on the test set.
`work_s` lasts from the teachers' first batch to the student's last step, with models and data already in memory. The
rest of the process's time is start-up. Contenders only write checkpoints or validate where they do so by default.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, loops
from benchmarks.loops import Loss
from benchmarks.models import mlp

BATCH_SIZE = 256
LEARNING_RATE = 1e-3
LOSS = Loss(temperature=1.0, soft_weight=0.5, hard_weight=0.5)
"""At T = 1, since TextBrewer's loss has no T^2."""
COMBINE = "geometric"
"""The mean of logits, as in TextBrewer."""

Student = nn.Module


def bare(data: Path, members: list[Path], epochs: int, threads: int, cached: bool) -> tuple[float, Student]:
    """Tensors in memory, indexed by batch; soft targets are computed before the first epoch, or in each."""
    x, y = common.read_speech(data, "train")
    teachers, student = loops.load_members(members), mlp(**loops.STUDENT)
    started = time.perf_counter()
    if cached:
        soft = loops.soft_target_pass(teachers, x, LOSS.temperature, COMBINE)
        teach: loops.Teach = lambda rows, _: soft[rows]  # noqa: E731
    else:
        teach = lambda _, batch: loops.mean_of_members(teachers, batch, LOSS.temperature, COMBINE)  # noqa: E731
    loops.train(student, x, y, LOSS, teach, epochs=epochs, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
    return time.perf_counter() - started, student


def by_hand(data: Path, members: list[Path], epochs: int, threads: int, cached: bool) -> tuple[float, Student]:
    """A loop as in torch's tutorials, with a `DataLoader`; soft targets as for `bare`."""
    x, y = common.read_speech(data, "train")
    teachers, student = loops.load_members(members), mlp(**loops.STUDENT)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    started = time.perf_counter()
    tensors = [x, y]
    if cached:
        in_order = DataLoader(TensorDataset(x), batch_size=1024)
        batches = [loops.mean_of_members(teachers, batch, LOSS.temperature, COMBINE) for (batch,) in in_order]
        tensors.append(torch.cat(batches))
    loader = DataLoader(TensorDataset(*tensors), batch_size=BATCH_SIZE, shuffle=True)
    for _ in range(epochs):
        for inputs, labels, *known in loader:
            soft = known[0] if known else loops.mean_of_members(teachers, inputs, LOSS.temperature, COMBINE)
            optimizer.zero_grad()
            loops.distillation_loss(student(inputs), labels, soft, LOSS).backward()
            optimizer.step()
    return time.perf_counter() - started, student


def textbrewer(data: Path, members: list[Path], epochs: int, threads: int, cached: bool) -> tuple[float, Student]:
    """`MultiTeacherDistiller` as in its documentation. cached: with `is_caching_logits`."""
    from textbrewer import DistillationConfig, MultiTeacherDistiller, TrainingConfig

    x, y = common.read_speech(data, "train")
    student = mlp(**loops.STUDENT)

    class Labelled(nn.Module):
        """Adapts a model to TextBrewer, which passes the whole batch to it."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.model(inputs)
            return logits, functional.cross_entropy(logits, labels)

    def adaptor(batch: Any, outputs: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor]]:
        return {"logits": (outputs[0],), "losses": (outputs[1],)}

    with tempfile.TemporaryDirectory() as folder:
        distiller = MultiTeacherDistiller(
            TrainingConfig(device="cpu", log_dir=folder, output_dir=folder),
            DistillationConfig(
                temperature=LOSS.temperature,
                kd_loss_type="ce",
                kd_loss_weight=LOSS.soft_weight,
                hard_label_weight=LOSS.hard_weight,
                is_caching_logits=cached,
            ),
            [Labelled(teacher) for teacher in loops.load_members(members)],
            Labelled(student),
            adaptor,
            adaptor,
        )
        optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
        started = time.perf_counter()
        with distiller:
            loader = DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=True)
            distiller.train(optimizer, loader, num_epochs=epochs, callback=None)
        return time.perf_counter() - started, student


def ray_data(data: Path, members: list[Path], epochs: int, threads: int, cached: bool) -> tuple[float, Student]:
    """Ray Data's `map_batches` with one actor per core, then `TorchTrainer` on the result."""
    import numpy as np
    import ray
    import ray.data
    import ray.train
    from ray.train.torch import TorchTrainer

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    x, y = common.read_speech(data, "train")

    class Teachers:
        """All members; computes the soft targets of a batch."""

        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.teachers = loops.load_members(members)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            inputs = torch.from_numpy(np.ascontiguousarray(batch["x"]))
            batch["soft"] = loops.mean_of_members(self.teachers, inputs, LOSS.temperature, COMBINE).numpy()
            return batch

    def train(config: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        shard = ray.train.get_dataset_shard("train")
        student = mlp(**loops.STUDENT)
        optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
        started = time.perf_counter()
        for _ in range(epochs):
            for batch in shard.iter_torch_batches(batch_size=BATCH_SIZE, local_shuffle_buffer_size=16 * BATCH_SIZE):
                optimizer.zero_grad()
                loops.distillation_loss(student(batch["x"]), batch["y"], batch["soft"], LOSS).backward()
                optimizer.step()
        torch.save((time.perf_counter() - started, student.state_dict()), config["out"])

    source = ray.data.from_numpy([part.numpy() for part in x.split(4096)])
    rows = source.rename_columns({"data": "x"}).zip(ray.data.from_numpy([part.numpy() for part in y.split(4096)]))
    rows = rows.rename_columns({"data": "y"}).materialize()
    started = time.perf_counter()
    labelled = rows.map_batches(Teachers, batch_size=1024, concurrency=threads, num_cpus=1).materialize()
    passed = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "student.pt")
        run = ray.train.RunConfig(storage_path=folder)
        TorchTrainer(train, train_loop_config={"out": out}, datasets={"train": labelled}, run_config=run).fit()
        trained, state = torch.load(out, weights_only=True)
    ray.shutdown()
    student = mlp(**loops.STUDENT)
    student.load_state_dict(state)
    return passed + trained, student


Contender = Callable[[Path, list[Path], int, int, bool], tuple[float, Student]]
CONTENDERS: dict[str, tuple[Contender, bool]] = {
    "textbrewer": (textbrewer, False),
    "textbrewer, caching": (textbrewer, True),
    "by hand": (by_hand, False),
    "by hand, caching": (by_hand, True),
    "ray data": (ray_data, True),
    "bare loop": (bare, False),
    "bare loop, caching": (bare, True),
}


def arguments(about: str | None, names: Iterable[str]) -> argparse.ArgumentParser:
    """The options that `end_to_end.contender` gives. names: of the contenders."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(names))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--members", type=Path, required=True, help="the folder that the teachers lie in")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


def main() -> None:
    asked = arguments(__doc__, CONTENDERS).parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    contender, cached = CONTENDERS[asked.name]
    members = sorted(asked.members.glob("member-*.safetensors"))
    work_s, student = contender(asked.data, members, asked.epochs, asked.threads, cached)
    accuracy = loops.accuracy(student, *common.read_speech(asked.data, "test"))
    print(json.dumps({"work_s": work_s, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
