"""A pass of the teachers over the transfer set, as the student sees it: complete, or in progress."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from orchestrator.reporting.report import Bound, SoftTargets
from workers.artifacts.key import Key
from workers.targets import soft_targets as store
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import LogitsReader
from workers.targets.soft_targets import Manifest, Part
from workers.targets.student_store import Store


@dataclass(kw_only=True)
class SoftTargetPass:
    """A pass of the teachers: the store for the student, and its manifest once it is complete."""

    folder: str
    key: Key
    layout: PartLayout
    planned: Manifest
    parts: dict[int, Part]
    """Finished parts by number; the pass adds to them."""
    missing: list[int]
    """Numbers of the parts that the pass has to compute."""
    kept: dict[str, MemberLogits]
    """Caches of members' logits, which replace forward passes."""
    streams: bool = False
    """Whether the student trains during the pass."""
    refused: frozenset[str] = frozenset()
    """Files of parts that the pass replaces."""
    survivors_too: bool = False
    """Whether parts with missing members are accepted."""
    logits: LogitsReader | None = None
    """The student's reader for a schedule of T."""
    bound_by: Bound = "teacher"
    manifest: Manifest | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def reused(self) -> bool:
        """Whether all parts came from earlier runs."""
        return not self.missing

    def store(self) -> Store:
        """The workers' view: the parts that exist by now, and the folder for the others."""
        return Store(
            self.folder,
            self.layout,
            dict(self.parts),
            self.streams,
            self.refused,
            temperature=self.planned.temperature,
            logits=self.logits,
        )

    def in_use(self) -> Key:
        """The key of the soft targets for a student, the same before, during and after the pass.

        Under `reweight` the parts that lack members are not in it, since the pass decides on them. So a finished
        student is compared with `content` as well, and an unfinished one with `fewer`.
        """
        return Key("soft targets in use", 1, store=self.key, survivors_too=self.survivors_too, fewer=[])

    def fewer(self) -> tuple[str, ...]:
        """sha256 of the parts by now that lack members. A student resumes checkpoints of the same ones alone."""
        planned = self.planned.names
        parts = [part for _, part in sorted(self.parts.items())]
        return tuple(part.sha256 for part in parts if part.members != planned)

    def complete(self) -> Manifest:
        """Wait for all parts and return the manifest.

        Raises: the exception that ended the pass early.
        """
        if self.thread is not None:
            self.thread.join()
        if self.error is not None:
            raise self.error
        assert self.manifest is not None
        return self.manifest

    def check_stopped(self) -> None:
        """Raise InterruptedError where the run is stopping."""
        if self.stop.is_set():
            raise InterruptedError("the pass was stopped with its run")

    def content(self) -> str:
        """sha256 over all soft targets; waits until they are complete."""
        return store.content(self.complete().parts)

    def summary(self) -> SoftTargets:
        """The report's section on soft targets."""
        manifest = self.complete()
        return SoftTargets(
            examples=sum(part.rows for part in manifest.parts),
            bytes=sum(part.size for part in manifest.parts),
            temperature=manifest.temperature,
            fingerprint=manifest.fingerprint,
            combine=manifest.combine,
            weights=dict(zip(manifest.names, manifest.weights, strict=True)),
            seconds=manifest.seconds,
            reused=self.reused,
        )
