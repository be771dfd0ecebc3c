"""Shared parts of the benchmarks: the speech frames as arrays, runs of Stillhouse, and storage of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.loops import MEMBER, STUDENT, Loss
from benchmarks.models import mlp
from examples.speech import frames

HERE = Path(__file__).parent
CLASSES = 117
VALIDATION = 256
"""Number of validation examples: so small that the cost of validation in Stillhouse is negligible."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run of Stillhouse. launched: start time of the command, in seconds since 1970."""

    report: dict[str, Any]
    events: list[dict[str, Any]]
    launched: float

    def epochs(self, system: str) -> list[dict[str, Any]]:
        """The epoch events of the baseline or the student, in order."""
        return [e for e in self.events if e["event"] == "epoch" and e["system"] == system]


def arguments(about: str | None, **defaults: int) -> argparse.ArgumentParser:
    """The options that every benchmark has. defaults: additional integer options; `texts` takes the place of frames."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if "texts" not in defaults:
        parser.add_argument("--examples", type=int, default=0, help="training frames to take (0: all 89,519)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each bare loop: as many as cores")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the JSON file is written")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    return parser


def write_speech(folder: Path, examples: int = 0) -> Path:
    """Train, validation and test windows of the speech example as npz files, which every contender reads.

    examples: number of training windows, drawn at random; 0 takes all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in frames.splits(copies=0).items():
        limit = {"train": examples or len(y), "validation": VALIDATION, "test": len(y)}[name]
        rows = np.sort(np.random.default_rng(0).permutation(len(y))[:limit])
        partial = folder / f"{name}.partial.npz"
        np.savez(partial, x=x[rows].astype(np.float32), y=y[rows])
        partial.replace(folder / f"{name}.npz")
    os.sync()  # later write-back would slow the first measurement
    return folder


def read_speech(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """x [N, 840] float32, y [N] int64."""
    with np.load(folder / f"{split}.npz") as archive:
        return torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"])


def write_untrained_members(folder: Path, count: int) -> list[Path]:
    """Write teachers with random weights, whose forward passes cost as much as those of trained ones."""
    paths = [folder / f"member-{k}.safetensors" for k in range(count)]
    for k, path in enumerate(paths):
        torch.manual_seed(k)
        save_file(mlp(**MEMBER).state_dict(), path)
    return paths


def configuration(
    data: Path, members: list[Path], loss: Loss, *, epochs: int, batch_size: int, combine: str = "arithmetic"
) -> dict[str, Any]:
    """The configuration of a run with loaded teachers and the student of the benchmarks."""
    ensemble = {
        "model": {"kind": "python", "factory": "models:mlp", "kwargs": MEMBER},
        "checkpoints": [str(path.resolve()) for path in members],
        "combine": combine,
    }
    student = {"kind": "python", "factory": "models:mlp", "kwargs": STUDENT}
    config = distillation(data, "npz", ensemble, student, loss=loss, epochs=epochs, batch_size=batch_size)
    config["data"]["classes"] = CLASSES
    return config


def distillation(
    data: Path,
    ending: str,
    ensemble: dict[str, Any],
    student: dict[str, Any],
    *,
    loss: Loss,
    epochs: int,
    batch_size: int,
) -> dict[str, Any]:
    """The configuration of a run. ending: of the splits' files in the folder `data`. student: its model."""
    return {
        "name": "benchmark",
        "storage": "runs",
        "data": {
            "kind": {"jsonl": "text"}.get(ending, ending),
            "root": str(data.resolve()),
            **{split: f"{split}.{ending}" for split in ("train", "validation", "test")},
        },
        "ensemble": ensemble,
        "distillation": vars(loss),
        "student": {
            "model": student,
            "training": {"epochs": epochs, "batch_size": batch_size, "learning_rate": 1e-3, "optimizer": "adam"},
        },
        "evaluation": {"latency_repeats": 1},
        "tracking": {"uri": "sqlite:///mlflow.db", "experiment": "benchmark"},
    }


def stillhouse(config: dict[str, Any]) -> Run:
    """Execute `stillhouse run` in a temporary folder, which also holds its storage and tracker."""
    command = Path(sys.executable).with_name("stillhouse")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = Path(scratch)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        shutil.copy(HERE / "models.py", folder)
        launched = time.time()
        done = subprocess.run(
            [command, "run", "config.yaml"], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"stillhouse run ended with {done.returncode}:\n{done.stderr[-4000:]}")
        results = folder / config["storage"] / config["name"]
        report = json.loads((results / "report.json").read_text())
        events = [json.loads(line) for line in (results / "events.jsonl").read_text().splitlines()]
    return Run(report, events, launched)


def machine() -> dict[str, Any]:
    """The machine, the versions and the commit of a measurement."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": version("ray") if find_spec("ray") else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "orchestrator", "workers", "benchmarks/*.py")),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True)
    return done.stdout.strip()


def progress(text: str) -> None:
    """Print progress to stderr, so that stdout only has the table."""
    print(text, file=sys.stderr, flush=True)


def mark(ratio: float, least: float) -> Row:
    """A ratio with its target."""
    return {"ratio": round(ratio, 4), "least": least, "met": ratio >= least}


def publish(name: str, folder: Path, started: dict[str, Any], rows: list[Row], **also: Any) -> None:
    """Print the table and write `<name>.json`. started: `machine()` before the first measurement."""
    print(f"\n{name}\n\n{table(rows)}\n")
    for title, found in also.get("marks", {}).items():
        print(f"{title}: {found['ratio']:.3f}, target {found['least']}: {'met' if found['met'] else 'missed'}")
    ended = [round(load, 2) for load in os.getloadavg()]
    content = {"name": name, "machine": {**started, "load_average_at_end": ended}, "rows": rows, **also}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def table(rows: list[Row]) -> str:
    """Format rows with the same keys as a text table."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return "\n".join(f" {line}".rstrip() for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return "-" if value is None else str(value)
