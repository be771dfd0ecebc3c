"""What a model follows from: its key changes with whatever matters, and with nothing else."""

import json
import os
import random
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from workers.data import loading
from workers.errors import RequestError
from workers.models import provenance as model_provenance
from workers.models import torch_module
from workers.seeds import seeded
from workers.specs.data import DataSpec
from workers.specs.models import ModelSpec, SklearnModel, TransformersModel
from workers.specs.training import FitSpec, TrainingSpec
from workers.user_code import factories, observed, origins, provenance
from workers.user_code.observed import Record

MODELS = '''
import json
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import *

import extra
from blocks import Head, StudentHead
from shapes import *

HERE = Path(__file__).parent
SIZE = 4
STUDENT_SIZE = 2
REGISTRY = {}


def register(function):
    REGISTRY[function.__name__] = function
    return function


def read(name):
    return json.loads((HERE / name).read_text())


def mlp(hidden=8, sizes="sizes.json"):
    """What it is."""
    import lazy

    return Sequential(lazy.First(INPUTS, hidden), extra.Act(), Head(hidden, read(sizes)["classes"]))


def student():
    return StudentHead(STUDENT_SIZE, read("other.json")["classes"])


@register
def registered():
    return nn.Linear(3, SIZE)
'''
FILES = {
    "models.py": MODELS,
    "blocks.py": """
from torch import nn
def used(x):
    return x
def unused(x):
    return x
class Head(nn.Linear):
    def forward(self, x):
        return used(super().forward(x))
class StudentHead(nn.Linear):
    pass
""",
    "lazy.py": "import torch\nclass First(torch.nn.Linear):\n    pass\n",
    "extra.py": "from activations.soft import Act\n",
    "activations/__init__.py": "",
    "activations/soft.py": "from torch import nn\nfrom . import factor\nclass Act(nn.Module):\n"
    "    def forward(self, x):\n        return x * factor.FACTOR\n",
    "activations/factor.py": "FACTOR = 2\nELSE = 3\n",
    "shapes.py": "INPUTS = 5\nMORE = 6\n",
    "sizes.json": '{"classes": 3}',
    "other.json": '{"classes": 4}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "run"


def of(folder: Path, factory: str = "models:mlp", **kwargs: Any) -> dict[str, Any]:
    found = model_provenance.of_model(ModelSpec(factory=factory, folder=str(folder), kwargs=kwargs))
    assert json.loads(json.dumps(found)) == found
    return found


def changed(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted keys in which two inputs differ, those of what is built apart."""
    found: set[str] = set()
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= changed(a, b, f"{prefix}{key}/")
        elif a != b:
            found.add(prefix + key)
    return {key for key in found if not key.startswith("built/")}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "file, old, new, expected",
    [
        ("models.py", '"""What it is."""', '"""Else."""\n    # a comment', ""),
        ("models.py", "STUDENT_SIZE = 2", "STUDENT_SIZE = 3", ""),
        ("models.py", "return StudentHead(", "return  StudentHead(1 * ", ""),
        ("models.py", "from torch import nn\n", "from torch import nn, optim\n", ""),
        ("models.py", "import json\n", "import json\nimport math\n", ""),
        ("models.py", "hidden=8", "hidden=9", "code/models.py"),
        ("models.py", "read_text()", "read_text().strip()", "code/models.py"),
        ("models.py", "REGISTRY = {}", "torch.set_flush_denormal(False)\nREGISTRY = {}", "code/models.py"),
        ("blocks.py", "def unused(x):\n    return x", "def unused(x):\n    return 2 * x", ""),
        ("blocks.py", "class StudentHead(nn.Linear):\n    pass", "class StudentHead(nn.Linear):\n    a = 1", ""),
        ("blocks.py", "def used(x):\n    return x", "def used(x):\n    return 2 * x", "code/blocks.py"),
        ("lazy.py", "pass", "def forward(self, x): return super().forward(x) + 1", "code/lazy.py"),
        ("activations/soft.py", "x * factor", "x / factor", "code/activations/soft.py"),
        ("activations/factor.py", "FACTOR = 2", "FACTOR = 3", "code/activations/factor.py"),
        ("activations/factor.py", "ELSE = 3", "ELSE = 4", ""),
        ("activations/__init__.py", "", "print('loaded')", "code/activations/__init__.py"),
        ("shapes.py", "INPUTS = 5", "INPUTS = 2 + 3", "code/shapes.py"),
        ("shapes.py", "MORE = 6", "MORE = 7", ""),
        ("sizes.json", "3", "4", "files/sizes.json"),
        ("other.json", "4", "5", ""),
    ],
)
def test_the_key_changes_with_what_is_reached(file: str, old: str, new: str, expected: str, folder: Path) -> None:
    before = of(folder)
    replace(folder / file, old, new)
    assert changed(before, of(folder)) == ({expected} if expected else set())


def test_the_order_of_definitions_and_of_imports_does_not_matter(folder: Path) -> None:
    before = of(folder)
    head, _, tail = MODELS.partition("def mlp")
    mlp, _, rest = tail.partition("\n\n\n")
    moved = head.replace("import json\nimport os\n", "import os, json\n") + rest + f"\n\ndef mlp{mlp}\n"
    (folder / "models.py").write_text(moved)
    assert changed(before, of(folder)) == set()


def test_a_copy_elsewhere_has_the_same_key(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "copy").symlink_to(folder)
    assert of(folder) == of(folder.parent / "copy")
    folder.rename(tmp_path / "elsewhere")
    assert of(tmp_path / "elsewhere")["code"].keys() == {
        "models.py", "blocks.py", "lazy.py", "extra.py", "activations/soft.py", "activations/factor.py", "shapes.py"
    }  # fmt: skip


def test_kwargs_decide_which_file_is_read(folder: Path) -> None:
    of(folder, sizes="other.json")
    assert of(folder)["files"].keys() == {"sizes.json"}
    assert changed(of(folder), of(folder, hidden=9)) == {"model/kwargs/hidden"}


BY_NAME = {
    "importlib": "import importlib\ndef make(): return importlib.import_module('more.net').make()\n",
    "relative": "from more import by_name\ndef make(): return by_name('net').make()\n",
    "at load": "import importlib\nn = importlib.import_module('more.net')\ndef make(): return n.make()\n",
    "exec": """
from pathlib import Path
def make():
    space = {}
    exec((Path(__file__).parent / 'more/net.py').read_text(), space)
    return space['make']()
""",
    "getattr": "import more.net\ndef make(): return getattr(more.net, 'ma' + 'ke')()\n",
    "globals": "from more.net import make as made\ndef make(): return globals()['ma' + 'de']()\n",
    "registry": "from more import net, REGISTRY\ndef make(): return REGISTRY['make']()\n",
    "sys.path": """
import sys
from pathlib import Path
sys.path.append(str(Path(__file__).parent / 'more'))
def make():
    import net
    return net.make()
""",
}


@pytest.mark.parametrize("name", BY_NAME)
def test_code_that_is_found_by_a_computed_name_counts(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "more").mkdir()
    (folder / "more/__init__.py").write_text(
        "import importlib\nREGISTRY = {}\ndef register(f):\n    REGISTRY[f.__name__] = f\n    return f\n"
        "def by_name(name): return importlib.import_module(f'.{name}', __package__)\n"
    )
    register = "from more import register\n" if name == "registry" else "register = lambda f: f\n"
    net = register + "import torch\nclass Twice(torch.nn.Linear):\n    def forward(self, x):\n        return F(x)\n"
    (folder / "more/net.py").write_text(net + "def F(x): return 2 * x\n@register\ndef make(): return Twice(3, 2)\n")
    (folder / "models.py").write_text(BY_NAME[name])
    of(folder, "models:make")
    before = of(folder, "models:make")
    assert changed(before, of(folder, "models:make")) == set()
    replace(folder / "more/net.py", "2 * x", "3 * x")
    assert changed(before, of(folder, "models:make")) == {"code/more/net.py"}


def test_modules_on_the_path_count_as_the_users_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = tmp_path / "lib/apart"
    lib.mkdir(parents=True)
    monkeypatch.syspath_prepend(lib.parent)
    (lib / "__init__.py").write_text("from .net import Net\n")
    (lib / "net.py").write_text(
        "from pathlib import Path\nimport torch\nN = int(Path(__file__).with_name('n.txt').read_text())\n"
        "class Net(torch.nn.Linear):\n    def __init__(self): super().__init__(3, N)\n"
    )
    (lib / "n.txt").write_text("2")
    (folder / "models.py").write_text("import apart\ndef make(): return apart.Net()\n")
    for factory, old in (("models:make", "3, N"), ("apart:Net", "4, N")):
        before = of(folder, factory)
        assert ".../apart/net.py" in before["code"] and before["files"].keys() == {".../apart/n.txt"}
        replace(lib / "net.py", old, f"{int(old[0]) + 1}, N")
        assert changed(before, of(folder, factory)) == {"code/.../apart/net.py"}
        before = of(folder, factory)
        (lib / "n.txt").write_text("1" + old[0])
        assert changed(before, of(folder, factory)) == {"files/.../apart/n.txt"}
        assert of(folder, factory)["built"]["tensors"]["bias"] == f"float32 [1{old[0]}]"


LOOKS = """
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from os import environ as variables
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
from torch import nn
HERE = Path(__file__).parent
class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x) * np.load(HERE / NAMES["late"])[0]
NAMES = {"late": "late" + ".npy"}
def make(path):
    with ThreadPoolExecutor(1) as pool:
        threads = list(pool.map(lambda name: (HERE / name).read_text(), ["thread.txt"]))
    rust = load_file(HERE / "tables" / "rust.safetensors"), load_file(path)
    sqlite3.connect(HERE / ("my" + ".db")).close()
    return Net(5, 3)
def gain(): return variables.get("LOOKS_GAIN")
def with_gain(path): return make(path) if gain() else make(path)
"""


def test_files_that_are_read_late_or_not_by_python_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "looks.py").write_text(LOOKS)
    (folder / "tables").mkdir()
    files = [folder / name for name in ("late.npy", "thread.txt", "tables/rust.safetensors", "more.safetensors")]

    def write(path: Path, value: int) -> None:
        if path.suffix == ".npy":
            np.save(path, np.full(2, value))
        elif path.suffix == ".txt":
            path.write_text(str(value))
        else:
            safetensors.numpy.save_file({"x": np.full(2, value)}, path)

    for path in files:
        write(path, 1)
    sqlite3.connect(folder / "my.db").close()
    (folder / "my.db").touch()
    spec = ModelSpec(factory="looks:with_gain", folder=str(folder), kwargs={"path": str(folder / "more.safetensors")})
    with provenance.in_use(spec):
        torch_module.build(spec)(torch.zeros(1, 5))
    before = model_provenance.of_model(spec)
    assert before["files"].keys() == {str(path.relative_to(folder)) for path in (*files, folder / "my.db")}
    for path in files:
        write(path, 2)
        after = model_provenance.of_model(spec)
        assert changed(before, after) == {f"files/{path.relative_to(folder)}"}
        before = after
    monkeypatch.setenv("LOOKS_GAIN", "2")
    assert changed(before, model_provenance.of_model(spec)) == {"environment/LOOKS_GAIN"}


def test_environment_variables_count_as_digests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models.py").write_text(
        "import os\nfrom os import environ, getenv\nimport torch\nKEY = 'D_KEY'\nS = os.environ.get('STUDENT')\n"
        "def make():\n    a = os.environ.get('A_KEY', '1'), 'B_KEY' in environ, getenv('C_KEY'), environ.get(KEY)\n"
        "    return torch.nn.Linear(2, len(a))\ndef student(): return torch.nn.Linear(2, 2) if S else None\n"
    )
    before = of(folder, "models:make")
    assert before["environment"] == dict.fromkeys(["A_KEY", "B_KEY", "C_KEY", "D_KEY"], provenance.UNSET)
    monkeypatch.setenv("STUDENT", "2")
    assert of(folder, "models:make") == before
    for name in before["environment"]:
        monkeypatch.setenv(name, "very secret")
        after = of(folder, "models:make")
        assert changed(before, after) == {f"environment/{name}"}
        assert "very secret" not in json.dumps(after)
        before = after


def test_what_is_built_counts(folder: Path) -> None:
    """As where a file is read by a library that does not use Python's `open`."""
    from safetensors.torch import save_file

    (folder / "models.py").write_text(
        "import torch\nfrom pathlib import Path\nfrom safetensors.torch import load_file\n"
        "class Net(torch.nn.Linear):\n    def __init__(self, part):\n        super().__init__(2, 2)\n"
        "        table = load_file(Path(__file__).with_name('t.safetensors'))['t']\n"
        "        if part == 'buffer': self.register_buffer('table', table, persistent=False)\n"
        "        if part == 'attribute': self.table = table\n"
        "        if part == 'number': self.table = float(table[0])\n"
        "        if part == 'width': self.table = torch.nn.Linear(2, int(table[0]))\n"
    )
    for part in ("buffer", "attribute", "number", "width"):
        found = []
        for value in (1.0, 1.0, 2.0):
            save_file({"t": torch.full((3,), value)}, folder / "t.safetensors")
            os.utime(folder / "models.py")
            found.append(of(folder, "models:Net", part=part)["built"])
        assert found[0] == found[1] != found[2], part


def test_what_no_seed_decides_is_left_out_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "models.py").write_text(
        "import torch, numpy as np\ndef make():\n    net = torch.nn.Linear(2, 2)\n"
        "    net.weight.data += float(np.random.default_rng().random())\n    return net\n"
    )
    found = of(folder, "models:make")
    assert "weights" not in found["built"] and found["built"]["tensors"]["weight"] == "float32 [2, 2]"
    assert "models:make" in caplog.text and "weights" in caplog.text
    os.utime(folder / "models.py")
    assert of(folder, "models:make") == found


