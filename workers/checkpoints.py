"""Weights in and out as safetensors: reading them runs no code.

A pickle is refused by its first bytes and never opened. What a run keeps for itself to go on from holds more than
weights, and is read by `torch.load(weights_only=True)`, which runs none either.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers import storage
from workers.errors import RequestError

logger = logging.getLogger(__name__)

STATE = "state.pt"
"""What the file is called that training goes on from."""
CHECKSUM = 64
"""Bytes of a sha256 in hexadecimal digits."""


def save(weights: dict[str, Tensor], uri: str) -> None:
    """Write a state dict to `uri`; it becomes visible when complete. Shared tensors are written once each name."""
    storage.write_bytes(
        uri,
        safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}),
    )


def load(module: nn.Module, uri: str) -> None:
    """Fill `module` with the weights at `uri`.

    Raises: `RequestError` where the file is missing, is no safetensors file, or does not fit the module.
    """
    content = storage.read_bytes(uri)
    if content[8:9] != b"{" and (content[:1] == b"\x80" or content[:2] == b"PK"):  # a header's length may begin so too
        raise RequestError(
            f"checkpoint '{uri}' is a pickle (as torch.save writes), which could run code and was not "
            "opened. Expected safetensors: safetensors.torch.save_file(model.state_dict(), path)."
        )
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RequestError(f"checkpoint '{uri}' is not a safetensors file ({error}).") from error
    misfit = _misfit(module.state_dict(), weights)
    if misfit:
        raise RequestError(
            f"checkpoint '{uri}' does not fit the model: {misfit}. Expected the state dict of this very model."
        )
    module.load_state_dict(weights)


def save_state(state: dict[str, Any], uri: str, mark: str = "") -> None:
    """Write what training goes on from: tensors and plain values, and what they follow from; its sha256 first."""
    buffer = io.BytesIO()
    torch.save({"mark": mark, "state": state}, buffer)
    content = buffer.getvalue()
    storage.write_bytes(uri, storage.sha256(content).encode() + content)


def load_state(uri: str, mark: str = "") -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; None where there is nothing that can be read and follows from the same."""
    if not storage.exists(uri):
        return None
    raw = storage.read_bytes(uri)
    checksum, content = raw[:CHECKSUM], raw[CHECKSUM:]
    if storage.sha256(content).encode() != checksum:
        logger.warning("'%s' is not what was written; not used", uri)
        return None
    found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    state: dict[str, Any] = found["state"]
    return state if found["mark"] == mark else None


def sha256(uri: str) -> str:
    """sha256 of the file, as `sha256sum` prints it. A process reads it once, unless it is written anew.

    Raises: `RequestError` where there is no such file.
    """
    try:
        return _sha256(uri, storage.identity(uri))
    except FileNotFoundError:
        return storage.sha256(storage.read_bytes(uri))  # which says so


@lru_cache(maxsize=4096)
def _sha256(uri: str, identity: str) -> str:
    return storage.sha256(storage.read_bytes(uri))


def _misfit(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    if missing or unexpected:
        parts = [("no ", missing), ("an unknown ", unexpected)]
        return ", ".join(f"it has {word}'{names[0]}'" for word, names in parts if names)
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"'{name}' is {list(found[name].shape)}, the model's is {list(tensor.shape)}"
    return ""
