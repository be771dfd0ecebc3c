"""Finds out what the user's checkpoints are, and which members they make. No code of a file is run."""

from __future__ import annotations

import importlib.util
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from orchestrator.cli.start import chains
from orchestrator.cli.start.look import WHOLE_BYTES, Seen
from orchestrator.cli.start.recipe import TOKENS, channels_of
from workers import storage
from workers.data import memory
from workers.data.arrays import as_tensor, spread
from workers.data.examples import Columns
from workers.errors import RequestError
from workers.models import checkpoint_files
from workers.models.checkpoints import CONFIG

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
FILES = (*WEIGHTS, ".onnx", ".skops")
EXPECTED = f"{', '.join(FILES)}, or a folder of transformers, whose {CONFIG} has `model_type`"
UNSAID_LABELS = 2
"""Labels of a network of transformers whose configuration names none."""
FINE_TUNING = {"epochs": 2, "batch_size": 16, "learning_rate": 5.0e-5, "warmup_share": 0.1, "schedule": "linear"}


class Described(BaseModel):
    """A network of transformers by the configuration in its folder, without the keys that are not used here."""

    model_config = ConfigDict(protected_namespaces=())  # which would warn of `model_type`

    model_type: str = Field(min_length=1)
    """Its absence shows the configuration of another project."""
    architectures: list[str] | None = None
    id2label: dict[str, Any] | None = None
    num_labels: int | None = None
    vocab_size: int | None = None


