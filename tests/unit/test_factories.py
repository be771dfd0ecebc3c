"""Factories: found beside the configuration, apart from each other, and known by their code."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from workers.errors import RequestError
from workers.specs.base import FactorySpec
from workers.user_code import factories


def test_two_folders_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.py").write_text("import helper\ndef make(): return helper.VALUE\n")
        (tmp_path / name / "helper.py").write_text(f"VALUE = {name!r}\n")
    assert [factories.call("models:make", {}, str(tmp_path / name)) for name in ("a", "b")] == ["a", "b"]


def test_a_changed_file_is_loaded_anew(tmp_path: Path) -> None:
    for value in (1, 2):
        (tmp_path / "models.py").write_text(f"def make(): return {value}\n")
        assert factories.call("models:make", {}, str(tmp_path)) == value


def test_a_factory_may_change_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("def make(sizes): return sizes['last'].pop()\n")
    kwargs = {"sizes": {"last": [1, 2]}}
    spec = FactorySpec(factory="models:make", folder=str(tmp_path), kwargs=kwargs)
    assert [factories.call("models:make", spec.kwargs, str(tmp_path)) for _ in range(2)] == [2, 2]
    assert [factories.bound(spec)() for _ in range(2)] == [2, 2] and kwargs == {"sizes": {"last": [1, 2]}}


def test_the_digest_follows_what_is_imported_from_beside(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("import os\nfrom layers import x\ndef make(): return x\n")
    (tmp_path / "layers.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("y = 1\n")
    first = factories.digest("models:make", str(tmp_path))
    (tmp_path / "other.py").write_text("y = 2\n")
    assert factories.digest("models:make", str(tmp_path)) == first
    assert factories.call("models:make", {}, str(tmp_path)) == 1
    (tmp_path / "layers.py").write_text("x = 22\n")
    assert factories.digest("models:make", str(tmp_path)) != first
    assert factories.call("models:make", {}, str(tmp_path)) == 22


RELATIVE = {
    "a module": "from . import layers\nx = layers.x\ndef make(): return x\n",
    "names of a module": "from .layers import x\ndef make(): return x\n",
    "within a function": "def make():\n    from .layers import x\n    return x\n",
}


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_imports_count_as_others(name: str, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(RELATIVE[name])
    (tmp_path / "layers.py").write_text("import numpy\nx = 1\n")
    first, folder = factories.digest("models:make", str(tmp_path)), str(tmp_path)
    assert {path.name for path in factories.files("models:make", folder)} == {"models.py", "layers.py"}
    assert "numpy" in factories.needs("models:make", folder)
    assert factories.call("models:make", {}, folder) == 1
    (tmp_path / "layers.py").write_text("import numpy\nx = 22\n")
    assert factories.digest("models:make", folder) != first
    assert factories.call("models:make", {}, folder) == 22


@pytest.mark.parametrize(
    "statement", ["from . import gone", "from .gone import x", "from .. import x", "from ..a import x"]
)
def test_a_relative_import_of_nothing_is_named(statement: str, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(f"{statement}\ndef make(): return 1\n")
    with pytest.raises(RequestError, match="module 'models' cannot be imported"):
        factories.call("models:make", {}, str(tmp_path))


def test_packages_beside_count_whole(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/__init__.py").write_text("from .core import make\n")
    (tmp_path / "nets/core.py").write_text("def make(): return 'core'\n")
    first = factories.digest("nets:make", str(tmp_path))
    assert factories.call("nets:make", {}, str(tmp_path)) == "core"
    (tmp_path / "nets/core.py").write_text("def make(): return 'other'\n")
    assert factories.digest("nets:make", str(tmp_path)) != first


def test_classes_of_neighbours_travel_by_value(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("from views import View\ndef make(): return View()\n")
    (tmp_path / "views.py").write_text("class View:\n    value = 3\n")
    pickled = ray.cloudpickle.dumps(factories.call("models:make", {}, str(tmp_path)))
    code = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read()).value)"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True)
    assert done.stdout.strip() == b"3", done.stderr


def test_installed_functions_are_found_and_broken_modules_named(tmp_path: Path) -> None:
    assert factories.call("fractions:Fraction", {"numerator": 3}, str(tmp_path)) == 3
    (tmp_path / "broken.py").write_text("import torch_vision_of_another_world\n")
    with pytest.raises(RequestError, match=r"'broken' cannot be imported \(ModuleNotFoundError"):
        factories.call("broken:make", {}, str(tmp_path))
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(RequestError, match="SyntaxError"):
        factories.call("broken:make", {}, str(tmp_path))


def written(folder: Path, **files: str) -> str:
    """Python files in `folder` by their names, the first `__` for a slash; the folder's path."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def test_neighbours_are_imported_inside_functions(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        models="def make():\n    import blocks, nets.core\n    return lambda: [blocks.A, nets.core.late()]\n",
        blocks="A = 1\n",
        nets____init__="",
        nets__core="def late():\n    import blocks\n    return blocks.A + 1\n",
    )
    assert factories.call("models:make", {}, folder)() == [1, 2]  # and in what runs after the factory
    assert "blocks" not in sys.modules and not list(tmp_path.rglob("__pycache__"))


