"""The student as a model for MLflow: it loads where nothing of its run is, and what a stranger's folder may not do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.export import check_logged_model, student_model
from orchestrator.run_folder import model_folder
from tests.makers import blobs
from workers.errors import RequestError
from workers.evaluation import metrics
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.models import provenance as model_provenance
from workers.models.predictor import Lessons
from workers.models.sklearn import SklearnPredictor
from workers.specs.models import ModelSpec, SklearnModel
from workers.user_code import factories

X = np.random.default_rng(3).normal(size=(2, 8)).astype(np.float32)
FACTORY = """
import json, os
from pathlib import Path
from torch import nn
BESIDE = json.loads((Path(__file__).parent / "tables" / "sizes.json").read_text())
def net(path=None, variable=None):
    hidden = BESIDE["hidden"]
    if path: hidden = json.loads(open(path).read())["hidden"]
    if variable: hidden = int(os.environ[variable])
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 3))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration's folder with a factory that reads a file beside it."""
    folder = tmp_path / "config"
    (folder / "tables").mkdir(parents=True)
    (folder / "nets.py").write_text(FACTORY)
    table = folder / "tables" / "sizes.json"
    table.write_text('{"hidden": 5}')
    found = factories.files  # a file that is no source is packed as they are
    monkeypatch.setattr(factories, "files", lambda *asked: found(*asked) | {table: table.read_bytes()})
    return folder


def student(place: Path, **kwargs: Any) -> Member:
    spec = ModelSpec(factory="nets:net", kwargs=kwargs, folder=str(place))
    weights = str(place / "run" / "student" / "model.safetensors")
    checkpoints.save(torch_module.build(spec, seed=4).state_dict(), weights)
    return Member("student", spec, weights)


def write(member: Member) -> str | None:
    return student_model.write(member, X, 3, str(Path(member.weights).parent))


LOADED_ELSEWHERE = """
import json, sys
import mlflow.pyfunc, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
x = np.load("x.npy")
asked = [x, x.astype("f8"), x.tolist(), pd.DataFrame(x), x[0], x[0].astype("f8"), x[0].tolist(), np.ones((4, 8), int)]
np.savez("y.npz", *[model.predict(each) for each in asked])
try:
    model.predict(x[:, :5])
except Exception as error:
    print(error)
"""


def test_a_student_that_reads_a_file_answers_where_only_its_model_is(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = student(place)
    assert write(member) is None
    record = model_folder.read(str(Path(member.weights).parent))
    assert record is not None and record.inputs == "float32 [N, 8]"
    made = Path(member.weights).with_name("mlflow")
    assert {"artifacts/code/nets.py", "artifacts/code/tables/sizes.json"} <= record.files.keys()
    assert str(tmp_path) not in (made / "MLmodel").read_text()

    expected = metrics.predict(teacher.load(member), X)
    with monkeypatch.context() as changed:  # nothing has changed: neither written nor tried again
        changed.setattr(student_model, "_save", None)
        assert write(member) is None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = made.rename(elsewhere / "model")
    place.rename(tmp_path / "away")
    np.save(elsewhere / "x.npy", X)
    command = [sys.executable, "-c", LOADED_ELSEWHERE, str(made)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "asked an array of shape [2, 5]; expected float32 [N, 8]" in done.stdout
    answers = list(np.load(elsewhere / "y.npz").values())
    assert [len(each) for each in answers] == [2, 2, 2, 2, 1, 1, 1, 4]
    for each in answers[:7]:  # a processor may add up one example in another order than several
        np.testing.assert_allclose(each, expected[: len(each)], rtol=1e-6)


@pytest.mark.slow
def test_one_that_only_its_own_machine_can_load_is_no_model(place: Path) -> None:
    """It reads a file of the configuration's folder by its absolute path."""
    member = student(place, path=str(place / "tables" / "sizes.json"))
    problem = write(member)
    assert problem is not None and "a process of its own, in an empty folder, could not load it" in problem
    assert "sizes.json" in problem and "on this machine and not in the model" in problem
    assert not Path(member.weights).with_name("mlflow").exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise KeyError('HIDDEN')", "could not load it: KeyError: 'HIDDEN'"),
        ("sys.exit(3)", "could not load it: it ended without an error message"),
        ("np.save(asked['answers'], np.full((2, 3), 1 / 3, 'f4'))", "it gives other probabilities (by up to 0."),
        ("np.save(asked['answers'], np.zeros((1, 3), 'f4'))", "it gives other probabilities"),
    ],
)
def test_what_does_not_answer_as_the_student_is_no_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    stranger = tmp_path / "stranger.py"
    beginning = "import json, sys\nsys.path += json.loads(sys.stdin.readline())['installed']\nimport numpy as np\n"
    stranger.write_text(beginning + "asked = json.loads(sys.stdin.readline())\n" + program)
    monkeypatch.setattr(check_logged_model, "__file__", str(stranger))
    member = student(place)
    problem = write(member)
    assert problem is not None and said in problem
    assert not Path(member.weights).with_name("mlflow").exists()


