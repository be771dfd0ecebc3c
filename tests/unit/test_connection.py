"""The addresses of a cluster before Ray is asked, and what Ray is asked for."""

from __future__ import annotations

import argparse
import json
import logging
import socket
from typing import Any

import pytest
from ray.runtime_env.runtime_env import _merge_runtime_env

from orchestrator.cli.commands import submit
from orchestrator.cluster import connection, environment
from orchestrator.cluster.resources import Node
from workers.errors import RequestError


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://me:secret@head"])
def test_the_url_of_a_dashboard_is_no_cluster_to_join(address: str) -> None:
    with pytest.raises(RequestError, match=r"is the URL of a dashboard, .*stillhouse submit.*HOST:PORT") as refused:
        connection.settled(address).__enter__()
    assert "secret" not in str(refused.value)


def test_a_driver_outside_of_the_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"'ray://head:10001' is for Ray Client, .*stillhouse submit.*HOST:PORT"):
        connection.settled("ray://head:10001").__enter__()
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.util.client.ray.is_connected", lambda: True)
    with pytest.raises(RequestError, match="connected by 'ray://', for Ray Client"):
        connection.connect(1.0).__enter__()


@pytest.mark.parametrize(("verbose", "level"), [(True, logging.INFO), (False, logging.ERROR)])
def test_rays_log_lines_are_shown_with_verbose_alone(
    verbose: bool, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("ray.init", lambda **how: asked.update(how))
    monkeypatch.setattr("orchestrator.cluster.interrupts.heed_sigterm", lambda: None)
    connection._init(verbose, address="local")
    assert (asked["log_to_driver"], asked["logging_level"]) == (verbose, level)


@pytest.mark.parametrize(("address", "host"), [("[::1]:6379", "::1"), ("10.0.0.1:6379", "10.0.0.1")])
def test_addresses_of_both_kinds_are_reached(address: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create_connection(place: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(place)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", create_connection)
    connection.reach(address)
    assert asked == [(host, 6379)]


@pytest.mark.parametrize(
    ("server", "address", "expected"),
    [
        ("", "", "http://127.0.0.1:8265"),
        ("http://a:8265", "http://b:8265", "http://a:8265"),
        ("", "http://b:8265", "http://b:8265"),
        ("", "10.0.0.1:6379", "http://127.0.0.1:8265"),
        ("", "auto", "http://127.0.0.1:8265"),
    ],
)
def test_a_job_goes_where_rays_own_command_sends_it(
    server: str, address: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server)
    monkeypatch.setenv("RAY_ADDRESS", address)
    parser = argparse.ArgumentParser()
    submit.arguments(parser)
    assert parser.parse_args(["config.yaml"]).address == expected
    assert "%" not in parser.format_help()


def test_variables_that_a_job_sets_itself_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.IN_A_JOB, raising=False)
    assert environment.of_workers() == environment.EVERYWHERE
    own = {"RAY_IGNORE_UNHANDLED_ERRORS": "0", "MINE": "1"}
    of_job: Any = {"env_vars": own}
    monkeypatch.setenv(environment.IN_A_JOB, json.dumps({"runtime_env": of_job, "metadata": {}}))
    of_run: Any = {"env_vars": environment.of_workers()}
    merged = _merge_runtime_env(of_job, of_run)
    assert merged is not None and merged["env_vars"] == environment.EVERYWHERE | own
    monkeypatch.setenv(environment.IN_A_JOB, json.dumps({"runtime_env": {"working_dir": "gcs://a.zip"}}))
    assert environment.of_workers() == environment.EVERYWHERE


def test_one_gpu_of_each_type_decides_for_all() -> None:
    alive = [
        {"CPU": 8.0},
        {"CPU": 8.0, "GPU": 4.0, "accelerator_type:T4": 1.0},
        {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A10G": 1.0},
        {"CPU": 8.0, "GPU": 0.5, "accelerator_type:A10G": 1.0},
    ]
    assert connection.gpu_types(alive, 5.5) == {"T4": 1.0, "A10G": 1.0}
    assert connection.gpu_types([{"GPU": 0.5}], 0.5) == {None: 0.5}
    assert connection.gpu_types([{"CPU": 8.0}], 3.0) == {None: 1.0}, "of a node that is to be started"
    nodes = (Node(8.0, 4.0), Node(8.0, 1.0))
    mixed = connection.of_gpus(nodes, {"T4": (16, False), "A10G": (24, True)})
    assert mixed.cuda and mixed.gpu_memory == 16.0 and mixed.settled("auto", "cuda") == "float32"
    assert connection.of_gpus(nodes, {"L4": (24, True), "A10G": (24, True)}).settled("auto", "cuda") == "bfloat16"
    for busy, has in {
        "A100": True,
        "GeForce-RTX-4090": True,
        "T4": False,
        "GeForce-RTX-2080-Ti": False,
        None: False,
    }.items():
        assert connection.of_gpus(nodes, {busy: None, "A10G": (24, True)}).bfloat16 is has, "by its name"
    assert not connection.of_gpus(nodes, {None: (0, False)}).cuda


@pytest.mark.parametrize(
    ("late", "waits"), [(0, [(2, 15.0)]), (1, [(2, 15.0), (1, 900.0), (2, 15.0)])], ids=["one free", "all in use"]
)
def test_a_type_of_gpu_that_is_in_use_is_not_waited_for_in_full(
    late: int, waits: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[tuple[int, float]] = []
    cancelled: list[str] = []

    def wait(every: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        waited.append((num_returns, timeout))
        there = every[: len(waited) > late]
        return there, every[len(there) :]

    monkeypatch.setattr("ray.wait", wait)
    monkeypatch.setattr("ray.get", lambda answer: (24, True))
    monkeypatch.setattr("ray.cancel", cancelled.append)
    asked: Any = {"A10G": "first", "T4": "second"}
    assert connection._answered(asked, 2.0, 900.0) == {"A10G": (24, True), "T4": None}
    assert waited == waits and cancelled == ["second"]
