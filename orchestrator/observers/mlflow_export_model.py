"""The exported student as an MLflow model: MLflow stores this file, and executes it on loading ("models from code").

The export's own `load.py` computes the probabilities; MLflow's signature names the output alone.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

EXPORT = "export"
"""The artifact with the export's folder."""


class Student(PythonModel):
    """Maps the inputs of `load.py` to probabilities [N, K] float32; [N, L, K] where elements have their own."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = context.artifacts[EXPORT]
        spec = importlib.util.spec_from_file_location("stillhouse_export", f"{folder}/load.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.student = module.load(folder)

    # Any, since lists and data frames are valid. MLflow enforces other annotations as a schema, and warns without one.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.student(model_input)
        return found


mlflow.models.set_model(Student())
