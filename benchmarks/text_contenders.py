"""Alternatives to Stillhouse for texts, each in a separate process: the same teacher, student, texts, loss and epochs.

    python -m benchmarks.text_contenders NAME --data FOLDER --members FOLDER --epochs 3 --threads 2

Each prints one line of JSON, as `benchmarks.contenders`: `work_s` lasts from the teacher's first batch to the student's
last step, with the models loaded and the texts in memory. All take Adam with one learning rate and batches of 32, and
no contender writes checkpoints, validates or logs, unless it does so by default and has no option against it. Texts are
tokenized before the work, except by sentence-transformers, which tokenizes each batch.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from benchmarks import texts
from benchmarks.contenders import arguments
from benchmarks.loops import distillation_loss
from benchmarks.texts import LEARNING_RATE, LOSS

BATCH_SIZE, PASS_BATCH_SIZE = 32, 64
"""Of the student, and of a pass of the teacher."""

Student = nn.Module
Contender = Callable[[Path, nn.Module, Student, int], float]
"""(data, teacher, student, epochs) -> `work_s`; trains the student in place."""


def bare(data: Path, teacher: nn.Module, student: Student, epochs: int) -> float:
    """A bare loop over batches that are grouped by length; the teacher computes each batch."""
    x = texts.read(data, "train")
    started = time.perf_counter()
    list(
        texts.train(
            student,
            x,
            LOSS,
            lambda _, inputs: texts.mean_of_teachers([teacher], inputs, LOSS.temperature),
            epochs=epochs,
            batch_size=BATCH_SIZE,
        )
    )
    return time.perf_counter() - started


def bare_caching(data: Path, teacher: nn.Module, student: Student, epochs: int) -> float:
    """The same after one pass of the teacher, whose soft targets stay in RAM."""
    x = texts.read(data, "train")
    started = time.perf_counter()
    soft = texts.teacher_pass([teacher], x, LOSS.temperature, PASS_BATCH_SIZE)
    teach: texts.Teach = lambda rows, _: soft[torch.from_numpy(rows)]  # noqa: E731
    list(texts.train(student, x, LOSS, teach, epochs=epochs, batch_size=BATCH_SIZE))
    return time.perf_counter() - started


def textbrewer(data: Path, teacher: nn.Module, student: Student, epochs: int, grouped: bool = False) -> float:
    """`GeneralDistiller` as in its documentation, with a `DataLoader` that shuffles. It has no cache.

    grouped: with a sampler by length, which TextBrewer does not have, but takes.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    x = texts.read(data, "train")

    def collate(rows: list[int]) -> dict[str, Tensor]:
        return {**x.padded(np.array(rows)), "labels": x.labels[rows]}

    def adaptor(batch: Any, outputs: Any) -> dict[str, tuple[Tensor]]:
        return {"logits": (outputs.logits,), "losses": (outputs.loss,)}

    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            TrainingConfig(device="cpu", log_dir=folder, output_dir=folder),
            DistillationConfig(
                temperature=LOSS.temperature,
                kd_loss_type="ce",
                kd_loss_weight=LOSS.soft_weight * LOSS.temperature**2,  # its loss has no T^2
                hard_label_weight=LOSS.hard_weight,
            ),
            teacher,
            student,
            adaptor,
            adaptor,
        )
        optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
        started = time.perf_counter()
        with distiller:
            order: Any = range(len(x))
            drawn = ByLength(x) if grouped else None
            kind: dict[str, Any] = {"batch_sampler": drawn} if drawn else {"batch_size": BATCH_SIZE, "shuffle": True}
            loader = DataLoader(order, collate_fn=collate, **kind)
            distiller.train(optimizer, loader, num_epochs=epochs, callback=None)
        return time.perf_counter() - started


class ByLength(Sampler[list[int]]):
    """The batches of an epoch as the bare loop draws them."""

    def __init__(self, x: texts.Tokens) -> None:
        self.lengths = x.lengths

    def __len__(self) -> int:
        return -(-len(self.lengths) // BATCH_SIZE)

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in texts.grouped(self.lengths, BATCH_SIZE))


