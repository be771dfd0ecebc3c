"""A student as MLflow serves it: its weights, the code that builds it, and no pickle.

MLflow keeps this very file with the model and runs it where the model is loaded ("models from code"), with the package
`workers` and the files that the student's factory needs beside it.
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
from workers.specs import model_of

WEIGHTS, CODE, MODEL = "weights", "code", "model"
"""What the artifacts are called, and the key of its configuration under which the model's spec is."""
SHAPE, DTYPE, CLASSES = "shape", "dtype", "classes"
"""Further keys: of one example of the run's data, and how many probabilities an answer has."""


class Student(PythonModel):
    """Examples as `pyfunc_inputs.examples` takes them -> probabilities [N, K] float32 at T = 1."""

    def load_context(self, context: PythonModelContext) -> None:
        asked = {**context.model_config[MODEL], "folder": context.artifacts.get(CODE, "")}
        self.student = teacher.load(Member("student", model_of(asked), context.artifacts[WEIGHTS]))

    # Lists and data frames come here too. MLflow enforces other annotations as a schema, and warns where there is none.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        asked = context.model_config
        x = pyfunc_inputs.examples(model_input, asked[SHAPE], asked[DTYPE])
        if len(x) == 0:
            return np.empty((0, asked[CLASSES]), np.float32)
        return metrics.predict(self.student, x)


mlflow.models.set_model(Student())
