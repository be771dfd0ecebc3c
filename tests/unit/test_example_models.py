"""The nets of examples take data of other sizes than their own, and move images as they always did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from workers.user_code import factories

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = (3, 9, 14)
"""Of an image: channels, height, width."""

NETS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "mnist": ("net", {"hidden": 8, "jitter": 1, "shape": [*SHAPE]}, (378,)),
    "soft-tree": ("convolutional", {"channels": 4, "hidden": 8, "shape": [*SHAPE]}, (378,)),
    "features": ("net", {"width": 4, "channels": 3}, SHAPE),
    "specialists": ("net", {"hidden": 8, "inputs": 7}, (7,)),
    "tabular": ("net", {"hidden": 8, "layers": 2, "inputs": 7}, (7,)),
}


@pytest.mark.parametrize("example", NETS)
def test_a_net_of_other_sizes(example: str) -> None:
    name, kwargs, shape = NETS[example]
    found = factories.load(f"models:{name}", str(EXAMPLES / example))(**kwargs, classes=5)(torch.rand(2, *shape))
    logits = found["logits"] if isinstance(found, dict) else found
    assert logits.shape == (2, 5)


def test_feature_maps_of_grey_images() -> None:
    net = factories.load("models:net", str(EXAMPLES / "features"))(width=4)
    x = torch.rand(2, 28, 28)
    assert torch.equal(net(x)["logits"], net(x[:, None])["logits"])


@pytest.mark.parametrize("shape", [(1, 28, 28), SHAPE])
def test_jitter_moves_all_channels_of_an_image_together(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    jitter = factories.load("models:net", str(EXAMPLES / "mnist"))(hidden=8, jitter=2, shape=shape)[0].train()
    x = torch.rand(6, channels * height * width)
    torch.manual_seed(3)
    moved = jitter(x).view(-1, *shape)
    torch.manual_seed(3)
    padded = torch.nn.functional.pad(x.view(-1, *shape), (2,) * 4)
    shifts = torch.randint(0, 5, (2, 6, 1))[..., 0].T.tolist()
    for image, found, (down, right) in zip(padded, moved, shifts, strict=True):
        assert torch.equal(found, image[:, down : down + height, right : right + width])
