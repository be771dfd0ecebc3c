"""The Ray cluster that a run works on: joined where there is one, started in place where there is none.

Also what it can hold: cores, GPUs, and whether torch sees CUDA on them. A GPU that is only declared is scheduled but
not computed on.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import authentication, autoscaler, environment, interrupts, local_ray
from orchestrator.config.run_config import EnsembleSpec, StudentSpec
from workers.data import memmap
from workers.errors import RequestError, RunError
from workers.faults import Fault, fault
from workers.user_code import factories

if TYPE_CHECKING:
    import ray
    from ray.job_config import JobConfig

    from workers.data.dataset import Dataset

logger = logging.getLogger(__name__)

REACH_TIMEOUT_S = 5.0
NOT_READY = "timed out during startup"
FREE_TIMEOUT_S = 15.0
"""After which a run says that it waits for a GPU."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
SETTLE = "workers.processes.settle"
"""What Ray calls in each worker process before any task."""
ROLE_SHARE = 0.001
"""Of a node's role, what an actor or worker asks for: a node that has 1 of it takes any number."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has."""

    cpus: float
    gpus: float
    roles: frozenset[str] = frozenset()
    """Who is at home here: those of `autoscaling.ROLES` that Ray calls a resource of the node."""


@dataclass(frozen=True)
class Machines:
    """What the cluster has or may grow to. `cuda`: torch sees CUDA where Ray gives a GPU."""

    nodes: tuple[Node, ...]
    cuda: bool
    borrowed: bool = False
    """Whether this Ray was there before the run in the same process, and outlives it."""

    def of(self, role: str) -> Machines:
        """Where a teacher or a student's worker may be: the nodes of that role, or where there are none, all."""
        return replace(self, nodes=tuple(node for node in self.nodes if role in node.roles) or self.nodes)

    def asked(self, role: str) -> dict[str, float]:
        """What it asks for besides cores and GPUs, so that it goes there."""
        return {role: ROLE_SHARE} if any(role in node.roles for node in self.nodes) else {}

    def left(self, placement: Placement) -> tuple[float, float]:
        """The cores and GPUs that teachers leave where students may be."""
        students = self.of("student")
        elsewhere = replace(self, nodes=tuple(n for n in self.of("teacher").nodes if n not in students.nodes))
        cpus = max(0.0, placement.actors * placement.num_cpus - elsewhere.cpus)
        gpus = max(0.0, placement.actors * placement.num_gpus - elsewhere.gpus)
        return students.cpus - cpus, students.gpus - gpus

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class Placement:
    """How the ensemble is laid out: members, actors that host them, and what each actor and training task holds."""

    size: int
    actors: int
    num_cpus: float
    num_gpus: float
    roles: Mapping[str, float] = field(default_factory=dict)
    """What they ask for besides, so that they go to the nodes meant for them."""

    @property
    def held(self) -> dict[str, float]:
        """What each task holds, as Ray names it."""
        return {"CPU": self.num_cpus, **({"GPU": self.num_gpus} if self.num_gpus else {}), **self.roles}

    @property
    def options(self) -> dict[str, Any]:
        """The same as Ray's tasks are told it."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": dict(self.roles)}

    @property
    def threads(self) -> int:
        """Threads an actor or task computes with: the same however many there are, since it can change a bit."""
        return max(1, int(self.num_cpus))

    def groups(self) -> list[range]:
        """The members that each actor hosts: contiguous, and as even as they can be."""
        edges = [round(actor * self.size / self.actors) for actor in range(self.actors + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(edges)]


@contextmanager
def connect(
    timeout_s: float, *, verbose: bool = False, wait_for: Callable[[str], None] = logger.debug
) -> Iterator[Machines]:
    """Ray for the length of a run: the one already connected, the cluster of RAY_ADDRESS or of this job, else a new
    one.

    Only a Ray that was started here is shut down at the end. timeout_s: how long a GPU is waited for. wait_for: is told
    what takes time.
    """
    import ray

    logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.ERROR)
    if ray.is_initialized():
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
    with authentication.in_place(), local_ray.temporary_folder() as folder:
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
    """The cluster of RAY_ADDRESS, reached, and with the token that it wants for as long as the block lasts: its
    address, found where it is `auto`.

    Raises: `RequestError` where nothing answers, or a token is wanted that is not here.
    """
    with contextlib.ExitStack() as stack:
        found = address
        try:
            reach(address)
            if not address.startswith("ray://"):  # Ray's own client, which has no such address
                from ray._private import services

                found = services.canonicalize_bootstrap_address_or_die(address)
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
            job_config=_job_config(),
            runtime_env={"env_vars": environment.EVERYWHERE, "worker_process_setup_hook": SETTLE},
            **how,
        )
    interrupts.heed_sigterm()


class _PathsOfDriver(list[str]):
    """Takes only folders that the driver itself imports from."""

    def extend(self, paths: Iterable[str]) -> None:
        super().extend(path for path in paths if path in sys.path)


def _job_config() -> JobConfig:
    """Ray 2.60 puts the folder that the driver was started in before everything else that workers import from: a
    `workers.py` there would be taken for Stillhouse's."""
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _PathsOfDriver()  # its constructor replaces an empty list by one of its own
    return config