def test_files_that_are_declared_count(folder: Path, tmp_path: Path) -> None:
    declared = (str(folder / "vocab.txt"), str(tmp_path / "tables"))
    spec = ModelSpec(factory="models:mlp", folder=str(folder), depends_on=declared)
    with pytest.raises(RequestError, match=r"data.depends_on: '.*vocab.txt': no such file"):
        model_provenance.of_model(spec)
    (folder / "vocab.txt").write_text("a b")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/a.bin").write_text("1")
    before = model_provenance.of_model(spec)
    assert before["files"].keys() == {"sizes.json", "vocab.txt", f".../{tmp_path.name}/tables"}
    (folder / "vocab.txt").write_text("a c")
    assert changed(before, after := model_provenance.of_model(spec)) == {"files/vocab.txt"}
    (tmp_path / "tables/b.bin").write_text("2")
    assert changed(after, model_provenance.of_model(spec)) == {f"files/.../{tmp_path.name}/tables"}
    with pytest.raises(RequestError, match=r"data.depends_on: 'memory://no/such.txt'"):
        loading.load(DataSpec(kind="npz", train="a", test="b", depends_on=("memory://no/such.txt",)), 0)


def test_code_that_can_be_executed_only_once(folder: Path) -> None:
    (folder / "models.py").write_text(
        "import json, sys, torch\nfrom pathlib import Path\nassert not hasattr(sys, 'once_only')\n"
        "N = json.loads(Path(__file__).with_name('sizes.json').read_text())['classes']\n"
        "sys.once_only = True\ndef make(): return torch.nn.Linear(2, N)\n"
    )
    try:
        found = of(folder, "models:make")
    finally:
        del sys.once_only  # type: ignore[attr-defined]
    assert found["files"].keys() == {"sizes.json"} and found["code"].keys() == {"models.py"}


