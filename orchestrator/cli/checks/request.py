"""What a configuration needs: storage, tracker, packages, code, checkpoints, data, models, disk and memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial

from orchestrator.cli.checks.finding import Check, Finding, of_check
from orchestrator.cluster import resources
from orchestrator.config import inputs
from orchestrator.config.run_config import RunConfig
from orchestrator.plan import fit, students
from orchestrator.plan.whole import Runs, whole
from workers import storage
from workers.data import idx_files, loading, memory
from workers.data.dataset import Dataset
from workers.data.labels import LABELLED
from workers.data.splits import SPLITS
from workers.errors import RequestError
from workers.specs.base import FactorySpec
from workers.specs.data import DataSpec, IdxFiles
from workers.specs.models import AnyModel
from workers.user_code import origins

EXTRAS = {
    "transformers": "text",
    "tokenizers": "text",
    "onnxruntime": "onnx",
    "scikit-learn": "sklearn",
    "skops": "sklearn",
}
"""The extra of Stillhouse that has a package."""
PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
"""The package that fsspec needs for a protocol."""
LOADED_BYTES = 2**29
"""Most bytes of data files that are read to check them; of larger ones, only their existence is checked."""
UNKNOWN = "not known before data and code are right"
OF_SERVERS = {"storage", "tracker"}
"""Checks whose failure leaves the plan as it is."""
PLANNED = "not known here: `stillhouse plan` reads all data and asks the cluster"


class Request:
    """A configuration, and what several checks ask of it: its data, and its plan on this machine."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.failed: set[str] = set()
        """The checks so far that found what stops a run."""

    @cached_property
    def files(self) -> dict[str, tuple[str, ...]]:
        """URIs of files, folders and patterns of data, by key. Raises: `RequestError` where idx files are missing."""
        data = self.config.data
        named = {split: getattr(data, split) for split in SPLITS}
        return {f"data.{split}": _places(data, split, asked) for split, asked in named.items() if asked is not None}

    @cached_property
    def bytes(self) -> int:
        """Bytes of the data files that exist, in folders and of patterns, too; 0 for data of a factory."""
        places = [uri for several in self.files.values() for uri in several]
        each = [uri for place in places for uri in (storage.matching(place) if "*" in place else [place])]
        return sum(map(storage.bytes_below, each))

    @cached_property
    def loaded(self) -> Dataset | None:
        """The checked data set; None where it is too large to load here. Raises: `RequestError`."""
        if self.bytes > LOADED_BYTES:
            return None
        return loading.load(self.config.every_split, self.config.seed)

    @cached_property
    def planned(self) -> Runs | None:
        """All runs of the command on this machine, planned from shapes; None where the data are too large to load here,
        or a cluster decides. Raises: `RequestError`, and what a network raises on examples."""
        from orchestrator import planning
        from orchestrator.cluster import connection

        dataset, machines = self.loaded, connection.expected()
        if dataset is None or machines is None:
            return None
        return planning.from_shapes(self.config, dataset, machines, planning.Asked(probe=False))


def _places(data: DataSpec, split: str, asked: str | IdxFiles) -> tuple[str, ...]:
    if data.kind == "idx":
        files = idx_files.of_split(data, split, asked, split in LABELLED)
        return files if split in LABELLED else files[:1]
    assert isinstance(asked, str), "checked by DataSpec"
    return (storage.absolute(asked, data.root),)


def checks(request: Request) -> list[Check]:
    """The checks of a configuration, the quickest first."""
    config = request.config
    looks: list[Check] = [
        ("storage", partial(reached_storage, config)),
        ("tracker", partial(reached_tracker, config)),
        ("packages", partial(packages, config)),
        ("code", partial(code, config)),
        ("checkpoints", partial(checkpoints, config)),
        ("data", partial(data, request)),
        ("capacity", partial(capacity, config)),
        ("models", partial(models, request)),
        ("disk", partial(disk, request)),
        ("memory", partial(main_memory, request)),
    ]
    return [(name, partial(_recorded, request, name, look)) for name, look in looks]


