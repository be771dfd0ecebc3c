"""The kind `sklearn`: an estimator of scikit-learn, stored by skops; the run fits it where a factory makes it.

A classifier predicts by `predict_proba`, whose columns `classes_` maps to the order of the data's class ids. A
regressor that the run fitted predicts probabilities, which are raised to at least `predictor.FLOOR`. A skops file
holds no pickle. Loading rejects types that neither skops nor the user trusts.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from workers import storage
from workers.data.arrays import Float64
from workers.errors import RequestError
from workers.models.predictor import Fittable, Inputs, Lessons, Outputs, dense, log_probabilities, missing
from workers.models.sklearn_fits import fit
from workers.seeds import seeded
from workers.specs.base import Precision
from workers.specs.models import SklearnFile, SklearnModel
from workers.user_code import beside, factories

NUMERIC = ("sklearn", "numpy", "scipy")
"""Packages whose types any estimator may contain."""
CLASSES = "stillhouse_classes_"
"""Attribute of an estimator that the run fitted: the number of classes, which its own attributes may not show."""
SCHEMA = "schema.json"
"""The file in a skops archive that describes the estimator's structure."""


class SklearnPredictor(Fittable):
    """A classifier with `predict_proba`, or a regressor that predicts a probability for each class."""

    def __init__(self, estimator: Any, source: str) -> None:
        self.estimator = _alone(estimator)
        self.columns, self.classes = _columns(estimator, source)

    @classmethod
    def load(cls, model: SklearnFile | SklearnModel, weights: str) -> Self:
        packages = _packages(cls.made(model)) if isinstance(model, SklearnModel) else frozenset()
        estimator = _loaded(storage.read_bytes(weights), model.trusted, packages, f"'{weights}'")
        return cls(estimator, f"'{weights}'")

    @classmethod
    def made(cls, model: SklearnFile | SklearnModel) -> Any:
        """The estimator before the fit; None for a file."""
        return factories.call(model.factory, model.kwargs, model.folder) if isinstance(model, SklearnModel) else None

    @classmethod
    def fit(cls, model: SklearnModel, lessons: Lessons, how: str) -> Self:
        with seeded(lessons.seed):  # also of estimators without a random_state of their own
            estimator = cls.made(model)
            _limit_threads()
            fit(estimator, lessons, how, model)
        setattr(estimator, CLASSES, lessons.classes)
        return cls(estimator, model.label)

    def dump(self) -> bytes:
        return self._content

    @cached_property
    def _content(self) -> bytes:
        """The file's content, cached, since serialising many trees takes seconds."""
        return _canonical(_skops().dumps(self.estimator))

    def notes(self) -> tuple[str, ...]:
        types = _skops().get_untrusted_types(data=self.dump())
        if not types:
            return ()
        named = beside.plain(", ".join(types))
        return (
            f"its file holds types beyond those that skops trusts ({named}); they are trusted, since the factory is "
            "your own. Elsewhere name them where you load it.",
        )

    @property
    def parameters(self) -> int:
        return _count(self.estimator, {})

    def __call__(self, x: Inputs, precision: Precision = "float32") -> Outputs:
        rows = dense(x, "a model of kind 'sklearn'").cpu().numpy().reshape(len(x), -1)
        return Outputs(log_probabilities(torch.from_numpy(self._probabilities(rows))).to(x.device))

    def _probabilities(self, rows: NDArray[Any]) -> Float64:
        if not hasattr(self.estimator, "predict_proba"):
            predicted: Float64 = np.array(self.estimator.predict(rows), np.float64)
            return predicted
        answered = np.asarray(self.estimator.predict_proba(rows))
        found = np.zeros((len(rows), self.classes))
        found[:, self.columns] = answered
        return found


def _columns(estimator: Any, source: str) -> tuple[NDArray[np.int64], int]:
    """The class of each column of `predict_proba`, and the number of classes. Raises: `RequestError`."""
    classes = getattr(estimator, CLASSES, None)
    if classes is not None and not hasattr(estimator, "predict_proba"):
        return np.arange(classes), classes
    if not hasattr(estimator, "predict_proba"):
        raise RequestError(
            f"{source} is {type(estimator).__name__} without predict_proba; expected a classifier that gives "
            "probabilities (SVC: probability=True)."
        )
    named = getattr(estimator, "classes_", None)
    if not isinstance(named, np.ndarray) or named.ndim != 1 or named.dtype.kind not in "iu" or named.min() < 0:
        shown = list(named[:5]) if isinstance(named, np.ndarray) else named
        raise RequestError(
            f"{source} has the classes {shown}; expected the class ids of the data, whole numbers from 0 on. Fit it to "
            "them, for example with sklearn.preprocessing.LabelEncoder before."
        )
    return named.astype(np.int64), int(named.max()) + 1 if classes is None else classes


