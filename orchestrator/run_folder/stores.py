"""Finds the store of soft targets that a report names, which another run of the same storage may have made."""

from __future__ import annotations

import logging
from pathlib import PurePosixPath

from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.errors import RequestError, Unreachable
from workers.targets import soft_targets
from workers.targets.soft_targets import Manifest

logger = logging.getLogger(__name__)


def store_of(folder: RunFolder, fingerprint: str) -> tuple[str, Manifest] | None:
    """The URI and the manifest of the store with this fingerprint: in a run's folder, or else in one beside it.

    fingerprint: of `report.soft_targets`; empty in reports of earlier versions. None where no folder has the store.

    Raises: `Unreachable`, since nothing is known of the store then.
    """
    if not fingerprint:
        return None
    beside, own = storage.parent(folder.uri), PurePosixPath(folder.uri).name
    for name in (own, *(each for each in storage.names(beside) if each != own)):
        place = RunFolder(storage.join(beside, name)).soft_targets(fingerprint)
        manifest = _manifest_at(place)
        if manifest is not None:
            return place, manifest
    return None


def _manifest_at(place: str) -> Manifest | None:
    """The manifest of a store; None also where it cannot be read, as in a folder of another user beside the run."""
    try:
        return soft_targets.manifest_at(place)
    except Unreachable:
        raise
    except RequestError as error:
        logger.info("'%s' is passed over: %s", place, error)
        return None
