"""The command: quick, and honest in its exit status and words. Nothing here reaches Ray."""

import argparse
import importlib
import importlib.metadata
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from orchestrator import RunConfig
from orchestrator.cli import presentation
from orchestrator.cli.command import _failed, main
from orchestrator.cli.commands import compare, diff, export, report, worth
from orchestrator.observers.terminal import Screen
from orchestrator.reporting.report import as_json
from tests.makers import blobs, write_config
from tests.reports import full, plain
from workers import __version__
from workers.errors import RequestError
from workers.models import checkpoints
from workers.models.torch_module import build
from workers.specs.models import ModelSpec

QUICK_S = 3.0
"""Processor seconds until a command shows its first line; they are some 0.3 without torch, Ray and MLflow."""


def computed_s() -> float:
    """Processor seconds of the child processes that have ended, which do not depend on the load of the machine."""
    used = os.times()
    return used.children_user + used.children_system


@pytest.fixture(scope="module")
def loaded() -> None:
    """The modules that the first run in a process imports, so that no other test is timed with them."""
    importlib.import_module("orchestrator.runs")


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    before_s = computed_s()
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "run" in done.stdout
    assert computed_s() - before_s < QUICK_S
    code = (
        "import sys; from orchestrator.cli.command import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "import stillhouse\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'numpy', 'jinja2', 'PIL') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_an_exception_of_no_kind_that_is_known_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert _failed(KeyError("seen"), debug=False) == 1
    assert capsys.readouterr().err.endswith("from your model, please report it with that traceback.\n")


def test_the_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert [line.split()[1] for line in shown] == ["init", "run", "report", "export"]
    assert "  stillhouse run config.yaml" in shown


def test_the_version_is_that_of_the_distribution() -> None:
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"stillhouse {importlib.metadata.version('stillhouse')}\n")


