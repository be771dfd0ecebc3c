"""What tests are made of: small data with a known structure, models beside a configuration, and configurations."""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from workers.data.dataset import Split
from workers.data.numbering import RowNames
from workers.targets import kinds
from workers.targets.layout import PartLayout
from workers.targets.reader import StoreReader
from workers.targets.soft_targets import Numerics, Part, write_part
from workers.training.loader import SoftLabels

NUMERICS = Numerics(device="cpu", precision="float32", threads=1, micro_batch=8)

MODELS = """
import torch
from torch import nn


def mlp(hidden=16, inputs=8, classes=3, dropout=0.0):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


def raises():
    raise RuntimeError("no such layer")


def no_module():
    return 42


def frozen():
    return nn.Sequential(nn.Linear(8, 3)).requires_grad_(False)


def of_nothing(**kwargs):
    return {}
"""


def blobs(n: int, seed: int, inputs: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """`n` examples of overlapping Gaussian classes whose centres are always the same: x [n, inputs], y [n]."""
    centres = np.random.default_rng(7).normal(size=(classes, inputs))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    y[:classes] = np.arange(classes)
    x = centres[y] + rng.normal(scale=1.2, size=(n, inputs))
    return x.astype(np.float32), y.astype(np.int64)


def write_idx(path: Path, array: np.ndarray) -> None:
    """An idx file of bytes, gzipped where its name ends with `.gz`."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """The values of a small configuration in `folder`, with its data and models written there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.py").write_text(MODELS)
    for name, n, seed in (("train", 600, 1), ("valid", 200, 2), ("test", 400, 3), ("more", 300, 4)):
        x, y = blobs(n, seed)
        np.savez(folder / f"{name}.npz", x=x, **({} if name == "more" else {"y": y}))
    training = {"epochs": 2, "batch_size": 64, "learning_rate": 5.0e-3}
    values: dict[str, Any] = {
        "name": "small",
        "seed": 0,
        "storage": str(folder / "runs"),
        "data": {"kind": "npz", "train": "train.npz", "validation": "valid.npz", "test": "test.npz"},
        "ensemble": {
            "size": 3,
            "model": {"kind": "python", "factory": "models:mlp", "kwargs": {"hidden": 24}},
            "training": training,
            "resources_per_member": {"num_cpus": 0.5},
        },
        "distillation": {"temperature": 2.0, "soft_weight": 0.7, "hard_weight": 0.3},
        "student": {
            "model": {"kind": "python", "factory": "models:mlp", "kwargs": {"hidden": 6}},
            "training": training,
        },
        "evaluation": {"latency_repeats": 5},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "tests", "registered_model": False},
    }
    for key, value in changes.items():
        place = values
        *parents, last = key.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return values


def write_config(folder: Path, **changes: Any) -> Path:
    """`settings` as a file; keys of nested values are joined by two underscores."""
    values = settings(folder, **changes)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def stored(
    folder: Path, probabilities: np.ndarray, rows: int = 10, views: int = 1, top_k: int | None = None
) -> tuple[PartLayout, dict[int, Part]]:
    """Soft targets [views * N, K] as a store in `folder`: its layout and its parts."""
    layout, parts = PartLayout(len(probabilities) // views, rows, views), {}
    for n in range(layout.parts):
        mean = torch.from_numpy(probabilities[layout.ids(n)])
        targets = kinds.of_mean(mean, probabilities.dtype.name, top_k)
        parts[n] = write_part(str(folder), n, RowNames(layout.ids(n)), targets, members=["member-0"], numerics=NUMERICS)
    return layout, parts


def in_memory(
    split: Split,
    probabilities: np.ndarray,
    rows: int = 128,
    views: int = 1,
    top_k: int | None = None,
    temperature: float = 2.0,
) -> SoftLabels:
    """The transfer set with soft targets [views * N, K] that are softened at T, as a student is fed with it."""
    folder = Path(tempfile.mkdtemp())
    layout, parts = stored(folder, probabilities, rows, views, top_k)
    feed = SoftLabels(split, layout, parts.__getitem__, StoreReader(str(folder), temperature))
    for number, part in parts.items():
        feed._put(number, feed.reader(number, part))
    shutil.rmtree(folder)
    return feed


def message(shown: str) -> str:
    """What stderr shows after the lines of a start-up that takes longer."""
    return "".join(line for line in shown.splitlines(True) if not line.startswith("  start-up: "))
