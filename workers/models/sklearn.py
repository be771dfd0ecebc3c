"""The kind `sklearn`: an estimator of scikit-learn, kept by skops, and fitted here where a factory makes it.

A classifier answers by `predict_proba`, with its columns put in the order of the data's class ids by `classes_`. A
regressor that was fitted here answers with the probabilities that it predicts, of which those below
`predictor.FLOOR` count as that much. A file of skops holds no pickle; types that it names beyond those that skops
trusts are refused, unless the user trusts them.
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
from workers.errors import RequestError
from workers.models.predictor import Fittable, Inputs, Lessons, Outputs, dense, log_probabilities, missing
from workers.models.sklearn_fits import fit
from workers.seeds import seeded
from workers.specs import Precision, SklearnFile, SklearnModel
from workers.user_code import beside, factories

NUMERIC = ("sklearn", "numpy", "scipy")
"""Packages that estimators are made of."""
CLASSES = "stillhouse_classes_"
"""The attribute of an estimator that was fitted here: how many classes the data has, which its own may not show."""
SCHEMA = "schema.json"
"""The file in an archive of skops that says how the others make an estimator."""


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
        """The estimator before it is fitted; of a file None."""
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
        """The file, made once: of many trees it takes seconds."""
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

    def _probabilities(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        if not hasattr(self.estimator, "predict_proba"):
            predicted: NDArray[np.float64] = np.array(self.estimator.predict(rows), np.float64)
            return predicted
        answered = np.asarray(self.estimator.predict_proba(rows))
        found = np.zeros((len(rows), self.classes))
        found[:, self.columns] = answered
        return found


def _columns(estimator: Any, source: str) -> tuple[NDArray[np.int64], int]:
    """Which class each column of `predict_proba` is, and how many classes there are. Raises: `RequestError`."""
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
    """The packages whose types a file that was fitted here may hold: those of what the user's own factory made."""
    get = getattr(estimator, "get_params", None)
    parts = [estimator, *(get(deep=True).values() if get else ())]
    return frozenset({*NUMERIC, *(type(part).__module__.partition(".")[0] for part in parts)} - {"builtins"})


def _loaded(content: bytes, trusted: Sequence[str], packages: Collection[str], source: str) -> Any:
    """The estimator in a file of skops. packages: those whose types it may hold, beside the types `trusted`.

    Raises: `RequestError` for other files, and for types that are not trusted.
    """
    skops = _skops()
    if content[:2] != b"PK":
        raise RequestError(
            f"{source} is no file of skops. Expected skops.io.dump(estimator, path); a pickle is not read."
        )
    try:
        asked = skops.get_untrusted_types(data=content)
        untrusted = [name for name in asked if name not in trusted and name.partition(".")[0] not in packages]
        if not untrusted:
            return skops.loads(content, trusted=asked)
    except Exception as error:  # of skops and of what it makes: several kinds
        raise RequestError(f"{source} cannot be read by skops ({type(error).__name__}: {error}).") from error
    raise RequestError(
        f"{source} holds types that skops does not trust: {', '.join(untrusted)}. Where you know them to be harmless, "
        f"list them: `trusted: [{', '.join(untrusted)}]`."
    )


def _canonical(content: bytes) -> bytes:
    """An archive of skops, the same for the same estimator: it names objects by where they lay in memory."""
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
            target.writestr(zipfile.ZipInfo(name), body)  # whose date is always the same
    return written.getvalue()


def _alone(estimator: Any) -> Any:
    """Let it answer with one thread: threads of a forest add probabilities in the order in which they end."""
    get = getattr(estimator, "get_params", None)
    jobs = [name for name, value in get(deep=True).items() if name.endswith("n_jobs") and value] if get else []
    if jobs:
        estimator.set_params(**dict.fromkeys(jobs, 1))
    _limit_threads()
    return estimator


def _limit_threads() -> None:
    """Let BLAS and OpenMP, whose threads count for the whole process, compute with as many as torch does."""
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
    """Numbers in the arrays that an estimator has learned, in whatever it is made of; a node of a tree counts each of
    its fields.

    seen: what was counted, by its id; held, so that no id comes twice.
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
