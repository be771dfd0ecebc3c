"""The speed of a teacher beside its bare forward passes, on a GPU if available: examples/s.

This needs only torch, numpy and `workers/`: no Ray, no network, random weights and inputs. For nets of three widths:

- bare: forward pass and softmax of inputs on the device, in the precision that `auto` selects there.
- teacher: `Teacher.soften_all` from inputs in main memory to fixed-point outputs in main memory, one member at a time.
- packed or stacked: the same with the teacher's own optimisation: packed layers on a CPU, members stacked by vmap on a
  GPU. `chosen` shows whether the teacher selects it by itself.
- of peak, on a GPU: floating-point operations of the faster variant over those of large matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from benchmarks import common
from benchmarks.common import Row
from benchmarks.models import mlp
from workers.inference.teacher import Asked, Teacher
from workers.models.precision import autocast, computed_in

WIDTHS = {"cpu": (128, 512), "cuda": (128, 512, 4096)}
LAYERS, INPUTS, CLASSES, TEMPERATURE = 4, 840, 117, 2.0
MARK = 0.8


def main() -> None:
    asked = common.arguments(__doc__, members=8, repeats=5, rows=16_384).parse_args()
    torch.set_num_threads(asked.threads)
    started = common.machine()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device)
    rows = [forward(width, asked.members, asked.rows, asked.repeats, device, peak) for width in WIDTHS[device.type]]
    common.publish(
        f"teacher_forward_{device.type}",
        asked.results,
        started,
        rows,
        **conditions(device, peak),
        members=asked.members,
        marks={f"width {row['width']}, over bare": common.mark(row["over bare"], MARK) for row in rows},
    )


def forward(width: int, members: int, count: int, repeats: int, device: torch.device, peak: float | None) -> Row:
    """One line of the table: the three variants in turns."""
    nets = {}
    for k in range(members):
        torch.manual_seed(k)
        nets[f"member-{k}"] = mlp(width, LAYERS, INPUTS, CLASSES)
    x = torch.randn(count, INPUTS)
    plain, prepared = (Teacher(nets) for _ in range(2))
    chosen = prepared.prepare(None, x)
    there = x.to(device)

    @torch.no_grad()
    def bare() -> None:
        with autocast(device, "auto"):
            for net in plain.modules.values():
                for batch in there.split(plain.micro_batch):
                    torch.softmax(net(batch).float() / TEMPERATURE, dim=-1)

    def asked(teacher: Teacher) -> Callable[[], object]:
        shares = dict.fromkeys(nets, 1 / members)
        return lambda: teacher.soften_all([Asked(x)], temperature=TEMPERATURE, weights=shares, combine="arithmetic")

    ways = {"bare": bare, "teacher": asked(plain), "prepared": asked(prepared)}
    rates = {name: count / median(seconds) for name, seconds in in_turns(ways, repeats, device).items()}
    best = max(rates["teacher"], rates["prepared"])
    operations = 2 * members * sum(p.numel() for p in nets["member-0"].parameters() if p.ndim == 2)
    return {
        "width": width,
        **{f"{name}/s": rate for name, rate in rates.items()},
        "chosen": "stacked" if chosen else "one by one",
        "over bare": best / rates["bare"],
        "of peak": peak and best * operations / peak,
    }


def in_turns(ways: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """The seconds of each way, by turn, after a turn to warm up."""
    turns = [{name: timed(way, device) for name, way in ways.items()} for _ in range(repeats + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in ways}


def timed(way: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, including the device's asynchronous work."""
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def conditions(device: torch.device, peak: float | None) -> Row:
    """What a result says of its device. peak: `peak_flops`."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "precision": computed_in(device, "auto"),
        "measured_peak_tflops": peak and round(peak / 1e12, 2),
    }


def peak_flops(device: torch.device) -> float | None:
    """Floating-point operations per second of a large matrix product, in the teachers' precision; None on a CPU."""
    if device.type != "cuda":
        return None
    size = 8192
    kind = torch.bfloat16 if computed_in(device, "auto") == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(5))


if __name__ == "__main__":
    main()
