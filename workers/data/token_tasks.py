"""A Ray task that tokenizes one block of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@processes.task
def tokenize(job: TokenJob, texts: Sequence[Ragged]) -> tuple[str, str]:
    """`token_files.tokenize_block`: the name and the sha256 of the block's file."""
    return token_files.tokenize_block(job.folder, job.number, texts, job.how)
