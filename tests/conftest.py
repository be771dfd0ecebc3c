"""One small Ray for all tests that need one."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

from orchestrator.cluster import environment

os.environ.pop("RAY_ADDRESS", None)  # else runs of tests join that cluster, and Ray listens beyond loopback
environment.prepare()  # before anything imports Ray
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads keep cores from other processes
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home of who runs tests
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a unit test that reaches Ray fails, instead of starting one
os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")


# The same cases in every run, however loaded the machine, and no file of them.
hypothesis.settings.register_profile("house", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def small_ray() -> Iterator[None]:
    """A Ray of four declared cores on loopback; a run inside finds it connected and leaves it so."""
    import ray

    # Of a short path, since those of sockets in it are limited to 107 bytes; Ray still writes as it is removed.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=300 * 2**20,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
