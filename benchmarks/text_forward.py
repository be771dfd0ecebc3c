"""The speed of a teacher of texts beside its bare forward passes, on a GPU if available: tokens/s.

This needs torch, transformers, tokenizers, numpy and `workers/`: no Ray, no network, random weights. The texts are
sorted by length, as in a pass. For BERTs of three widths:

- bare: forward pass and softmax of batches that are padded and on the device, in the precision that `auto` selects.
- teacher: `Teacher.soften_all` from ragged tokens in main memory to fixed-point outputs in main memory.
- of peak, on a GPU: floating-point operations of the teacher's linear layers over those of large matrix products.

Both take batches of `--batch-size`; 0 is the size that a run on these texts takes.
"""

from __future__ import annotations

from statistics import median

import numpy as np
import torch

from benchmarks import common, texts
from benchmarks.teacher_forward import conditions, in_turns, peak_flops
from workers.data.arrays import micro_batch
from workers.data.collate import collate
from workers.data.examples import Columns, embedded, values_of
from workers.data.ragged import Ragged
from workers.data.tokens import IDS
from workers.inference.teacher import Asked, Teacher
from workers.models.precision import autocast

LARGE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES = {"2x128": texts.STUDENT, "4x256": texts.TEACHER, "12x768": LARGE}
ON = {"cpu": ("2x128", "4x256"), "cuda": ("2x128", "4x256", "12x768")}
MARK = 0.95


def main() -> None:
    asked = common.arguments(__doc__, texts=4096, members=2, repeats=5, batch_size=0).parse_args()
    torch.set_num_threads(asked.threads)
    started = common.machine()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device)
    x = sorted_tokens(asked.texts)
    size = asked.batch_size or micro_batch(values_of(x), embedded(x), device.type)
    rows = [forward(name, x, asked.members, asked.repeats, size, device, peak) for name in ON[device.type]]
    common.publish(
        f"text_forward_{device.type}",
        asked.results,
        started,
        rows,
        **conditions(device, peak),
        members=asked.members,
        batch_size=size,
        marks={f"{row['network']}, over bare": common.mark(row["over bare"], MARK) for row in rows},
    )


def sorted_tokens(count: int) -> Columns:
    """Tokens of texts that ascend in length."""
    ids = texts.tokenizer()(texts.synthesized(count, 0)[0])["input_ids"]
    return Columns({IDS: Ragged.of([np.array(row, np.int32) for row in sorted(ids, key=len)])})


def forward(
    name: str, x: Columns, members: int, repeats: int, size: int, device: torch.device, peak: float | None
) -> common.Row:
    """One line of the table: both ways in turns."""
    nets = {f"member-{k}": texts.made(k, **SIZES[name]).eval() for k in range(members)}
    teacher = Teacher(nets, micro_batch=size)
    batch, shares = collate(x, np.arange(len(x)), narrow=device.type == "cuda"), dict.fromkeys(nets, 1 / members)
    assert not isinstance(batch, torch.Tensor)
    teacher.prepare(False, batch)
    plain = [texts.made(k, **SIZES[name]).eval().to(device) for k in range(members)]
    padded = [piece.to(device).widened().padded() for piece in batch.split(size)]

    @torch.no_grad()
    def bare() -> None:
        with autocast(device, "auto"):
            for net in plain:
                for inputs in padded:
                    torch.softmax(net(**inputs).logits.float() / texts.LOSS.temperature, dim=-1)

    def ours() -> None:
        teacher.soften_all([Asked(batch)], temperature=texts.LOSS.temperature, weights=shares, combine="arithmetic")

    found = in_turns({"bare": bare, "teacher": ours}, repeats, device)
    tokens = int(sum(inputs["attention_mask"].sum() for inputs in padded)) * members
    rates = {way: tokens / median(seconds) for way, seconds in found.items()}
    linear = sum(m.weight.numel() for m in nets["member-0"].modules() if isinstance(m, torch.nn.Linear))
    ratios = [above / below for above, below in zip(found["bare"], found["teacher"], strict=True)]
    return {
        "network": name,
        **{f"{way} tokens/s": rate for way, rate in rates.items()},
        "over bare": median(ratios),
        "of peak": peak and rates["teacher"] * 2 * linear / peak,
    }


if __name__ == "__main__":
    main()