def _packages(estimator: Any) -> frozenset[str]:
    """The packages whose types a fitted file may hold: those of the parts that the user's own factory made."""
    get = getattr(estimator, "get_params", None)
    parts = [estimator, *(get(deep=True).values() if get else ())]
    return frozenset({*NUMERIC, *(type(part).__module__.partition(".")[0] for part in parts)} - {"builtins"})


def _loaded(content: bytes, trusted: Sequence[str], packages: Collection[str], source: str) -> Any:
    """The estimator in a skops file. packages: their types are allowed, beside the types `trusted`.

    Raises: `RequestError` for other files, and for types that are not trusted.
    """
    skops = _skops()
    if content[:2] != b"PK":
        raise RequestError(
            f"{source} is no file of skops. Expected skops.io.dump(estimator, path); a pickle is not read. Write it "
            "again by that call."
        )
    try:
        asked = skops.get_untrusted_types(data=content)
        untrusted = [name for name in asked if name not in trusted and name.partition(".")[0] not in packages]
        if not untrusted:
            return skops.loads(content, trusted=asked)
    except Exception as error:  # skops and the estimators raise several types
        raise RequestError(
            f"{source} cannot be read by skops ({type(error).__name__}: {error}). Expected a file of skops.io.dump by "
            "compatible versions of skops and scikit-learn: dump it again."
        ) from error
    raise RequestError(
        f"{source} holds types that skops does not trust: {', '.join(untrusted)}. Where you know them to be harmless, "
        f"list them: `trusted: [{', '.join(untrusted)}]`."
    )


def _canonical(content: bytes) -> bytes:
    """A skops archive with reproducible bytes: it replaces ids of objects, which are memory addresses, by numbers."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    schema = json.loads(archive.read(SCHEMA))
    numbers: dict[int, int] = {}
    renamed: dict[str, str] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(each) for each in node]
        if not isinstance(node, dict):
            return node
        found = {}
        for key, value in node.items():
            if key == "__id__":
                value = numbers.setdefault(value, len(numbers))
            elif key == "file" and isinstance(value, str) and value in archive.namelist():
                value = renamed.setdefault(value, f"{len(renamed)}.{value.rpartition('.')[2]}")
            found[key] = walk(value)
        return found

    files = {SCHEMA: json.dumps(walk(schema)).encode()}
    files |= {new: archive.read(old) for old, new in renamed.items()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as target:
        for name, body in files.items():
            target.writestr(zipfile.ZipInfo(name), body)  # with its constant default date
    return written.getvalue()


def _alone(estimator: Any) -> Any:
    """Make it predict with one thread, since threads of a forest add probabilities in the order of completion."""
    get = getattr(estimator, "get_params", None)
    jobs = [name for name, value in get(deep=True).items() if name.endswith("n_jobs") and value] if get else []
    if jobs:
        estimator.set_params(**dict.fromkeys(jobs, 1))
    _limit_threads()
    return estimator


def _limit_threads() -> None:
    """Limit BLAS and OpenMP, whose thread pools are process-wide, to the thread count of torch."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(torch.get_num_threads())


def _skops() -> ModuleType:
    try:
        import skops.io
    except ImportError as error:
        raise missing("skops", "sklearn", "sklearn") from error
    found: ModuleType = skops.io
    return found


def _count(value: Any, seen: dict[int, Any]) -> int:
    """Count the numbers in an estimator's learned arrays, at any depth; each field of a tree node counts.

    seen: counted objects by their ids. It holds references, so that Python does not reuse an id.
    """
    if id(value) in seen:
        return 0
    seen[id(value)] = value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.size * len(value.dtype.fields or "1")
    inner: Any = ()
    if isinstance(value, np.ndarray | list | tuple):
        inner = list(value)
    elif isinstance(value, dict):
        inner = [each for name, each in value.items() if name != "classes_"]
    elif hasattr(value, "get_params") or type(value).__module__.partition(".")[0] in NUMERIC[:1]:
        inner = [value.__getstate__()]
    return sum(_count(each, seen) for each in inner)