@pytest.mark.slow
def test_a_file_outside_the_folder_is_named(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text('{"hidden": 5}')
    problem = write(student(place, path=str(outside)))
    assert problem is not None and f"on this machine and not in the model: '{outside}'" in problem


def test_files_outside_the_folder_are_hidden(place: Path, tmp_path: Path) -> None:
    for name in ("outside.json", ".cache/outside.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"hidden": 5}')
        found = model_provenance.files_outside(student(place, path=str(tmp_path / name)).model)
        assert found == ([] if name.startswith(".") else [tmp_path / name])


def test_a_secret_stays_at_home(place: Path) -> None:
    member = student(place)
    secret = Member("student", member.model.model_copy(update={"kwargs": {"password": "hunter2 hunter2"}}), "nowhere")
    assert write(secret) == "student.model.kwargs has a secret in it"


def test_what_the_process_gets_of_this_one() -> None:
    given = {"PATH": "/bin", "HOME": "/root", "HF_HOME": "/hf", "https_proxy": "x", "LC_ALL": "C", "TORCH_HOME": "/t"}
    left = {"PYTHONPATH": "/mine", "HIDDEN": "64", "RAY_ADDRESS": "x", "MLFLOW_TRACKING_PASSWORD": "x", "VOCAB": "/v"}
    assert student_model.environment_alone(given | left).keys() - given.keys() == {
        "CUDA_VISIBLE_DEVICES",
        "MLFLOW_LOGGING_LEVEL",
    }
    assert student_model.environment_alone(given | left).keys() >= given.keys()


def test_the_folder_of_the_configuration_is_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    for name in ("data.json", ".venv/lib.py", "model/MLmodel"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (tmp_path / "config.json").write_text("x")
    (tmp_path / "outside.json").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    script = """
import json, sys
from orchestrator.export.check_logged_model import hide
hide(sys.argv[1:3], [sys.argv[1] + "/model"])
found = {}
for path in sys.argv[3:]:
    try:
        found[path] = open(path).read()
    except FileNotFoundError as error:
        found[path] = str(error)
print(json.dumps(found))
"""
    inside = ["config/data.json", "link/data.json", "config/.venv/lib.py", "config/model/MLmodel"]
    asked = [*inside, "config.json", "outside.json"]
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "outside.json"), *asked]
    environment = os.environ | {"PYTHONPATH": str(Path(check_logged_model.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [found[path] == "x" for path in asked] == [False, False, True, True, True, False]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder with a model as a run writes it, but that it was never loaded."""
    place = tmp_path_factory.mktemp("written")
    (place / "nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(8, 3)\n")
    member = student(place)
    with pytest.MonkeyPatch.context() as untried:
        untried.setattr(student_model, "_check_answers", lambda *_: None)
        assert write(member) is None
    return Path(member.weights).parent


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "mlflow" / "stillhouse.json").read_text())
    return found


def declared(folder: Path, name: str, content: bytes) -> None:
    """Put a file into the model, and its checksum into the record, as an attacker may."""
    path = folder / "mlflow" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    record = record_of(folder)
    record["files"][name] = model_folder.storage.sha256(content)
    (folder / "mlflow" / "stillhouse.json").write_text(json.dumps(record))


def changed_mlmodel(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        model = yaml.safe_load((folder / "mlflow" / "MLmodel").read_text())
        change(model)
        declared(folder, "MLmodel", yaml.safe_dump(model).encode())

    return apply


def flavor(**changes: Any) -> Callable[[Path], None]:
    return changed_mlmodel(lambda model: model["flavors"]["python_function"].update(changes))


def linked(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "mlflow" / name
        content = path.read_bytes() if path.is_file() else b""
        target = folder.with_name("secret")
        if path.is_dir():
            path.rename(target)
        else:
            path.unlink()
            target.write_bytes(content)
        path.symlink_to(target)

    return apply


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to a file": (linked("pyfunc.py"), "it is a link"),
    "a link to a folder": (linked("code"), "lies in a folder that is one"),
    "a damaged file": (
        lambda f: (f / "mlflow/pyfunc.py").write_text("import os"),
        "its sha256 is not the one on record",
    ),
    "a missing file": (lambda f: (f / "mlflow/pyfunc.py").unlink(), "it is missing"),
    "a pickle": (lambda f: declared(f, "python_model.pkl", pickle.dumps(1)), "lists 'python_model.pkl'"),
    "a pickle as weights": (lambda f: declared(f, "artifacts/model.safetensors", pickle.dumps(1)), "no safetensors"),
    "a way out": (lambda f: declared(f, "code/workers/../../../../x", b"x"), "which no student's model has"),
    "an absolute path": (
        lambda f: declared(f, str(f.resolve().parent / "elsewhere"), b"x"),
        "which no student's model has",
    ),
    "a pickled model": (flavor(python_model="artifacts/model.safetensors"), "python_model is"),
    "an artifact elsewhere": (flavor(artifacts={"weights": {"path": "../../secret", "uri": "x"}}), "artifacts is"),
    "an absolute artifact": (flavor(artifacts={"weights": {"path": "/etc/passwd", "uri": "x"}}), "artifacts is"),
    "other code": (flavor(model_code_path="/tmp/evil.py"), "model_code_path is '/tmp/evil.py'; expected 'pyfunc.py'"),
    "another loader": (flavor(loader_module="antigravity"), "loader_module is 'antigravity'"),
    "code on the path": (flavor(code="../.."), "code is"),
    "another flavor": (changed_mlmodel(lambda m: m["flavors"].update(sklearn={"pickled_model": "x"})), "alone"),
    "an example elsewhere": (
        changed_mlmodel(lambda m: m.update(saved_input_example_info={"artifact_path": "../x", "type": "ndarray"})),
        "saved_input_example_info is",
    ),
    "another key": (changed_mlmodel(lambda m: m.update(metadata={"x": 1})), "a key 'metadata'"),
    "no model": (lambda f: declared(f, "MLmodel", b"[1"), "no MLmodel in YAML"),
    "no record": (lambda f: (f / "mlflow/stillhouse.json").write_text("[]"), "is not what a run wrote"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_folder_is_refused(name: str, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "student"
    subprocess.run(["cp", "-r", written, folder.parent.mkdir() or folder], check=True)
    spoil, said = HOSTILE[name]
    spoil(folder)
    with pytest.raises(RequestError, match="is not what a run wrote") as refused:
        record = model_folder.read(str(folder))
        assert record is not None
        model_folder.fetch(str(folder), record, tmp_path / "copy")
    assert said in str(refused.value)
    assert not student_model.is_there(str(folder), "any")


def test_what_a_run_wrote_is_taken_wherever_it_lies(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved" / "student"
    subprocess.run(["cp", "-r", written, folder.parent.mkdir() or folder], check=True)
    (folder / "mlflow" / "left.pkl").write_bytes(pickle.dumps(1))  # in no record
    record = model_folder.read(str(folder))
    assert record is not None
    model_folder.fetch(str(folder), record, tmp_path / "copy")
    copied = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert copied == record.files.keys() and student_model.is_there(str(folder), record.key)


def test_a_student_of_trees_answers_where_only_its_model_is(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "trees.py").write_text(
        "from sklearn.ensemble import RandomForestClassifier\ndef forest(): return RandomForestClassifier(5)\n"
    )
    spec = SklearnModel(kind="sklearn", factory="trees:forest", folder=str(folder))
    x, y = blobs(100, 0)
    fitted = SklearnPredictor.fit(
        spec, Lessons(x, np.eye(3, dtype=np.float32)[y], np.ones(100, np.float32), y, 0), "auto"
    )
    weights = folder / "run" / "student" / "model.skops"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(fitted.dump())
    member = Member("student", spec, str(weights))
    assert student_model.write(member, X, 3, str(weights.parent)) is None
    record = model_folder.read(str(weights.parent))
    assert record is not None and "artifacts/model.skops" in record.files
    made = weights.parent / "mlflow"
    assert (
        "scikit-learn==" in (made / "requirements.txt").read_text()
        and "skops==" in (made / "requirements.txt").read_text()
    )
    copied = tmp_path / "copy"
    copied.mkdir()
    model_folder.fetch(str(weights.parent), record, copied)
    (made / "artifacts" / "model.skops").write_bytes(pickle.dumps(1))
    with pytest.raises(RequestError, match=r"model\.skops' is not what a run wrote: its sha256"):
        model_folder.fetch(str(weights.parent), record, tmp_path / "copy")
