"""The text of `config.yaml`: commented YAML, with paths relative to its folder where they are near it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli.start.checkpoints import Members
from orchestrator.cli.start.look import Seen
from orchestrator.cli.start.recipe import MEMBERS, TOKENS, Recipe
from orchestrator.config.yaml_text import inline
from workers import storage

SCHEMA = "stillhouse.schema.json"
COMMENTS = {
    "train": "what members and student learn from",
    "test": "what every system is measured on, and nothing learns from",
    "validation": "what weights and early stopping are chosen by",
    "unlabeled": "no labels: the ensemble labels them for the student",
    "test_share": "no file for it: so much of train, the same rows for every seed",
    "label_column": "the class, as a name or an id",
    "feature_columns": "what models see; texts are categories, empty cells are marked",
    "text_column": "the text; [a, b] for pairs",
    "image_size": "[height, width] that all images are scaled to",
    "image_mode": "rgb or grey",
}


def text(name: str, seen: Seen, members: Members, recipe: Recipe, *, folder: Path, tokenizer: str) -> str:
    """The whole file. tokenizer: of texts, relative to the folder; empty for other data."""
    return "\n".join(_lines(name, seen, members, recipe, folder=folder, tokenizer=tokenizer)) + "\n"


def _lines(name: str, seen: Seen, members: Members, recipe: Recipe, *, folder: Path, tokenizer: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield "# Written by `stillhouse init`. `stillhouse run config.yaml` runs it; `stillhouse schema` has every key."
    yield from (f"# To do: {each}" for each in seen.to_do)
    yield f"name: {inline(name)}  # of the run: results are in <storage>/{name}"
    yield "seed: 0"
    yield "storage: runs  # a folder, or a URI such as s3://bucket/runs"
    yield "data:"
    for key, value in located(seen.data, folder).items():
        yield f"  {key}: {inline(value)}" + (f"  # {COMMENTS[key]}" if key in COMMENTS else "")
    yield "ensemble:"
    yield from _ensemble(located({"groups": members.groups}, folder)["groups"], seen, recipe, tokenizer)
    yield "distillation:"
    yield "  temperature: 2.0  # T: higher shows more of the wrong classes' probabilities; try 1 to 5"
    yield "  soft_weight: 0.9  # how much the ensemble's probabilities count"
    yield "  hard_weight: 0.1  # how much the labels count"
    yield "student:"
    yield "  model:  # the small network to serve"
    yield from _model(recipe, recipe.student, tokenizer)
    yield f"  training: {inline(recipe.student_training)}"
    if recipe.baseline_training:
        yield f"  baseline_training: {inline(recipe.baseline_training)}  # on labelled examples alone, so more epochs"
    yield "tracking:"
    yield '  uri: "sqlite:///mlflow.db"  # of MLflow: a database, or a server such as http://HOST:5000'
    yield f"  experiment: {inline(name)}"


def _ensemble(groups: list[dict[str, Any]], seen: Seen, recipe: Recipe, tokenizer: str) -> Iterator[str]:
    if not groups:
        yield f"  size: {MEMBERS}  # more members are better teachers, and take longer"
        yield "  model:"
        yield from _model(recipe, recipe.member, tokenizer)
        yield f"  training: {inline(recipe.training)}  # of each member, with a seed of its own"
        return
    yield "  members:  # your checkpoints; one without `training` is used as it is"
    for group in groups:
        yield f"    - model: {inline(group['model'])}"
        if "size" in group:
            yield f"      size: {group['size']}"
            yield f"      training: {inline(group['training'])}"
        if "checkpoints" in group:
            yield "      checkpoints:"
            yield from (f"        - {inline(each)}" for each in group["checkpoints"])


def _model(recipe: Recipe, kwargs: Mapping[str, Any], tokenizer: str) -> Iterator[str]:
    yield f'    factory: "models:{recipe.factory}"  # the function in models.py'
    if tokenizer:
        yield f"    tokenizer: {inline(tokenizer)}"
        yield f"    max_length: {TOKENS}  # tokens at which texts are cut"
    yield f"    kwargs: {inline(dict(kwargs))}"


def located(value: Any, folder: Path) -> Any:
    """The value with local paths in `folder`, or beside it, relative to it."""
    if isinstance(value, Mapping):
        return {key: located(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [located(each, folder) for each in value]
    if isinstance(value, str) and storage.is_local(value) and os.path.isabs(value):
        beside = folder.parent != Path(folder.anchor) and Path(value).is_relative_to(folder.parent)
        return os.path.relpath(value, folder) if beside or Path(value).is_relative_to(folder) else value
    return value
