"""A program of its own: loads a student as a stranger to its run would, and writes down what it answers.

Started by `student_model` as `python -I -S loaded_alone.py` in an empty folder. Two lines of JSON on stdin: first what
may be imported, so that the slow imports overlap with the run's own work; then the model, once it is written. It must
not import anything of Stillhouse, which comes with the model.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    place = json.loads(sys.stdin.readline())
    sys.path += place["installed"]
    import mlflow.pyfunc
    import numpy as np
    import torch  # the model needs it

    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    hide(place["folder"], [*sys.path, sys.prefix, sys.base_prefix, asked["model"], os.getcwd()])
    model = mlflow.pyfunc.load_model(asked["model"])
    answers = model.predict(np.load(asked["example"], allow_pickle=False))
    np.save(asked["answers"], answers, allow_pickle=False)


def hide(folder: str, all_but: list[str]) -> None:
    """Make Python refuse to open files in `folder`, as it would on a machine that has none of them.

    Hidden folders inside it, such as caches and environments, and the paths `all_but` stay.
    """
    if not folder:
        return
    inside = os.path.realpath(folder) + os.sep
    kept = tuple(os.path.realpath(path) + os.sep for path in all_but)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith(inside) or path.startswith(kept):
            return
        if not any(part.startswith(".") for part in path.removeprefix(inside).split(os.sep)):
            raise FileNotFoundError(2, "it lies beside the configuration and not in the model", path)

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main()
