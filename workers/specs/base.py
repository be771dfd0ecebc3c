"""What all specs are made of: the strict base, numbers with bounds, and a function of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _no_bool(value: Any) -> Any:
    """YAML's `yes` and `true` are numbers to Python, and never what was meant by one."""
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected a number")
    return value


NoBool = BeforeValidator(_no_bool)
"""Last in each of the types below: bounds before it are bounds of the JSON Schema, too."""

Precision = Literal["auto", "float32", "bfloat16"]
Number = Annotated[float, Field(allow_inf_nan=False), NoBool]
Share = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), NoBool]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False), NoBool]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), NoBool]
Whole = Annotated[int, Field(ge=0), NoBool]
Count = Annotated[int, Field(ge=1), NoBool]
SEEDS = 2**63
"""Seeds are below this number, as torch takes them."""
Seed = Annotated[int, Field(ge=0, lt=SEEDS), NoBool]
FACTORY = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
FactoryName = Annotated[str, Field(pattern=FACTORY)]
KIND = r"^([A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"
"""A name in a table, or `module:Class`."""
KindName = Annotated[str, Field(pattern=KIND)]


def _text_keys(value: Any) -> Any:
    """A resolved configuration and a cache key are JSON, whose keys are texts: others would change on their way."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(
                f"found the key {wrong[0]!r} in it; expected texts as keys, in quotes, or a list of pairs of key and "
                "value"
            )
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _text_keys(inner)
    return value


Kwargs = Annotated[dict[str, Any], AfterValidator(_text_keys)]
"""Arguments by their names."""


class Spec(BaseModel):
    """Base of all specs: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants", use_attribute_docstrings=True)

    LATER: ClassVar[Mapping[str, Any]] = {}
    """Settings that came later: keys of artifacts have them unless they are at these values, so that earlier keys
    remain."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, values: Any) -> Any:
        """A section whose keys are all left out, or commented out, is left out itself."""
        if not isinstance(values, dict) or not any(value is None for value in values.values()):
            return values
        defaults = {
            field.alias or name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
        }
        sections = {key for key, default in defaults.items() if isinstance(default, BaseModel | dict)}
        return {key: value for key, value in values.items() if value is not None or key not in sections}

    def keyed(self, without: Collection[str] = ()) -> dict[str, Any]:
        """The settings for a key, as JSON values: all but those named in `without`, and those at values of `LATER`."""
        found = self.model_dump(mode="json", exclude={*without})
        return {key: value for key, value in found.items() if key not in self.LATER or value != self.LATER[key]}


class FactorySpec(Spec):
    """A function of the user's own, and its arguments."""

    factory: FactoryName
    """`module:function`, found beside the configuration file, else installed, on PYTHONPATH, or in the working
    directory."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the call."""
    folder: str = ""
    """Where the module is looked for first, relative to the configuration file. Left out: the configuration's own
    folder, or the working directory where only that has the module."""
    depends_on: tuple[str, ...] = ()
    """Files that the results follow from, besides those that are seen to be read. Those of `data.depends_on` are
    added."""


class OwnKind(Spec):
    """A kind of a table, or a class of the user's, and the settings that it is made with."""

    kwargs: Kwargs = Field(default_factory=dict)
    """Settings: keyword arguments of the class."""
    folder: str = ""
    """For `module:Class`: as `folder` of a factory."""
    depends_on: tuple[str, ...] = ()
    """For `module:Class`: as `depends_on` of a factory."""
