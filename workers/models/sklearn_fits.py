"""How an estimator of scikit-learn learns from soft targets: `FITS`, by the name that `training.fit` gives.

The targets are distributions at T = 1. `workers.training.lessons` makes them from soft targets and labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workers.errors import RequestError
from workers.models.predictor import Lessons, missing
from workers.specs.models import SklearnModel
from workers.user_code import factories

SMALLEST = 2.0**-13
"""Copies below this weight (about 10^-4) are left out, since they add rows and hardly any information."""


def copies(estimator: Any, lessons: Lessons) -> None:
    """Fit a classifier to each example once for each class, weighted by the class's probability.

    The weighted log loss of the copies is the cross entropy with the targets. So a classifier that minimises it has the
    same objective as a network. The impurity of weighted copies is that of the mean target.
    """
    x = lessons.x.reshape(len(lessons.x), -1)
    if lessons.labels is not None:
        estimator.fit(x, lessons.labels)  # works without sample weights
        return
    if getattr(estimator, "early_stopping", None) == "auto":  # its held-out rows would be copies of training rows
        estimator.set_params(early_stopping=False)
    rows, classes = np.nonzero(lessons.targets >= SMALLEST)
    estimator.fit(x[rows], classes, sample_weight=lessons.targets[rows, classes] * lessons.weights[rows])


def probabilities(estimator: Any, lessons: Lessons) -> None:
    """Fit a regressor to the targets, a number for each class.

    Its squared error is the Brier score (Brier 1950), a proper score whose minimum is at the targets. Unlike
    log-probabilities, one-hot labels are finite, so a regressor can fit them.
    """
    several = {} if np.ptp(lessons.weights) == 0 else {"sample_weight": lessons.weights}
    estimator.fit(lessons.x.reshape(len(lessons.x), -1), lessons.targets, **several)


FITS: dict[str, Callable[[Any, Lessons], None]] = {"copies": copies, "probabilities": probabilities}


def fit(estimator: Any, lessons: Lessons, how: str, model: SklearnModel) -> None:
    """Fit `estimator`. how: `FitSpec.fit`.

    Raises: `RequestError` where `how` is unknown, or the estimator does not support it.
    """
    try:
        from sklearn.base import is_classifier
    except ImportError as error:
        raise missing("scikit-learn", "sklearn", "sklearn") from error
    if not hasattr(estimator, "fit"):
        raise RequestError(
            f"factory '{model.factory}' returned {type(estimator).__name__}; expected an estimator of scikit-learn."
        )
    name = ("copies" if is_classifier(estimator) else "probabilities") if how == "auto" else how
    if name not in FITS and ":" not in name:
        raise RequestError(f"training.fit: found '{how}'; expected auto, {', '.join(FITS)}, or `module:Class`.")
    teach = FITS[name] if name in FITS else _own(name, model.folder)
    try:
        teach(estimator, lessons)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # the estimator may be the user's own code
        advice = {
            "copies": "Expected a classifier whose fit takes sample_weight (a Pipeline and KNeighborsClassifier do "
            "not); or a regressor.",
            "probabilities": "Expected a regressor of several outputs; sklearn.multioutput.MultiOutputRegressor makes "
            "one of any.",
        }.get(name, "")
        raise RequestError(
            f"factory '{model.factory}': {type(estimator).__name__} cannot be fitted to {len(lessons.x)} examples of "
            f"{lessons.classes} classes ({type(error).__name__}: {error}). {advice}".rstrip()
        ) from error


def _own(name: str, folder: str) -> Callable[[Any, Lessons], None]:
    """A fitter of the user's own: a function, or an instance of a class. Raises: `RequestError` where it is neither."""
    found = factories.load(name, folder)
    made: Any = factories.call(name, {}, folder) if isinstance(found, type) else found
    if not callable(made):
        raise RequestError(
            f"training.fit: '{name}' made {type(made).__name__}, which is not callable; expected what is called with "
            "the estimator and `workers.models.predictor.Lessons`."
        )
    fitter: Callable[[Any, Lessons], None] = made
    return fitter
