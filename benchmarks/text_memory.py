"""Memory of a run on texts as their number grows: peaks of driver, teachers and student, in megabytes.

x1 is 65,536 texts of 7 to 62 tokens, then 4 and 16 times as many. Networks are small, since only the texts grow: two
teachers and one epoch. With `--copies N` the texts are masked, N copies of each, and the networks are masked language
models. As in `memory`, the figures are each process's anonymous memory, sampled ten times a second; texts and tokens in
mapped files are not among them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import common, memory, texts

TOP_K = 16
"""Tokens of which soft targets of masked tokens keep the probabilities."""


def main() -> None:
    asked = common.arguments(__doc__, texts=65_536, copies=0).parse_args()
    started = common.machine()
    rows: list[common.Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = Path(scratch)
        of_masked = asked.copies > 0
        teachers = write_masked(folder, 2) if of_masked else texts.write_teachers(folder, 2, **texts.SMALLEST)
        for size in memory.SIZES:
            data = texts.write(folder, asked.texts * size)
            config = texts.configuration(data, teachers, texts.SMALLEST, epochs=1, batch_size=1024)
            found = memory.peaks_of(masked(data, teachers, asked.copies) if of_masked else config)
            written = (data / "train.jsonl").stat().st_size
            rows.append({"size": f"x{size}", "texts": asked.texts * size, "jsonl MB": round(written / 1e6, 1), **found})
            common.progress(common.table(rows[-1:]))
    name = "text_memory_masked" if of_masked else "text_memory"
    common.publish(name, asked.results, started, rows, unit="MB", marks=memory.marks(rows), copies=asked.copies)


def write_masked(folder: Path, count: int) -> list[Path]:
    """Write masked language models with random weights, as teachers."""
    paths = [folder / f"teacher-{k}" for k in range(count)]
    for k, path in enumerate(paths):
        torch.manual_seed(k)
        config = transformers.AutoConfig.for_model(**texts.bert(**texts.SMALLEST))
        texts.save(transformers.AutoModelForMaskedLM.from_config(config), path)
    return paths


def masked(data: Path, teachers: Sequence[Path], copies: int) -> dict[str, Any]:
    """The configuration of a run of masked language models."""
    model = {"kind": "transformers", "task": "masked-lm"}
    tokenizer = str(data.resolve() / "tokenizer")
    ensemble = {"members": [{"model": {**model, "checkpoint": str(path.resolve())}} for path in teachers]}
    student = {**model, "config": texts.bert(**texts.SMALLEST), "tokenizer": tokenizer}
    config = common.distillation(data, "jsonl", ensemble, student, loss=texts.LOSS, epochs=1, batch_size=1024)
    config["data"]["masking"] = {"tokenizer": tokenizer, "max_length": texts.MAX_LENGTH, "copies": copies}
    config["distillation"] = {**config["distillation"], "top_k": TOP_K}
    return config


if __name__ == "__main__":
    main()
