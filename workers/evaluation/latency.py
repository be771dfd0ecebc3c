"""Latency of one example and throughput of a batch, measured in the calling process.

A text is tokenized in each call, since a served model has to do that, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.data.arrays import Float64
from workers.data.collate import Collator, Inputs
from workers.data.examples import Columns, Examples
from workers.models.predictor import Predictor
from workers.specs.base import Precision

CACHES = 2**27
"""Reading this many bytes evicts everything else from the caches of a core or GPU."""
BATCH = 64
"""Examples in a batch whose throughput is measured."""
BATCHES, BATCHES_S = 5, 0.5
"""A throughput is that of at most so many batches, and of no further one after so many seconds."""


def answers(
    model: Predictor,
    collator: Collator,
    x: Examples,
    place: torch.device,
    *,
    size: int,
    precision: Precision = "float32",
) -> Callable[[int], Tensor]:
    """A function from the number of a call to the probabilities [size, K] float32 of its batch, as of `_requests`.

    The model is on the device `place`. Callers disable gradients.
    """
    request = _requests(collator, x, place, size)
    return lambda call: torch.softmax(model(request(call), precision).logits, dim=-1)


def _requests(collator: Collator, x: Examples, place: torch.device, size: int) -> Callable[[int], Inputs]:
    """A function from the number of a call to its batch of `size` examples.

    Dense examples are all alike, so that every call gets the same batch. Examples of different lengths take turns, and
    texts are tokenized in the call.
    """
    alike = not isinstance(x, Columns)
    if isinstance(x, Columns):
        x = replace(x, derived={})  # known tokens would not be computed

    def made(call: int) -> Inputs:
        return collator(x, (call * size + np.arange(size)) % len(x)).to(place)

    if collator.tokens is not None:
        return made
    known = [made(call) for call in range(1 if alike else -(-len(x) // size))]
    return lambda call: known[call % len(known)]


@torch.no_grad()
def times_ms(answer: Callable[[int], Any], place: torch.device, repeats: int, displaced: int = 0) -> Float64:
    """Latency of `answer` in milliseconds, measured `repeats` times after a warm-up: [repeats].

    answer: called with the number of the call. On a GPU the measurement includes the synchronisation. displaced: bytes
    to read between two calls, at most `CACHES`. The read evicts this network's weights from the caches, as the other
    members of an ensemble would.
    """
    between = torch.ones(min(displaced, CACHES) // 4, device=place)  # zeros may all map to one shared page
    warm_up, times = repeats // 5 + 1, []
    for call in range(-warm_up, repeats):
        if displaced:
            between.sum()
            _wait_for(place)
        started = time.perf_counter()
        answer(max(call, 0))
        _wait_for(place)
        times.append((time.perf_counter() - started) * 1e3)
    return np.array(times[warm_up:])


@torch.no_grad()
def batch_s(answer: Callable[[int], Tensor], place: torch.device) -> float:
    """Seconds that `answer` takes for a batch, after one batch to warm up."""
    answer(0)
    _wait_for(place)
    started, done = time.perf_counter(), 0
    while done < BATCHES and (not done or time.perf_counter() - started < BATCHES_S):
        answer(done + 1)
        done += 1
        _wait_for(place)
    return (time.perf_counter() - started) / done


def percentiles(times: Float64) -> dict[str, float]:
    """The 50th and 99th percentile."""
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def _wait_for(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()
