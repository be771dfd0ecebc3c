"""Random numbers in user code: seeds the global generators of torch, numpy and `random`.

Generators that user code creates itself, such as `numpy.random.default_rng()`, are not affected.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators during the block, and restore their states afterwards.

    The state of a GPU's generator is not restored, since reading it would initialise the GPU.
    """
    import torch  # here, so that modules that only locate code need no torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
