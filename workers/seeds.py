"""Seeds: one for each purpose, and of the global generators of torch, numpy and `random`, which user code draws from.

Generators that user code creates itself, such as `numpy.random.default_rng()`, are not affected.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def seed_of(seed: int, *path: str | int) -> int:
    """A separate, well-mixed seed for each purpose, derived from `seed` and `path`."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def seed_all(seed: int) -> None:
    """Seed the global generators. seed: 0 to 2^64 - 1, of which numpy takes the lower 32 bits."""
    import torch  # here, so that modules that only locate code need no torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators during the block, and restore their states afterwards.

    The state of a GPU's generator is not restored, since reading it would initialise the GPU.
    """
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            seed_all(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