def test_a_network_of_torch_alone_has_no_code_and_no_packages() -> None:
    spec = ModelSpec(factory="torch.nn:Linear", kwargs={"in_features": 1, "out_features": 2})
    assert model_provenance.of_model(spec) == {
        **model_provenance.of_model(spec),
        "code": {}, "files": {}, "environment": {}, "packages": {},
    }  # fmt: skip
    assert provenance.versions().keys() == {"python", "torch", "numpy", "stillhouse"}


def test_packages_that_code_imports_count(folder: Path) -> None:
    import pytest as installed

    replace(folder / "lazy.py", "import torch", "import torch, hypothesis, numpy, json\nfrom pytest import approx")
    replace(folder / "lazy.py", "pass", "size = approx(3)")
    assert of(folder)["packages"]["pytest"] == installed.__version__


def test_files_of_a_model_build_it_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.txt").write_text("a b")
    spec = ModelSpec(factory="models:mlp", folder=str(folder), depends_on=(str(folder / "vocab.txt"),))
    for path, content in model_provenance.files_of(spec).items():
        place = tmp_path / "copy" / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert copied == FILES.keys() - {"other.json"} | {"vocab.txt"}
    there = torch_module.build(ModelSpec(factory="models:mlp", folder=str(tmp_path / "copy")), 1)
    assert torch.equal(there[0].weight, torch_module.build(spec, 1)[0].weight)


