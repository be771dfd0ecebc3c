"""A run over machines that share nothing but a network and an object store: what comes out is that of one machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import commands
from tests.commands import wait_until
from tests.hosts import Host, Hosts, missing
from tests.integration.test_jobs import environment
from tests.makers import MODELS, blobs, write_config

pytestmark = pytest.mark.slow

NODES = {
    "head": ["--num-cpus", "0", "--head", "--dashboard-port", "8265", "--dashboard-host", "0.0.0.0"],
    "teacher-a": ["--num-cpus", "1", "--resources", '{"teacher": 1}'],
    "teacher-b": ["--num-cpus", "1", "--resources", '{"teacher": 1}'],
    "student-a": ["--num-cpus", str(max(1, (os.cpu_count() or 1) // 2)), "--resources", '{"student": 1}'],
    "student-b": ["--num-cpus", str(max(1, (os.cpu_count() or 1) // 2)), "--resources", '{"student": 1}'],
}
"""Two students' hosts have the cores that its two workers share on one machine: threads may change a bit."""
NOTED = """

def noted(**kwargs):
    import ray
    if ray.is_initialized():
        with Path(tempfile.gettempdir(), "built.txt").open("a") as file:
            title = Path("/proc/self/cmdline").read_text().partition("\\0")[0]
            file.write(f"{ray.util.get_node_ip_address()} {title}\\n")
    return mlp(**kwargs)
"""
"""A model that notes on the disk of its host who built it."""
FETCH = "import s3fs, sys; s3fs.S3FileSystem().get(sys.argv[1], sys.argv[2], recursive=True)"
KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


def prepared(folder: Path, **changes: object) -> Path:
    """A run of some parts, with a student of two workers."""
    both = {"factory": "models:noted", "kwargs": {"hidden": 24}}
    path = write_config(
        folder,
        ensemble__model=both,
        student__model=both | {"kwargs": {"hidden": 6}},
        student__num_workers=2,
        data__unlabeled="more.npz",
        **changes,
    )
    (folder / "models.py").write_text("import tempfile\nfrom pathlib import Path\n" + MODELS + NOTED)
    x, _ = blobs(20_000, 5)
    np.savez(folder / "more.npz", x=x)
    return path


def outcome(folder: Path) -> dict[str, str]:
    """sha256 of every part of the store and of the student's weights, by name."""
    files = [*folder.glob("soft_targets/*/part-*.parquet"), folder / "student" / "model.safetensors"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def on_one_machine(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of the run where it starts its own Ray, and reads and writes files."""
    folder = tmp_path_factory.mktemp("plain")
    variables = environment() | {"TMPDIR": str(folder)}
    commands.output(*commands.STILLHOUSE, "run", prepared(folder), env=variables)
    return outcome(folder / "runs" / "small")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """A Ray cluster of five hosts, where there can be some; on the switch an S3 server, with the data of the run."""
    if why := missing():
        pytest.skip(why)
    with Hosts(*NODES) as up, tempfile.TemporaryDirectory() as folder:
        serve = [Path(sys.executable).with_name("moto_server"), "--host", up.switch.address, "--port", "5000"]
        log = Path(folder, "log.txt")
        with log.open("wb") as output:
            up.switch.start(*serve, stdout=output, stderr=output)
        wait_until(lambda: "Running on" in log.read_text())
        prepared(Path(folder, "data"))
        shutil.copytree(Path(folder, "data"), up.switch.seen(up.disk / "data"))
        put = (
            "import s3fs; s3 = s3fs.S3FileSystem(); s3.mkdir('shared'); s3.put('data/', 'shared/data/', recursive=True)"
        )
        done = up.switch.run(sys.executable, "-c", put, env=s3(up))
        assert done.returncode == 0, done.stderr
        for name, words in NODES.items():
            begin_node(up, up[name], words)
        yield up


def begin_node(hosts: Hosts, host: Host, words: list[str]) -> None:
    """Ray on a host, in a folder that has another name on each."""
    where = ["--port", "6379"] if "--head" in words else ["--address", f"{hosts['head'].address}:6379"]
    ray = [Path(sys.executable).with_name("ray"), "start", "--block", "--node-ip-address", host.address, *where]
    own = ["--temp-dir", hosts.disk / host.name, "--object-store-memory", str(150 * 2**20)]
    log = host.seen(hosts.disk / "ray.txt")
    with log.open("wb") as output:
        host.start(*ray, *own, *words, env=s3(hosts), stdout=output, stderr=output)
    wait_until(lambda: "Ray runtime started" in log.read_text())


def s3(hosts: Hosts) -> dict[str, str]:
    return KEYS | {"AWS_ENDPOINT_URL": f"http://{hosts.switch.address}:5000"}


def bring(host: Host, folder: Path, *names: str) -> None:
    """Put files into the same folder of a host."""
    host.seen(folder).mkdir()
    for name in names:
        shutil.copy(folder / name, host.seen(folder))


@pytest.mark.parametrize("how", ["run", "submit"])
def test_a_run_over_hosts(how: str, hosts: Hosts, on_one_machine: dict[str, str], tmp_path: Path) -> None:
    """On the head, each other host with the model's code; or handed in from elsewhere, none of them with anything."""
    folder = hosts.disk / how
    folder.mkdir()  # where all of them have their own
    tracked = {"uri": f"sqlite:///{hosts.disk}/tmp/{how}.db", "experiment": "hosts"}
    prepared(folder, storage=f"s3://shared/{how}", data__root="s3://shared/data", tracking=tracked)
    command = [*commands.STILLHOUSE, how, folder / "config.yaml"]
    if how == "run":
        for host in hosts:
            bring(host, folder, "models.py", *(["config.yaml"] if host.name == "head" else []))
        own = {"RAY_ADDRESS": f"{hosts['head'].address}:6379"}
        done = hosts["head"].run(*command, env=s3(hosts) | own, timeout_s=500)
    else:
        bring(hosts.switch, folder, "models.py", "config.yaml")
        dashboard = f"http://{hosts['head'].address}:8265"
        done = hosts.switch.run(*command, "--address", dashboard, "--follow", cwd=folder, timeout_s=500)
    assert done.returncode == 0, done.stdout + done.stderr

    got = hosts.switch.run(sys.executable, "-c", FETCH, f"shared/{how}/small", hosts.disk / f"{how}-got", env=s3(hosts))
    assert got.returncode == 0, got.stderr
    made = hosts.switch.seen(hosts.disk / f"{how}-got")
    assert json.loads((made / "report.json").read_text())["status"] == "complete"
    assert yaml.safe_load((made / "config.yaml").read_text())["storage"] == f"s3://shared/{how}"
    assert len(on_one_machine) > 2 and outcome(made) == on_one_machine

    by_host = {host.name: who_built(host) for host in hosts}
    teachers = {"ray::train member", "ray::TeacherActor"}
    for name, found in by_host.items():
        expected = teachers if name.startswith("teacher") else {"ray::RayTrainWorker"} if name != "head" else set()
        assert expected <= found and (name.startswith("teacher") or not found & teachers), by_host


def who_built(host: Host) -> set[str]:
    """What Ray calls the processes that built a model on this host since it was last asked, which know its address."""
    notes = host.seen(host.disk / "tmp" / "built.txt")
    lines = [line.partition(" ") for line in notes.read_text().splitlines()] if notes.exists() else []
    notes.unlink(missing_ok=True)
    assert {address for address, _, _ in lines} <= {host.address}
    known = ("ray::train member", "ray::TeacherActor", "ray::RayTrainWorker")
    return {title for title in known if any(who.startswith(title) for _, _, who in lines)}
