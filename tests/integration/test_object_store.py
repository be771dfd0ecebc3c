"""A whole run with data and storage on an object store: a real S3 server on loopback, reached by s3fs."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from moto.moto_server import threaded_moto_server
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from tests import commands
from tests.makers import write_config

SECRET = "a-secret-of-the-test"
OUTAGE_S = 6.0


class Failing(threaded_moto_server.DomainDispatcherApplication):
    """From the first part of the soft targets on, it has a bad time, and answers nobody."""

    until_s = 0.0
    refused = 0

    def __call__(self, request: dict[str, Any], start_response: Any) -> Any:
        if request["REQUEST_METHOD"] == "PUT" and "/part-" in request["PATH_INFO"] and not self.until_s:
            type(self).until_s = time.monotonic() + OUTAGE_S
        if time.monotonic() < self.until_s:
            type(self).refused += 1
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return super().__call__(request, start_response)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an S3 server that is out of order for a while."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threaded_moto_server, "DomainDispatcherApplication", Failing)
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def files(server: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(endpoint_url=server, key="me", secret=SECRET, use_listings_cache=False)


def stillhouse(server: str, *words: str) -> CompletedProcess[str]:
    own = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return commands.run(*commands.STILLHOUSE, *words, env=commands.environment(**own))


@pytest.mark.slow
def test_data_and_storage_on_an_object_store(server: str, tmp_path: Path) -> None:
    s3 = files(server)
    s3.mkdir("shared")
    path = write_config(tmp_path, storage="s3://shared/runs", data__root="s3://shared/data")
    for name in ("train.npz", "valid.npz", "test.npz"):
        s3.put(str(tmp_path / name), f"shared/data/{name}")
        (tmp_path / name).unlink()

    done = stillhouse(server, "run", str(path))
    assert done.returncode == 0, done.stderr
    assert Failing.refused
    folder = "shared/runs/small"
    report = json.loads(s3.cat(f"{folder}/report.json"))
    assert report["status"] == "complete"
    (manifest,) = s3.glob(f"{folder}/soft_targets/*/manifest.json")
    for part in json.loads(s3.cat(manifest))["parts"]:
        table = pq.read_table(io.BytesIO(s3.cat(manifest.replace("manifest.json", part["path"]))))
        assert table.num_rows == part["rows"]
    kept = {
        name for name in s3.find(folder) if "checkpoints" in name or name.endswith((".lock", "state.pt", ".partial"))
    }
    assert not kept, "what was only needed meanwhile is cleared away"
    events = [json.loads(line) for line in s3.cat(f"{folder}/events.jsonl").decode().splitlines()]
    assert events[-1]["event"] == "complete" and sum(e["event"] == "epoch" for e in events) == 10

    victim = s3.glob(f"{folder}/soft_targets/*/part-*.parquet")[0]
    content = bytearray(s3.cat(victim))
    content[len(content) // 2] ^= 1
    s3.pipe(victim, bytes(content))
    again = stillhouse(server, "run", str(path))
    assert again.returncode == 0 and "are not what was written" in again.stderr
    repeated = json.loads(s3.cat(f"{folder}/report.json"))
    assert repeated["systems"][-1]["test"] == report["systems"][-1]["test"]
    assert {s["name"]: s["reused"] for s in repeated["stages"]} == {
        "members": True,
        "baseline": True,
        "soft targets": False,
        "student": True,
        "predictions": True,
        "evaluation": True,
    }
    assert stillhouse(server, "report", f"s3://{folder}").returncode == 0
    everything = (
        done.stdout + done.stderr + again.stderr + "".join(s3.cat(f).decode() for f in s3.glob(f"{folder}/*.*"))
    )
    assert SECRET not in everything


def test_a_bucket_that_is_not_there(server: str, tmp_path: Path) -> None:
    done = stillhouse(server, "run", str(write_config(tmp_path, storage="s3://nowhere/runs")))
    assert done.returncode == 2 and "storage 's3://nowhere/runs' cannot be written" in done.stderr
    assert SECRET not in done.stderr