def test_a_node_without_the_distribution_knows_the_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a job brings the packages alone."""

    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"stillhouse {__version__}\n"


def test_a_reader_that_leaves_is_no_failure() -> None:
    """As `stillhouse schema | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("format_", [[], ["--format", "markdown"], ["--format", "json"], ["--format", "html"]])
def test_a_report_is_shown_whatever_the_locale_can_encode(
    format_: list[str], encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables escape what they cannot show; files are in UTF-8, like those in the run's folder."""
    found = plain().model_copy(update={"name": "größe-猫"})
    (tmp_path / "report.json").write_text(found.model_dump_json())
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["report", str(tmp_path), *format_]) == 0
    text = written.getvalue().decode("utf-8" if format_ else encoding)
    assert ("größe-猫" if format_ or encoding == "utf-8" else "\\u732b") in text


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_no_status(closed: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(plain().model_dump_json())
    for command, status in ((f"report {tmp_path}", 0), (f"report {tmp_path}/none", 2)):
        done = subprocess.run(f"exec {sys.executable} -m orchestrator.cli {command} {closed}", shell=True)
        assert done.returncode == status


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_output_that_cannot_be_written_is_a_failure_with_its_reason() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "examples"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr.startswith("stillhouse: OSError: [Errno 28]")


def test_what_programs_import_is_what_the_command_uses() -> None:
    import orchestrator
    import stillhouse
    from orchestrator.reporting.report import Report

    assert stillhouse.RunConfig is orchestrator.RunConfig is RunConfig
    assert stillhouse.run is orchestrator.run and stillhouse.Report is Report


def test_a_program_plans_a_run(tmp_path: Path) -> None:
    import stillhouse

    found = stillhouse.plan(RunConfig.load(str(write_config(tmp_path))), probe=False, examples=1_000_000)
    by_name = {stage.name: stage for stage in found.outlook.stages}
    assert {"members", "soft targets", "student"} <= by_name.keys() and found.probed == 0
    assert by_name["soft targets"].seconds > 0 and found.outlook.seconds >= by_name["members"].seconds


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_the_first_line_comes_before_what_is_heavy(command: str, tmp_path: Path) -> None:
    code = (
        "import sys, time; from orchestrator.cli import command as cli\n"
        "from orchestrator.observers import terminal as console\n"
        "class Stop(BaseException): pass\n"
        "def written(self, text, *a, **k):\n"
        "    print(text.strip(), [m for m in ('torch', 'ray', 'mlflow', 'numpy') if m in sys.modules])\n"
        "    raise Stop\n"
        "console.Console.print = written\n"
        f"cli.main(['{command}', '{write_config(tmp_path)}'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] in ("start-up: loading torch, Ray and MLflow []", "python []")


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_the_first_line_comes_at_once(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "orchestrator.cli", command, str(write_config(tmp_path))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None and process.stdout.read(1)
        used = psutil.Process(process.pid).cpu_times()
        assert used.user + used.system < QUICK_S
        process.terminate()


def test_commands_are_printed_as_a_shell_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stillhouse"])
    config = RunConfig.load(str(write_config(tmp_path / "my runs; $HOME")))
    folder = config.folder
    report = SimpleNamespace(folder=folder, page="#/runs/1")
    presentation.where_next(report, config, Screen())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    (again,) = re.findall("^Again: +(.*)$", said, re.MULTILINE)
    (look,) = re.findall("^MLflow: +(.*), then", said, re.MULTILINE)
    assert shlex.split(again) == ["stillhouse", "report", folder]
    assert shlex.split(look) == ["mlflow", "ui", "--backend-store-uri", config.tracking.uri]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"sede": 1}, "did you mean 'seed'"),
    "no data file": ({"data__train": "gone.npz"}, "gone.npz': no such file"),
    "near a kind": ({"data__kind": "pyton"}, "a kind of your own as `module:Class`; did you mean 'python'?"),
    "near a name": ({"ensemble__weights": "entropi"}, "did you mean 'entropy'?"),
    "factory module": ({"student__model__factory": "nowhere:mlp"}, "no module 'nowhere'"),
    "factory function": (
        {"student__model__factory": "models:cnn"},
        r"no function or class 'cnn'. It has: frozen, mlp.*\. Correct the name",
    ),
    "factory raises": ({"ensemble__model__factory": "models:raises", "ensemble__model__kwargs": {}}, "no such layer"),
    "factory kwargs": ({"ensemble__model__kwargs": {"hiden": 3}}, "unexpected keyword argument 'hiden'"),
    "no module": ({"student__model": {"factory": "models:no_module"}}, "returned int; expected a torch.nn.Module"),
    "classes": ({"student__model__kwargs": {"classes": 7}}, r"returned \[2, 7\] .* expected logits \[2, 3\]"),
    "inputs": ({"ensemble__model__kwargs": {"inputs": 5}}, "ensemble model 'models:mlp' failed on a batch"),
    "no checkpoint": (
        {"ensemble__training": None, "ensemble__size": None, "ensemble__checkpoints": ["gone.safetensors"]},
        r"gone\.safetensors': no such file",
    ),
    "nothing to train": ({"student__model": {"factory": "models:frozen"}}, "has no parameters to train"),
    "true is no number": ({"student__training__epochs": True}, "student.training.epochs: found true; expected"),
    "few examples a worker": ({"student__num_workers": 100}, "`num_workers` is 100 and a batch has"),
    "metric": ({"evaluation__metrics": [{"factory": "models:wer"}]}, "has no function or class 'wer'"),
    "metric arguments": (
        {"evaluation__metrics": [{"factory": "models:of_nothing", "kwargs": {"k": 1}}]},
        r"'models:of_nothing' cannot be called with \(probabilities, labels, k=\.\.\.\)",
    ),
    "own memory": ({"storage": "memory://runs"}, "each process's own memory"),
    "tracker down": ({"tracking__uri": "http://127.0.0.1:9"}, "no MLflow tracker at 'http://127.0.0.1:9'"),
    "tracker database": (
        {"tracking__uri": "postgresql://me:pw@127.0.0.1:9/db"},
        r"'postgresql://\*\*\*@127.0.0.1:9/db'",
    ),
    "tracker kind": ({"tracking__uri": "ftp://127.0.0.1"}, "no kind of tracker"),
    "tracker folder": ({"tracking__uri": "sqlite:////nowhere/at/all.db"}, "there is no folder /nowhere/at"),
    "storage": ({"storage": "/proc/runs"}, "storage '/proc/runs' cannot be written"),
    "protocol": ({"storage": "xyz://runs"}, "no file system for this URI"),
    "gpus": ({"ensemble__resources_per_member": {"num_gpus": 64}}, "asked for 64 for each of 3 members, 192 in all"),
    "cpus": ({"ensemble__resources_per_member": {"num_cpus": 9999}}, "asked for 9999 a member"),
    "splits": ({"data": {"kind": "python", "factory": "models:of_nothing"}}, "returned no 'train' split"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_request_ends_within_seconds_and_leaves_no_file(
    case: str, loaded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, message = BAD[case]
    path = write_config(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    started = time.monotonic()
    assert main(["run", str(path)]) == 2
    assert time.monotonic() - started < 30  # of a loaded machine
    said = capsys.readouterr().err
    *progress, error = re.split(r"^(?=stillhouse: )", said, flags=re.MULTILINE)
    assert re.search(message, error) and "Traceback" not in said
    assert all(line.startswith("  start-up: ") for line in "".join(progress).splitlines())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, ensemble__training=None, ensemble__size=None, ensemble__checkpoints=["a.safetensors"])
    spec = ModelSpec(factory="models:mlp", kwargs={"hidden": 5}, folder=str(tmp_path))
    checkpoints.save(build(spec).state_dict(), str(tmp_path / "a.safetensors"))
    assert main(["run", str(path)]) == 2
    assert "does not fit the model: '0.weight' is [5, 8], the model's is [24, 8]" in capsys.readouterr().err
    torch.save(build(spec), tmp_path / "a.safetensors")
    assert main(["run", str(path)]) == 2
    assert "holds more than tensors: it names torch.nn." in capsys.readouterr().err


def test_nan_in_features_is_refused_with_its_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    x, y = blobs(600, 1)
    x[17, 3] = np.nan
    np.savez(tmp_path / "train.npz", x=x, y=y)
    assert main(["run", str(path)]) == 2
    assert "data.train: x of example 17 holds NaN" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_a_wrong_request(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    for command in ("run", "doctor"):  # apart from this process, which may be connected to a Ray of its own
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", command, str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        )
        assert done.returncode == 2
        assert (
            re.search("RAY_ADDRESS '127.0.0.1:1' .*Connection refused", done.stderr) and "Traceback" not in done.stderr
        )
    assert not (tmp_path / "runs").exists() and not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("before", [True, False])
def test_debug_changes_no_status(before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, debug = ["run", str(write_config(tmp_path, sede=1))], ["--debug"]
    assert main([*debug, *command] if before else [*command, *debug]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and "did you mean 'seed'" in said


@pytest.mark.parametrize("place", ["before", "after", ""])
def test_verbose_reaches_the_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def run(config: RunConfig, *, verbose: bool, **_: Any) -> None:
        given.append(verbose)
        raise RequestError("a run that ends at once")

    monkeypatch.setattr("orchestrator.runs.run", run)
    command, option = ["run", str(write_config(tmp_path))], ["--verbose"]
    assert main([*option * (place == "before"), *command, *option * (place == "after")]) == 2
    assert given == [place != ""]


USAGE: dict[str, tuple[list[str], str]] = {
    "an option is missing": (["export", "runs/a", "--to", "b"], "are required: --format. `stillhouse export --help`"),
    "no such choice": (
        ["report", "runs/a", "--format", "pdf"],
        "argument --format: invalid choice: 'pdf' (choose from",
    ),
    "no number": (["worth", "a.yaml", "--members", "ten"], "argument --members: invalid int value: 'ten'"),
    "no such option": (["diff", "a", "b", "--bits"], "unrecognized arguments: --bits"),
    "no such command": (["runn"], "argument COMMAND: invalid choice: 'runn'"),
    "no command": ([], "are required: COMMAND. `stillhouse --help`"),
}


RUNS: dict[str, tuple[Any, str]] = {
    "compare": (compare, "runs"),
    "diff": (diff, "one"),
    "export": (export, "run"),
    "report": (report, "run"),
    "worth": (worth, "of"),
}
"""Subcommands that take a run, and the argument."""


@pytest.mark.parametrize("name", RUNS)
def test_the_name_of_a_run_is_found_in_a_uri_that_ends_with_a_slash(name: str) -> None:
    command, argument = RUNS[name]
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    more = {"diff": ["s3://b/runs/c"], "export": ["--to", "out", "--format", "onnx"]}
    found = getattr(parser.parse_args(["s3://b/runs/a/", *more.get(name, [])]), argument)
    assert found in ("s3://b/runs/a", ["s3://b/runs/a"])


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_message(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = USAGE[case]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("stillhouse: ") and message in said
    assert len(said.splitlines()) == 1


def test_no_exception_of_a_model_ends_the_command_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, student__model={"factory": "models:odd"})
    (tmp_path / "models.py").write_text(
        (tmp_path / "models.py").read_text() + "\n\ndef odd():\n    raise GeneratorExit\n"
    )
    assert main(["run", str(path)]) == 1
    assert "stillhouse: GeneratorExit" in capsys.readouterr().err


def test_a_folder_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no report.json in it" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    "asked",
    [
        ["report", "--set", "seed=1"],
        ["worth", "--set", "seed=1"],
        ["worth", "--members", "0"],
        ["worth", "--larger", "ensemble.model.kwargs.hidden=9"],
    ],
)
def test_options_without_an_effect_on_a_run_are_refused(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(plain().model_dump_json())
    command, option, value = asked
    assert main([command, str(tmp_path), option, value]) == 2
    assert f"stillhouse: {option}" in capsys.readouterr().err


def test_a_report_that_is_sent_has_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--push", "--format", "json"]) == 2
    assert "stillhouse: --format json: with --push nothing is printed" in capsys.readouterr().err


def test_options_without_a_configuration_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--set", "seed=1"]) == 2
    assert "stillhouse: --set seed=1: no configuration is given" in capsys.readouterr().err


def test_a_file_of_any_name_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path).rename(tmp_path / "config.json")
    assert main(["worth", str(path), "--larger", "seed=1"]) == 2
    assert "--larger seed=1: expected a key that begins with ensemble.model." in capsys.readouterr().err


def test_doctor_ends_with_0_for_a_sound_configuration_and_2_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(write_config(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "ray" in said and "can be written" in said and "reached" in said
    assert main(["doctor", str(write_config(tmp_path, storage="/proc/runs"))]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_single_member_has_no_worth(form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(as_json(plain(members=[0.9])))
    assert main(["worth", str(tmp_path), *form]) == 2
    captured = capsys.readouterr()
    assert "the ensemble has one member" in " ".join(captured.err.split()) and captured.out == ""


def test_the_worth_of_members_is_a_table_and_how_far_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(as_json(full()))
    assert main(["worth", str(tmp_path)]) == 0
    assert "Two members disagree on 2.0% of the test examples." in capsys.readouterr().out


def test_the_worth_of_members_is_json_whatever_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worth = {"member": "member-0", "accuracy": 0.9, "nll": math.inf, "ece": 0.1, "adds": 0.9, "lost": 0.0}
    none = dict.fromkeys(("accuracy_interval", "adds_interval", "lost_interval"))
    (tmp_path / "report.json").write_text(as_json(plain(worth=[worth | none])))
    assert main(["worth", str(tmp_path), "--json"]) == 0

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (found,) = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert found["nll"] == "Infinity"
