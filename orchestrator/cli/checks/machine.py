"""This machine: versions, cores, GPUs and their driver, shared memory, files, and the cluster of RAY_ADDRESS.

What a check asks of the system is an argument with a default, so that tests give other answers.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
from dataclasses import dataclass

import psutil

from orchestrator.cli.checks.finding import Finding
from orchestrator.cluster import authentication, environment, interrupts, ray_private
from workers.data import memory

PACKAGES = ("stillhouse", "ray", "torch", "mlflow", "fsspec", "numpy", "pyarrow", "safetensors")
STORE_SHARE, MOST_STORE = 0.3, 200 * 10**9
"""Ray's object store: its share of memory, and the most bytes of it."""
SHARED_MEMORY = "/dev/shm"
ANSWER_S = 5.0
"""How long a cluster may take to say its version."""
FEW_FILES = 4096
"""Open files of a process below which Ray may run out of them with many actors."""


def python() -> Finding:
    return Finding("python", platform.python_version())


def version(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            name, "not installed: `pip install .` in a clone of Stillhouse", "ok" if name == "stillhouse" else "stops"
        )


def cores() -> Finding:
    return Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: the names of its GPUs, and the newest CUDA that it supports, as (major, minor)."""

    gpus: tuple[str, ...]
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Torch:
    """How torch is built, and the GPUs that it sees. cuda: its version; empty for a build without."""

    version: str
    cuda: str
    gpus: tuple[str, ...]


def driver() -> Driver | None:
    """The driver of this machine, by NVML; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        names = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        return Driver(names, (number // 1000, number % 1000 // 10))
    finally:
        pynvml.nvmlShutdown()


def built() -> Torch:
    with interrupts.at_once():
        import torch
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(k) for k in range(count))
    return Torch(torch.__version__, torch.version.cuda or "", names)


def gpus(torch: Torch, driver: Driver | None) -> Finding:
    """GPUs that a run can use, and why it cannot use those of the machine."""
    if torch.gpus:
        return Finding("GPUs", f"{', '.join(torch.gpus)} (CUDA {torch.cuda})")
    if driver is None or not driver.gpus:
        return Finding("GPUs", f"none that torch {torch.version} sees")
    there = f"{', '.join(driver.gpus)}, which torch {torch.version} does not see"
    if not torch.cuda:
        return Finding("GPUs", f"{there}: it is built without CUDA. Install a build for CUDA: pytorch.org", "warning")
    if driver.cuda[0] < int(torch.cuda.split(".")[0]):  # minor versions of one CUDA are compatible
        newest = ".".join(map(str, driver.cuda))
        return Finding(
            "GPUs",
            f"{there}: it is built for CUDA {torch.cuda}, and the driver supports {newest} at most. Update the driver, "
            f"or install a torch for CUDA {driver.cuda[0]}",
            "warning",
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    reason = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is '{hidden}')"
    return Finding("GPUs", f"{there}{reason}", "warning")


def shared_memory(free: int | None = None, whole: int | None = None) -> Finding:
    """Whether Ray's object store fits into shared memory; else Ray keeps it in files, which is slow."""
    if free is None and not os.path.isdir(SHARED_MEMORY):
        return Finding("shared memory", "none here; Ray keeps its object store elsewhere")
    free = shutil.disk_usage(SHARED_MEMORY).free if free is None else free
    store = min(MOST_STORE, int(STORE_SHARE * (psutil.virtual_memory().total if whole is None else whole)))
    if free >= store:
        return Finding("shared memory", f"{memory.size(free)} free for Ray's object store of {memory.size(store)}")
    return Finding(
        "shared memory",
        f"{memory.size(free)} free in {SHARED_MEMORY}, and Ray's object store takes {memory.size(store)}: it goes to "
        "files in /tmp, which are slower. In a container: --shm-size",
        "warning",
    )


def open_files(hard: int | None = None) -> Finding:
    """The limit of open files, which Ray raises to the hard one."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if hard is None else hard
    if limit == resource.RLIM_INFINITY or limit >= FEW_FILES:
        return Finding("open files", "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} at most")
    return Finding("open files", f"{limit:,} at most; expected {FEW_FILES:,} (ulimit -Hn, or limits.conf)", "warning")


def cluster() -> Finding:
    """The cluster of RAY_ADDRESS: whether it answers, and whether it has this version of Ray.

    Raises: `RequestError` where it does not answer.
    """
    address = environment.ray_address()
    if address == "local":
        return Finding("cluster", "none in RAY_ADDRESS: a run starts Ray in place")
    with interrupts.at_once():
        from orchestrator.cluster import connection
    with connection.settled(address) as found:
        token = "; it asks for a token, which is here" if authentication.is_on() else ""
        theirs = _version_of(found)
    return same_version(address, theirs, importlib.metadata.version("ray"), token)


def _version_of(address: str) -> str:
    token = ray_private.stored_token() if authentication.is_on() else ""
    return ray_private.cluster_version(address, token, ANSWER_S)


def same_version(address: str, theirs: str, ours: str, token: str = "") -> Finding:
    """theirs: the cluster's version of Ray; empty where it is not known."""
    if theirs and theirs != ours:
        return Finding(
            "cluster",
            f"RAY_ADDRESS '{address}' has Ray {theirs}, and {ours} is installed here: pip install ray=={theirs}",
            "stops",
        )
    return Finding("cluster", f"RAY_ADDRESS '{address}' reached{token}")
