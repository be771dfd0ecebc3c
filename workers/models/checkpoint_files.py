"""Reads a state dict from common checkpoint formats: safetensors, one file or several with an index, or torch's own.

Reading executes no code. A torch file is a pickle inside an archive; `torch.load(weights_only=True)` reads tensors and
plain values and rejects everything else. The reader removes differences from a plain state dict, such as the prefix of
a wrapper, and reports them in a note.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from workers import storage
from workers.errors import RequestError

INDEX = ".index.json"
"""Suffix of the index of a checkpoint with several files."""
IN_A_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Names of the checkpoint in a folder, as `save_pretrained` writes it."""
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".skops", ".onnx")
"""Endings of names that are files for certain, so that no request asks whether they are folders."""
NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts store a state dict beside other values."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and `torch.compile` add to each name."""
VERSIONS = "module_versions"
"""Metadata key of a safetensors file for the state dict's `_metadata`, as JSON."""
SAVE_CALL = "safetensors.torch.save_model(model, path)"
"""The call that saves any model, including tied weights, which `save_file` rejects."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch's format before archives: the pickled magic number."""

Weights = dict[str, Any]
"""A state dict: tensors on the CPU by name, and a module's extra state unchanged."""


def read(uri: str) -> tuple[Weights, list[str]]:
    """The state dict at `uri`, and notes on deviations from a plain one.

    Raises: `RequestError` where a file is missing or damaged, or holds more than tensors and plain values.
    """
    first, *others = files(uri)
    if not first.endswith(INDEX):
        return unpacked(storage.read_bytes(first), f"checkpoint '{first}'")
    weights: Weights = OrderedDict()
    for file in others:
        weights |= unpacked(storage.read_bytes(file), f"checkpoint '{file}'")[0]
    missing = sorted(_weight_map(first).keys() - weights.keys())
    if missing:
        raise RequestError(
            f"checkpoint '{first}': none of its files has '{missing[0]}', which it lists. Expected all tensors of the "
            "index: save or copy the checkpoint again."
        )
    return weights, []


def files(uri: str) -> list[str]:
    """The files of a checkpoint; an index comes first.

    Raises: `RequestError` for a wrong index, and a folder without a checkpoint.
    """
    if posixpath.splitext(uri)[1] not in ENDINGS and storage.is_folder(uri):
        names = storage.names(uri)
        found = next((name for name in IN_A_FOLDER if name in names), None)
        if found is None:
            raise RequestError(
                f"checkpoint '{uri}' is a folder without {' or '.join(IN_A_FOLDER)}. Name a file in it, or save the "
                "weights there."
            )
        uri = storage.join(uri, found)
    if not uri.endswith(INDEX):
        return [uri]
    return [uri, *(storage.join(storage.parent(uri), name) for name in sorted(set(_weight_map(uri).values())))]


def _weight_map(uri: str) -> dict[str, str]:
    """The file of each tensor, from an index as `save_pretrained` writes it."""
    try:
        found = json.loads(storage.read_bytes(uri))["weight_map"]
        names = set(found.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"checkpoint '{uri}' is no index of safetensors files ({type(error).__name__}: {error}). Expected JSON "
            "with `weight_map`, names of tensors and of files beside it."
        ) from error
    outside = [name for name in names if not isinstance(name, str) or name != posixpath.basename(name) or not name]
    if outside:
        raise RequestError(
            f"checkpoint '{uri}' names the file {outside[0]!r}; expected names of files beside it. Save the checkpoint "
            "again."
        )
    return dict(found)


def unpacked(content: bytes, source: str) -> tuple[Weights, list[str]]:
    """The state dict in the content of one file, and notes. `source` names it in errors. Raises: as `read`."""
    if content[8:9] != b"{" and (content[:1] == b"\x80" or content[:2] == b"PK"):  # safetensors may start alike
        return _of_torch(content, source)
    return _of_safetensors(content, source), []


def metadata(content: bytes) -> dict[str, str]:
    """The metadata in the content of a safetensors file, which the loaders of such files drop."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, str] = header.get("__metadata__", {})
    return found


def _of_safetensors(content: bytes, source: str) -> Weights:
    try:
        weights: Weights = OrderedDict(safetensors.torch.load(content))
        versions = json.loads(metadata(content).get(VERSIONS, "null"))
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise RequestError(
            f"{source} is not a safetensors file ({error}), and none of torch. Expected weights: {SAVE_CALL}."
        ) from error
    if versions is not None:
        weights._metadata = versions  # type: ignore[attr-defined]  # where load_state_dict reads it
    return weights


def _of_torch(content: bytes, source: str) -> tuple[Weights, list[str]]:
    expected = f"Expected a state dict, torch.save(model.state_dict(), path), or safetensors: {SAVE_CALL}."
    if content[:2] != b"PK" and not content.startswith(_LEGACY):
        raise RequestError(f"{source} is a pickle, which could run code and was not opened. {expected}")
    try:
        if content[:2] == b"PK" and any(each.compress_type for each in zipfile.ZipFile(io.BytesIO(content)).infolist()):
            raise ValueError("a compressed archive, and torch writes none")
        found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises several types, depending on the file
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is not None:
            raise RequestError(
                f"{source} holds more than tensors: it names {named[1]}, and to make one is to run code of the file. "
                f"Nothing of it was run. {expected}"
            ) from None
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]
        raise RequestError(f"{source} cannot be read as weights of torch ({reason}). {expected}") from error
    for key in NESTED:  # first, since a tensor beside them, such as a loss, is no weight
        if isinstance(found, Mapping) and _is_state_dict(found.get(key)):
            return found[key], [f"{source}: its weights are those under '{key}'."]
    if _is_state_dict(found):
        return found, []
    kind = f"the keys {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, Mapping) else type(found).__name__
    raise RequestError(f"{source} holds {kind} and no state dict. {expected}")


def _is_state_dict(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and all(isinstance(name, str) for name in found)
        and any(isinstance(value, Tensor) for value in found.values())
    )


def plain(weights: Weights, expected: Collection[str], source: str) -> list[str]:
    """Remove wrappers' prefixes from the names, in place; returns notes on the removed prefixes.

    expected: the model's own names; a prefix that they have themselves stays.
    """
    notes = []
    while prefix := _common(weights, expected):
        consume_prefix_in_state_dict_if_present(weights, prefix)
        notes.append(f"{source}: the prefix '{prefix}' was taken off its names.")
    inner = "._orig_mod."  # of a compiled part
    if any(inner in name for name in weights) and not any(inner in name for name in expected):
        for name in [name for name in weights if inner in name]:
            weights[name.replace(inner, ".")] = weights.pop(name)
        notes.append(f"{source}: '_orig_mod.' was taken out of its names.")
    return notes


def _common(weights: Collection[str], expected: Collection[str]) -> str | None:
    """A wrapper's prefix that all names in the file have, and no name of the model."""
    return next(
        (
            prefix
            for prefix in PREFIXES
            if weights
            and all(name.startswith(prefix) for name in weights)
            and not any(name.startswith(prefix) for name in expected)
        ),
        None,
    )


def narrower(weights: Mapping[str, Any], expected: Mapping[str, Tensor], source: str) -> list[str]:
    """A note where the weights have a lower precision than the model."""
    kinds: Sequence[str] = sorted(
        {
            str(weights[name].dtype).removeprefix("torch.")
            for name, own in expected.items()
            if isinstance(weights.get(name), Tensor)
            and weights[name].is_floating_point()
            and weights[name].itemsize < own.itemsize
        }
    )
    return [f"{source}: its weights are {' and '.join(kinds)}, and are computed in float32."] if kinds else []