def test_packages_beside_import_relatively(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        nets__core="from . import parts\nfrom .parts import size\ndef make(): return size() + parts.ONE\n",
        nets__parts="from shared import TWO\nONE = 1\ndef size(): return TWO\n",
        shared="TWO = 2\n",
    )
    assert factories.call("nets.core:make", {}, folder) == 3  # a folder without __init__.py
    (tmp_path / "nets/__init__.py").write_text("from .core import make\n")
    assert factories.call("nets:make", {}, folder) == 3


@pytest.mark.parametrize(
    "body",
    [
        "import importlib\ndef make(): return importlib.import_module('blocks').A\n",
        "from importlib import import_module\nblocks = import_module('blocks')\ndef make(): return blocks.A\n",
        "def make(): return __import__('blocks').A\n",
        "import pydoc\ndef make(): return pydoc.locate('blocks.A')\n",
        "import importlib.util as u\nfrom pathlib import Path\ndef make():\n"
        "    spec = u.spec_from_file_location('blocks', Path(__file__).parent / 'blocks.py')\n"
        "    module = u.module_from_spec(spec)\n    spec.loader.exec_module(module)\n    return module.A\n",
    ],
)
def test_modules_are_imported_by_name(body: str, tmp_path: Path) -> None:
    for value in (1, 2):
        folder = written(tmp_path, models=body, blocks=f"import more\nA = more.B + {value}\n", more="B = 10\n")
        assert factories.call("models:make", {}, folder) == 10 + value
        assert not {"blocks", "more"} & sys.modules.keys() and not list(tmp_path.rglob("__pycache__"))


def test_one_module_whatever_way_it_is_imported(tmp_path: Path) -> None:
    body = "import importlib, pydoc, blocks\ndef make():\n    blocks.A = 5\n"
    body += "    return importlib.import_module('blocks').A, pydoc.locate('blocks').A\n"
    assert factories.call("models:make", {}, written(tmp_path, models=body, blocks="A = 1\n")) == (5, 5)


@pytest.mark.parametrize("name", ["queue", "workers", "orchestrator", "torch", "random"])
def test_names_beside_shadow_nothing_for_others(name: str, tmp_path: Path) -> None:
    known = sys.modules.get(name)
    body = f"import {name}\nimport concurrent.futures, json\ndef make(): return {name}.OWN\n"
    folder = written(tmp_path, models=body, **{name: "OWN = 7\ndef make(): return 8\n"})
    assert factories.call("models:make", {}, folder) == 7
    assert factories.call(f"{name}:make", {}, folder) == 8
    assert sys.modules.get(name) is known