def reach(address: str) -> None:
    """Raise `ConnectionError` or `TimeoutError` unless something listens at a cluster's `host:port`.

    Ray itself tries for more than a minute. `auto` and `local` name no place, and are left to it.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


def survey(timeout_s: float) -> Machines:
    """What the connected cluster has now, and what its autoscaler may add.

    Raises: `RunError` where there should be GPUs and for `timeout_s` none is to be had.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(
        Node(float(has.get("CPU", 0.0)), float(has.get("GPU", 0.0)), frozenset(autoscaler.ROLES) & has.keys())
        for has in autoscaler.possible(alive, autoscaler.configuration())
    )
    gpus = sum(node.gpus for node in nodes)

    @ray.remote(num_cpus=0, num_gpus=min(1.0, gpus))
    def sees_cuda() -> bool:
        import torch

        return torch.cuda.is_available()

    if not gpus:
        return Machines(nodes, cuda=False)
    answer = sees_cuda.remote()
    if not ray.wait([answer], timeout=min(FREE_TIMEOUT_S, timeout_s))[0]:
        logger.warning("waiting for one of the cluster's %g GPUs: in use, or on nodes that have to be started", gpus)
        if not ray.wait([answer], timeout=timeout_s)[0]:
            raise RunError(
                f"none of the cluster's {gpus:g} GPUs was to be had within {timeout_s:g} s: all are in use, or the "
                "autoscaler did not start their nodes (`ray status` says why). Free some, or let it wait longer by "
                "`ensemble.start_timeout_s`."
            )
    return Machines(nodes, cuda=bool(ray.get(answer)))


def expected() -> Machines | None:
    """What a Ray started in place will have at most, known without starting it; None where a run joins a cluster."""
    import ray
    import torch

    if environment.ray_address() != "local" or ray.is_initialized():
        return None
    gpus = torch.cuda.device_count()
    return Machines((Node(float(os.cpu_count() or 1), float(gpus)),), cuda=gpus > 0)


def share(dataset: Dataset) -> ray.ObjectRef[Dataset]:
    """The data set in Ray's shared memory: one copy a node, which all processes there read in place.

    Where all processes are on this machine, what is mapped from a file is read from there.
    """
    import ray

    one_machine = environment.ray_address() == "local" and len(ray.nodes()) == 1
    for kind, (to_place, from_place) in memmap.SERIALIZERS.items():
        if one_machine:
            ray.util.register_serializer(kind, serializer=to_place, deserializer=from_place)
        else:
            ray.util.deregister_serializer(kind)
    for name, module in list(sys.modules.items()):
        if name.startswith(factories.BESIDE):  # a class from beside the configuration travels by value
            ray.cloudpickle.register_pickle_by_value(module)
    shared = ray.put(dataset)
    memmap.check(dataset)  # values that were copied are those that were checked
    return shared


