"""The files that a configuration names, with their keys: data, weights, tokenizers and code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.config import loading
from orchestrator.config.initial import WORDS
from orchestrator.config.run_config import RunConfig
from workers import storage
from workers.specs.data import IdxFiles
from workers.specs.models import AnyModel
from workers.user_code import factories

OF_MODELS = ("path", "checkpoint", "tokenizer")
"""Keys of a model that name a file or a folder."""
OF_DATA = ("train", "validation", "test", "unlabeled")
"""Keys of the data that name the files of a split."""


def every(config: RunConfig) -> list[str]:
    """URIs of all files and folders that the configuration reads: data, networks, tokenizers and code."""
    found = [uri for _, uri in (*of_data(config), *of_networks(config))] + [*config.data.depends_on]
    code = [*loading.own_code(config.model_dump())]
    found += [file for _, section in code for file in section.get("depends_on", ())]
    found += [str(path) for name, section in code for path in factories.files(name, section.get("folder", ""))]
    named = factories.texts([section.get("kwargs") for _, section in code])
    found += [str(place) for text in named for root in (config.data.root, "") if (place := Path(root, text)).exists()]
    return found


def of_data(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Key and URI of the files, folders and patterns of each split, those of the students' stages included."""
    data = config.data
    splits: dict[str, str | IdxFiles | None] = {f"data.{name}": getattr(data, name) for name in OF_DATA}
    for key, student in config.every_student.items():
        for number, stage in enumerate(student.stages or ()):
            if stage.data is not None:
                splits[f"{key}.stages.{number}.data.unlabeled"] = stage.data.unlabeled
    for key, split in splits.items():
        files: dict[str, str | None] = (
            {f"{key}.images": split.images, f"{key}.labels": split.labels}
            if isinstance(split, IdxFiles)
            else {key: split}
        )
        yield from ((name, storage.absolute(file, data.root)) for name, file in files.items() if file)


def of_networks(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Key and URI of all weights, complete models and tokenizers, those of every student included."""
    ensemble = config.ensemble
    initials: dict[str, str | None] = {}
    models: dict[str, AnyModel] = {}
    for key, group in zip(ensemble.keys(), ensemble.groups, strict=True):
        yield from ((f"{key}.checkpoints.{number}", file) for number, file in enumerate(group.checkpoints or ()))
        initials[key], models[key] = group.initial_file, group.model
    for key, student in config.every_student.items():
        initials[key], models[key] = student.initial, student.model
        initials |= {f"{key}.stages.{number}": stage.initial for number, stage in enumerate(student.stages or ())}
    for name, system in config.evaluation.systems.items():
        models[f"evaluation.systems.{name}"] = system.model
        if system.checkpoint is not None:
            yield f"evaluation.systems.{name}.checkpoint", system.checkpoint
    for key, initial in initials.items():
        if initial is not None and initial not in WORDS:
            yield f"{key}.initial", initial
    for key, model in models.items():
        places = {f"{key}.model.{name}": getattr(model, name, None) for name in OF_MODELS}
        yield from ((name, place) for name, place in places.items() if place is not None)
    if config.data.masking is not None:
        yield "data.masking.tokenizer", config.data.masking.tokenizer
