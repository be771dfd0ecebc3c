"""`stillhouse doctor`: each check with what a machine or a configuration may answer. Nothing is started."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator import RunConfig
from orchestrator.cli.checks import finding, machine, request
from orchestrator.cli.checks.finding import Finding
from orchestrator.cli.checks.machine import Driver, Torch
from orchestrator.cli.command import main
from orchestrator.cli.doctor import MACHINE
from orchestrator.plan.fit import misfits
from orchestrator.plan.whole import whole
from orchestrator.stages import preflight
from tests.makers import write_config, write_idx
from workers.data import memory
from workers.errors import RequestError
from workers.user_code import origins

GIB = 2**30
CPU_BUILD, CUDA_BUILD = Torch("2.13.0+cpu", "", ()), Torch("2.13.0", "13.0", ())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray of other tests would decide on machines."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


GPUS: dict[str, tuple[Torch, Driver | None, str, str]] = {
    "used": (Torch("2.13.0", "13.0", ("H200",)), Driver(("H200",), (13, 0)), "ok", r"H200 \(CUDA 13.0\)"),
    "none": (CPU_BUILD, None, "ok", "none that torch"),
    "no build": (CPU_BUILD, Driver(("H200",), (13, 0)), "warning", "built without CUDA"),
    "old driver": (CUDA_BUILD, Driver(("T4",), (12, 4)), "warning", "for CUDA 13.0, and the driver supports 12.4"),
    "newer driver": (CUDA_BUILD, Driver(("T4",), (13, 2)), "warning", "does not see"),
}


@pytest.mark.parametrize("case", GPUS)
def test_gpus_that_torch_cannot_use_are_a_warning_with_the_reason(case: str) -> None:
    torch_, driver, level, found = GPUS[case]
    finding = machine.gpus(torch_, driver)
    assert finding.level == level
    assert re.search(found, finding.found)


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in machine.gpus(CUDA_BUILD, Driver(("T4",), (13, 0))).found


def test_shared_memory_below_rays_object_store_is_a_warning() -> None:
    assert machine.shared_memory(free=10 * GIB, whole=20 * GIB).level == "ok"
    small = machine.shared_memory(free=GIB // 16, whole=20 * GIB)
    assert small.level == "warning" and "64.0 MiB free" in small.found and "6.0 GiB" in small.found


def test_a_low_limit_of_open_files_is_a_warning() -> None:
    assert machine.open_files(hard=65536).level == "ok" and machine.open_files(hard=-1).found == "no limit"
    assert machine.open_files(hard=256).level == "warning"


def test_another_version_of_ray_on_the_cluster_stops_a_run() -> None:
    assert machine.same_version("1.2.3.4:6379", "2.60.0", "2.60.0").level == "ok"
    other = machine.same_version("1.2.3.4:6379", "2.54.0", "2.60.0")
    assert other.level == "stops" and "pip install ray==2.54.0" in other.found


def of(path: Path) -> RunConfig:
    return RunConfig.load(str(path))


def found(path: Path, name: str) -> Finding:
    """One check of a configuration."""
    return finding.of_check(name, dict(request.checks(request.Request(of(path))))[name])


def test_packages_with_the_command_that_installs_them(tmp_path: Path) -> None:
    config = of(
        write_config(
            tmp_path,
            storage="s3://bucket/runs",
            ensemble={
                "members": [
                    {"model": {"kind": "onnx", "path": "a.onnx"}},
                    {"model": {"kind": "sklearn", "path": "a.skops"}},
                    {"model": {"kind": "transformers", "checkpoint": "bert"}},
                ]
            },
        )
    )
    missing = request.packages(config, lambda name: name == "tokenizers")
    assert missing.level == "stops"
    assert missing.found.startswith("not installed: onnxruntime, s3fs, scikit-learn, skops, transformers. ")
    command = "pip install 'stillhouse[onnx]' s3fs 'stillhouse[sklearn]' 'stillhouse[text]'"
    assert missing.found.endswith(command)
    assert request.packages(config, lambda name: True).level == "ok"


def test_a_package_may_be_installed_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`onnxruntime-gpu` has the module `onnxruntime`."""
    site = tmp_path / "site"
    (site / "onnxruntime").mkdir(parents=True)
    (site / "onnxruntime" / "__init__.py").write_text("")
    information = site / "onnxruntime_gpu-1.2.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.2.3\n")
    (information / "RECORD").write_text("onnxruntime/__init__.py,,\n")
    (site / "skops").mkdir()  # without code
    here = [place for place in sys.path if "site-packages" not in place]
    monkeypatch.setattr(sys, "path", [str(site), *here])
    for name in ("onnxruntime", "skops", "sklearn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    onnx, both = {"kind": "onnx", "path": "a.onnx"}, {"kind": "sklearn", "path": "a.skops"}
    config = of(write_config(tmp_path, ensemble={"members": [{"model": onnx}, {"model": both}]}))
    assert request.packages(config).found.startswith("not installed: scikit-learn, skops. ")
    origins._owners.cache_clear()
    try:
        assert origins.provider("onnxruntime") == ("onnxruntime-gpu", "1.2.3")
    finally:
        origins._owners.cache_clear()


WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "data": ({"data__train": "gone.npz"}, "data", "gone.npz': no such file"),
    "classes": ({"data__classes": 2}, "data", "outside the 2 classes"),
    "module": ({"student__model__factory": "nowhere:net"}, "code", "no module 'nowhere'"),
    "function": ({"student__model__factory": "models:cnn"}, "code", "no function or class 'cnn'"),
    "metric": ({"evaluation__metrics": [{"factory": "models:wer"}]}, "code", "'wer'"),
    "checkpoint": (
        {"ensemble__training": None, "ensemble__size": None, "ensemble__checkpoints": ["gone.pt"]},
        "checkpoints",
        "gone.pt': no such file",
    ),
    "tokenizer": ({"student__model__tokenizer": "gone"}, "checkpoints", "gone': no such file"),
    "checkpoint's storage": ({"student__initial": "nowhere://b/a.pt"}, "checkpoints", "no file system for this URI"),
    "data's storage": ({"data__train": "nowhere://b/a.npz"}, "data", "no file system for this URI"),
    "storage": ({"storage": "/proc/runs"}, "storage", "cannot be written"),
    "tracker": ({"tracking__uri": "http://127.0.0.1:9"}, "tracker", "no MLflow tracker"),
}


