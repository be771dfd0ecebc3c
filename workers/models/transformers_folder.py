"""A network from a folder that `save_pretrained` of transformers wrote, with errors for what does not fit it.

Weights come from safetensors or from torch files that hold tensors alone. Code in a folder is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workers.data import tokens
from workers.data.tokens import local, require_transformers, vocabulary
from workers.errors import RequestError, first_line
from workers.models import at_positions
from workers.models.checkpoints import CONFIG
from workers.models.transformers_classes import class_order, names_of
from workers.specs.models import AUTO, TransformersModel

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
NUMBERED = re.compile(r".*?\.\d+\.")
"""The number of a layer in the name of a weight, and the beginning of the name up to it."""
FOLDER = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Endings of the files of a checkpoint's folder."""
MASKED_LM = "masked-lm"


@dataclass(frozen=True)
class Loaded:
    """A network from a folder. added: weights that the folder lacks, which are random."""

    module: nn.Module
    added: tuple[str, ...] = ()


def from_folder(model: TransformersModel, uri: str, *, may_add: bool) -> Loaded:
    """The network in a folder, for the classes of the data. may_add: whether a missing head may be made anew."""
    transformers = require_transformers("`kind: transformers`")
    folder, config, has_own_code = in_folder(model, uri)
    _check_tokenizer(model, uri)
    with explained(f"checkpoint '{uri}'", model):
        order = order_of(config, uri, model, may_add=may_add)
        if order is None:
            for key, value in _classes(model).items():
                setattr(config, key, value)
        module, info = getattr(transformers, AUTO[model.task]).from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the error of transformers does not name them
            dtype=torch.float32,
        )
    shapes = {name: (list(has), list(wanted)) for name, has, wanted in info["mismatched_keys"]}
    _check_shapes(uri, {name: of for name, of in shapes.items() if order is not None or not _of_head(module, [name])})
    _check_layers(uri, module, info["missing_keys"], info["unexpected_keys"])
    _check_encoder(uri, module, info["missing_keys"], has_own_code)
    random = {*info["missing_keys"], *shapes}
    if order is None and not _of_head(module, random):
        random |= _anew(module)
    missing = tuple(sorted(random))
    if missing and not may_add:
        part = f", the head of the task '{model.task}'" if _of_head(module, missing) else ""
        raise RequestError(
            f"checkpoint '{uri}' has no {', '.join(missing[:3])}{part}. Expected all weights of a member that is "
            "trained for the task; give `training` to train it."
        )
    if order and order != tuple(range(len(order))):
        module.register_forward_hook(partial(_in_order, torch.tensor(order)))
    with explained(f"checkpoint '{uri}'", model):
        return Loaded(checked(module, model), missing)


def in_folder(model: TransformersModel, uri: str) -> tuple[str, Any, bool]:
    """A checkpoint's folder on this machine, its configuration, and whether it names code of its own.

    Raises: `RequestError` where it is no folder of a network that transformers has.
    """
    transformers = require_transformers("`kind: transformers`")
    folder, name = local(uri, FOLDER)
    if name:
        raise RequestError(f"checkpoint '{uri}': a file. Expected the folder that `save_pretrained` wrote.")
    has_own_code = _check_folder(uri, folder)
    with explained(f"checkpoint '{uri}'", model):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return folder, config, has_own_code


def config_of(model: TransformersModel) -> Any:
    """The configuration of the checkpoint, or the one that is written out, for the classes of the data."""
    if model.checkpoint is not None:
        return in_folder(model, model.checkpoint)[1]
    transformers = require_transformers("`kind: transformers`")
    with explained("`config`", model):
        given = {key: value for key, value in (model.config or {}).items() if key != "num_labels"}
        return transformers.AutoConfig.for_model(**{**given, **_classes(model)})


def order_of(config: Any, uri: str, model: TransformersModel, *, may_add: bool) -> tuple[int, ...] | None:
    """`class_order` of a checkpoint, empty for a language model; None for a head that has to be made anew."""
    if model.task == MASKED_LM:
        return ()
    return None if _has_no_head(config, model.task) else class_order(uri, names_of(config), model, may_add=may_add)


