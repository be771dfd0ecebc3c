"""Counts the learned parameters of an ONNX file from its bytes, without the package `onnx`.

ONNX is a protocol buffer: nested messages whose fields have a number and a wire type (onnx/onnx.proto). The parser
follows only the path to the initializers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

GRAPH, INITIALIZER = 7, 5
"""Fields of a model and of a graph."""
DIMENSIONS, DATA_TYPE, DATA_LOCATION = 1, 2, 14
"""Fields of a tensor."""
EXTERNAL = 1
"""Data location of tensors in another file."""
NOT_LEARNED = (0, 6, 7, 8, 9)
"""Data types of shapes and indices, texts and truth values."""
_VARINT, _LONG, _BYTES, _WORD = 0, 1, 2, 5

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class Described:
    """parameters: numbers in the file's tensors, without integer indices. external: whether other files have more."""

    parameters: int
    external: bool


def describe(content: bytes) -> Described:
    """Parse a file. Raises: ValueError where the bytes are not an ONNX message."""
    parameters, external = 0, False
    for graph in _messages(memoryview(content), GRAPH):
        for tensor in _messages(graph, INITIALIZER):
            fields = list(_fields(tensor))
            external |= (DATA_LOCATION, EXTERNAL) in fields
            kind = next((value for number, value in fields if number == DATA_TYPE), 0)
            if kind not in NOT_LEARNED:
                parameters += math.prod(
                    size for number, value in fields if number == DIMENSIONS for size in _numbers(value)
                )
    return Described(parameters, external)


def _messages(content: memoryview, number: int) -> Iterator[memoryview]:
    return (value for found, value in _fields(content) if found == number and isinstance(value, memoryview))


def _numbers(value: int | memoryview) -> Iterator[int]:
    """A number, or several that are packed."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _fields(content: memoryview) -> Iterator[Field]:
    """Number and value of each field; fixed-size values as their bytes."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(content, at)
        elif wire in (_LONG, _WORD):
            size = 8 if wire == _LONG else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at + size > len(content):
            raise ValueError("a field that ends behind the file")
        yield number, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next field begins."""
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("a number without an end")
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
