"""The reference of a configuration's keys is derived from the schema, and says what each key is for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.command import main
from orchestrator.config import reference

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_schema() -> None:
    written = (ROOT / "docs" / "CONFIGURATION.md").read_text()
    assert written == reference.page(), "python -m orchestrator.config.reference > docs/CONFIGURATION.md"


def test_each_section_has_a_title_of_its_own() -> None:
    titles = [line for line in reference.page().splitlines() if line.startswith("#")]
    assert len(titles) == len({*titles})
    assert all(len({*places}) == len(places) for places in (re.findall(r"`[a-z_.]+`", title) for title in titles))


def test_every_key_is_described() -> None:
    whole = reference.schema()
    undescribed = [
        f"{name}.{key}"
        for name, node in [("", whole), *whole["$defs"].items()]
        for key, value in node.get("properties", {}).items()
        if not value.get("description")
    ]
    assert not undescribed


def test_bounds_are_those_of_json_schema() -> None:
    def written(node: Any) -> set[str]:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return set(node if isinstance(node, dict) else ()).union(*map(written, children))

    assert not written(reference.schema()) & {"ge", "gt", "le", "lt"}


def keys(values: Any, place: str = "") -> set[str]:
    """Dotted keys of a configuration, down to what the user's own functions and networks of transformers get."""
    if not isinstance(values, dict) or place.endswith(("kwargs", "model.config")):
        return {place}
    return {own for key, value in values.items() for own in keys(value, f"{place}.{key}".lstrip("."))}


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*/config.yaml")), ids=lambda path: path.parent.name
)
def test_the_page_has_every_key_of_the_examples(example: Path) -> None:
    page = reference.page()
    for key in keys(yaml.safe_load(example.read_text())):
        if not key.startswith("report.paper."):
            assert f"`{key.rpartition('.')[2]}`" in page, key


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == reference.schema()
    assert printed["required"] == ["name", "data", "ensemble"] and printed["additionalProperties"] is False
    assert printed["$defs"]["TrainingSpec"]["properties"]["epochs"]["minimum"] == 1
