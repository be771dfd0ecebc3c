"""Diagnoses this machine, and the storage and tracker of a configuration. Starts nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.cluster import authentication, environment, interrupts
from orchestrator.config.run_config import RunConfig
from workers.errors import RequestError

PACKAGES = ("stillhouse", "ray", "torch", "mlflow", "fsspec", "numpy", "pyarrow", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `good` is False where a run would fail."""

    name: str
    found: str
    good: bool = True


Check = tuple[str, Callable[[], Finding]]
"""The subject of a check, and its function; some take seconds."""


def checks(config: RunConfig | None) -> list[Check]:
    """Versions, cores and GPUs of this machine; with a configuration, its storage and tracker too."""
    found: list[Check] = [
        ("python", lambda: Finding("python", platform.python_version())),
        *((name, partial(_version, name)) for name in PACKAGES),
        ("cores", _cores),
        ("GPUs", _gpus),
        ("cluster", _cluster),
    ]
    if config is not None:
        found += [("storage", partial(_storage, config)), ("tracker", partial(_tracker, config))]
    return found


def _version(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed: pip install stillhouse", good=name == "stillhouse")


def _cores() -> Finding:
    return Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))


def _cluster() -> Finding:
    address = environment.ray_address()
    if address == "local":
        return Finding("cluster", "none in RAY_ADDRESS: a run starts Ray in place")
    with interrupts.at_once():
        from orchestrator.cluster import connection
    try:
        with connection.settled(address):
            token = "; it asks for a token, which is here" if authentication.is_on() else ""
    except RequestError as error:
        return Finding("cluster", str(error), good=False)
    return Finding("cluster", f"RAY_ADDRESS '{address}' reached{token}")


def _gpus() -> Finding:
    with interrupts.at_once():
        import torch

    if not torch.cuda.is_available():
        return Finding("GPUs", f"none that torch {torch.__version__} sees")
    return Finding("GPUs", ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())))


def _storage(config: RunConfig) -> Finding:
    from workers import storage

    try:
        storage.probe_writable(config.storage)
    except RequestError as error:
        return Finding("storage", str(error), good=False)
    return Finding("storage", f"{config.storage} can be written")


def _tracker(config: RunConfig) -> Finding:
    with interrupts.at_once():
        from orchestrator.observers import mlflow_uri

    try:
        mlflow_uri.reach(config.tracking.uri)
    except RequestError as error:
        return Finding("tracker", str(error), good=False)
    return Finding("tracker", f"{config.tracking.uri} reached")
