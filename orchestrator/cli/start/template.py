"""What `stillhouse init` takes for data that do not exist yet, and what the user then has to fill in."""

from __future__ import annotations

from orchestrator.cli.start.look import Seen
from orchestrator.cli.start.splits import Given

FOUND = Given("npz", {"train": "train.npz", "test": "test.npz"})
SEEN = Seen(
    data={"kind": FOUND.kind, **FOUND.splits},
    shape=(20,),
    scale=1.0,
    classes=3,
    label_names=(),
    examples={"train": 10_000},
    reasons=(),
    warnings=(),
    to_do=(
        "data: name your files in place of train.npz and test.npz (`x` [N, ...], and `y` [N], class ids); tables, "
        "texts and images have another `kind`",
        "kwargs of ensemble and student: `inputs`, the numbers of an example, and `classes`; the networks are in "
        "models.py",
    ),
)
