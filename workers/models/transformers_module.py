"""The kind `transformers`: networks of the package transformers, from a folder that `save_pretrained` wrote, or from a
configuration, with random weights.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from workers import storage
from workers.data import tokens
from workers.data.collate import Collator, Inputs
from workers.data.label_names import listed
from workers.data.tokens import local, require_transformers, vocabulary
from workers.errors import RequestError
from workers.models import checkpoints
from workers.models.checkpoints import CONFIG
from workers.models.special import specialised
from workers.models.torch_module import TorchPredictor, build
from workers.models.transformers_classes import class_order, names_beside, names_of, notes_on_classes
from workers.models.transformers_folder import (
    FOLDER,
    MASKED_LM,
    checked,
    config_of,
    explained,
    from_folder,
    in_folder,
    order_of,
)
from workers.specs.models import AUTO, COMPANION, TransformersModel

TOKENIZER_CONFIG = "tokenizer_config.json"
OFFSET_POSITIONS = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "xmod",
    "esm", "data2vec-text", "ibert", "luke", "lilt", "layoutlmv3", "markuplm",
)  # fmt: skip
"""Model types whose positions begin behind the padding's id, so that they take so many fewer."""


class TransformersPredictor(TorchPredictor):
    """A network of transformers, which returns its logits."""

    @classmethod
    def load(cls, model: Any, weights: str) -> Self:
        if storage.is_folder(weights):
            found = from_folder(model, weights, may_add=False)
            return cls(specialised(found.module, model.special).eval())
        if model.task != MASKED_LM:
            _check_classes_beside(model, weights)
        module = build(model)
        try:
            checkpoints.load(module, weights)
        except RequestError as error:
            if not storage.exists(storage.join(storage.parent(weights), CONFIG)):
                raise
            raise RequestError(
                f"{error} Its folder, instead of the file, is read by names of earlier versions, too."
            ) from error
        return cls(module.eval())

    @classmethod
    def made(cls, model: Any) -> nn.Module:
        """The network as training begins with it: the checkpoint's weights, or random ones of its configuration."""
        if model.checkpoint is not None:
            return from_folder(model, model.checkpoint, may_add=True).module
        transformers = require_transformers("`kind: transformers`")
        with explained("`config`", model):
            module = getattr(transformers, AUTO[model.task]).from_config(config_of(model), dtype=torch.float32)
            return checked(module, model)

    @classmethod
    def collator(cls, model: TransformersModel) -> Collator:
        of_texts = super().collator(model)
        return of_texts if model.task == "sequence-classification" else replace(of_texts, tokens=None)

    @classmethod
    def positions(cls, model: TransformersModel) -> int | None:
        config = config_of(model)
        most = getattr(config, "max_position_embeddings", None)
        behind = (config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        return most - behind if isinstance(most, int) and most > 0 else None

    @classmethod
    def notes_on(cls, model: TransformersModel) -> tuple[str, ...]:
        if model.checkpoint is None:
            return _notes_on_config(model)
        loaded = from_folder(model, model.checkpoint, may_add=True)
        if added := loaded.added:
            return (
                f"{model.label} has no {', '.join(added[:3])}{' and others' if len(added) > 3 else ''}: training "
                "begins with random numbers there.",
            )
        return () if model.task == MASKED_LM else notes_on_classes(model.label, names_of(loaded.module.config), model)

    @classmethod
    def settled(cls, model: TransformersModel, weights: str, x: Inputs) -> tuple[TransformersModel, tuple[str, ...]]:
        if model.task == MASKED_LM:
            return model, ()
        has = names_of(in_folder(model, weights)[1]) if storage.is_folder(weights) else names_beside(weights)
        return model, notes_on_classes(f"'{weights}'", has, model)

    @classmethod
    def places(cls, model: TransformersModel) -> tuple[int, ...]:
        if model.task == MASKED_LM or model.checkpoint is None:
            return ()
        order = order_of(config_of(model), model.checkpoint, model, may_add=True) or ()
        return () if order == tuple(range(len(order))) else order

    @classmethod
    def begin(cls, model: TransformersModel, module: nn.Module, weights: str) -> list[str]:
        if model.task != MASKED_LM:
            _check_classes_beside(model, weights, begins=True)
        return super().begin(model, module, weights)

    @classmethod
    def companions(cls, model: TransformersModel) -> Mapping[str, bytes]:
        """Configuration and tokenizer, with which transformers loads the folder."""
        module: Any = cls.made(model)
        config = copy.deepcopy(module.config)
        config.architectures = [type(module).__name__]
        found = {CONFIG: (config.to_json_string() + "\n").encode()}
        if model.tokenizer is not None:
            folder, name = local(model.tokenizer, FOLDER)
            for each in [name] if name else sorted(os.listdir(folder)):
                if each != CONFIG and COMPANION.fullmatch(each):
                    found[each] = Path(folder, each).read_bytes()
            if tokens.has_tokens(model.tokenizer):
                found[tokens.FILE] = tokens.file_of(model.tokenizer).encode()
            if TOKENIZER_CONFIG in found:
                found[TOKENIZER_CONFIG] = _with_length(found[TOKENIZER_CONFIG], cls.most_tokens(model))
        return found

    @classmethod
    def most_tokens(cls, model: TransformersModel) -> int | None:
        """The longest sequence of tokens that the network takes: `max_length`, or else its positions."""
        return cls.positions(model) if model.max_length is None else model.max_length


def _notes_on_config(model: TransformersModel) -> tuple[str, ...]:
    """Notes on keys of a written configuration without an effect, since a misspelt one would make another network, and
    on a vocabulary that is not given."""
    made, given = config_of(model), model.config or {}
    known, found = type(made)(), []
    for key in given:
        if not hasattr(known, key):
            less = config_of(model.model_copy(update={"config": {k: v for k, v in given.items() if k != key}}))
            if {k: v for k, v in made.to_dict().items() if k != key} == less.to_dict():
                found.append(key)
    notes = []
    if found:
        notes.append(
            f"{model.label}: `config` has {', '.join(found)}, without an effect on {type(made).__name__}. Correct the "
            "name where one is meant."
        )
    embedded, ids = getattr(made, "vocab_size", 0), 0 if model.tokenizer is None else vocabulary(model.tokenizer)
    if model.task == MASKED_LM:
        ids = model.classes  # those of `data.masking.tokenizer`
    if "vocab_size" not in given and 0 < ids < embedded:
        notes.append(
            f"{model.label}: `config` gives no `vocab_size`, so it has embeddings of {embedded:,} tokens, and the "
            f"tokenizer has {ids:,}. Give `vocab_size: {ids}`."
        )
    return tuple(notes)


def _check_classes_beside(model: TransformersModel, weights: str, *, begins: bool = False) -> None:
    """Raise `RequestError` where the configuration beside weights has the classes in another order than the network:
    that of the checkpoint which training begins with, else that of the data.

    begins: whether training begins with the weights, so that classes of other names become those of the data.
    """
    has = names_beside(weights, begins=begins)
    order = class_order(weights, has, model, may_add=begins) if has else None
    expected = TransformersPredictor.places(model) or tuple(range(model.classes))
    if order is None or order == expected:
        return
    names = [name for _, name in sorted(zip(expected, model.labels, strict=True))]
    instead = (
        "Give their folder as `checkpoint` instead of `initial`" if begins else "Name the folder instead of the file"
    )
    raise RequestError(
        f"checkpoint '{weights}': the {CONFIG} beside it has the classes {listed(has)}, and the network "
        f"{listed(names)}. {instead}, so that the order is put right."
    )


def _with_length(content: bytes, most: int | None) -> bytes:
    """A tokenizer's configuration by which `truncation=True` cuts at so many tokens; None: as it is."""
    if most is None:
        return content
    settings = {**json.loads(content), "model_max_length": most}
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
