"""Whether all nodes of a cluster, and the submitter of a job, see the places that a run writes to."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster import environment
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_uri
from orchestrator.run_folder.lock import machine
from workers import storage
from workers.errors import RequestError

if TYPE_CHECKING:
    import ray


logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 60.0
COPIES = "working_dir_files"
"""Ray's name for the folder with the jobs' copies of their working folders."""


def check_submitted(config: RunConfig) -> None:
    """Raise `RequestError`, or warn, where a job would write to a place that its submitter cannot see."""
    places = {"storage": config.storage, "tracking.uri": config.tracking.uri.removeprefix(mlflow_uri.SQLITE)}
    local = {key: path for key, place in places.items() if (path := storage.local_path(place)) is not None}
    submitter, folder = (os.environ.get(name, "") for name in (environment.SUBMITTED_ON, environment.SUBMITTED_FROM))
    elsewhere = submitter not in ("", machine()) and not Path(folder).is_dir()
    for key, place in local.items():
        if elsewhere and place.is_relative_to(folder):
            raise RequestError(
                f"{key}: '{place}' is a folder of the machine that submitted this job, and it runs on another. Set it "
                "to what all nodes reach: an object store or a shared folder, and for the tracker a server."
            )
        if COPIES in place.parts:
            logger.warning(
                "%s: '%s' is in this job's copy of its working folder, and goes with it. Set it to an absolute path or "
                "a URI, or use `stillhouse submit`.",
                key,
                place,
            )


def check_shared(uri: str) -> None:
    """Raise `RequestError` where some node of the cluster cannot see the folder `uri`; leaves no files."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1 or not storage.is_local(uri):
        return

    @ray.remote(num_cpus=0)
    def sees(name: str) -> bool:
        return storage.exists(name)

    with storage.probed(uri) as name:
        asked = {
            sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(name): address
            for node, address in nodes.items()
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
        blind = sorted({asked[answer] for answer in answered if not _sees(answer)})
    if blind:
        raise RequestError(
            f"storage '{uri}' is a folder that {', '.join(blind)} of the cluster's {len(nodes)} nodes cannot see. Set "
            "`storage` to an object store, or to a folder that all nodes share."
        )


def _sees(answer: ray.ObjectRef[bool]) -> bool:
    import ray

    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError:  # a node that died meanwhile does not invalidate the others
        return True
