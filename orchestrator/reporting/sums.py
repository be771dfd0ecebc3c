"""`sums.safetensors` in a run's folder: each system's sums over blocks of test examples.

Runs on the same test examples have sums over the same blocks, so that their systems are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from orchestrator.reporting import statistics
from orchestrator.reporting.statistics import Difference
from orchestrator.run_folder.paths import RunFolder, damaged
from workers import storage
from workers.data.arrays import Float64
from workers.models.checkpoint_files import metadata

TEST = "test"
"""Key of the metadata: the digest of the test examples, their labels and groups."""


def write(folder: str, of_blocks: Mapping[str, Float64], test: str) -> None:
    """Keep each system's sums [B, COLUMNS]. test: digest of the test examples."""
    content = safetensors.numpy.save({name: np.ascontiguousarray(of) for name, of in of_blocks.items()}, {TEST: test})
    storage.write_bytes(RunFolder(folder).sums, content)


def read(folder: str) -> tuple[dict[str, Float64], str]:
    """The sums of each system, and the digest of the test examples; nothing of a run of an earlier version.

    Raises: `RequestError` where the file is damaged.
    """
    uri = RunFolder(folder).sums
    content = storage.read_if_there(uri)
    if content is None:
        return {}, ""
    try:
        found = safetensors.numpy.load(content)
    except (SafetensorError, ValueError) as error:
        raise damaged(uri, error) from None
    return found, metadata(content).get(TEST, "")


def students(folders: Sequence[str]) -> list[Difference | None]:
    """The accuracy of each further run's student over that of the first; None where the test examples are others."""
    first, test = read(folders[0])
    found: list[Difference | None] = []
    for folder in folders[1:]:
        other, of_other = read(folder)
        same = bool(test) and test == of_other and "student" in first and "student" in other
        found.append(statistics.difference(other["student"], first["student"]) if same else None)
    return found
