"""Connects to the Ray cluster of a run, or starts Ray in place.

It also surveys the capacity: cores, GPUs, and whether torch sees CUDA on them. Ray also schedules work on a GPU that is
only declared, but torch cannot compute on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil

from orchestrator.cluster import authentication, autoscaler, environment, interrupts, local_ray, ray_private
from orchestrator.cluster.resources import Machines, Node
from workers.data import memmap
from workers.errors import RequestError, RunError
from workers.redact import redacted
from workers.user_code import factories

if TYPE_CHECKING:
    import ray

    from workers.data.dataset import Dataset

logger = logging.getLogger(__name__)

REACH_TIMEOUT_S = 5.0
NOT_READY = "timed out during startup"
FREE_TIMEOUT_S = 15.0
"""Waiting time for a GPU after which the run notifies the user."""
GPU_TYPE = "accelerator_type:"
"""Begins the resource by which Ray names the type of a node's GPUs."""
WITHOUT_BFLOAT16 = re.compile(r"[KMP]\d+|T4|V100|GeForce-(GTX|RTX-20)|TITAN|Quadro")
"""Begins the types that lack bfloat16 in hardware: NVIDIA GPUs older than the A100."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
DASHBOARD = "the URL of a dashboard, which takes jobs: `stillhouse submit --address URL`"
CLIENT = (
    "for Ray Client, whose driver is outside of the cluster, and a run has parts in its driver: `stillhouse submit "
    "--address http://HEAD:8265` sends it into the cluster"
)
ELSEWHERE = dict.fromkeys(environment.DASHBOARDS, DASHBOARD) | {"ray://": CLIENT}
"""What other addresses are, by their beginnings."""
SETTLE = "workers.processes.settle"
"""The function that Ray calls in each worker process before any task."""


@contextmanager
def connect(
    timeout_s: float, *, verbose: bool = False, wait_for: Callable[[str], None] = logger.debug
) -> Iterator[Machines]:
    """Ray for a run: the one already connected, the cluster of RAY_ADDRESS or of this job, else a new one.

    At the end, the run shuts down only a Ray that it started. timeout_s: for waiting for a GPU. wait_for: called with a
    description of each slow step.
    """
    import ray

    logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.ERROR)
    if ray.is_initialized():
        if ray.util.client.ray.is_connected():
            raise RequestError(f"ray.init: this program is connected by 'ray://', {CLIENT}.")
        yield replace(survey(timeout_s), borrowed=True)
        return
    here = environment.ray_address() == "local"
    wait_for("starting Ray on this machine" if here else f"joining the Ray cluster at {environment.ray_address()}")
    with _started_in_place(verbose) if here else _joined(environment.ray_address(), verbose):
        try:
            with local_ray.watched() if here else contextlib.nullcontext():
                wait_for("looking at what the cluster has")
                yield survey(timeout_s)
        finally:
            ray.shutdown()


@contextmanager
def _started_in_place(verbose: bool) -> Iterator[None]:
    with authentication.own_token(), local_ray.temporary_folder() as folder:
        try:
            _init(verbose, address="local", include_dashboard=False, _temp_dir=folder)
        except Exception as error:  # Ray 2.60 raises a plain one where its processes are slow to start
            if NOT_READY not in str(error):
                raise
            raise RunError(
                "Ray's processes were not ready on this machine within 30 s. Other work takes its cores or its memory: "
                "run the same command again when there is less of it. --debug shows Ray's own message."
            ) from error
        yield


@contextmanager
def _joined(address: str, verbose: bool) -> Iterator[None]:
    with settled(address) as found:
        try:
            _init(verbose, address=found)
        except (ConnectionError, TimeoutError) as error:
            raise _no_answer(address, error, found) from error
        yield


@contextmanager
def settled(address: str) -> Iterator[str]:
    """Reach the cluster of RAY_ADDRESS and set its token for the block; yields the address, with `auto` resolved.

    Raises: `RequestError` where the address is of another kind (`ELSEWHERE`), the cluster does not respond, or it
    requires a token that this process lacks.
    """
    for beginning, what in ELSEWHERE.items():
        if address.startswith(beginning):
            raise RequestError(
                f"RAY_ADDRESS '{redacted(address)}' is {what}. Expected HOST:PORT of the cluster's head, such as "
                "10.0.0.1:6379, or `auto` on one of its nodes; unset it to run on this machine alone."
            )
    with contextlib.ExitStack() as stack:
        found = address
        try:
            reach(address)
            found = ray_private.bootstrap_address(address)
            stack.enter_context(authentication.of_cluster(found))
        except (ConnectionError, TimeoutError, ValueError) as error:
            raise _no_answer(address, error, found) from error
        yield found


def _no_answer(address: str, error: Exception, found: str) -> RequestError:
    on_loopback = address.startswith(("127.", "localhost")) and found != address
    return RequestError(
        f"no Ray cluster answers at RAY_ADDRESS '{address}' ({error}). Start one, or unset RAY_ADDRESS to run on this "
        "machine alone."
        + f" Ray looked at {found}: for a head that listens on 127.0.0.1 alone set {LOOPBACK}=0."
        * on_loopback
    )


def _init(verbose: bool, **how: Any) -> None:
    import ray

    level = logging.INFO if verbose else logging.ERROR
    with interrupts.at_once():
        ray.init(
            log_to_driver=verbose,
            logging_level=level,
            job_config=ray_private.job_config(),
            runtime_env={"env_vars": environment.of_workers(), "worker_process_setup_hook": SETTLE},
            **how,
        )
    interrupts.heed_sigterm()


def reach(address: str) -> None:
    """Raise `ConnectionError` or `TimeoutError` unless a process listens at a cluster's `host:port`.

    Ray itself retries for more than a minute. `auto` and `local` have no port, so Ray resolves them.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


