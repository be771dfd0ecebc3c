"""The origin of a file: the user, Python, an installed package, or Stillhouse.

The user's own files lie beside a configuration, on PYTHONPATH or in editable installs. They may change without a change
of version. The folder of a configuration is the user's in a place of the system, too, such as a disk at /run/media.
"""

from __future__ import annotations

import importlib.metadata
import re
import site
import sysconfig
from functools import cache
from pathlib import Path

STILLHOUSE = frozenset({"workers", "orchestrator", "stillhouse"})
"""The top-level packages and modules of Stillhouse."""
MODULES = {"scikit-learn": "sklearn"}
"""The modules of packages that have another name."""
HOME = Path(__file__).resolve().parents[2]
"""The folder that contains them."""
SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev", "/etc", "/run", "/usr/lib", "/usr/share")))
INSTALLED = frozenset({"site-packages", "dist-packages"})
_claimed: list[Path] = []
"""The user's folders in places of the system."""


def claim(folder: str) -> None:
    """Count the files below a folder with code of the user as the user's own, also in a place of the system."""
    places = {Path(folder).absolute(), Path(folder).resolve()}.difference(_claimed)
    inside = [place for place in places if any(place.is_relative_to(system) for system in SYSTEM)]
    if inside:  # a folder that contains places of the system, such as /, claims none of them
        _claimed.extend(inside)
        is_users.cache_clear()


@cache
def is_users(file: str) -> bool:
    """Whether a file is the user's own, so that no version identifies its content."""
    if file.startswith("<"):  # names such as <string>, for code without a file
        return False
    path = Path(file)
    if not path.is_absolute() or not INSTALLED.isdisjoint(path.parts):
        return False
    system: tuple[Path, ...] = () if any(path.is_relative_to(folder) for folder in _claimed) else SYSTEM
    return not any(path.is_relative_to(place) for place in (*system, *_not_the_users()))


@cache
def _not_the_users() -> tuple[Path, ...]:
    python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = [*(HOME / name for name in STILLHOUSE), *(HOME / f"{name}.py" for name in STILLHOUSE)]
    found = [*map(Path, python), *map(Path, site.getsitepackages()), Path(site.getusersitepackages()), *ours]
    return (*found, *(path.resolve() for path in found))


@cache
def own_dependencies() -> frozenset[str]:
    """Stillhouse and the distributions that it requires, by normalised name."""
    try:
        needed = importlib.metadata.requires("stillhouse") or []
    except importlib.metadata.PackageNotFoundError:  # a registered student is loaded without Stillhouse
        needed = ["numpy", "torch"]
    return frozenset({"stillhouse", *(normalised(need) for need in needed if "extra ==" not in need)})


def normalised(requirement: str) -> str:
    """The name of a distribution, normalised by PEP 503, without version or extras."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()


@cache
def _owners() -> dict[str, list[str]]:
    return {module: list(owners) for module, owners in importlib.metadata.packages_distributions().items()}


def module_of(package: str) -> str:
    """The top-level module of a package that Stillhouse can use."""
    return MODULES.get(package, package)


def provider(package: str) -> tuple[str, str] | None:
    """The name and version of the distribution that a package is installed from: of several, such as onnxruntime and
    onnxruntime-gpu, the first by name. None where none is recorded."""
    return next(iter(distributions(module_of(package)).items()), None)


def distributions(module: str) -> dict[str, str]:
    """The installed distributions that contain a top-level module, with their versions."""
    return {owner: importlib.metadata.version(owner) for owner in sorted(set(_owners().get(module, [])))}