def test_a_function_that_fits_an_estimator_counts(folder: Path) -> None:
    (folder / "fits.py").write_text(
        "from shapes import INPUTS\ndef halved(estimator, lessons): return INPUTS\ndef other(): return 1\n"
    )
    spec = SklearnModel(kind="sklearn", factory="models:mlp", folder=str(folder))
    before = model_provenance.of_training(spec, FitSpec(fit="fits:halved"))
    assert before["fit"] == "fits:halved" and before["code"].keys() == {"fits.py", "shapes.py"}
    replace(folder / "fits.py", "return 1", "return 2")
    assert model_provenance.of_training(spec, FitSpec(fit="fits:halved")) == before
    replace(folder / "shapes.py", "INPUTS = 5", "INPUTS = 6")
    assert changed(before, model_provenance.of_training(spec, FitSpec(fit="fits:halved"))) == {"code/shapes.py"}
    assert model_provenance.of_training(spec, FitSpec()) == {"fit": "auto"}


def test_a_class_that_schedules_a_learning_rate_counts(folder: Path) -> None:
    (folder / "rates.py").write_text(
        "from shapes import INPUTS\nclass Saw:\n    def __call__(self, done): return INPUTS\nclass Other: pass\n"
    )
    own = TrainingSpec(epochs=1, schedule="rates:Saw", folder=str(folder))
    model = TransformersModel(kind="transformers", checkpoint="bert")
    before = model_provenance.of_training(model, own)
    assert before["schedule"] == "rates:Saw" and before["code"].keys() == {"rates.py", "shapes.py"}
    replace(folder / "rates.py", "class Other: pass", "class Other: name = 1")
    assert model_provenance.of_training(model, own) == before
    replace(folder / "shapes.py", "INPUTS = 5", "INPUTS = 6")
    assert changed(before, model_provenance.of_training(model, own)) == {"code/shapes.py"}
    assert "code" not in model_provenance.of_training(model, TrainingSpec(epochs=1))


