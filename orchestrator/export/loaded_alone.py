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
    hide(place["hidden"], [*sys.path, sys.prefix, sys.base_prefix, asked["model"], os.getcwd()])
    model = mlflow.pyfunc.load_model(asked["model"])
    answers = model.predict(np.load(asked["example"], allow_pickle=False))
    np.save(asked["answers"], answers, allow_pickle=False)


def hide(paths: list[str], all_but: list[str]) -> None:
    """Make Python refuse to open these files, and files in these folders, as on a machine that has none of them.

    Hidden folders inside them, such as caches and environments, and the paths `all_but` stay.
    """
    hidden = [os.path.realpath(path) for path in paths if path]
    kept = tuple(os.path.realpath(path) + os.sep for path in all_but)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        inside = next((each for each in hidden if path == each or path.startswith(each + os.sep)), None)
        if inside is None or path.startswith(kept):
            return
        if not any(part.startswith(".") for part in path.removeprefix(inside).split(os.sep)):
            raise FileNotFoundError(2, "it is on this machine and not in the model", path)

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main()
