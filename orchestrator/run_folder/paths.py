"""All paths in a run's folder, in one table that serves for building paths and for recognising a run's files.

An entry is the template of a path. Its placeholders stand for regular expressions, so the same entry matches the files
that a run wrote. Other files of the user in the same folder do not match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.config.student import STAGE
from orchestrator.run_folder import model_folder
from workers import storage
from workers.artifacts import catalogue, key, parts
from workers.errors import RequestError
from workers.specs import models

NETWORK, PREDICTIONS, SOFT_TARGETS, LOGITS, TOKENS = (
    "training.json", ".json", "manifest.json", "logits.json", "tokens.json",
)  # fmt: skip
"""Names or suffixes of the artifacts' records."""
_NETWORK = (
    rf"{'|'.join(map(re.escape, models.WEIGHTS))}|{models.COMPANION.pattern}"
    r"|training\.json|(state|answers)\.pt|(history|failure)\.json"
)
_PARTS = f"{parts.NAME.pattern}|tokens\\.json|manifest\\.json|logits\\.json|abandoned"
_PLACEHOLDERS = {
    "number": r"\d+",
    "role": "(baseline|student)",
    "digest": key.DIGEST,
    "stage": STAGE.strip("^$"),
    "system": r"[a-z0-9][a-z0-9._-]*",
    "split": "(train|validation|test)",
    "ending": rf"(\.json|(-{key.DIGEST})?\.safetensors|\.pt)",
    "claim": r"[\w.]*",
}


@dataclass(frozen=True)
class Place:
    """A file, or a folder with those `files` that match a regular expression."""

    template: str
    files: str = ""

    @property
    def pattern(self) -> str:
        """Regular expression of the paths of all files here."""
        return _filled(self.template) + (f"/({self.files})" if self.files else "")

    def path(self, **values: object) -> str:
        return self.template.format(**values)


PLACES = {
    "mark": Place("stillhouse.json"),
    "lock": Place("run.lock{claim}"),
    "config": Place("config.yaml"),
    "plan": Place("plan.json"),
    "events": Place("events.jsonl"),
    "report": Place("report.json"),
    "report_text": Place("report.md"),
    "report_page": Place("report.html"),
    "sums": Place("sums.safetensors"),
    "tracking": Place("tracking.json"),
    "artifacts": Place(catalogue.FILE),
    "trained": Place("trained/{digest}", _NETWORK),
    "member": Place("members/{number}", _NETWORK),
    "role": Place("{role}", _NETWORK),
    "checkpoints": Place("{role}/checkpoints-{digest}", ".+"),
    "stage": Place("stages/{stage}", _NETWORK),
    "stage_checkpoints": Place("stages/{stage}/checkpoints-{digest}", ".+"),
    "student_model": Place(f"student/{model_folder.FOLDER}", model_folder.PATTERN),
    "soft_targets": Place("soft_targets/{digest}", _PARTS),
    "logits": Place("logits/{digest}", _PARTS),
    "tokens": Place("tokens/{digest}", _PARTS),
    "predictions": Place("predictions/{system}-{split}{ending}"),
}
"""Paths that runs write, relative to the folder. `trained` has every network under its cache key; `member`, `role` and
`stage` have copies of the current ones."""


def _filled(template: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", lambda found: _PLACEHOLDERS[found[1]], re.escape(template))


_HALF_WRITTEN = rf"(\.[0-9a-f]{{32}}{re.escape(storage.PARTIAL)})?"
_WRITTEN = re.compile("|".join(f"({place.pattern}){_HALF_WRITTEN}" for place in PLACES.values()))
_FOLDERS = re.compile("|".join(_filled(p.template.split("/")[0]) for p in PLACES.values() if "/" in p.pattern))


def is_written(path: str) -> bool:
    """Whether a run writes a file, or its partial version, at this path relative to its folder."""
    return _WRITTEN.fullmatch(path) is not None


def is_in_the_way(name: str) -> bool:
    """Whether a run would write to a file of this name in its folder, or into a folder of this name."""
    return is_written(name) or _FOLDERS.fullmatch(name) is not None


# --- records of artifacts, relative to a run's folder -------------------------------------------------------


def network(digest: str) -> str:
    """The record of the trained network with this key."""
    return storage.join(PLACES["trained"].path(digest=digest), NETWORK)


def soft_targets(digest: str) -> str:
    """The record of the store of soft targets with this key: its manifest."""
    return storage.join(PLACES["soft_targets"].path(digest=digest), SOFT_TARGETS)


def logits(digest: str) -> str:
    """The record of a member's logits with this key."""
    return storage.join(PLACES["logits"].path(digest=digest), LOGITS)


def tokens(digest: str) -> str:
    """The record of the tokens with this key."""
    return storage.join(PLACES["tokens"].path(digest=digest), TOKENS)


def predictions(system: str, split: str, ending: str = PREDICTIONS) -> str:
    """The record of a system's predictions for a split; with another `ending`, another file beside it."""
    return PLACES["predictions"].path(system=system, split=split, ending=ending)


class _File:
    """The path of the file that has the attribute's name in `PLACES`."""

    def __set_name__(self, owner: type[RunFolder], name: str) -> None:
        self._place = PLACES[name]

    def __get__(self, folder: RunFolder, owner: type[RunFolder]) -> str:
        return storage.join(folder.uri, self._place.path(claim=""))  # which the template of the lock has


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run at `uri`."""

    uri: str

    mark = _File()
    lock = _File()
    config = _File()
    plan = _File()
    events = _File()
    report = _File()
    sums = _File()
    tracking = _File()

    @property
    def trained(self) -> str:
        """The folder with every trained network."""
        return storage.join(self.uri, PLACES["trained"].template.split("/")[0])

    def network(self, digest: str) -> str:
        """The folder of the trained network with this key."""
        return self._at("trained", digest=digest)

    def shown(self, system: str) -> str:
        """The folder with a copy of the current network of a member, the baseline, the student, or an earlier stage."""
        kind, _, name = system.partition("-")
        match kind:
            case "member":
                return self._at("member", number=name)
            case "stage":
                return self._at("stage", stage=name)
            case _:
                return self._at("role", role=system)

    def checkpoints(self, system: str, digest: str) -> str:
        """The folder from which Ray Train resumes."""
        kind, _, name = system.partition("-")
        if kind == "stage":
            return self._at("stage_checkpoints", stage=name, digest=digest)
        return self._at("checkpoints", role=system, digest=digest)

    def soft_targets(self, digest: str) -> str:
        """The folder of a store of soft targets."""
        return self._at("soft_targets", digest=digest)

    def logits(self, digest: str) -> str:
        """The folder of a member's logits."""
        return self._at("logits", digest=digest)

    def tokens(self, digest: str) -> str:
        """The folder of the tokens of one split."""
        return self._at("tokens", digest=digest)

    def _at(self, place: str, **values: object) -> str:
        return storage.join(self.uri, PLACES[place].path(**values))


def damaged(uri: str, why: object) -> RequestError:
    """The error for a file of a run's folder that cannot be read as what a run writes there."""
    return RequestError(f"'{uri}': not what a run wrote ({why}). The same `stillhouse run` writes it again.")
