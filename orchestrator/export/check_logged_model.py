"""A separate program that loads an exported student outside of its run, and writes the student's predictions.

`student_model` starts it as `python -I -S check_logged_model.py` in an empty folder. It reads two lines of JSON from
stdin: first the import paths, so that slow imports overlap with the run's own work; then the model, once it is written.
It must not import Stillhouse, since the model contains its own copy.
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
    import torch  # imported early, since the model needs it

    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    hide(place["hidden"], [*sys.path, sys.prefix, sys.base_prefix, asked["model"], os.getcwd()])
    model = mlflow.pyfunc.load_model(asked["model"])
    answers = model.predict(np.load(asked["example"], allow_pickle=False))
    np.save(asked["answers"], answers, allow_pickle=False)


def hide(paths: list[str], all_but: list[str]) -> None:
    """Make `open` fail for these files and for files in these folders, as on a machine without them.

    Folders inside them whose names start with a dot, such as caches and environments, and the paths `all_but` remain.
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