TRAINED: dict[str, tuple[dict[str, object], str, str]] = {
    "term": ({"distillation": {"objective": [{"term": "sof"}]}}, "code", "'sof'"),
    "own term": (
        {"distillation": {"objective": [{"term": "models:Missing"}]}},
        "code",
        "no function or class 'Missing'",
    ),
    "weights": ({"ensemble__weights": {"factory": "models:nope"}}, "code", "no function or class 'nope'"),
    "figure": ({"report": {"figures": [{"factory": "models:draw"}]}}, "code", "no function or class 'draw'"),
    "figure's arguments": (
        {"report": {"figures": [{"factory": "models:raises"}]}},
        "code",
        "cannot be called with (stud",
    ),
    "kwargs": ({"student__model__kwargs__bogus": 1}, "models", "bogus"),
    "inputs": ({"student__model__kwargs__inputs": 9}, "models", "student"),
    "classes": ({"student__model__kwargs__classes": 4}, "models", "student"),
    "not written yet": ({"ensemble__model__factory": "later:net"}, "models", "return the network here"),
    "cores": ({"ensemble__resources_per_member": {"num_cpus": 5000}}, "capacity", "asked for 5000 a member"),
}
"""What only a built model or objective shows."""


@pytest.mark.parametrize("case", TRAINED)
def test_what_would_stop_a_run_once_it_builds_its_models(case: str, tmp_path: Path) -> None:
    changes, name, message = TRAINED[case]
    (tmp_path / "later.py").write_text('def net(**_):\n    raise NotImplementedError("return the network here")\n')
    path = write_config(tmp_path, **changes)
    finding = found(path, name)
    assert finding.level == "stops" and message in finding.found
    with pytest.raises(RequestError):  # as a run does
        preflight.check(of(path))


def test_models_are_built_where_the_data_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "LOADED_BYTES", 10)
    assert found(write_config(tmp_path), "models") == Finding("models", "built; not tried without the data")
    wrong = found(write_config(tmp_path, student__model__kwargs__bogus=1), "models")
    assert wrong.level == "stops" and "bogus" in wrong.found


def test_what_cannot_be_built_has_no_known_size(tmp_path: Path) -> None:
    path = write_config(tmp_path, student__model__kwargs__bogus=1, ensemble__model__kwargs__bogus=1)
    assert {name: found(path, name).level for name in ("disk", "memory")} == {"disk": "stops", "memory": "stops"}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_stop_a_run(case: str, tmp_path: Path) -> None:
    changes, name, message = WRONG[case]
    finding = found(write_config(tmp_path, **changes), name)
    assert finding.level == "stops" and message in finding.found