def place(ensemble: EnsembleSpec, machines: Machines) -> Placement:
    """How many members and actors the cluster takes.

    A GPU each where there are enough; else several members share an actor. Without GPUs no more actors than cores. An
    actor lies on one node, so what is left over on each node is nobody's.

    Raises: `RequestError` where more is asked for than the cluster has.
    """
    asked = ensemble.resources_per_member
    roles, machines = machines.asked("teacher"), machines.of("teacher")
    largest = max(node.cpus for node in machines.nodes)
    if asked.num_cpus > largest:
        raise RequestError(
            f"ensemble.resources_per_member.num_cpus: asked for {asked.num_cpus:g} a member; the largest node has "
            f"{largest:g}. Ask for fewer, or add larger nodes."
        )
    num_gpus = (1.0 if machines.gpus else 0.0) if asked.num_gpus == "auto" else asked.num_gpus
    slots = sum(_slots(node, asked.num_cpus, num_gpus) for node in machines.nodes)
    size = _size(ensemble, max(slots, 1))
    if asked.num_gpus != "auto" and num_gpus * size > machines.gpus:
        raise RequestError(
            f"ensemble.resources_per_member.num_gpus: asked for {num_gpus:g} for each of {size} members, "
            f"{num_gpus * size:g} in all; the cluster has {machines.gpus:g}. Set `num_gpus: auto` to let members share "
            "what there is, ask for fewer, or add nodes."
        )
    if not slots:
        raise RequestError(
            f"ensemble.resources_per_member: no node has {asked.num_cpus:g} cores and {num_gpus:g} GPUs for a member. "
            "Found " + ", ".join(f"{node.cpus:g} and {node.gpus:g}" for node in machines.nodes) + ". Ask for less, or "
            "add such nodes."
        )
    if isinstance(ensemble.weights, tuple) and len(ensemble.weights) != size:
        raise RequestError(
            f"ensemble.weights: {len(ensemble.weights)} numbers for {size} members; expected one each. Set "
            "`ensemble.size`."
        )
    actors = min(size, slots)
    if ensemble.num_actors != "auto":
        actors = min(size, ensemble.num_actors)
        if actors > slots:
            raise RequestError(
                f"ensemble.num_actors: asked for {actors}; the cluster holds {slots} at once. Set it to `auto` or "
                f"at most {slots}, or add nodes."
            )
    return Placement(size, actors, asked.num_cpus, num_gpus, roles)


def place_student(machines: Machines) -> Placement:
    """Where a single process computes with a student."""
    cpus = min([1.0, *(node.cpus for node in machines.of("student").nodes if node.cpus)])
    return Placement(1, 1, cpus, float(machines.cuda), machines.asked("student"))


def check_student(student: StudentSpec, machines: Machines) -> None:
    """Raise `RequestError` where the student's workers would wait for GPUs that the cluster does not have."""
    least, _ = student.workers
    gpus = machines.of("student").gpus
    if machines.cuda and least > gpus:
        raise RequestError(
            f"student.num_workers: asked for {least}, a GPU each; the cluster has {gpus:g} for students. Ask for "
            "fewer, or add nodes."
        )


def _slots(node: Node, num_cpus: float, num_gpus: float) -> int:
    """How many actors fit on a node: a share of a GPU is taken from one, so what is left of it may fit nobody."""
    by_cpu = int(node.cpus // num_cpus)
    if not num_gpus:
        return by_cpu
    return min(by_cpu, int(node.gpus) * int(1 / num_gpus) if num_gpus < 1 else int(node.gpus // num_gpus))


def _size(ensemble: EnsembleSpec, slots: int) -> int:
    if isinstance(ensemble.size, int):
        return ensemble.size
    return len(ensemble.checkpoints) if ensemble.checkpoints is not None else slots


def cause(error: BaseException) -> BaseException:
    """What a Ray task or actor really raised, from under Ray's own wrapping."""
    import ray

    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def as_run_error(doing: str, error: BaseException) -> BaseException:
    """`error` as one sentence about what was being done; errors that already speak to the user stay as they are."""
    inner = cause(error)
    if isinstance(inner, (RequestError, RunError)):
        return inner
    return failed(doing, inner if isinstance(inner, Fault) else fault(inner))


def failed(doing: str, raised: Fault, often: str = "") -> RunError:
    """An exception of a model, a device or storage in its own words, what was being done, and how often it was tried
    (`failures.often`)."""
    return RunError(
        f"{doing} failed{often}: {str(raised).rstrip('.')}. What was complete is kept; the same command resumes. "
        f"--debug shows the traceback, and Ray's logs are in {_log_folder()}."
    )


def _log_folder() -> str:
    worker = sys.modules["ray"]._private.worker.global_worker
    return os.path.join(os.path.realpath(worker.node.get_session_dir_path()), "logs") if worker.node else ""
