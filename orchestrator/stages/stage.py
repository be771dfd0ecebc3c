"""A stage of a run: what it is called, the stages whose results it takes, and what it does with them.

Stages run in the order of a list. Each resumes by itself: what it makes has a key, and is looked for before it is made.
A stage may still be under way when the next begins, such as soft targets that a student reads as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

T = TypeVar("T")
Made = TypeVar("Made", covariant=True)


class Results:
    """What stages returned, by the stage."""

    def __init__(self, of: Mapping[Stage[Any], Any]) -> None:
        self._of = of

    def __getitem__(self, stage: Stage[T]) -> T:
        """Raises: LookupError for a stage that is not among the inputs of the one that asks."""
        if stage not in self._of:
            raise LookupError(f"the result of stage '{stage.name}' is not at hand; name it in `inputs`")
        found: T = self._of[stage]
        return found


@dataclass(frozen=True, eq=False)
class Stage(Generic[Made]):
    """run: returns the result, or a context that gives it and is left, last first, behind the last stage."""

    name: str
    run: Callable[[Context, Results], Made | AbstractContextManager[Made]]
    inputs: tuple[Stage[Any], ...] = ()


def execute(stages: Sequence[Stage[Any]], run: Context) -> Results:
    """Run the stages, one after another. Raises: what one of them raises, and ValueError for an input that is not
    before its stage."""
    made: dict[Stage[Any], Any] = {}
    for number, stage in enumerate(stages):
        late = [each.name for each in stage.inputs if each not in stages[:number]]
        if late:
            raise ValueError(f"stage '{stage.name}' takes the result of '{late[0]}', which does not run before it")
    with ExitStack() as under_way:
        for stage in stages:
            found = stage.run(run, Results({each: made[each] for each in stage.inputs}))
            made[stage] = under_way.enter_context(found) if isinstance(found, AbstractContextManager) else found
    return Results(made)