def _recorded(request: Request, name: str, look: Callable[[], Finding]) -> Finding:
    """What a check finds; where that stops a run, later checks know it."""
    found = of_check(name, look)
    if found.level == "stops":
        request.failed.add(name)
    return found


def _runs(config: RunConfig) -> list[RunConfig]:
    """The run itself, and those of its further students."""
    return [config, *config.of_students().values()]


def _models(config: RunConfig) -> list[AnyModel]:
    """Every model, those of further students included."""
    return [model for run in _runs(config) for model in run.models.values()]


def reached_storage(config: RunConfig) -> Finding:
    storage.probe_of_run(config.storage)
    return Finding("storage", f"{config.storage} can be written")


def reached_tracker(config: RunConfig) -> Finding:
    from orchestrator.observers import mlflow_uri

    mlflow_uri.reach(config.tracking.uri)
    return Finding("tracker", f"{config.tracking.uri} reached")


def packages(config: RunConfig, installed: Callable[[str], bool] | None = None) -> Finding:
    """Packages that models, data and storage need beyond Stillhouse's own."""
    is_here = installed or _is_installed
    needed = sorted({*_of_models(config), *_of_places(config)})
    missing = [name for name in needed if not is_here(name)]
    if missing:
        sources = [f"'stillhouse[{EXTRAS[name]}]'" if name in EXTRAS else name for name in missing]
        command = f"pip install {' '.join(dict.fromkeys(sources))}"
        return Finding("packages", f"not installed: {', '.join(missing)}. {command}", "stops")
    return Finding("packages", f"{', '.join(needed) or 'none'} needed beyond Stillhouse's own")


def _is_installed(name: str) -> bool:
    """Whether a package can be imported; its distribution may have another name, such as `onnxruntime-gpu`."""
    found = importlib.util.find_spec(origins.module_of(name))
    return found is not None and found.origin is not None  # else a folder without code


def _of_models(config: RunConfig) -> Iterator[str]:
    for model in _models(config):
        yield from model.packages
        if model.tokenizer is not None:
            yield from ("transformers", "tokenizers")


def _of_places(config: RunConfig) -> Iterator[str]:
    named = (*inputs.of_data(config), *inputs.of_networks(config))
    for place in (config.storage, config.data.root, *(uri for _, uri in named)):
        protocol = place.partition("://")[0] if "://" in place else ""
        if protocol in PROTOCOLS:
            yield PROTOCOLS[protocol]


def code(config: RunConfig) -> Finding:
    """Whether the functions and classes that the configuration names can be imported; importing executes modules.

    Objectives are built, and rules of weights, metrics and figures are called or bound as before a run.
    """
    from orchestrator.stages import preflight
    from workers.user_code import factories

    named = [(each.factory, each.folder) for each in _models(config) if isinstance(each, FactorySpec)]
    named += [(each.factory, each.folder) for each in (*config.evaluation.metrics, *config.report.figures)]
    named += [(config.data.code, config.data.folder)] if config.data.code is not None else []
    tried = {factory: partial(factories.load, factory, folder) for factory, folder in dict.fromkeys(named)}
    wrong = [_raised(try_out, f"'{factory}'") for factory, try_out in tried.items()]
    wrong += [_raised(try_out, "the objective") for run in _runs(config) for try_out in preflight.pieces_of_code(run)]
    wrong = [each for each in dict.fromkeys(wrong) if each]
    if wrong:
        return Finding("code", "\n  ".join(wrong), "stops")
    return Finding("code", ", ".join(tried) or "none of your own")


def _raised(try_out: Callable[[], object], what: str) -> str:
    """What a check raises, as a message; empty for nothing. what: names the user's own code."""
    try:
        try_out()
    except RequestError as error:
        return str(error)
    except Exception as error:  # the user's own module raised it
        return f"{what}: {type(error).__name__}: {error}"
    return ""


def capacity(config: RunConfig) -> Finding:
    """Whether this machine has what members and student ask for."""
    from orchestrator.cluster import connection

    machines = connection.expected()
    if machines is None:
        return Finding("capacity", "decided by the cluster")
    placement = resources.place(config.ensemble, machines)
    for run in _runs(config):
        students.check(run.student, machines)
    return Finding("capacity", f"{placement.size} members, {placement.actors} at once")


