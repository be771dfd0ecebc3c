"""Latency under load of an exported student behind Ray Serve, beside the ensemble that it was distilled from.

    python -m benchmarks.serving --run runs/textcnn --export exports/textcnn

Each is one replica on one core, by the deployment of docs/EXPORT.md. Each of several concurrent clients sends its next
text once it has an answer. Both systems take turns. It takes students of texts alone.
"""

from __future__ import annotations

import importlib.util
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import serve

from benchmarks import common
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import config_of
from workers import ensemble, storage
from workers.data import loading
from workers.data.examples import Columns
from workers.data.texts import TEXT, of_strings, strings
from workers.models import predictor

Answer = Callable[[list[str]], NDArray[np.float32]]
CALLERS = (1, 4, 16)
CALLS = 20
"""Of each caller before the measurement."""


def student(folder: str) -> Answer:
    """The export, by its own `load.py`."""
    spec = importlib.util.spec_from_file_location("load", Path(folder, "load.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Answer = module.load(folder)
    return found


def members(run: str) -> Answer:
    """The ensemble of a run, member after member on one thread."""
    torch.set_num_threads(1)
    config = config_of(run)
    loaded = []
    for k, group in enumerate(config.ensemble.of_each(config.ensemble.count or 1)):
        weights = storage.join(RunFolder(run).shown(f"member-{k}"), group.model.weights_name)
        loaded.append((predictor.load(group.model, weights), predictor.collator(group.model)))

    @torch.no_grad()
    def answer(texts: list[str]) -> NDArray[np.float32]:
        x, rows = Columns({TEXT: of_strings(texts)}), np.arange(len(texts))
        each = [torch.softmax(model(collator(x, rows)).logits, dim=-1) for model, collator in loaded]
        return ensemble.average(each, None, config.ensemble.combine).numpy()

    return answer


@serve.deployment(max_ongoing_requests=64)
class Served:
    """As the deployment of docs/EXPORT.md."""

    def __init__(self, made: Callable[[str], Answer], folder: str) -> None:
        self.answered = made(folder)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def answer(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self.answered(texts).tolist()
        return found

    async def __call__(self, text: str) -> list[float]:
        found: list[float] = await self.answer(text)
        return found


def under_load(handle: Any, texts: list[str], callers: int, calls: int) -> NDArray[np.float64]:
    """Latencies in ms of `calls` calls of each of so many concurrent clients."""
    found: list[float] = []

    def call(first: int) -> None:
        for k in range(calls):
            started = time.perf_counter()
            handle.remote(texts[(first + k) % len(texts)]).result()
            found.append((time.perf_counter() - started) * 1e3)

    threads = [threading.Thread(target=call, args=(31 * k,)) for k in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array(found)


def main() -> None:
    parser = common.arguments(__doc__, texts=200, calls=60, turns=3)
    parser.add_argument("--run", required=True, help="the folder of a finished run of texts")
    parser.add_argument("--export", required=True, help="its export")
    asked = parser.parse_args()
    started, run = common.machine(), str(Path(asked.run).resolve())
    config = config_of(run)
    test = loading.load(config.data, config.seed).test.x
    assert isinstance(test, Columns)
    texts = strings(test.columns[TEXT][: asked.texts])  # type: ignore[arg-type]
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        made = {"student": (student, str(Path(asked.export).resolve())), "ensemble": (members, run)}
        systems = {
            name: serve.run(Served.bind(*of), name=name, route_prefix=None)  # type: ignore[attr-defined]
            for name, of in made.items()
        }
        rows = measured(systems, texts, asked.calls, asked.turns)
    finally:
        serve.shutdown()
        ray.shutdown()
    marks = {f"p99, {row['callers']} callers": common.mark(row["p99 ratio"], 1.0) for row in rows}
    common.publish("serving", asked.results, started, rows, unit="ms", marks=marks)


def measured(systems: dict[str, Any], texts: list[str], calls: int, turns: int) -> list[common.Row]:
    """A row for each number of callers: the medians over turns of each system's p50 and p99, and their ratios."""
    rows: list[common.Row] = []
    for callers in CALLERS:
        found: dict[str, list[float]] = {f"{name} p{q}": [] for name in systems for q in (50, 99)}
        for turn in range(turns + 1):
            for name, handle in systems.items():
                times = under_load(handle, texts, callers, calls if turn else CALLS)
                for q in (50, 99) if turn else ():  # the first turn warms up
                    found[f"{name} p{q}"].append(float(np.percentile(times, q)))
        middle = {name: round(statistics.median(values), 2) for name, values in found.items()}
        ratios = {f"p{q} ratio": round(middle[f"ensemble p{q}"] / middle[f"student p{q}"], 1) for q in (50, 99)}
        rows.append({"callers": callers, **middle, **ratios})
        common.progress(common.table(rows[-1:]))
    return rows


if __name__ == "__main__":
    main()