def test_a_package_of_stillhouses_name_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path / "lib", workers__nets="from workers.sizes import N\ndef make(): return N\n", workers__sizes="N = 4\n"
    )
    (tmp_path / "lib/workers/__init__.py").touch()
    with pytest.raises(RequestError, match="'workers' is a package of Stillhouse's own"):
        factories.call("workers.nets:make", {}, str(tmp_path))
    monkeypatch.chdir(tmp_path / "lib")
    assert factories.locate("workers.nets:make", str(tmp_path)) == str(tmp_path / "lib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert factories.call("workers.nets:make", {}, str(tmp_path)) == 4
    assert factories.call("workers.seeds:seed_of", {"seed": 1}, str(tmp_path)) > 0  # Stillhouse's own


def test_places_are_searched_in_order_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, path, beside = tmp_path / "here", tmp_path / "path", tmp_path / "beside"
    for place in (here, path, beside):
        place.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(path)
    with pytest.raises(RequestError) as error:
        factories.call("anet:make", {}, str(beside))
    assert all(place in str(error.value) for place in (f"'{here}'", f"'{beside}'", "PYTHONPATH", "`folder:`"))
    written(here, anet="def make(): return 'here'\n")
    assert factories.locate("anet:make", str(beside)) == str(here)
    assert factories.call("anet:make", {}, str(beside)) == "here"
    written(path, anet="def make(): return 'path'\n")
    assert factories.locate("anet:make", str(beside)) == str(beside)
    assert factories.call("anet:make", {}, str(beside)) == "path"
    written(beside, anet="def make(): return 'beside'\n")
    assert factories.call("anet:make", {}, str(beside)) == "beside"


def test_changed_modules_on_the_path_are_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path / "lib")
    folder = written(tmp_path / "run", models="import apart_from_it\ndef make(): return apart_from_it.A\n")
    for value in ("1", "'two'"):
        written(tmp_path / "lib", apart_from_it=f"A = {value}\n")
        assert factories.call("models:make", {}, folder) == eval(value)


def test_a_module_that_reads_a_file_is_loaded_anew_with_it(tmp_path: Path) -> None:
    body = "from pathlib import Path\nA = Path(__file__).with_name('a.txt').read_text()\ndef make(): return A\n"
    for value in ("one", "two"):
        (tmp_path / "a.txt").write_text(value)
        assert factories.call("models:make", {}, written(tmp_path, models=body)) == value


def test_methods_that_travelled_by_value_import_their_neighbours(tmp_path: Path) -> None:
    body = (
        "class View:\n    def size(self):\n        from blocks import A\n        return A\ndef make(): return View()\n"
    )
    folder = written(tmp_path, models=body, blocks="A = 6\n")
    pickled = ray.cloudpickle.dumps(factories.call("models:make", {}, folder))
    code = "import sys, pickle, workers.user_code.factories; print(pickle.loads(sys.stdin.buffer.read()).size())"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True)
    assert done.stdout.strip() == b"6", done.stderr


def test_files_are_code_and_what_it_reads(tmp_path: Path) -> None:
    body = "import json\nfrom pathlib import Path\ndef make():\n    from nets.core import size\n"
    body += "    return size(json.loads((Path(__file__).parent / 'sizes.json').read_text()))\n"
    folder = written(tmp_path, models=body, nets__core="def size(x): return x\n", other="")
    (tmp_path / "nets/__init__.py").touch()
    (tmp_path / "sizes.json").write_text("3")
    assert factories.call("models:make", {}, folder) == 3
    names = {str(path.relative_to(tmp_path)) for path in factories.files("models:make", folder)}
    assert names == {"models.py", "nets/__init__.py", "nets/core.py", "sizes.json"}


def test_a_jobs_folder_is_searched_wherever_its_process_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has another path on each node, and Ray Train changes the working directory of its workers."""
    for name in ("job", "artifacts"):
        (tmp_path / name).mkdir()
    (tmp_path / "job" / "nets_of_job.py").write_text("def net():\n    return 7\n")
    monkeypatch.chdir(tmp_path / "artifacts")
    monkeypatch.setenv(factories.JOB_FOLDER, "stillhouse-job")  # as the job sets it, before a process has found it
    with pytest.raises(RequestError, match="no module 'nets_of_job'"):
        factories.call("nets_of_job:net", {}, "/on/another/node")
    monkeypatch.setenv(factories.JOB_FOLDER, str(tmp_path / "job"))
    assert factories.call("nets_of_job:net", {}, "/on/another/node") == 7
