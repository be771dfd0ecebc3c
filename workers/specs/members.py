"""How members are combined and drawn: their weights, and the examples that each learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from workers.specs.base import FactorySpec, NonNegative, Share, Spec, Whole

ExampleWeights = Literal["entropy", "agreement"] | FactorySpec
"""A rule by which each example has member weights of its own (`workers.mixture_weights`): a name, or the user's own
function from probabilities [M, N, K] to weights [M, N]."""


class SpecialistRule(Spec):
    """The rule by which generalists and specialists answer together (`workers.specialists`)."""

    classes: tuple[tuple[int, ...], ...]
    """The ids of each member's own classes; empty for a generalist, which tells all classes apart."""

    def among(self, members: Sequence[int]) -> SpecialistRule:
        """The rule of some of the members, by their numbers."""
        return SpecialistRule(classes=tuple(self.classes[k] for k in members))


ExampleRule = ExampleWeights | SpecialistRule
"""A rule that needs the answers of all members to an example."""


def _form_of_weights(values: Any) -> str:
    if isinstance(values, (list, tuple)):
        return "(numbers)"
    return "(rule)" if isinstance(values, (dict, FactorySpec)) else "(name)"


MemberWeights = Annotated[
    Annotated[Literal["uniform", "validation", "entropy", "agreement"], Tag("(name)")]
    | Annotated[tuple[NonNegative, ...], Tag("(numbers)")]
    | Annotated[FactorySpec, Tag("(rule)")],
    Discriminator(_form_of_weights),
]
"""Of the members in the mean: by a name, a number each, or a rule for each example."""


class ClassSample(Spec):
    """Examples of which some classes make up a fixed share, as of a specialist (Hinton et al. 2015, section 5.2)."""

    classes: Annotated[tuple[Whole | str, ...], Field(min_length=1)]
    """The classes, by id or name."""
    share: Share = 0.5
    """Their share of the examples of an epoch; the others are drawn at random from all other classes."""


MemberSample = Annotated[
    Annotated[Literal["all", "bootstrap"], Tag("(name)")] | Annotated[ClassSample, Tag("(classes)")],
    Discriminator(lambda values: "(classes)" if isinstance(values, (dict, ClassSample)) else "(name)"),
]
"""What a member learns from: all training examples, a bootstrap sample of them, or some classes above all."""
