"""The user's code that a function can reach, and a digest of it that ignores comments and formatting.

The analysis follows names from the function through definitions, constants and imports, in all files of the user
(`workers.user_code.origins`). Statements with side effects in each loaded module are reached, too. Where reached code
looks names up at run time (`eval`, `globals`, ...), all loaded modules are reached completely. Code that the analysis
cannot decide is reached: a digest that changes needlessly costs time, one that misses a change costs a wrong result.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import hashlib
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

from workers.user_code import factories, observed
from workers.user_code.beside import BESIDE, Package, plain
from workers.user_code.origins import STILLHOUSE, is_users

LOOKUPS = frozenset({"eval", "exec", "globals"})
"""Builtins that reach code without naming it."""
LOADS = frozenset({"import_module", "__import__", "spec_from_file_location", "run_path", "run_module"})
HARMLESS_DECORATORS = frozenset(
    {"abc", "builtins", "contextlib", "dataclasses", "enum", "functools", "numpy", "torch", "types", "typing"}
)
"""Top-level modules whose decorators do not register the decorated objects."""
Chain = tuple[str, ...]
"""A name and the attributes that follow it: `nets.core.Net`."""


@dataclass(frozen=True)
class Target:
    """The object that an import binds to a name: a module, or its `attribute`."""

    module: str
    attribute: str | None = None


@dataclass(eq=False)
class Source:
    """A file of the user as a module, and the reached parts of it."""

    module: str
    file: Path
    statements: list[ast.stmt]
    bound: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Indices of the statements that define or change each name, except imports."""
    imports: defaultdict[str, list[Target]] = field(default_factory=lambda: defaultdict(list))
    stars: list[str] = field(default_factory=list)
    reached: set[int] = field(default_factory=set)
    reached_imports: set[str] = field(default_factory=set)
    whole: bool = False

    @property
    def package(self) -> str:
        """The package from which its relative imports start."""
        return self.module if self.file.name == "__init__.py" else self.module.rpartition(".")[0]

    def content(self) -> str:
        """sha256 over the reached parts, independent of their positions in the file."""
        parts = sorted(f"import {name}" for name in self.reached_imports)
        kept = [self.statements[n] for n in sorted(self.reached)]
        parts += [json.dumps(canonical(each)) for each in sorted(kept, key=_definition)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Reach:
    """The user's code that `start` and `file` reach. package: that of the modules beside the configuration."""

    def __init__(self, package: Package | None) -> None:
        self.package = package
        self.sources: dict[str, Source | None] = {}
        self.binaries: set[Path] = set()
        self.installed: set[str] = set()
        """Top-level modules of installed packages that are imported."""
        self.environment: set[str] = set()
        """Environment variables that reached code names."""
        self.texts: set[tuple[Path, str]] = set()
        """String constants of reached code, each with its file; some name data files."""
        self.whole_files: set[Path] = set()
        """Files that may be executed, though no import names them."""
        self.looks_up = False
        self._loaded: set[str] = set()
        self._names: set[tuple[str, str, Chain]] = set()

    def start(self, module: str, name: str) -> None:
        """Reach `name` of `module`, and all code that it reaches."""
        source = self._load(module)
        if source is not None:
            self._name(source, name)
        self._settle()

    def opened(self, path: Path) -> None:
        """Reach a whole source file that was read, unless an import statement names it."""
        if all(source is None or source.file != path for source in self.sources.values()):
            self.file(path)

    def file(self, path: Path) -> None:
        """Reach a whole file that was imported by a name computed at run time."""
        loaded = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(path)]
        own = [name for name in loaded if self.package and name.startswith(self.package.name)]
        named = next(iter(own or [name for name in loaded if not name.startswith(BESIDE)]), None)
        if named is None:
            named = f"{self.package.name if self.package else path.parent}.file_{len(self.sources)}"
            self.sources[named] = _parsed(named, path)
        source = self._load(named)
        if source is not None:
            self._whole(source)
        self._settle()

    def reached(self) -> Iterator[Source]:
        """The files with reached parts."""
        return (source for source in self.sources.values() if source and (source.reached or source.reached_imports))

    def loaded(self) -> list[Source]:
        """Every file of the user that is executed by importing the reached modules."""
        return [source for name in sorted(self._loaded) if (source := self.sources[name]) is not None]

    def _settle(self) -> None:
        done = 0
        while self.looks_up and done < len(self._loaded):
            done = len(self._loaded)
            for source in self.loaded():
                self._whole(source)

    def _source(self, module: str) -> Source | None:
        """The user's source of a module by its full name; None where it does not exist or is not the user's."""
        if module not in self.sources:
            file = _file_of(module)
            if file is None or not is_users(file):
                self.sources[module] = None
            elif file.endswith(".py"):
                self.sources[module] = _parsed(module, Path(file))
            else:
                self.sources[module] = None
                self.binaries.add(Path(file))
        return self.sources[module]

    def _full(self, name: str, source: Source) -> str:
        """The full name of a module that `source` imports by an absolute name."""
        own = self.package.own(name) if self.package and source.module.startswith(self.package.name) else None
        return own or name

    def _load(self, module: str) -> Source | None:
        """Reach the code that importing a module executes: its own, that of its parent packages, and their imports."""
        parent = module.rpartition(".")[0]
        if parent and parent not in self._loaded:
            self._load(parent)
        source = self._source(module)
        if module in self._loaded:
            return source
        self._loaded.add(module)
        if source is None:
            self._foreign(module)
            return None
        for _, target in _imports(source, source.statements, functions=False):
            self._loads(target, source)
        for n, statement in enumerate(source.statements):
            if _has_effects(statement, source):
                self._statement(source, n)
        for name in _only_imported(source):
            if any(self._source(self._full(target.module, source)) for target in source.imports[name]):
                self._reference(source, (name,), {})
        return source

    def _loads(self, target: Target, source: Source) -> Source | None:
        """Load the modules that an import statement names; returns the source of the target module."""
        full = self._full(target.module, source)
        loaded = self._load(full)
        if target.attribute is not None and (loaded is None or target.attribute not in loaded.bound):
            inner = f"{full}.{target.attribute}"
            if self._source(inner) is not None:
                self._load(inner)
        return loaded

    def _foreign(self, module: str) -> None:
        top = module.partition(".")[0]
        if not top.startswith(BESIDE) and top not in STILLHOUSE and top not in sys.stdlib_module_names:
            self.installed.add(top)

    def _name(self, source: Source, name: str, attributes: Chain = ()) -> None:
        """Reach a top-level name of a file, and its attributes where it is a module."""
        if (source.module, name, attributes) in self._names:
            return
        self._names.add((source.module, name, attributes))
        for n in source.bound.get(name, ()):
            self._statement(source, n)
        for target in source.imports.get(name, ()):
            source.reached_imports.add(f"{plain(target.module)} {target.attribute} {name}")
            self._target(source, target, attributes)
        if name in source.bound or name in source.imports:
            return
        for module in source.stars:
            other = self._loads(Target(module), source)
            if other is not None:
                self._name(other, name, attributes)
        if self._source(f"{source.module}.{name}") is not None:
            self._module(f"{source.module}.{name}", attributes)

    def _target(self, source: Source, target: Target, attributes: Chain) -> None:
        module = self._full(target.module, source)
        self._loads(target, source)
        self._module(module, attributes if target.attribute is None else (target.attribute, *attributes))

    def _module(self, module: str, attributes: Chain) -> None:
        """Reach an attribute of a module, or the whole module where it is used as a value."""
        source = self._load(module)
        if not attributes:
            if source is not None:
                self._whole(source)
            return
        inner = f"{module}.{attributes[0]}"
        if source is not None and (attributes[0] in source.bound or attributes[0] in source.imports or source.stars):
            self._name(source, attributes[0], attributes[1:])
        elif self._source(inner) is not None:
            self._module(inner, attributes[1:])
        elif source is not None:  # `__dict__`, or an attribute that is created at run time
            self._whole(source)

    def _whole(self, source: Source) -> None:
        if source.whole:
            return
        source.whole = True
        self._load(source.module)
        for n in range(len(source.statements)):
            self._statement(source, n)
        for name in source.imports:
            self._name(source, name)

    def _statement(self, source: Source, n: int) -> None:
        if n in source.reached:
            return
        source.reached.add(n)
        statement = source.statements[n]
        local: dict[str, list[Target]] = defaultdict(list)
        for alias, target in _imports(source, [statement], functions=True):
            self._loads(target, source)
            if alias == "*":
                self._module(self._full(target.module, source), ())
            else:
                local[alias].append(target)
        used, chains = _global_names(_compiled(statement)), _chains(statement)
        self.looks_up |= not (used - source.bound.keys()).isdisjoint(LOOKUPS) or _looks_up(statement, chains)
        for chain in chains:
            if chain[0] in used or chain[0] in local:
                self._reference(source, chain, local)
        self.environment |= set(_environment(statement, source))
        self.texts |= {(source.file, text) for text in _texts(statement)}
        if not source.module.startswith(BESIDE) and any(not LOADS.isdisjoint(chain) for chain in chains):
            self._all_around(source)

    def _reference(self, source: Source, chain: Chain, local: dict[str, list[Target]]) -> None:
        for target in local.get(chain[0], ()):
            self._target(source, target, chain[1:])
        name = chain[0]
        is_global = name not in local and (bool(source.stars) or not hasattr(builtins, name))
        if is_global or name in source.bound or name in source.imports:
            self._name(source, name, chain[1:])

    def _all_around(self, source: Source) -> None:
        """Reach all files that code may import under computed names: every file of its package.

        Python's own import executes a module only once per process, so observation may miss its later imports.
        """
        root = _file_of(_top(source.module)) or ""
        paths = Path(root).parent.rglob("*.py") if root.endswith("__init__.py") else ()
        for path in sorted({*paths, *observed.opened_by(str(source.file))}):
            if path.suffix == ".py" and path not in self.whole_files:
                self.whole_files.add(path)