def test_code_of_a_configuration_in_a_place_of_the_system_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk at /run/media, or in /dev/shm."""
    monkeypatch.setattr(origins, "SYSTEM", (folder.parent,))
    before = of(folder)
    assert before["files"].keys() == {"sizes.json"}
    replace(folder / "blocks.py", "def used(x):\n    return x", "def used(x):\n    return 2 * x")
    assert changed(before, of(folder)) == {"code/blocks.py"}
    assert not origins.is_users(str(folder.parent / "other.py"))


AUGMENT = """
import numpy as np
from pathlib import Path
from shapes import INPUTS
def shift(x, draws):
    return x + np.loadtxt(Path(__file__).with_name('noise.txt')) * INPUTS
def other(x, draws):
    return x
"""


def test_augmentations_follow_from_what_they_reach_and_read(folder: Path) -> None:
    np.savez(folder / "a.npz", x=np.ones((6, 2), np.float32), y=np.array([0, 1] * 3))
    (folder / "aug.py").write_text(AUGMENT)
    (folder / "noise.txt").write_text("0.5")
    values: dict[str, Any] = {
        "kind": "npz",
        "train": "a.npz",
        "test": "a.npz",
        "validation": "a.npz",
        "root": str(folder),
    }
    values["allow_overlap"] = True
    spec = DataSpec(**values, augment={"factory": "aug:shift", "folder": str(folder)})
    before = loading.load(spec, 0).augmentation
    assert before["code"].keys() == {"aug.py", "shapes.py"} and before["files"].keys() == {"noise.txt"}
    replace(folder / "aug.py", "return x\n", "return -x  # else\n")
    assert loading.load(spec, 0).augmentation == before
    (folder / "noise.txt").write_text("0.7")
    assert changed(before, loading.load(spec, 0).augmentation) == {"files/noise.txt"}


DRAWS = """
import random
import numpy as np
import torch
AT_LOAD = random.random(), np.random.rand(), float(torch.rand(()))
def drawn(): return random.random(), np.random.rand(), float(torch.rand(()))
def make(fails=False):
    net = torch.nn.Linear(3, 2)
    net.weight.data[0] = torch.tensor(drawn())
    net.weight.data[1] = torch.tensor(AT_LOAD)
    if fails: raise ValueError
    return net
