"""Saves and loads weights: writes safetensors, and reads every format of `checkpoint_files`. No code is executed.

Training checkpoints hold more than weights; `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers import storage
from workers.errors import RequestError, first_few
from workers.models import checkpoint_files
from workers.models.checkpoint_files import SAVE_CALL, VERSIONS

logger = logging.getLogger(__name__)

EXTRA_STATE = "_extra_state"
"""How torch ends the name of what `get_extra_state` of a module returns."""
CONFIG = "config.json"
"""Name of the configuration beside the weights in a folder, as `save_pretrained` writes it."""
STATE = "state.pt"
"""File name of the training checkpoint."""
CHECKSUM = 64
"""Bytes of a sha256 in hexadecimal digits."""


def save(weights: Mapping[str, Tensor], uri: str) -> None:
    """Write a state dict to `uri`; it becomes visible when complete. Raises: as `packed`."""
    storage.write_bytes(uri, packed(weights))


def packed(weights: Mapping[str, Tensor]) -> bytes:
    """A state dict as the content of a safetensors file. Shared tensors are written once for each name.

    Raises: `RequestError` where an entry is not a tensor that safetensors supports.
    """
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise RequestError(
                f"the state dict's '{name}' is {type(value).__name__}; weights are kept as safetensors, which holds "
                "tensors alone. Return a tensor from get_extra_state, or keep such state in a buffer (register_buffer)."
            )
    try:
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
        return safetensors.torch.save(tensors, _versions(weights))
    except (ValueError, KeyError, RuntimeError, NotImplementedError, SafetensorError) as error:
        raise RequestError(
            f"the state dict cannot be kept as safetensors ({error}). Expected dense tensors of a plain type."
        ) from error


def load(module: nn.Module, uri: str) -> list[str]:
    """Fill `module` with the weights at `uri`, as `load_state_dict` does, its load hooks included.

    Returns notes on every change to the file's entries. Raises: `RequestError` where a file is missing or damaged,
    holds more than weights, or does not fit the module.
    """
    weights, notes = checkpoint_files.read(uri)
    return notes + _fill(module, weights, f"checkpoint '{uri}'")


def fill(module: nn.Module, content: bytes, source: str) -> list[str]:
    """`load` from the content of a file; `source` names the file in errors."""
    weights, notes = checkpoint_files.unpacked(content, source)
    return notes + _fill(module, weights, source)


def _fill(module: nn.Module, weights: checkpoint_files.Weights, source: str) -> list[str]:
    own = module.state_dict()
    notes = checkpoint_files.plain(weights, own.keys(), source)
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except Exception as error:  # torch raises for shapes; a module's load hooks may raise anything
        misfit = _misshapen(own, weights) or _first(str(error).splitlines()[1:] or [str(error)], str)
        raise _unfit(source, misfit) from error
    told = [
        name for name in sorted(unexpected) if not isinstance(weights[name], Tensor) and not name.endswith(EXTRA_STATE)
    ]
    notes += [f"{source}: {', '.join(map(repr, told))}: no weights; they were not used."] if told else []
    unexpected = [name for name in unexpected if name not in told]
    state = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor) and not nn.parameter.is_lazy(v)}
    missing = sorted(name for name in missing if not _filled(name, state, weights))
    misfit = _misnamed(missing, sorted(unexpected)) or _differing(state, weights)
    if misfit:
        raise _unfit(source, misfit)
    return notes + checkpoint_files.narrower(weights, state, source)


def save_state(state: dict[str, Any], uri: str, key: str = "") -> None:
    """Write a training checkpoint: its sha256, then tensors and plain values with the digest of their key."""
    buffer = io.BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    content = buffer.getvalue()
    storage.write_bytes(uri, storage.sha256(content).encode() + content)


def load_state(uri: str, key: str = "") -> dict[str, Any] | None:
    """Load a training checkpoint to the CPU; None where it is missing or damaged, or has another key."""
    if not storage.exists(uri):
        return None
    raw = storage.read_bytes(uri)
    checksum, content = raw[:CHECKSUM], raw[CHECKSUM:]
    if storage.sha256(content).encode() != checksum:
        logger.warning("'%s' is not what was written; not used", uri)
        return None
    found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    state: dict[str, Any] = found["state"]
    return state if found.get("key") == key else None


def sha256(uri: str) -> str:
    """`storage.file_sha256` of the file; of several files, over theirs.

    Raises: `RequestError` where there is no such file.
    """
    files = checkpoint_files.files(uri)
    config = storage.join(uri, CONFIG)
    if files[0] != uri and storage.exists(config):  # of a folder, whose configuration orders the classes
        files = [config, *files]
    if len(files) > 1:
        return storage.sha256("\n".join(map(storage.file_sha256, files)).encode())
    return storage.file_sha256(files[0])


def size(uri: str) -> int:
    """Total bytes of a checkpoint's files."""
    return sum(map(storage.size, checkpoint_files.files(uri)))


def _versions(weights: Mapping[str, Tensor]) -> dict[str, str] | None:
    """The module versions that torch stores in a state dict for load hooks; None where all are 1."""
    versions = getattr(weights, "_metadata", {})
    if all(version == {"version": 1} for version in versions.values()):
        return None
    return {VERSIONS: json.dumps(versions, sort_keys=True)}


def _filled(name: str, state: Mapping[str, Tensor], weights: Container[str]) -> bool:
    """Whether the file has the memory of `name` under another name (tied weights)."""
    if name not in state:
        return False
    place, start, stop = _memory(state[name])
    others = (_memory(state[other]) for other in state if other != name and other in weights)
    return any(other == place and first <= start and stop <= behind for other, first, behind in others)


def _differing(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Two names in `weights` for one tensor of the module, with two values; empty where there are none."""
    known: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        if name in weights and tensor.numel():
            first = known.setdefault((*_memory(tensor), tensor.shape, tensor.stride()), name)
            one, other = (weights[each].to(tensor.dtype) for each in (first, name))
            if name != first and not torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True):
                return f"its '{first}' and '{name}' differ, and the model shares them"
    return ""


def _memory(tensor: Tensor) -> tuple[int, int, int]:
    """The memory of a contiguous tensor: its storage, its first element there, and the element after its last."""
    start = int(tensor.storage_offset())
    return tensor.untyped_storage().data_ptr(), start, start + tensor.numel()


def _unfit(source: str, misfit: str) -> RequestError:
    return RequestError(
        f"{source} does not fit the model: {misfit}. Expected the weights of this very model: {SAVE_CALL}."
    )


def _misshapen(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    wrong = [name for name in expected if name in found and expected[name].shape != found[name].shape]
    return _first(wrong, lambda name: f"'{name}' is {[*found[name].shape]}, the model's is {[*expected[name].shape]}")


def _misnamed(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    prefix = unexpected[0].removesuffix(missing[0]) if missing and unexpected else ""
    if prefix and [prefix + name for name in missing] == [*unexpected]:
        return f"each of its names begins with '{prefix}', as where a wrapper of the model was saved"
    found = [
        f"it has {word} {_first(names, repr)}" for word, names in (("no", missing), ("an unknown", unexpected)) if names
    ]
    return ", ".join(found)


def _first(what: Sequence[str], text: Callable[[str], str]) -> str:
    return first_few(what, 3, lambda each: text(each).strip())
