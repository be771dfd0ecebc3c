"""The house: which wing may import which, no circle of files, what is pure, and the size of functions and records."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("orchestrator", "workers")
WINGS = [
    # orchestrator, from top to bottom; wings in one line do not import each other
    ["orchestrator.cli"],
    ["orchestrator"],
    ["orchestrator.prospects", "orchestrator.planning", "orchestrator.sweep", "orchestrator.runs"],
    ["orchestrator.rehearsal", "orchestrator.growing", "orchestrator.generations"],
    ["orchestrator.pipeline", "orchestrator.execution"],
    ["orchestrator.stages"],
    ["orchestrator.plan"],
    ["orchestrator.teachers", "orchestrator.observers", "orchestrator.export"],
    ["orchestrator.cluster", "orchestrator.reporting"],
    ["orchestrator.run_folder"],
    ["orchestrator.config"],
    # workers
    ["workers.pyfunc"],
    ["workers.trial"],
    ["workers.training"],
    ["workers.evaluation"],
    ["workers.losses", "workers.inference"],
    ["workers.targets", "workers.models"],
    ["workers.data"],
    ["workers.artifacts", "workers.mixture_weights", "workers.processes"],
    ["workers.user_code"],
    ["workers.specs", "workers.storage"],
]
"""A file imports from lower lines alone. Files of `workers/` itself that are not listed are below all."""
PURE = (
    "orchestrator.export.gate",
    "orchestrator.plan.",
    "orchestrator.teachers.events",
    "orchestrator.teachers.instructions",
    "orchestrator.teachers.membership",
    "orchestrator.teachers.parts",
    "orchestrator.teachers.policy",
    "orchestrator.teachers.slot",
    "orchestrator.teachers.state",
    "workers.ensemble",
    "workers.losses",
    "workers.mixture_weights",
    "workers.specialists",
)
"""Beginnings of modules that docs/ARCHITECTURE.md calls pure: without Ray, a clock and a thread."""
WITHOUT_RAY = (
    "orchestrator.cluster.resources",
    "workers.evaluation.metrics",
    "workers.evaluation.mixture",
    "workers.targets",
    "workers.training.lessons",
    "workers.training.loop",
    "workers.training.objective",
)
"""Further modules that are usable without Ray; some measure times."""
WITH_MLFLOW = ("orchestrator.observers", "orchestrator.export", "workers.pyfunc")
MOST_LINES = 60
"""Of a function, without its docstring."""
MOST_POSITIONAL = 5
"""Arguments that a function or a constructor takes without their names."""


@cache
def modules() -> dict[str, Path]:
    files = (path for top in TOP for path in (ROOT / top).rglob("*.py"))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


@cache
def imported() -> dict[str, set[str]]:
    """What each module imports at run time, the imports within functions included."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        checked = [block for block in blocks if "TYPE_CHECKING" in ast.dump(block.test)]
        ignored = {id(node) for block in checked for node in ast.walk(block)}
        names: set[str] = set()
        for node in ast.walk(tree):
            if id(node) in ignored:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (inner & known.keys()) or {node.module}
        found[name] = (names & known.keys()) - {name}
    return found


def rank(module: str) -> int:
    """The line of `WINGS` that a module is in; below all where it is in none."""
    for place in (module, ".".join(module.split(".")[:2])):
        for number, wings in enumerate(WINGS):
            if place in wings:
                return number
    return len(WINGS)


def wing(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or (ROOT / "/".join(parts)).is_dir() else module


def test_no_file_is_in_a_circle_of_imports() -> None:
    graph, done = imported(), set[str]()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_a_wing_imports_from_lower_ones_alone() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in imported().items()
        for other in others
        if wing(module) != wing(other) and rank(other) <= rank(module) < len(WINGS)
    ]
    upwards += [f"{m} imports {o}" for m, others in imported().items() for o in others if rank(m) > rank(o)]
    assert not upwards, "\n".join(upwards)


def test_workers_do_not_know_the_orchestrator() -> None:
    assert [m for m, others in imported().items() if m.startswith("workers") and "orchestrator" in str(others)] == []


def test_the_mathematics_knows_no_ray() -> None:
    assert not _importing({"ray"}, within=(*PURE, *WITHOUT_RAY))


def test_pure_modules_have_no_clock_and_no_thread() -> None:
    assert not _importing({"time", "datetime", "threading", "concurrent", "asyncio"}, within=PURE)


def test_observers_and_exports_alone_use_mlflow() -> None:
    using = {module for module in _importing({"mlflow"}) if not module.startswith(WITH_MLFLOW)}
    assert using == {"orchestrator.cli.submit"}, "which asks it for git's commit"


def _importing(packages: set[str], within: tuple[str, ...] = ("",)) -> set[str]:
    """The modules with these beginnings that import one of the packages, within functions too."""
    chosen = {module: path for module, path in modules().items() if module.startswith(within)}
    return {module for module, path in chosen.items() if packages & {name.split(".")[0] for name in _all_imports(path)}}


def _all_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def test_functions_fit_a_screen() -> None:
    for name, node in functions():
        assert node.end_lineno is not None
        first = node.body[0]
        documented = ast.get_docstring(node) is not None and first.end_lineno is not None
        docstring = first.end_lineno - first.lineno + 1 if documented and first.end_lineno is not None else 0
        assert node.end_lineno - node.lineno + 1 - docstring <= MOST_LINES, name


def test_no_function_takes_many_arguments_without_their_names() -> None:
    allowed = {"forward", "backward"}  # torch calls `autograd.Function` so
    for name, node in functions():
        positional = [arg for arg in (*node.args.posonlyargs, *node.args.args) if arg.arg not in ("self", "cls")]
        assert len(positional) <= MOST_POSITIONAL or node.name in allowed, f"{name}: {len(positional)}"


def test_no_record_takes_many_fields_without_their_names() -> None:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = [ast.unparse(each) for each in node.decorator_list] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.ClassDef) and any("dataclass" in each for each in decorators):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and each.value is None]
                named = any("kw_only=True" in each for each in decorators)
                assert named or len(fields) <= MOST_POSITIONAL, f"{path.relative_to(ROOT)}: {node.name}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_file_states_its_purpose(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    assert ast.get_docstring(tree) or not tree.body
