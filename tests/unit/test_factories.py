"""Factories: found beside the configuration, apart from each other, and known by their code."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from workers import factories
from workers.errors import RequestError


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
