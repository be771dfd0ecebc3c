"""A separate program that loads an export by its `load.py`, and writes the student's probabilities.

`files` starts it as `python -I check_export.py FOLDER INPUTS OUTPUTS`. It must not import Stillhouse, which a user of
the export does not have.
"""

from __future__ import annotations

import json
import sys


def main(folder: str, inputs: str, outputs: str) -> None:
    sys.path.insert(0, folder)
    import numpy as np
    from load import load  # type: ignore[import-not-found]

    if inputs.endswith(".json"):
        with open(inputs, encoding="utf-8") as file:
            examples = json.load(file)
    else:
        examples = np.load(inputs, allow_pickle=False)  # of several columns a mapping
    np.save(outputs, load(folder)(examples), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
