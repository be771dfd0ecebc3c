"""The device of a process, and its threads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device(name: str | torch.device | None = None) -> torch.device:
    """The named device; None: CUDA where torch finds it.

    Raises: `RuntimeError` where CUDA is named and torch does not see it. It is an error of this node, so the caller's
    retry may succeed on another one.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = torch.device(name)
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"torch sees no CUDA on {socket.gethostname()}, where this process is to compute on a GPU. Repair the "
            "node's driver or take the node out of the cluster. `ensemble.resources_per_member.num_gpus: 0` lets "
            "members, and them alone, compute on CPUs."
        )
    return asked


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which torch computes with one thread, and so do sessions of ONNX Runtime that are loaded in it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