def _has_no_head(config: Any, task: str) -> bool:
    """Whether the checkpoint says that it is no classifier, but for example a plain encoder, or one of another task."""
    named = [str(each) for each in config.architectures or ()]
    others = [kind.removeprefix("Auto").removeprefix("Model") for name, kind in AUTO.items() if name != task]
    return bool(named) and not any(
        "Classification" in each and not any(each.endswith(other) for other in others) for each in named
    )


def _check_folder(uri: str, folder: str) -> bool:
    """Whether a checkpoint names code of its own, beside a type that transformers may know.

    Raises: `RequestError` where it has none of the files, or no type.
    """
    try:
        with open(f"{folder}/{CONFIG}", encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"checkpoint '{uri}': no readable {CONFIG} ({error}). Expected the folder that `save_pretrained` wrote."
        ) from error
    has_own_code = isinstance(config, Mapping) and bool(config.get("auto_map"))
    if has_own_code and not config.get("model_type"):
        raise _own_code(uri)
    return has_own_code


def _own_code(uri: str, why: str = "") -> RequestError:
    return RequestError(
        f"checkpoint '{uri}' wants code of its own ({CONFIG}, `auto_map`), which is not run{why}. Expected a network "
        "that transformers has."
    )


def _check_shapes(uri: str, wrong: Mapping[str, tuple[list[int], list[int]]]) -> None:
    """Raise `RequestError` for weights of another shape. wrong: by name, the shape found and the one expected."""
    for name, (has, wanted) in sorted(wrong.items()):
        raise RequestError(
            f"checkpoint '{uri}': its '{name}' is {has}, and its {CONFIG} makes {wanted}. Expected the configuration "
            "that was saved with the weights."
        )


def _check_layers(uri: str, module: nn.Module, missing: Collection[str], left_out: Collection[str]) -> None:
    """Raise `RequestError` for a checkpoint of more or fewer layers than its configuration makes.

    missing: weights of the network that it has not. left_out: its weights that the network has not. A layer counts
    where all of it is absent, and others of its kind are present.
    """
    encoder = f"{module.base_model_prefix}."
    of_network = {name.removeprefix(encoder) for name in module.state_dict() if name.startswith(encoder)}
    absent = {name.removeprefix(encoder) for name in missing if name.startswith(encoder)}
    there = of_network - absent
    kinds = {LAYER.sub("*", name) for name in there}
    for names, others, what in (
        ({name.removeprefix(encoder) for name in left_out}, of_network, "has '{}', a layer that its {} does not make"),
        (absent, there, "has no '{}', of a layer that its {} makes"),
    ):
        known = {layer[0] for name in others if (layer := NUMBERED.match(name))}
        other = sorted(
            name for name in names
            if (layer := NUMBERED.match(name)) and layer[0] not in known and LAYER.sub("*", name) in kinds
        )  # fmt: skip
        if other:
            raise RequestError(
                f"checkpoint '{uri}' {what.format(other[0], CONFIG)}: they are of another number of layers. Expected "
                "the configuration that was saved with the weights."
            )


def _check_encoder(uri: str, module: nn.Module, missing: Collection[str], has_own_code: bool) -> None:
    """Raise `RequestError` where a checkpoint is of another network, whose encoder would be random for the most part.

    missing: the weights that it has not. has_own_code: whether it names code of its own; it then has to have all but a
    pooler, which other tasks leave out.
    """
    every = {name for name, _ in module.named_parameters() if not _of_head(module, [name]) and "pooler" not in name}
    lost = sorted(every & {*missing})
    if has_own_code and lost:
        raise _own_code(uri, f"; {type(module).__name__} of transformers is another network, with {lost[0]}")
    if 2 * len(lost) > len(every):
        raise RequestError(
            f"checkpoint '{uri}' has no {', '.join(lost[:3])}, nor most other weights of {type(module).__name__}: "
            f"{len(lost)} of {len(every)} of its encoder are missing. Expected the weights of this network, by the "
            "names that `save_pretrained` gives them."
        )