def splits():
    y = np.arange(20) % 2
    return {"train": (np.array([drawn() for _ in y], np.float32), y), "test": (np.zeros((20, 3), np.float32), y)}
"""


def states() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def test_every_generator_is_seeded_and_restored(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(DRAWS)
    weights: Callable[..., torch.Tensor] = lambda seed: torch_module.build(  # noqa: E731
        ModelSpec(factory="models:make", folder=str(tmp_path)), seed
    ).weight.detach()
    before = states()
    first = weights(3)
    assert states() == before
    os.utime(tmp_path / "models.py")  # loaded anew
    assert torch.equal(first, weights(3)) and not torch.equal(first[0], weights(4)[0])
    assert len(set(first[0].tolist())) == 3
    with pytest.raises(RequestError):
        torch_module.build(ModelSpec(factory="models:make", folder=str(tmp_path), kwargs={"fails": True}), 3)
    assert states() == before
    with seeded(2**40):
        assert states() != before


def test_data_factories_draw_from_the_seed(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(DRAWS)
    spec = DataSpec(kind="python", factory="models:splits", folder=str(tmp_path))
    before = states()
    one, other, apart = (loading.load(spec, seed).digests["train"] for seed in (1, 1, 2))
    assert states() == before and one == other != apart


def test_a_program_that_calls_stillhouse_opens_no_file_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Code of the user that was called before a recording, such as a script with `run(config)`, reads nothing in it."""
    (tmp_path / "weights.bin").write_bytes(b"weights")
    script = tmp_path / "program.py"
    script.write_text(
        "def program(of_stillhouse):\n    return of_stillhouse()\n\n\ndef opens(path):\n    return open(path).read()\n"
    )
    program = factories.load("program:program", str(tmp_path))
    opens = factories.load("program:opens", str(tmp_path))

    def of_stillhouse() -> Record:
        with observed.recording() as record:
            (tmp_path / "weights.bin").read_bytes()
        return record

    # this test is a program of the user's, too, so both frames are outside
    assert program(of_stillhouse).read() == set() and observed.opened_by(str(script)) == set()
    with observed.recording() as record:
        opens(tmp_path / "weights.bin")
    assert record.read() == {tmp_path / "weights.bin"} == observed.opened_by(str(script))