def canonical(node: Any) -> Any:
    """A syntax tree as nested lists, without positions, docstrings, and the empty fields of some Python versions."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment"))
        return [type(node).__name__, *([name, canonical(v)] for name, v in fields if v is not None and v != [])]
    if isinstance(node, list):
        return [canonical(each) for each in node if not _is_text(each)]
    return repr(node)


def whole_file(path: Path) -> str:
    """sha256 over a whole Python file without comments, docstrings and formatting; of other files, over the bytes."""
    content = path.read_bytes()
    with contextlib.suppress(SyntaxError, ValueError):
        content = json.dumps(canonical(ast.parse(content))).encode()
    return hashlib.sha256(content).hexdigest()


def _file_of(module: str) -> str | None:
    """The file of the loaded module of this name, else the file that an import would load."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return file if isinstance(file, str) else None
    top = _file_of(_top(module)) if "." in module else None
    if top is not None and not is_users(top):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # find_spec executes the parent packages
        return None
    return None if spec is None or not spec.has_location else spec.origin


def _parsed(module: str, path: Path) -> Source | None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    statements = [s for s in tree.body if not _is_text(s) and not _is_never(s)]
    source = Source(module, path, statements)
    for n, statement in enumerate(statements):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            continue
        for name in {*_stored_names(_compiled(statement)), *_changed_name(statement)}:
            source.bound[name].append(n)
    for alias, target in _imports(source, statements, functions=False):
        if alias == "*":
            source.stars.append(target.module)
        else:
            source.imports[alias].append(target)
    return source


