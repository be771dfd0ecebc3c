"""The experiments that come with Stillhouse: listed, and copied out of the clone or the installed distribution."""

from __future__ import annotations

import ast
import filecmp
import importlib.metadata
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers import storage
from workers.errors import RequestError

INSTALLED = "share/stillhouse/examples/"
"""Where a distribution has them, below its prefix."""
ENDINGS = (".py", ".yaml", ".md", ".npz")
SENTENCE = re.compile(r"(?<=[a-z0-9)])(?<!et al)\. ")
"""Where a sentence ends, which an abbreviation does not."""
SIBLING = re.compile(r"\.\./([a-z0-9-]+)")


@dataclass(frozen=True)
class Example:
    """An experiment. summary: its first sentence. files: by their names. prepares: whether `prepare.py` comes first,
    since what it makes is not there. beside: other examples that its configuration refers to."""

    name: str
    summary: str
    files: Mapping[str, Path]
    prepares: bool
    beside: tuple[str, ...]


def every() -> dict[str, Example]:
    """All examples, by their names."""
    return {name: _example(name, files) for name, files in sorted(_folders().items()) if "config.yaml" in files}


def _folders() -> dict[str, dict[str, Path]]:
    """The files of each example: of a clone, else those that were installed."""
    clone = Path(__file__).parents[2] / "examples"
    if clone.is_dir():
        paths = [path for path in clone.glob("*/*") if path.is_file()]
    else:
        recorded = importlib.metadata.files("stillhouse") or []
        paths = [Path(str(each.locate())) for each in recorded if INSTALLED in each.as_posix()]
    found: dict[str, dict[str, Path]] = {}
    for path in paths:
        if path.suffix in ENDINGS:
            found.setdefault(path.parent.name, {})[path.name] = path
    return found


def _example(name: str, files: Mapping[str, Path]) -> Example:
    text = files["config.yaml"].read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in _leading_comment(text))
    summary = SENTENCE.split(comment)[0].rstrip(".")
    made = _made_by(files["prepare.py"]) if "prepare.py" in files else []
    folder = files["config.yaml"].parent
    beside = tuple(dict.fromkeys(each for each in SIBLING.findall(text) if each != name))
    return Example(name, summary, files, any(not (folder / each).exists() for each in made), beside)


def _leading_comment(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[: next((k for k, line in enumerate(lines) if not line.startswith("#")), 0)]


def _made_by(prepare: Path) -> list[str]:
    """The files and folders that a `prepare.py` makes beside it, as its docstring names them."""
    described = ast.get_docstring(ast.parse(prepare.read_text(encoding="utf-8"))) or ""
    return re.findall(r"`([a-z0-9-]+(?:/|\.npz|\.jsonl|\.tsv))`", described)


def _same(file: Path, original: Path) -> bool:
    """Whether a file is a copy already, as of an example that another one refers to."""
    return file.is_file() and filecmp.cmp(file, original, shallow=False)


def copy(name: str, target: str | None) -> list[tuple[Example, Path]]:
    """Copy an example, and those that it refers to beside it; returns each with its folder.

    target: its folder; None: `name` in the working directory. Raises: `RequestError` for an unknown name, where a file
    with another content would be overwritten, and where two examples would have one folder; nothing is written then.
    """
    known = every()
    if name not in known:
        raise RequestError(f"no example '{name}'; known: {', '.join(known)}. `stillhouse examples` describes them.")
    place = storage.local_folder(target or name)
    copies = [(known[name], place)]
    copies += [(known[each], place.parent / each) for each in known[name].beside if each in known]
    first = next((each for each, folder in copies[1:] if folder.resolve() == place.resolve()), None)
    if first is not None:
        raise RequestError(
            f"--to '{place}': '{name}' refers to the example '{first.name}', whose copy goes into that folder. Name "
            "another folder."
        )
    try:
        taken = [
            folder / file
            for example, folder in copies
            for file, path in example.files.items()
            if (folder / file).exists() and not _same(folder / file, path)
        ]
        if taken:
            raise RequestError(f"'{taken[0]}' exists, and nothing is overwritten. Name another folder by --to.")
        for example, folder in copies:
            folder.mkdir(parents=True, exist_ok=True)
            for file, path in example.files.items():
                shutil.copyfile(path, folder / file)
    except OSError as error:
        raise storage.not_writable(place, error) from error
    return copies
