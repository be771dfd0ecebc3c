"""What this machine has, and whether storage and tracker of a configuration can be reached. Starts nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

from orchestrator import cluster, trackers
from orchestrator.config import RunConfig
from workers import storage
from workers.errors import RequestError

PACKAGES = ("stillhouse", "ray", "torch", "mlflow", "fsspec", "numpy", "pyarrow", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `good` is False where a run would fail."""

    name: str
    found: str
    good: bool = True


def examine(config: RunConfig | None) -> list[Finding]:
    """Versions, cores and GPUs of this machine; with a configuration, its storage and tracker too."""
    findings = [Finding("python", platform.python_version()), *(_version(name) for name in PACKAGES)]
    findings += [
        Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
        Finding("GPUs", _gpus()),
        _cluster(),
    ]
    if config is not None:
        findings += [_storage(config), _tracker(config)]
    return findings


def _version(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed: pip install stillhouse", good=name == "stillhouse")


def _cluster() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return Finding("cluster", "none in RAY_ADDRESS: a run starts Ray in place")
    try:
        cluster.reach(address)
    except OSError as error:
        return Finding("cluster", f"RAY_ADDRESS '{address}' does not answer ({error})", good=False)
    return Finding("cluster", f"RAY_ADDRESS '{address}' reached")


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} sees"
    return ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))


def _storage(config: RunConfig) -> Finding:
    try:
        storage.probe_writable(config.storage)
    except RequestError as error:
        return Finding("storage", str(error), good=False)
    return Finding("storage", f"{config.storage} can be written")


def _tracker(config: RunConfig) -> Finding:
    try:
        trackers.reach(config.tracking.uri)
    except RequestError as error:
        return Finding("tracker", str(error), good=False)
    return Finding("tracker", f"{config.tracking.uri} reached")