def _imports(source: Source, statements: Iterable[ast.stmt], functions: bool) -> Iterator[tuple[str, Target]]:
    """The names that import statements bind, with their targets. functions: whether to include functions' bodies."""
    waiting: list[ast.AST] = [*statements]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.asname or name.name.partition(".")[0], Target(name.name if name.asname else _top(name.name))
                if not name.asname and "." in name.name:  # binds the first part, and loads all parts
                    yield f".{name.name}", Target(name.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            base = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(base, source.package) if node.level else base
            for name in node.names:
                yield name.asname or name.name, Target(module, None if name.name == "*" else name.name)
        elif functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += [child for child in ast.iter_child_nodes(node) if not _is_never(child)]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _compiled(statement: ast.stmt) -> CodeType:
    """Bytecode, which shows the scope of each name; includes annotations, since libraries may evaluate them."""
    return compile(ast.Module([statement], type_ignores=[]), "<statement>", "exec", dont_inherit=True)


def _global_names(code: CodeType) -> set[str]:
    """The global names that code uses or assigns, by Python's own rules of scope."""
    scopes = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    found = {each.argval for each in dis.get_instructions(code) if each.opname in scopes}
    return found.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _stored_names(code: CodeType) -> set[str]:
    return {each.argval for each in dis.get_instructions(code) if each.opname in ("STORE_NAME", "STORE_GLOBAL")}


def _changed_name(statement: ast.stmt) -> list[str]:
    """The name of the object that `TABLE["a"] = f`, `table.width = 1` or `table.update(...)` changes."""
    places: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        places = [target for target in statement.targets if isinstance(target, (ast.Attribute, ast.Subscript))]
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        places = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        places = [statement.value.func] if isinstance(statement.value.func, ast.Attribute) else []
    names = []
    for place in places:
        while isinstance(place, (ast.Attribute, ast.Subscript)):
            place = place.value
        names += [place.id] if isinstance(place, ast.Name) else []
    return names


def _chains(statement: ast.AST) -> set[Chain]:
    """The names in a statement, each with its attributes."""
    found: set[Chain] = set()
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        attributes: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            found.add((inner.id, *attributes))
        elif attributes:
            found.add(("", *attributes))
            waiting.append(inner)
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def _has_effects(statement: ast.stmt, source: Source) -> bool:
    """Whether a statement has side effects besides defining names and changing objects of this file."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass, ast.Global)) or _is_text(statement):
        return False
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        keywords = isinstance(statement, ast.ClassDef) and bool(statement.keywords)
        return keywords or any(not _is_harmless(each, source) for each in statement.decorator_list)
    if isinstance(statement, (ast.If, ast.Try)):
        bodies = [*statement.body, *statement.orelse]
        if isinstance(statement, ast.Try):
            bodies += [*statement.finalbody, *(each for handler in statement.handlers for each in handler.body)]
        return any(_has_effects(each, source) for each in bodies if not _is_never(each))
    changed = _changed_name(statement)
    if changed:
        return any(name in source.imports or name not in source.bound for name in changed)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    plain_names = bool(targets) and all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in targets)
    return not (plain_names or isinstance(statement, ast.AnnAssign))


def _is_harmless(decorator: ast.expr, source: Source) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(name, ast.Attribute):
        name = name.value
    if not isinstance(name, ast.Name) or name.id in source.bound:
        return False
    modules = [_top(target.module) for target in source.imports.get(name.id, ())] or ["builtins"]
    return HARMLESS_DECORATORS.issuperset(modules) and (name.id in source.imports or hasattr(builtins, name.id))


def _only_imported(source: Source) -> list[str]:
    """Modules that a file imports but never uses, so for the effects of the import."""
    if source.file.name == "__init__.py":
        return []
    tree = ast.Module(source.statements, type_ignores=[])
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [
        name
        for name, targets in source.imports.items()
        if name.lstrip(".").partition(".")[0] not in named and all(target.attribute is None for target in targets)
    ]


def _environment(statement: ast.stmt, source: Source) -> Iterator[str]:
    """The environment variables that a statement names as constants."""

    def is_called(node: ast.AST, name: str) -> bool:
        targets = source.imports.get(node.id, ()) if isinstance(node, ast.Name) else ()
        return _ends(node, name) or any(target.attribute == name for target in targets)

    for node in ast.walk(statement):
        key: ast.AST | None = None
        if isinstance(node, ast.Subscript) and is_called(node.value, "environ"):
            key = node.slice
        elif isinstance(node, ast.Compare) and any(is_called(other, "environ") for other in node.comparators):
            key = node.left
        elif isinstance(node, ast.Call) and node.args:
            method = node.func.value if isinstance(node.func, ast.Attribute) else None
            if is_called(node.func, "getenv") or (method is not None and is_called(method, "environ")):
                key = node.args[0]
        yield from _constants(key, source)


def _constants(key: ast.AST | None, source: Source) -> list[str]:
    """The string value of an expression: a literal, or a constant of the file."""
    if isinstance(key, ast.Constant):
        return [key.value] if isinstance(key.value, str) else []
    if not isinstance(key, ast.Name):
        return []
    assigned = [source.statements[n] for n in source.bound.get(key.id, ())]
    values = [each.value for each in assigned if isinstance(each, (ast.Assign, ast.AnnAssign))]
    return [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _texts(statement: ast.stmt) -> set[str]:
    """The string constants in a statement that may be file names."""
    return set(factories.texts([node.value for node in ast.walk(statement) if isinstance(node, ast.Constant)]))


def _ends(node: ast.AST, name: str) -> bool:
    return getattr(node, "attr", None) == name or getattr(node, "id", None) == name


def _looks_up(statement: ast.stmt, chains: Iterable[Chain]) -> bool:
    """Whether a statement reaches modules or classes that it does not name."""
    if any("__subclasses__" in chain or chain[:2] == ("sys", "modules") for chain in chains):
        return True
    return any(isinstance(node, ast.FunctionDef) and node.name == "__init_subclass__" for node in ast.walk(statement))


def _is_text(node: Any) -> bool:
    """Whether a statement is a docstring or another constant without effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_never(node: ast.AST) -> bool:
    """Whether the node is an `if` without `else` whose body is not executed on import."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    if isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.Eq):
        sides = [node.test.left, *node.test.comparators]
        return any(_ends(each, "__name__") for each in sides) and "__main__" in [
            getattr(s, "value", None) for s in sides
        ]
    return _ends(node.test, "TYPE_CHECKING")


def _definition(statement: ast.stmt) -> str:
    """The sort key of a statement: the name of a definition; other statements keep their order."""
    return getattr(statement, "name", "~")
