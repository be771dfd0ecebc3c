"""All uses of Ray's private interface, each with its reason. Written for Ray 2.54 to 2.60.

A new version of Ray may change any of them; `tests/unit/test_ray_private.py` tests each function with the installed
version. Every import is inside its function, so that Ray is imported only when needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_config import JobConfig

CONTROLLER, WORKER = "TrainController", "RayTrainWorker"
"""The class names of Ray Train's actors."""
PACKAGING_LOGGER = "ray._private.runtime_env.packaging"
"""The logger that reports the upload of a job's folder."""
MOST_WORKERS = 2
"""Workers that a cluster of Ray has at most by default, on the usual clouds."""


def bootstrap_address(address: str) -> str:
    """The `host:port` of a cluster's head. `ray.init` resolves `auto` by itself, but does not return what it found."""
    from ray._private import services

    return str(services.canonicalize_bootstrap_address_or_die(address))


class _Allowed(list[str]):
    """Folders that workers import from; it accepts only folders from which the driver imports."""

    def extend(self, paths: Iterable[str]) -> None:
        super().extend(path for path in paths if path in sys.path)


def job_config() -> JobConfig:
    """A job whose workers import from the same folders as the driver.

    Ray puts the driver's working folder before all others: a `workers.py` there would shadow Stillhouse's package.
    """
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _Allowed()  # the constructor would replace an empty list
    return config


def log_folder() -> str:
    """Where the connected Ray writes its logs; empty in a client without a node."""
    import ray

    node: Any = ray._private.worker.global_worker.node
    return str(Path(node.get_session_dir_path()).resolve() / "logs") if node else ""


def local_node() -> Any:
    """The local node: its processes, alive and dead; its `head` is true where this process started the connected Ray.

    The public interface only shuts it down.
    """
    from ray._private import worker

    return worker._global_node


def head_answers(timeout_s: float) -> bool:
    """Whether the head of the connected cluster answers within `timeout_s`; public calls wait for it much longer."""
    from ray._private import worker

    head: Any = worker.global_worker.gcs_client  # type: ignore[attr-defined]
    try:
        head.internal_kv_keys(b"any", namespace=None, timeout=timeout_s)
    except Exception:  # Ray raises various types
        return False
    return True


def temporary_folder() -> str:
    """Ray's default folder for sockets and logs."""
    from ray._common import utils

    return str(utils.get_default_ray_temp_dir())


def draining_nodes() -> set[str]:
    """Ids of the nodes that will be preempted or drained. Ray Train reads them in the same way."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def free_by_node() -> list[Mapping[str, float]]:
    """Free resources of each node; `ray.available_resources` adds up all nodes."""
    from ray._private.state import state

    return list(state.available_resources_per_node().values())


def actors_of_this_job(class_name: str) -> list[dict[str, Any]]:
    """The living and pending actors of a class in this job.

    `ray.util.state` needs the dashboard, which a Ray started in place does not have.
    """
    import ray
    from ray._private import state

    actors = state.actors(job_id=ray.JobID.from_hex(ray.get_runtime_context().get_job_id()))
    return [actor for actor in actors.values() if actor["ActorClassName"] == class_name and actor["State"] != "DEAD"]


def actor_id(handle: Any) -> str:
    """The hexadecimal id of an actor, as in Ray's exceptions; a handle has no public access to it."""
    return str(handle._actor_id.hex())


def most_workers(provider: str) -> int:
    """Ray's `max_workers` of a cluster YAML that gives none. provider: its `provider.type`, which may be unknown."""
    from ray.autoscaler._private import providers

    try:
        return int(providers._get_default_config({"type": provider})["max_workers"])
    except (NotImplementedError, ImportError, OSError, KeyError):  # no such provider, or one of the user's own
        return MOST_WORKERS


def kuberay_configuration(cluster: str, namespace: str) -> Mapping[str, Any]:
    """The configuration that KubeRay's autoscaler derives from a RayCluster, in the form of a cluster YAML."""
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    found: Mapping[str, Any] = AutoscalingConfigProducer(cluster, namespace)()
    return found


def configuration_of_manifest(manifest: dict[str, Any]) -> Mapping[str, Any]:
    """The same from the RayCluster's manifest alone."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    found: Mapping[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    return found


def package_bytes_limit() -> int:
    """Largest job folder that both the dashboard and the head accept, in bytes."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    return int(min(ray_constants.DASHBOARD_CLIENT_MAX_SIZE, packaging.GCS_STORAGE_MAX_SIZE))


def left_out_of_package(root: Path, excludes: Iterable[str]) -> Callable[[Path], bool]:
    """A predicate for paths below `root` that Ray excludes from a package, by its own rules and `excludes`."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    rules = [*ray_constants.get_runtime_env_default_excludes(), *excludes]
    left_out: Callable[[Path], bool] = packaging._get_excludes(root, rules)
    return left_out


def walk_package(root: Path, left_out: list[Callable[[Path], bool]], visit: Callable[[Path], None]) -> None:
    """Call `visit` with every path that Ray would pack, in Ray's order."""
    from ray._private.runtime_env import packaging

    packaging._dir_travel(root, left_out, visit, include_gitignore=False)


def escaped_pattern(path: str) -> str:
    """A .gitignore pattern that matches only this path, from the library that Ray's packaging uses."""
    from ray._private.thirdparty.pathspec.patterns.gitwildmatch import GitWildMatchPattern

    return str(GitWildMatchPattern.escape(path))


def head_accepts(address: str, token: str, timeout_s: float) -> bool:
    """Whether the head at `host:port` accepts a token; with an empty one, a call without a token.

    It makes the first call of every client; Ray's own client would print the rejection.
    Raises: ConnectionError where the head does not respond.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    request: Any = gcs_service_pb2.GetClusterIdRequest()  # type: ignore[attr-defined]
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    with _channel(address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetClusterId(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise ConnectionError(f"{error.code().name}: {error.details()}") from error
    return True


def cluster_version(address: str, token: str, timeout_s: float) -> str:
    """The version of Ray of the cluster at `host:port`; empty where it does not answer.

    Ray's own client ends the process where the head does not answer. token: empty for a cluster without one.
    """
    import json

    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    request: Any = gcs_service_pb2.InternalKVGetRequest(  # type: ignore[attr-defined]
        key=b"CLUSTER_METADATA", namespace=b"cluster"
    )
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    with _channel(address) as channel:
        stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        try:
            found = stub.InternalKVGet(request, timeout=timeout_s, metadata=metadata)
            return str(json.loads(found.value)["ray_version"])
        except (grpc.RpcError, ValueError, KeyError):
            return ""


def _channel(address: str) -> Any:
    import os

    import grpc
    from ray._common.tls_utils import load_certs_from_env

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address, options)
    chain, key, authorities = load_certs_from_env()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, chain), options)


def stored_token() -> str:
    """The token that Ray would send, from the environment or a file; empty where none exists."""
    return str(_loader().get_raw_token(ignore_auth_mode=True))


def read_environment_again() -> None:
    """Make Ray reload its settings and its token, which it caches."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")
    _loader().reset_cache()


def _loader() -> Any:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    return AuthenticationTokenLoader.instance()
