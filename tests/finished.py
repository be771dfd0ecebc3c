"""A finished run's folder, made without Ray: a student of a few steps of training, and an ensemble of known errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from orchestrator.config.run_config import RunConfig
from orchestrator.reporting import files, sums
from orchestrator.reporting.report import Calibration, CurvePoint, Latency, Report, Role, SoftTargets, System
from orchestrator.reporting.report import TestMetrics as Figures
from orchestrator.run_folder import owned
from orchestrator.stages import trained
from tests import texts
from tests.makers import write_config
from workers import storage
from workers.artifacts.catalogue import Catalogue
from workers.artifacts.kinds import NETWORK
from workers.data import loading
from workers.data.dataset import Dataset
from workers.evaluation import metrics
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor, torch_module
from workers.models import provenance as model_provenance
from workers.models.ask import ask
from workers.specs.models import AnyModel

ENSEMBLE_ERRORS = 8
"""Test examples of which the ensemble names another class."""
NETS = """
import torch
from torch import nn

def mlp(hidden=16):
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 3))

def convolutions():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))

class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.output = nn.LSTM(2, 12, batch_first=True, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x):
        return self.output(self.lstm(x.reshape(-1, 4, 2))[0].amax(1))

class Fixed(nn.Module):
    \"\"\"Its Python code depends on values.\"\"\"
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(x) + 0.0
"""


def of_numbers(
    folder: Path, factory: str = "nets:mlp", kwargs: dict[str, Any] | None = None, code: dict[str, str] | None = None
) -> str:
    """A run on 400 test examples [8] of three classes; returns its folder. code: files beside its configuration."""
    path = write_config(folder, student__model={"factory": factory, "kwargs": kwargs or {}})
    for name, content in {"nets.py": NETS, **(code or {})}.items():
        (folder / name).write_text(content)
    return finish(RunConfig.load(str(path)))


def of_texts(folder: Path, model: dict[str, Any], files: dict[str, str] | None = None) -> str:
    """A run on 90 test texts of three topics; `model` is the student's, `encoder` a tokenizer beside it."""
    data = {"kind": "text"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, first in (("train", 300, 0), ("valid", 60, 1000), ("test", 90, 2000)):
        texts.write_jsonl(folder / f"{name}.jsonl", texts.rows(count, first))
    data |= {"train": "train.jsonl", "validation": "valid.jsonl", "test": "test.jsonl"}
    texts.checkpoint(folder / "encoder")
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    path = write_config(
        folder, data=data, student__model=model, ensemble__model={"kind": "transformers", "checkpoint": "encoder"}
    )
    return finish(RunConfig.load(str(path)))


def of_data(folder: Path, data: dict[str, Any], model: dict[str, Any], code: dict[str, str] | None = None) -> str:
    """A run on data of any kind with a student of any kind. code: files beside its configuration."""
    path = write_config(folder, data=data, student__model=model, ensemble__model=model)
    for name, content in (code or {}).items():
        (folder / name).write_text(content)
    return finish(RunConfig.load(str(path)))


def finish(config: RunConfig) -> str:
    """Write the folder of a run with this configuration as one leaves it, as far as an export reads it.

    Its members are untrained, and its report has other figures of them.
    """
    folder = config.folder
    dataset = loading.load(config.data, config.seed)
    config = config.for_classes(dataset.classes, dataset.label_names)
    owned.mark(folder)
    storage.write_text(storage.join(folder, "config.yaml"), config.to_redacted_yaml())
    model = config.student.model
    weights = storage.join(folder, "student", model.weights_name)
    _train(model, dataset, config, weights)
    for k, group in enumerate(config.ensemble.of_each(3)):
        module = torch_module.build(group.model, seed=k)  # type: ignore[arg-type]
        checkpoints.save(module.state_dict(), storage.join(folder, "members", str(k), group.model.weights_name))
    _write_report(config, dataset, Member("student", model, weights))
    return folder


def _train(model: AnyModel, dataset: Dataset, config: RunConfig, weights: str) -> None:
    """Train a student for a few steps, so that its batch norms have statistics and its answers differ."""
    module = torch_module.build(model, seed=1)  # type: ignore[arg-type]
    batch = predictor.collator(model)(dataset.train.x, np.arange(min(256, len(dataset.train))))
    labels = torch.from_numpy(dataset.train.labels_of(np.arange(len(batch))))
    optimizer = torch.optim.Adam(module.parameters(), 2e-2)
    module.train()
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(ask(module, batch), labels).backward()
        optimizer.step()
    key = NETWORK.key(**model_provenance.of_model(model), seed=1)
    place = storage.join(folder := config.folder, "trained", key.digest, model.weights_name)
    checkpoints.save(module.state_dict(), place)
    member = Member("student", model, place)
    trained.commit(Catalogue(config.storage, config.name), member, key, [])
    trained.show(member, storage.join(folder, "student"))
    assert storage.exists(weights)


def _write_report(config: RunConfig, dataset: Dataset, student: Member) -> None:
    ids, y = np.arange(len(dataset.test.y)), dataset.test.y  # one for each position
    blocks = metrics.blocks_of(dataset, "test", np.arange(len(dataset.test)))
    predicted = metrics.log_probabilities(
        predictor.load(student.model, student.weights), dataset.test.x, metrics.Inference("float32"),
        collator=predictor.collator(student.model),
    )  # fmt: skip
    of_ensemble = np.where(ids < ENSEMBLE_ERRORS, (y + 1) % dataset.classes, y)
    others = {
        "ensemble": _sure_of(of_ensemble, dataset.classes),
        "baseline": _sure_of(np.where(ids < 2 * ENSEMBLE_ERRORS, (y + 1) % dataset.classes, y), dataset.classes),
    }
    found = {name: metrics.measure(p, y, blocks) for name, p in {**others, "student": predicted}.items()}
    sums.write(config.folder, {name: each.of_blocks for name, each in found.items()}, dataset.test_digest)
    roles: dict[str, Role] = {"ensemble": "ensemble", "baseline": "baseline", "student": "student"}
    systems = [_system(name, role, found[name]) for name, role in roles.items()]
    members = [_system(f"member-{k}", "member", found["ensemble"]) for k in range(3)]
    report = Report(
        name=config.name,
        folder=config.folder,
        classes=dataset.classes,
        labels=list(dataset.label_names),
        systems=[*members, *systems],
        gain_transferred=0.5,
        curve=[CurvePoint(members=1, accuracy=0.9, nll=0.5)],
        soft_targets=SoftTargets(
            examples=600, bytes=9000, temperature=2.0, combine="arithmetic", seconds=1.0, reused=False
        ),
        stages=[],
        bound_by="student",
    )
    files.write(report, config.folder)


def _sure_of(classes: np.ndarray[Any, np.dtype[np.int64]], count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Log-probabilities of predictions that are nearly certain."""
    p = np.full((len(classes), count), 0.01, np.float32)
    p[np.arange(len(classes)), classes] = 1 - 0.01 * (count - 1)
    return np.log(p)


def _system(name: str, role: Role, found: metrics.Sums) -> System:
    figures = dict(zip(metrics.FIGURES, metrics.figures(found.of_blocks.sum(axis=0)).tolist(), strict=True))
    return System(
        name=name,
        role=role,
        parameters=75,
        test=Figures(examples=found.examples, **figures),
        latency_ms=Latency(p50=0.1, p99=0.2),
        calibration=Calibration(examples=[400], confidence=[0.9], accuracy=[0.9]),
    )


def share_of(folder: str) -> float:
    """The share of the ensemble's accuracy that the student in a run's folder keeps."""
    report = json.loads(Path(folder, "report.json").read_text())
    accuracy = {system["role"]: system["test"]["accuracy"] for system in report["systems"]}
    return float(accuracy["student"] / accuracy["ensemble"])
