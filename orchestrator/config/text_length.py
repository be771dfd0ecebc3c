"""`data.max_length`, short for the same key of every model that takes texts, or of `data.masking`."""

from __future__ import annotations

from typing import Any

from workers.specs.models import has_tokenizer


def spread(values: Any) -> Any:
    """A configuration as written, where every model that takes texts has a `max_length`: its own, or that of `data`."""
    data = values.get("data") if isinstance(values, dict) else None
    length = data.get("max_length") if isinstance(data, dict) else None
    if length is None:
        return values
    assert isinstance(data, dict)
    if data.get("masking") is not None:  # the masks are drawn in the tokens that models then take
        return {**values, "data": _with(data, length)}
    return {key: value if key == "data" else _with(value, length) for key, value in values.items()}


def _with(node: Any, length: Any) -> Any:
    """The same part of a configuration, in which what has a tokenizer has a `max_length`."""
    if isinstance(node, list | tuple):
        return [_with(each, length) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: value if key == "kwargs" else _with(value, length) for key, value in node.items()}
    return {**found, "max_length": length} if has_tokenizer(node) and node.get("max_length") is None else found
