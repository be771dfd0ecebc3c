"""What Ray reads from the environment when it is imported, so set before anything imports it.

A value that the user has set is kept.
"""

from __future__ import annotations

import os

EVERYWHERE = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a worker that was stopped is taken for dead, 600 s by default
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll, 2 s by default
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # what a lost teacher was still asked for fails without a traceback each
}
IN_PLACE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # named for where it is the default: one node, on 127.0.0.1 alone
    "RAY_worker_niceness": "0",  # at Ray's 15 its idle processes hold up a step whose threads wait for one another
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # so long Ray's agents outlive a driver that was killed, else 60 s
}
SUBMITTED_FROM = "STILLHOUSE_SUBMITTED_FROM"
"""Set in a job that `stillhouse submit` handed in: its machine, a space, and the folder that it was called in."""
SENT_FROM = "STILLHOUSE_SENT_FROM"
"""Set there too: the folder of the configuration, of which the job has a copy."""
COMMIT = "STILLHOUSE_COMMIT"
"""Set there too: git's name of what the submitter had checked out."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in a job."""


def ray_address() -> str:
    """The cluster to join, `auto`, or `local` for a Ray that is started in place."""
    return os.environ.get("RAY_ADDRESS") or "local"


def prepare() -> None:
    """Set what is not set; for a Ray that is started in place also that it listens on loopback alone."""
    wanted = EVERYWHERE if ray_address() != "local" else EVERYWHERE | IN_PLACE
    for key, value in wanted.items():
        os.environ.setdefault(key, value)