def survey(timeout_s: float) -> Machines:
    """The nodes of the connected cluster, and those that its autoscaler may add.

    One GPU of each type that is there now answers for all of its type. Only the first answer is waited for in
    full. Raises: `RunError` where the cluster declares GPUs, and none is available within `timeout_s`.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = autoscaler.nodes(alive, autoscaler.configuration())
    gpus = sum(node.gpus for node in nodes)

    @ray.remote(num_cpus=0)
    def cuda() -> tuple[int, bool]:
        """Bytes of the GPU's memory, 0 where torch does not see it; and whether it has bfloat16."""
        import torch

        from workers.models.precision import has_bfloat16

        if not torch.cuda.is_available():
            return 0, False
        return torch.cuda.get_device_properties(0).total_memory, has_bfloat16()

    if not gpus:
        return Machines(nodes, cuda=False)
    asked = {
        kind: cuda.options(num_gpus=share, accelerator_type=kind).remote()
        for kind, share in gpu_types(alive, gpus).items()
    }
    return of_gpus(nodes, _answered(asked, gpus, timeout_s))


def gpu_types(alive: Sequence[Mapping[str, float]], gpus: float) -> dict[str | None, float]:
    """The types of the GPUs that nodes have now, as Ray names them, None for an unknown one; with the part of a GPU
    that a node of this type can give. Where no node has any yet, one of any type.

    alive: the resources of each node. gpus: those of the whole cluster, more than 0.
    """
    found: dict[str | None, float] = {}
    for has in alive:
        if has.get("GPU"):
            kinds: list[str | None] = [name.removeprefix(GPU_TYPE) for name in has if name.startswith(GPU_TYPE)]
            for kind in kinds or [None]:
                found[kind] = max(found.get(kind, 0.0), min(1.0, has["GPU"]))
    return found or {None: min(1.0, gpus)}


def of_gpus(nodes: tuple[Node, ...], answers: Mapping[str | None, tuple[int, bool] | None]) -> Machines:
    """What holds for GPUs of all types, so that keys do not depend on the one that a task gets: the least memory, and
    bfloat16 where each has it.

    answers: by type, bytes of memory and whether it has bfloat16; None of a type that did not answer: its name
    decides, so that keys do not depend on the GPUs that are in use.
    """
    known = [answer for answer in answers.values() if answer is not None]
    memory = min(found for found, _ in known)
    bfloat16 = all(_named_with_bfloat16(kind) if answer is None else answer[1] for kind, answer in answers.items())
    return Machines(nodes, cuda=memory > 0, gpu_memory=float(memory), bfloat16=bfloat16)


def _named_with_bfloat16(kind: str | None) -> bool:
    return kind is not None and not WITHOUT_BFLOAT16.match(kind)


def _answered(
    asked: Mapping[str | None, ray.ObjectRef[tuple[int, bool]]], gpus: float, timeout_s: float
) -> dict[str | None, tuple[int, bool] | None]:
    """The answer of each type of GPU; None of one that had none to be had. Raises: `RunError` where all are such."""
    import ray

    every: list[Any] = [*asked.values()]
    brief_s = min(FREE_TIMEOUT_S, timeout_s)
    there, missing = ray.wait(every, num_returns=len(every), timeout=brief_s)
    if not there:
        logger.warning("waiting for one of the cluster's %g GPUs: in use, or on nodes that have to be started", gpus)
        there, missing = ray.wait(every, num_returns=1, timeout=timeout_s)
        if there and missing:
            there, missing = ray.wait(every, num_returns=len(every), timeout=brief_s)
    if not there:
        raise RunError(
            f"none of the cluster's {gpus:g} GPUs was to be had within {timeout_s:g} s: all are in use, or the "
            "autoscaler did not start their nodes (`ray status` says why). Free some, or let it wait longer by "
            "`ensemble.start_timeout_s`."
        )
    for kind, answer in asked.items():
        if answer in missing:
            ray.cancel(answer)
            logger.warning(
                "no GPU of type %s was to be had within %g s: `precision: auto` takes it, by name, as with%s bfloat16",
                kind,
                brief_s,
                "" if _named_with_bfloat16(kind) else "out",
            )
    return {kind: None if answer in missing else ray.get(answer) for kind, answer in asked.items()}


def expected() -> Machines | None:
    """The largest capacity of a Ray started in place, without starting it; None where the run joins a cluster."""
    import ray
    import torch

    if environment.ray_address() != "local" or ray.is_initialized():
        return None
    gpus, memory = torch.cuda.device_count(), float(psutil.virtual_memory().total)
    return Machines((Node(float(os.cpu_count() or 1), float(gpus), memory=memory),), cuda=gpus > 0)


def share(dataset: Dataset) -> ray.ObjectRef[Dataset]:
    """Put the data set into Ray's shared memory: one copy per node, which all its processes read in place.

    Where this process started Ray, on this machine alone, processes map files themselves instead. To a cluster of one
    node others may be added.
    """
    import ray

    one_machine = ray_private.local_node().head and len(ray.nodes()) == 1
    for kind, (to_place, from_place) in memmap.SERIALIZERS.items():
        if one_machine:
            ray.util.register_serializer(kind, serializer=to_place, deserializer=from_place)
        else:
            ray.util.deregister_serializer(kind)
    for name, module in list(sys.modules.items()):
        if name.startswith(factories.BESIDE):  # workers cannot import the user's modules by name
            ray.cloudpickle.register_pickle_by_value(module)
    shared = ray.put(dataset)
    memmap.check(dataset)  # no file changed while Ray copied the values
    return shared
