"""The YAML of configurations: PyYAML, with the plain values of YAML 1.2 where those of YAML 1.1 are surprising.

PyYAML reads YAML 1.1, in which `1e-3` is a string, `1:30` the number 90, `010` the number 8 and a date an object. Here
`1e-3` is a number, `1:30` and dates are strings, and `010` is an error. `yes`, `no`, `on` and `off` stay booleans as
values, since configurations and keyword arguments rely on it; as keys they are strings.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

BOOL, FLOAT, INT, MERGE, STRING, TIMESTAMP, VALUE = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "merge", "str", "timestamp", "value")
)
AMBIGUOUS = "!ambiguous-number"
FIX = "Expected YAML: correct it, or put the value in quotes."
"""The end of a message on a text that is not YAML."""

PLAIN = {
    FLOAT: re.compile(
        r"""[-+]?(?: [0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]* | [0-9][0-9_]*(?=[eE]) )(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN)""",
        re.VERBOSE,
    ),
    INT: re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0o[0-7]+|0b[01_]+|0x[0-9a-fA-F_]+)"),
    AMBIGUOUS: re.compile(r"[-+]?0[0-9_]+"),
}
"""Which plain scalars are numbers, and which of them YAML 1.1 reads as octal and YAML 1.2 as decimal."""


def parse(text: str) -> Any:
    """The value of one YAML document. It builds only plain values and executes no code.

    Raises: `yaml.YAMLError` where it is not YAML, holds a key twice, or a number that YAML 1.1 and 1.2 read
    differently; RecursionError or ValueError for values that no document should hold.
    """
    return yaml.load(text, _Loader)


def dump(value: Any) -> str:
    """`value` as YAML that `parse` maps to the same value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def inline(value: Any) -> str:
    """`value` as YAML on one line, which `parse` maps to the same value behind a key or in a list."""
    shown: str = yaml.dump(
        value, Dumper=_InlineDumper, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
    )
    return shown.removesuffix("\n").removesuffix("\n...")


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> MappingNode:  # here, before merge keys are resolved
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == MERGE:
                continue
            if key.value in seen:
                raise ConstructorError(problem=f"the key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
            if key.tag == BOOL:  # of `on: 3` and `no: 1`
                key.tag = STRING
        return node


class _Dumper(yaml.SafeDumper):
    pass


class _InlineDumper(_Dumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_line(self, text: str) -> ScalarNode:
        """A text; its line breaks are escaped, which only double quotes can."""
        return self.represent_scalar(STRING, text, style='"' if text.splitlines() != [text] and text else None)


def _ambiguous(_: _Loader, node: ScalarNode) -> Any:
    raise ConstructorError(
        problem=f"'{node.value}' begins with a 0, which YAML 1.1 and 1.2 read differently: leave the 0 out, or put a "
        "text in quotes",
        problem_mark=node.start_mark,
    )


def _resolve_as_yaml_1_2(of: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    replaced = {FLOAT, INT, TIMESTAMP, VALUE}
    kept = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in replaced]
        for first, resolvers in of.yaml_implicit_resolvers.items()
    }
    of.yaml_implicit_resolvers = kept
    for tag, pattern in PLAIN.items():
        of.add_implicit_resolver(tag, re.compile(rf"^(?:{pattern.pattern})$", pattern.flags), list("-+.0123456789"))


_resolve_as_yaml_1_2(_Loader)
_resolve_as_yaml_1_2(_Dumper)
_InlineDumper.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers
_InlineDumper.add_representer(str, _InlineDumper.represent_line)
_Loader.add_constructor(AMBIGUOUS, _ambiguous)
