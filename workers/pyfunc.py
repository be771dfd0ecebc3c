"""A student as an MLflow model: its weights and the code that builds it, without a pickle.

MLflow stores this file with the model and executes it on loading ("models from code"). The model also contains the
package `workers` and the files that the student's factory needs.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from workers import pyfunc_inputs
from workers.evaluation import metrics
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.specs.models import model_of

WEIGHTS, CODE, MODEL = "weights", "code", "model"
"""Names of the MLflow artifacts, and the key of the model's spec in its configuration."""
SHAPE, DTYPE, CLASSES = "shape", "dtype", "classes"
"""Further keys: shape and dtype of one example in the run's data, and the number of classes."""
NAMES, BYTE_SCALE = "names", "byte_scale"
"""Optional keys: arguments of `pyfunc_inputs.examples`."""


class Student(PythonModel):
    """Maps inputs of `pyfunc_inputs.examples` to probabilities [N, K] float32 at T = 1."""

    def load_context(self, context: PythonModelContext) -> None:
        asked = {**context.model_config[MODEL], "folder": context.artifacts.get(CODE, "")}
        self.student = teacher.load(Member("student", model_of(asked), context.artifacts[WEIGHTS]))

    # Any, since lists and data frames are valid. MLflow enforces other annotations as a schema, and warns without one.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        asked = context.model_config
        how = {key: asked[key] for key in (NAMES, BYTE_SCALE) if key in asked}
        x = pyfunc_inputs.examples(model_input, asked[SHAPE], asked[DTYPE], **how)
        if len(x) == 0:
            return np.empty((0, asked[CLASSES]), np.float32)
        return metrics.predict(self.student, x)


mlflow.models.set_model(Student())