def _check_tokenizer(model: TransformersModel, uri: str) -> None:
    """Raise `RequestError` where a checkpoint's own tokenizer has tokens under other ids than that of the model."""
    if model.tokenizer is not None and (other := tokens.moved(uri, model.tokenizer)):
        raise RequestError(
            f"checkpoint '{uri}': {other}. Expected the tokenizer that the network was trained with: leave `tokenizer` "
            "out."
        )


def _of_head(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the weights `names` that are of a network's head, which is all but the encoder."""
    encoder = f"{module.base_model_prefix}."
    return [name for name in names if not name.startswith(encoder)]


def _anew(module: nn.Module) -> set[str]:
    """Draw the head of a network anew, in the order of its weights, and return their names."""
    found = _of_head(module, (name for name, _ in module.named_parameters()))
    for name in found:
        parameter = module.get_parameter(name)
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, 1.0 if name.endswith(".weight") else 0.0)  # 1.0: of a norm
    return set(found)


def _in_order(order: Tensor, module: nn.Module, arguments: Any, output: Any) -> Any:
    """Forward hook: the logits in the order of the data's classes."""
    output["logits"] = output["logits"][..., order.to(output["logits"].device)]
    return output


def _classes(model: TransformersModel) -> dict[str, Any]:
    """The keys of a configuration for the data's classes."""
    if model.task == MASKED_LM:
        return {}
    names = model.labels or tuple(f"LABEL_{k}" for k in range(model.classes))
    return {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}


def checked(module: nn.Module, model: TransformersModel) -> nn.Module:
    """The network, if its vocabulary has each token. Raises: `RequestError`."""
    rows = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    needed = 0 if model.tokenizer is None else vocabulary(model.tokenizer)
    if needed > rows:
        raise RequestError(
            f"{model.label} embeds {rows:,} tokens, and the tokenizer '{model.tokenizer}' has ids up to "
            f"{needed - 1:,}. {_expected_vocabulary(model, needed)}"
        )
    if model.tokenizer is not None and getattr(module.config, "pad_token_id", None) is None:
        # a network that classifies by the last token needs it, to find that token
        module.config.pad_token_id = tokens.load(model.tokenizer).pad_token_id  # type: ignore[union-attr]
    for part in model.frozen:
        _freeze(module, part)
    module.config.return_dict = True  # type: ignore[union-attr]  # a checkpoint may ask for tuples
    if model.task == MASKED_LM:
        if model.classes > rows:
            raise RequestError(
                f"{model.label} predicts {rows:,} tokens, and `data.masking.tokenizer` has {model.classes:,}. "
                f"{_expected_vocabulary(model, model.classes)}"
            )
        return at_positions.only(module, model.classes)
    return module


def _expected_vocabulary(model: TransformersModel, size: int) -> str:
    """The remedy for a network of fewer than `size` tokens."""
    if model.checkpoint is None:
        return f"Expected `config.vocab_size: {size}`."
    return "Expected the tokenizer that the network was trained with."


def _freeze(module: nn.Module, part: str) -> None:
    """Exclude a part from training. Raises: `RequestError` where the network has no such part."""
    chosen = [parameter for name, parameter in module.named_parameters() if f".{part}." in f".{name}."]
    if not chosen:
        known = ", ".join(name for name, _ in module.named_children())
        raise RequestError(
            f"`frozen` names '{part}', and no parameter's name has it. Expected a part of {type(module).__name__}, "
            f"such as {known}, or a part of these."
        )
    for parameter in chosen:
        parameter.requires_grad_(False)


@contextmanager
def explained(where: str, model: TransformersModel) -> Iterator[None]:
    """A block in which exceptions of transformers become a `RequestError`."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        own = " It wants code of its own, which is not run." if "remote_code" in str(error) else ""
        raise RequestError(
            f"{where}: cannot be made into a network for '{model.task}' ({first_line(error)}).{own} "
            "Expected a folder that `save_pretrained` wrote, or the keys of a configuration of transformers with its "
            "`model_type`."
        ) from error
