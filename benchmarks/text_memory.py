"""Memory of a run on texts as their number grows: peaks of driver, teachers and student, in megabytes.

x1 is 65,536 texts of 7 to 62 tokens, then 4 and 16 times as many. Networks are small, since only the texts grow: two
teachers and one epoch. As in `memory`, the figures are each process's anonymous memory, sampled ten times a second;
texts and tokens in mapped files are not among them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import common, memory, texts


def main() -> None:
    asked = common.arguments(__doc__, texts=65_536).parse_args()
    started = common.machine()
    rows: list[common.Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = Path(scratch)
        teachers = texts.write_teachers(folder, 2, **texts.SMALLEST)
        for size in memory.SIZES:
            data = texts.write(folder, asked.texts * size)
            config = texts.configuration(data, teachers, texts.SMALLEST, epochs=1, batch_size=1024)
            found = memory.peaks_of(config)
            written = (data / "train.jsonl").stat().st_size
            rows.append({"size": f"x{size}", "texts": asked.texts * size, "jsonl MB": round(written / 1e6, 1), **found})
            common.progress(common.table(rows[-1:]))
    common.publish("text_memory", asked.results, started, rows, unit="MB", marks=memory.marks(rows))


if __name__ == "__main__":
    main()
