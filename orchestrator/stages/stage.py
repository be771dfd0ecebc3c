"""A stage of a run: its name, its input stages and its function.

Stages run in the order of a list. Each resumes by itself, since it looks up its result by a cache key first. A stage
may still run when the next begins, such as the pass whose soft targets a student reads as they are written.
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
    """Results by stage."""

    def __init__(self, of: Mapping[Stage[Any], Any]) -> None:
        self._of = of

    def __getitem__(self, stage: Stage[T]) -> T:
        """The result of `stage`. Raises: LookupError where it is not an input of the current stage."""
        if stage not in self._of:
            raise LookupError(f"the result of stage '{stage.name}' is not at hand; name it in `inputs`")
        found: T = self._of[stage]
        return found


@dataclass(frozen=True, eq=False)
class Stage(Generic[Made]):
    """run: returns the result, or a context manager for it. Contexts exit in reverse order after the last stage."""

    name: str
    run: Callable[[Context, Results], Made | AbstractContextManager[Made]]
    inputs: tuple[Stage[Any], ...] = ()


def execute(stages: Sequence[Stage[Any]], run: Context) -> Results:
    """Run the stages, one after another.

    Raises: the exception of a stage, and ValueError where an input does not precede its stage.
    """
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
