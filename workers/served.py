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

from workers import evaluate, teacher
from workers.specs import ModelSpec
from workers.teacher import Member

WEIGHTS, CODE, MODEL = "weights", "code", "model"
"""What the artifacts are called, and the key of its configuration under which the model's spec is."""


class Student(PythonModel):
    """x [N, ...] as the run's data has it -> probabilities [N, K] float32 at T = 1."""

    def load_context(self, context: PythonModelContext) -> None:
        spec = ModelSpec(**context.model_config[MODEL], folder=context.artifacts.get(CODE, ""))
        self.module = teacher.load(Member("student", spec, context.artifacts[WEIGHTS]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        return evaluate.predict(self.module, model_input)


mlflow.models.set_model(Student())
