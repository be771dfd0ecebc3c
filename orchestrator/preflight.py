"""Everything that can be found wrong before anything is started or written.

In the order of cost: storage, what this machine can hold, the data, the models on two examples of it, given
checkpoints, metrics, the tracker. What a cluster can hold is checked by `cluster.place` once it answers.
"""

from __future__ import annotations

from orchestrator import cluster, tracking
from orchestrator.config import RunConfig
from workers import checkpoints, factories, models, storage
from workers import data as datasets
from workers.data import Dataset


def check(config: RunConfig) -> Dataset:
    """The data set, once all that the configuration asks for is known to be possible.

    Raises: `RequestError`, naming the key or file.
    """
    storage.probe_writable(config.storage)
    machine = cluster.expected()
    if machine is not None:
        cluster.place(config.ensemble, machine)
    dataset = datasets.load(config.data, config.seed)
    member = models.build(config.ensemble.model)
    models.check_output(member, config.ensemble.model, dataset.train.x, dataset.classes, "ensemble")
    for uri in config.ensemble.checkpoints or ():
        checkpoints.load(member, uri)
    student = models.build(config.student.model)
    models.check_output(student, config.student.model, dataset.train.x, dataset.classes, "student")
    for metric in config.evaluation.metrics:
        factories.load(metric.factory, metric.folder)
    tracking.reach(config.tracking.uri)
    return dataset
