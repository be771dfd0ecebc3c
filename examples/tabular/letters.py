"""Letters as 16 numbers each: few with their label, many without, and the last 4,000 to test on."""

from pathlib import Path
from typing import Any

import numpy as np

TEST, VALIDATION = 4000, 1000
MIDDLE, SPREAD = 7.5, 2.5
"""About the mean and the deviation of numbers from 0 to 15."""


def splits(labelled: int = 2000, apart: int = 0) -> dict[str, Any]:
    """The splits: `labelled` rows to learn from, 1,000 to decide by, and the others unlabelled.

    apart: rows after those of the test that nothing has, such as those on which settings were chosen.

    Raises: ValueError where too few rows are left beside the test, whose rows are in no other split.
    """
    with np.load(Path(__file__).with_name("letters.npz")) as file:
        x, y = (file["x"].astype(np.float32) - MIDDLE) / SPREAD, file["y"].astype(np.int64)
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])  # of equal rows one, so that no split has another's
    x, y = x[first], y[first]
    x, y = x[: len(x) - apart], y[: len(y) - apart]
    held = labelled + VALIDATION
    if held >= len(x) - TEST:
        raise ValueError(
            f"labelled is {labelled:,}, of {len(x):,} rows, {VALIDATION:,} for validation and {TEST:,} for the test; "
            f"expected less than {len(x) - TEST - VALIDATION:,}, so that some rows are left without a label"
        )
    return {
        "train": (x[:labelled], y[:labelled]),
        "validation": (x[labelled:held], y[labelled:held]),
        "unlabeled": x[held:-TEST],
        "test": (x[-TEST:], y[-TEST:]),
    }
