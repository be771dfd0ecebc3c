"""A Ray task that tokenizes one block of texts.

It announces itself in a `ray.util.queue.Queue`, so that the run knows a block in progress from one without resources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from workers import processes
from workers.data import token_files
from workers.data.ragged import Ragged
from workers.data.tokens import Tokenization


@dataclass(frozen=True)
class TokenJob:
    """Block `number` of the tokens in `folder`, and how they are made."""

    folder: str
    number: int
    how: Tokenization


@ray.remote
def tokenize(job: TokenJob, texts: Sequence[Ragged], name: str, events: Any) -> tuple[str, str]:
    """`token_files.tokenize_block`: the name and the sha256 of the block's file."""
    processes.announce(name, events)
    return token_files.tokenize_block(job.folder, job.number, texts, job.how)