def test_a_right_configuration_passes_every_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 64 * GIB)
    path, began_s = write_config(tmp_path), time.process_time()
    findings = {name: check() for name, check in request.checks(request.Request(of(path)))}
    assert {name: each.level for name, each in findings.items()} == dict.fromkeys(findings, "ok")
    assert findings["data"].found == "600 train, 200 validation, 400 test, 3 classes".replace(", 3", "; 3")
    assert findings["code"].found == "models:mlp" and findings["checkpoints"].found == "none needed"
    assert time.process_time() - began_s < 20, "nothing is trained"
    assert not (tmp_path / "runs").exists()


def test_disk_and_memory_are_those_of_the_plan(tmp_path: Path) -> None:
    asked = request.Request(of(write_config(tmp_path)))
    # members 24 units, student and baseline 6: 8 inputs, 3 classes, each once; soft targets 600 x 3 float32;
    # predictions of 600 examples by each member, and of 400 by student and baseline
    numbers = 3 * (8 * 24 + 24 + 24 * 3 + 3) + 2 * (8 * 6 + 6 + 6 * 3 + 3)
    needed = 4 * (numbers + 600 * 3 + (3 * 600 + 2 * 400) * 3)
    assert request.disk(asked, free=needed).level == "ok"
    full = request.disk(asked, free=needed - 1)
    assert full.level == "stops" and full.found.startswith("the run stores") and "Set `storage`" in full.found
    assert asked.planned is not None
    (lacking,) = misfits(asked.planned, whole(asked.planned), needed - 1)
    assert lacking == f"storage: {full.found}"
    assert request.main_memory(asked, available=64 * GIB).level == "ok"
    small = request.main_memory(asked, available=GIB // 2)
    assert small.level == "warning" and re.search("and the data take about [0-9.]+ GiB", small.found)


def test_data_that_are_not_read_have_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "LOADED_BYTES", 10)
    for name in ("disk", "memory"):
        assert found(write_config(tmp_path), name) == Finding(name, request.PLANNED)


def test_further_students_are_checked(tmp_path: Path) -> None:
    training = {"epochs": 1}
    students = {
        "small": {"model": {"factory": "models:mlp"}, "training": training},
        "own": {"model": {"factory": "models:gone"}, "training": training},
    }
    finding = found(write_config(tmp_path, student=None, students=students), "code")
    assert finding.level == "stops" and "no function or class 'gone'" in finding.found


GONE: list[dict[str, object]] = [
    {"data__train": "gone.npz"},
    {"ensemble": {"members": [{"model": {"kind": "onnx", "path": f"{name}.onnx"}} for name in "ab"]}},
]


@pytest.mark.parametrize("changes", GONE)
def test_one_broken_part_leaves_the_other_checks(changes: dict[str, object], tmp_path: Path) -> None:
    """What one check has found is not repeated by those that need a plan."""
    findings = {name: look() for name, look in request.checks(request.Request(of(write_config(tmp_path, **changes))))}
    assert {findings[name].found for name in ("disk", "memory")} == {"not known before data and code are right"}


def test_what_the_plan_refuses_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RequestError("distillation.hidden.where: no room")

    monkeypatch.setattr("orchestrator.planning.from_shapes", refused)
    asked = request.Request(of(write_config(tmp_path, tracking__uri="http://127.0.0.1:9")))
    findings = {name: look() for name, look in request.checks(asked)}
    assert findings["tracker"].level == findings["disk"].level == "stops"
    assert findings["disk"].found == "distillation.hidden.where: no room"
    assert findings["memory"].found == "not known before data and code are right"


def test_an_exception_of_a_check_is_what_it_finds() -> None:
    def look() -> Finding:
        raise PermissionError("denied")

    assert finding.of_check("disk", look) == Finding("disk", "PermissionError: denied", "stops")


def test_data_in_folders_and_of_patterns_have_a_size(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "texts" / name).write_bytes(b"1234")
    places = {"data__train": "texts", "data__test": "texts/*.jsonl", "data__validation": "texts/a.jsonl"}
    assert request.Request(of(write_config(tmp_path, **places))).bytes == 8 + 8 + 4
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", np.zeros((9, 2, 2)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.zeros(9))
    data = {"kind": "idx", "train": "train", "test": "t10k", "validation": "t10k"}
    assert request.Request(of(write_config(tmp_path, data=data))).bytes == 3 * (16 + 36 + 8 + 9)


def test_the_command_shows_every_check_and_ends_with_2_where_one_stops_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(write_config(tmp_path, data__train="gone.npz"))]) == 2
    shown = capsys.readouterr()
    assert all(name in shown.out for name in MACHINE) and torch.__version__ in shown.out
    assert "data: data.train" in shown.err and "gone.npz': no such file" in shown.err