@dataclass(frozen=True)
class Members:
    """Groups of members as `ensemble.members` has them, with absolute paths; functions for `models.py`; what was
    found, and what needs the user's hand."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def look(uris: Sequence[str], seen: Seen) -> Members:
    """The members in checkpoints: files, folders of transformers, or folders of either, directly or one folder deeper.

    Raises: `RequestError` for what is no checkpoint, is a pickle, or does not fit the data.
    """
    found = Members()
    weights: list[str] = []
    for uri in (each for given in uris for each in _expanded(given)):
        if storage.is_folder(uri):
            _transformers(uri, seen, found)
        elif uri.endswith(".onnx"):
            found.groups.append({"model": {"kind": "onnx", "path": uri}})
            found.reasons.append(f"{_shown(uri)}: a graph of ONNX")
        elif uri.endswith(".skops"):
            _skops(uri, found)
        else:
            weights.append(uri)
    _networks(weights, seen, found)
    return found


def vocabulary(uri: str) -> int:
    """The number of tokens of a folder of transformers. Raises: `RequestError` where its configuration has none."""
    described = _described(uri)
    if described is None or described.vocab_size is None:
        raise RequestError(
            f"--checkpoint '{uri}': its {CONFIG} has no `vocab_size`, the number of tokens, which the student's "
            "network needs as well. Add it."
        )
    return described.vocab_size


def _name(uri: str) -> str:
    return posixpath.basename(uri.rstrip("/"))


def _shown(uri: str) -> str:
    return f"checkpoint '{_name(uri)}'"


def _expanded(uri: str) -> list[str]:
    if not storage.exists(uri):
        raise RequestError(f"--checkpoint '{uri}': no such file or folder. Check the path.")
    if not storage.is_folder(uri):
        if not uri.endswith(FILES):
            raise RequestError(
                f"--checkpoint '{uri}': no kind of checkpoint that is known. Expected {EXPECTED}. Pickles of whole "
                "models (joblib, torch.save(model)) are not read."
            )
        return [uri]
    found = _in_folder(uri)
    if found != [uri]:
        inner = [each for each in _names(uri) if storage.is_folder(each)]
        found += [each for folder in inner for each in _in_folder(folder)]
    if not found:
        raise RequestError(f"--checkpoint '{uri}': no checkpoint in it, or in a folder in it. Expected {EXPECTED}.")
    return found


def _in_folder(uri: str) -> list[str]:
    """The folder itself where it is of transformers, otherwise the files of checkpoints in it."""
    if _described(uri) is not None:
        return [uri]
    return [each for each in _names(uri) if each.endswith(FILES) and not storage.is_folder(each)]


def _names(folder: str) -> list[str]:
    """The URIs of what is in a folder and not hidden."""
    return [storage.join(folder, name) for name in storage.names(folder) if not storage.is_hidden(name)]


def _described(folder: str) -> Described | None:
    """The configuration of a folder of transformers; None for another folder, whatever its `config.json` holds."""
    content = storage.read_if_there(storage.join(folder, CONFIG))
    try:
        return None if content is None else Described.model_validate_json(content)
    except ValidationError:
        return None


def _transformers(uri: str, seen: Seen, found: Members) -> None:
    if not seen.is_text:
        raise RequestError(
            f"--checkpoint '{uri}': a network of transformers, and the data are no texts. Expected texts: give such "
            "data, or another checkpoint."
        )
    described = _described(uri)
    assert described is not None, "as `_in_folder` found"
    labels = len(described.id2label or ()) or described.num_labels or UNSAID_LABELS
    finished = any("ForSequenceClassification" in each for each in described.architectures or ())
    model = {"kind": "transformers", "checkpoint": uri, "max_length": TOKENS}
    if finished and labels == seen.classes:
        found.groups.append({"model": model})
        found.reasons.append(f"{_shown(uri)}: {described.model_type}, a finished classifier")
    else:
        found.groups.append({"model": model, "size": 3, "training": FINE_TUNING})
        found.reasons.append(f"{_shown(uri)}: {described.model_type} without a head for these classes; fine-tuned")


def _skops(uri: str, found: Members) -> None:
    model: dict[str, Any] = {"kind": "sklearn", "path": uri}
    if importlib.util.find_spec("skops") is None:
        found.reasons.append(f"{_shown(uri)}: an estimator; `pip install 'stillhouse[sklearn]'` has what reads it")
    else:
        from skops import io

        try:
            types = io.get_untrusted_types(data=storage.read_bytes(uri))
        except Exception as error:  # skops raises several types
            raise RequestError(
                f"--checkpoint '{uri}': not a file of skops ({error}). Expected a file of skops.io.dump: write it "
                "again by that call."
            ) from error
        model |= {"trusted": types} if types else {}
        found.reasons.append(f"{_shown(uri)}: an estimator of scikit-learn")
    found.groups.append({"model": model})


def _networks(uris: Sequence[str], seen: Seen, found: Members) -> None:
    """Groups of state dicts of one architecture each."""
    alike: dict[tuple[Any, ...], list[tuple[str, dict[str, Tensor]]]] = {}
    for uri in uris:
        weights, _ = checkpoint_files.read(uri)
        checkpoint_files.plain(weights, (), uri)
        tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
        alike.setdefault(tuple(sorted((name, tuple(value.shape)) for name, value in tensors.items())), []).append(
            (uri, tensors)
        )
    for number, files in enumerate(alike.values()):
        function = "member" if len(alike) == 1 else f"member_{number}"
        found.groups.append({"model": {"factory": f"models:{function}"}, "checkpoints": [uri for uri, _ in files]})
        found.functions.append(_function(function, files, seen, found))


def _function(name: str, files: Sequence[tuple[str, dict[str, Tensor]]], seen: Seen, found: Members) -> str:
    """The text of the factory of some checkpoints."""
    uri, weights = files[0]
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    described = _shown(uri) if len(files) == 1 else f"{len(files)} checkpoints like '{_name(uri)}'"
    layers = chains.layers_of(shapes)
    if layers is None or seen.loaded is None or isinstance(seen.loaded.train.x, Columns):
        found.missing.append(
            f"{described}: {_untried(layers, seen)} put the class of the network into `{name}` of models.py"
        )
        return _place(name, shapes)
    _check_widths(layers, uri, seen)
    if layers[0].kind == "conv" and channels_of(seen.shape)[1]:
        found.missing.append(
            f"{described}: convolutions, which take images [channels, height, width], and the data have channels last; "
            f"put a network that permutes them into `{name}` of models.py"
        )
        return _place(name, shapes)
    data = seen.loaded.train
    labelled = (data.y >= 0).nonzero()[0]
    labelled = labelled[spread(len(labelled), chains.TRIED)]
    x, y = as_tensor(np.asarray(data.x[labelled])), torch.from_numpy(data.y[labelled])
    guess = chains.best(layers, {key: value.float() for key, value in weights.items()}, x, y)
    if guess is None:
        found.missing.append(f"{described}: layers that do not take the examples; put their network into `{name}`")
        return _place(name, shapes)
    often = float(y.bincount().max()) / len(y)
    found.reasons.append(
        f"{described}: taken for a chain of {len(layers)} layers, which is right in {guess.accuracy:.1%} of {len(y):,} "
        f"examples; files of weights show no skip connections, so compare with an accuracy that you know"
    )
    if guess.accuracy <= often:
        found.missing.append(
            f"{described}: {guess.accuracy:.1%} right, and one class always would be {often:.1%}. Was the input "
            f"scaled, or in another order? Correct `{name}` of models.py"
        )
    return guess.function(name, len(y))


def _untried(layers: Sequence[chains.Layer] | None, seen: Seen) -> str:
    """Why the layers of a network are not tried on the examples, as the beginning of what to do."""
    if layers is None:
        return "no plain chain of layers;"
    if seen.is_text:
        return "a chain of layers, which takes no texts;"
    largest = memory.size(WHOLE_BYTES)
    return (
        f"a chain of {len(layers)} layers, tried only on data of up to {largest}; name a part of yours by `--data`, or"
    )


def _check_widths(layers: Sequence[chains.Layer], uri: str, seen: Seen) -> None:
    first, last = layers[0], layers[-1]
    channels = channels_of(seen.shape)[0] if len(seen.shape) in (2, 3) else 1
    width = channels if first.kind == "conv" else int(torch.Size(seen.shape).numel())
    if first.inputs != width or last.outputs != seen.classes:
        raise RequestError(
            f"--checkpoint '{uri}': takes {first.inputs} numbers (or channels) and has {last.outputs} classes; the "
            f"data have {width} and {seen.classes}. Give the data as these networks learnt them, with the same columns."
        )


def _place(name: str, shapes: chains.Shapes) -> str:
    """A function in which the user puts the network's class."""
    listed = "".join(
        f"    #   {key if key.isprintable() else repr(key)} {list(shape)}\n" for key, shape in list(shapes.items())[:12]
    )
    more = f"    #   and {len(shapes) - 12} more\n" if len(shapes) > 12 else ""
    return (
        f"\n\ndef {name}() -> nn.Module:\n"
        '    """The network of the checkpoints: put its class here, and return one."""\n'
        f"    # Its weights:\n{listed}{more}"
        '    raise NotImplementedError("return the network of the checkpoints here")\n'
    )