def trainer(data: Path, teacher: nn.Module, student: Student, epochs: int) -> float:
    """transformers' `Trainer` with batches grouped by length, and the teacher in `compute_loss`."""
    import datasets
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    class Distilling(Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
            labels = inputs.pop("labels")
            soft = texts.mean_of_teachers([teacher], inputs, LOSS.temperature)
            return distillation_loss(model(**inputs).logits, labels, soft, LOSS)

    x = texts.read(data, "train")
    columns = {"input_ids": [row.tolist() for row in x.ids], "labels": x.labels.tolist(), "length": x.lengths.tolist()}
    with tempfile.TemporaryDirectory() as folder:
        distilling = Distilling(
            model=student,
            args=TrainingArguments(**settings(folder, epochs), train_sampling_strategy="group_by_length"),
            train_dataset=datasets.Dataset.from_dict(columns),
            data_collator=DataCollatorWithPadding(texts.tokenizer()),
        )
        started = time.perf_counter()
        distilling.train()
        return time.perf_counter() - started


def sentence_transformers(data: Path, teacher: nn.Module, student: Student, epochs: int) -> float:
    """Its recipe for distillation: the teacher labels all texts, then a `CrossEncoderTrainer` learns."""
    import datasets
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments

    words, labels = texts.rows(data, "train")
    with tempfile.TemporaryDirectory() as folder:
        encoders = {}
        for name, module in {"teacher": teacher, "student": student}.items():
            texts.save(module, Path(folder) / name)
            encoders[name] = CrossEncoder(str(Path(folder) / name), device="cpu")

        class Loss(nn.Module):
            """labels: for each text its soft targets [K] and the number of its topic."""

            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model = model

            def forward(self, inputs: Any, labels: Any, **_: Any) -> Tensor:
                logits = self.model(self.model.preprocess(list(inputs[0])))["scores"]
                of_texts = torch.stack(list(labels))
                return distillation_loss(logits, of_texts[:, -1].long(), of_texts[:, :-1], LOSS)

        args = CrossEncoderTrainingArguments(**settings(folder, epochs))
        started = time.perf_counter()
        soft = labelled(encoders["teacher"], words)
        known = torch.cat([soft, torch.tensor(labels).unsqueeze(1)], dim=1).tolist()
        CrossEncoderTrainer(
            model=encoders["student"],
            args=args,
            train_dataset=datasets.Dataset.from_dict({"text": words, "label": known}),
            loss=Loss(encoders["student"]),
        ).train()
        work_s = time.perf_counter() - started
        encoders["student"].save_pretrained(str(Path(folder) / "trained"))
        student.load_state_dict(texts.load(Path(folder) / "trained").state_dict())
        return work_s


@torch.inference_mode()
def labelled(teacher: Any, words: list[str]) -> Tensor:
    """Soft targets [N, K], computed as by `CrossEncoder.predict`, which takes no texts without a second one."""
    teacher.eval()
    order = sorted(range(len(words)), key=lambda k: -len(words[k]))
    soft = torch.empty(len(words), texts.TOPICS)
    for start in range(0, len(words), PASS_BATCH_SIZE):
        rows = order[start : start + PASS_BATCH_SIZE]
        scores = teacher(teacher.preprocess([words[row] for row in rows]))["scores"]
        soft[rows] = torch.softmax(scores / LOSS.temperature, dim=-1)
    return soft


def settings(folder: str, epochs: int) -> dict[str, Any]:
    """Arguments of both trainers: Adam with a constant rate, and nothing besides the steps."""
    return {
        "output_dir": folder,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }


CONTENDERS: dict[str, Contender] = {
    "textbrewer": textbrewer,
    "textbrewer, grouped": partial(textbrewer, grouped=True),
    "trainer": trainer,
    "sentence-transformers": sentence_transformers,
    "bare loop": bare,
    "bare loop, caching": bare_caching,
}


def main() -> None:
    asked = arguments(__doc__, CONTENDERS).parse_args()
    torch.set_num_threads(asked.threads)
    teacher, student = texts.load(asked.members / "teacher-0"), texts.made(0, **texts.STUDENT)
    work_s = CONTENDERS[asked.name](asked.data, teacher, student, asked.epochs)
    print(json.dumps({"work_s": work_s, "accuracy": texts.accuracy(student, texts.read(asked.data, "test"))}))


if __name__ == "__main__":
    main()
