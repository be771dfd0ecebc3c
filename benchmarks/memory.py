"""Memory of a run as its transfer set grows: peaks of driver, teachers and student, in megabytes.

Data are random numbers, 512 per example, with 512 classes, two small members and two epochs. x1 is 131,072 examples
(268 MB of inputs, 268 MB of soft targets), then 4 and 16 times as many. The figures are each process's anonymous memory
(`RssAnon`), sampled ten times a second. Mapped files are excluded, since the system can reclaim them at any time. Ray's
object store is excluded, too, since its size is fixed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import common
from benchmarks.common import Row
from benchmarks.loops import Loss
from benchmarks.models import mlp

SIZES = (1, 4, 16)
FEATURES, CLASSES = 512, 512
NET = {"hidden": 64, "layers": 1, "inputs": FEATURES, "classes": CLASSES}
MARK = 0.8
"""Target for the peak at x1 over the peak at x16. Only order and labels grow, by 25 bytes per example."""
KINDS = {"stillhouse": "driver", "ray::TeacherActor": "teacher", "ray::RayTrainWorker": "student"}
MARKER = "STILLHOUSE_BENCHMARK"


def main() -> None:
    asked = common.arguments(__doc__, base=131_072).parse_args()
    started = common.machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = Path(scratch)
        members = []
        for k in range(2):
            torch.manual_seed(k)
            members.append(folder / f"member-{k}.safetensors")
            save_file(mlp(**NET).state_dict(), members[-1])
        for size in SIZES:
            write(folder, asked.base * size)
            config = common.configuration(folder, members, Loss(), epochs=2, batch_size=1024)
            config["data"]["classes"] = CLASSES
            config["ensemble"]["model"]["kwargs"] = config["student"]["model"]["kwargs"] = NET
            rows.append({"size": f"x{size}", "examples": asked.base * size, **peaks_of(config)})
            common.progress(common.table(rows[-1:]))
    common.publish("memory", asked.results, started, rows, unit="MB", marks=marks(rows))


def peaks_of(config: dict[str, Any]) -> Row:
    """Peak megabytes of each kind of process of a run."""
    with peaks() as peak:
        common.stillhouse(config)
    return {kind: round(peak.get(kind, 0) / 1e6) for kind in KINDS.values()}


def marks(rows: list[Row]) -> dict[str, Row]:
    """The peaks of the first row over those of the last, with the target `MARK`."""
    first, last = rows[0], rows[-1]
    return {f"{kind}, x1 over x16": common.mark(first[kind] / last[kind], MARK) for kind in KINDS.values()}


def write(folder: Path, examples: int) -> None:
    """Write splits of random numbers; an existing train split is overwritten."""
    draw = np.random.default_rng(0)
    for name, count in {"train": examples, "validation": 256, "test": 256}.items():
        x = draw.random((count, FEATURES), dtype=np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=draw.integers(0, CLASSES, count))


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """Peak bytes of a process by kind, of the processes that were started within the block."""
    os.environ[MARKER] = mark = uuid.uuid4().hex
    found: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and process.name != str(os.getpid()):
                    for kind, size in _sizes(process, mark):
                        found[kind] = max(found.get(kind, 0), size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        del os.environ[MARKER]


def _sizes(process: Path, mark: str) -> list[tuple[str, int]]:
    """The kind of a process, and its bytes; empty for a process of another run."""
    try:
        name = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        kinds = [kind for beginning, kind in KINDS.items() if beginning in name]
        if not kinds or f"{MARKER}={mark}".encode() not in (process / "environ").read_bytes():
            return []
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
        return [(kinds[0], int(status["RssAnon"].split()[0]) * 1024)]
    except (OSError, KeyError, IndexError):  # the process has just ended
        return []


if __name__ == "__main__":
    main()
