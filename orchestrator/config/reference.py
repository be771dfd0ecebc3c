"""Every key of a configuration as JSON Schema (`stillhouse schema`) and as a page (`docs/CONFIGURATION.md`).

Both are generated from the pydantic models and the docstrings of their attributes, so that they match the code.
`python -m orchestrator.config.reference` prints the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.run_config import RunConfig

Schema = Mapping[str, Any]

HEADER = """# Configuration

Every key, derived from the schema by `python -m orchestrator.config.reference`; `stillhouse schema` prints the schema
itself, by which editors check and complete YAML. An unknown key is an error that names the nearest known one.
`--set a.b=value` overrides a key for one command, and `a.0.b` one in the first entry of a list.
"""
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    found = RunConfig.model_json_schema()
    found["required"].remove("student")
    found["anyOf"] = [{"required": ["student"]}, {"required": ["students"]}]
    of_student = found["$defs"]["StudentSpec"]
    of_student["anyOf"] = [{"required": ["training"]}, {"required": ["stages"]}]
    return found


def page() -> str:
    """The reference as Markdown: a table per section, in the order of a configuration."""
    whole = schema()
    places: dict[str, list[str]] = {}
    for name, place in _uses(whole, whole.get("$defs", {}), ""):
        places.setdefault(name, []).append(place)
    where = {name: tuple(dict.fromkeys(several)) for name, several in places.items()}
    sections = [_table("", whole)]
    for name, several in where.items():
        node = whole["$defs"][name]
        alike = [whole["$defs"][each] for each, of in where.items() if of == several and each != name]
        title = ", ".join(f"`{place}`" for place in several) + _told_apart(node, alike)
        sections.append(f"\n## {title}\n\n{_table(several[0], node)}")
    return HEADER + "\n" + "\n".join(sections)


def _told_apart(node: Schema, alike: Sequence[Schema]) -> str:
    """What a title adds where definitions have the same places: the kind, and a key that no other of the kind has."""
    kind = _kind(node) if alike else ""
    others = {key for each in alike if _kind(each) == kind for key in each["properties"]}
    own = next((f" with `{key}`" for key in node["properties"] if others and key not in others), "")
    return f": kind {kind}{own}" if kind else own


def _kind(node: Schema) -> str:
    """The kind, as Markdown: a word, or for one of the user's own its form; empty for a definition without kinds."""
    kind = node["properties"].get("kind", {})
    return f"`{kind['const']}`" if "const" in kind else _text(kind.get("description", "")).rstrip(".")


def _uses(node: Schema, definitions: Schema, place: str) -> Iterator[tuple[str, str]]:
    """Definitions of objects, and the dotted key at which each is used, depth first; `NAME` stands for a free key."""
    for key, value in node.get("properties", {}).items():
        own = f"{place}.{key}".lstrip(".")
        for name in _references(value):
            if "properties" in definitions[name]:
                yield name, own
                yield from _uses(definitions[name], definitions, own)
        yield from ((name, f"{own}.NAME") for name in _named(value))


def _references(node: Schema) -> Iterator[str]:
    """Names of the definitions that a value may have."""
    if "$ref" in node:
        yield node["$ref"].rpartition("/")[2]
    for option in [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]:
        yield from _references(option)
    if isinstance(node.get("items"), Mapping):
        yield from _references(node["items"])


def _named(node: Schema) -> Iterator[str]:
    """Names of the definitions that the values of a mapping with free keys may have."""
    for option in [node, *node.get("anyOf", ())]:
        for value in [*option.get("patternProperties", {}).values(), option.get("additionalProperties")]:
            if isinstance(value, Mapping):
                yield from _references(value)


def _table(place: str, node: Schema) -> str:
    lines = [f"{_text(node['description'])}\n"] if node.get("description") else []
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    required = node.get("required", ())
    for key, value in node["properties"].items():
        default = "" if key in required else _default(value)
        lines.append(f"| `{key}` | {_values(value)} | {default} | {_text(value.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def _values(node: Schema) -> str:
    """The allowed values, as text."""
    options = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
    if options:
        shown = [_values(option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(shown))
    if "$ref" in node:
        return "a section"
    if "const" in node:
        return f"`{json.dumps(node['const']).strip(chr(34))}`"
    if "enum" in node:
        return ", ".join(f"`{each}`" for each in node["enum"])
    return _of_type(node)


def _of_type(node: Schema) -> str:
    kind: str = node.get("type", "any")
    if kind in ("integer", "number"):
        bounds = " and ".join(f"{sign} {node[name]:g}" for name, sign in BOUNDS.items() if name in node)
        return f"{kind} {bounds}".rstrip()
    if kind == "array":
        items = node.get("prefixItems") or [node.get("items", {})]
        return f"[{', '.join(_values(each) for each in items)}{'' if 'prefixItems' in node else ', ...'}]"
    words = {"boolean": "`true`, `false`", "object": "names and values", "any": "anything"}
    return words.get(kind, kind)


def _default(node: Schema) -> str:
    default = node.get("default")
    if default is None or default == "" or default == [] or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default).strip(chr(34))}`"


def _text(description: str) -> str:
    """A docstring as one line of a table."""
    return " ".join(description.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