def models(request: Request) -> Finding:
    """Whether each model can be built, and takes a training step on some of the data, as before a run."""
    from orchestrator.stages import preflight

    loaded, notes = _loaded(request), list[str]()

    def try_out() -> None:
        if loaded is None:
            built = set[str]()
            for run in _runs(request.config):
                preflight.check_code(run, built)
            return
        notes.extend(note for note in preflight.check_on(request.config, loaded).notes if note not in loaded.notes)
        preflight.check_further(request.config)

    wrong = _raised(try_out, "a model")
    if wrong:
        return Finding("models", wrong, "stops")
    done = "built; not tried without the data" if loaded is None else "built and tried on examples"
    return Finding("models", _noted(done, notes))


def _loaded(request: Request) -> Dataset | None:
    """The data set; None where it is wrong, which another check reports, or too large."""
    try:
        return request.loaded
    except RequestError:
        return None


def checkpoints(config: RunConfig) -> Finding:
    """Whether the files of finished networks, initial weights and tokenizers exist."""
    wanted: dict[str, str] = {}
    for key, uri in inputs.of_networks(config):
        wanted.setdefault(uri, key)
    missing = [f"{key} '{uri}'" for uri, key in wanted.items() if not storage.exists(uri)]
    if missing:
        return Finding("checkpoints", f"{', '.join(missing)}: no such file or folder", "stops")
    return Finding("checkpoints", f"{len(wanted)} found" if wanted else "none needed")


def data(request: Request) -> Finding:
    """Whether the data can be read, and are valid."""
    named = [(key, uri) for key, several in request.files.items() for uri in several if "*" not in uri]
    missing = [f"{key} '{uri}'" for key, uri in named if not storage.exists(uri)]
    if missing:
        return Finding("data", f"{', '.join(missing)}: no such file", "stops")
    loaded = request.loaded
    if loaded is None:
        return Finding("data", f"{memory.size(request.bytes)} found; too large to be read here")
    counts = ", ".join(f"{len(x):,} {name}" for name, x in loaded.inputs.items())
    return Finding("data", _noted(f"{counts}; {loaded.classes:,} classes", loaded.notes))


def _noted(found: str, notes: Iterable[str]) -> str:
    """The notes that a run would begin with, a line each."""
    return "".join([found, *(f"\n  note: {note}" for note in notes)])


def _planned(request: Request, name: str) -> Runs | Finding:
    """The plan of all runs, or the finding of a check that needs one."""
    try:
        return request.planned or Finding(name, PLANNED)
    except Exception as error:  # of the data, or of the user's network, which other checks report
        is_its_own = isinstance(error, RequestError) and request.failed <= OF_SERVERS
        return Finding(name, str(error) if is_its_own else UNKNOWN, "stops")


def disk(request: Request, free: int | None = None) -> Finding:
    """Whether storage has space for what a run stores. free: bytes; None: those of the disk."""
    config = request.config
    free = storage.free_bytes(config.storage) if free is None else free
    if free is None:
        return Finding("disk", f"not known of {config.storage}")
    runs = _planned(request, "disk")
    if isinstance(runs, Finding):
        return runs
    found = whole(runs)
    lacking = fit.of_storage(runs, found, free)
    fits = f"{memory.size(free)} free, and a run stores about {memory.size(found.stored)}"
    return Finding("disk", lacking or fits, "stops" if lacking else "ok")


def main_memory(request: Request, available: int | None = None) -> Finding:
    """Whether memory suffices for the data, and for the processes of each stage. available: bytes; None: those here."""
    runs = _planned(request, "memory")
    if isinstance(runs, Finding):
        return runs
    if available is None:  # this process has already what the driver of a run holds of the data
        available = memory.available() + runs.first.case.data.held
    stage, needed = fit.largest_in_memory(runs)
    found = f"{memory.size(available)} available; {stage} and the data take about {memory.size(needed)}"
    return Finding("memory", found, "ok" if available > needed else "warning")
