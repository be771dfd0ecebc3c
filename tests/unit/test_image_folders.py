"""Images in a folder for each class, of odd sizes and modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workers.data import image_folders, loading
from workers.errors import RequestError
from workers.specs.data import DataSpec


def painted(folder: Path, colours: dict[str, tuple[int, int, int]], each: int = 8) -> None:
    """Images of one colour for each class, of different sizes."""
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (10 + number, 7), colour).save(folder / name / f"{number}.png")


def test_images_in_folders_have_their_colours_and_class_names(tmp_path: Path) -> None:
    painted(tmp_path, {"red": (255, 0, 0), "blue": (0, 0, 255)})
    (tmp_path / "red" / "notes.txt").write_text("no image")
    found = loading.load(DataSpec(kind="images", train=str(tmp_path), test_share=0.25, image_size=(4, 6)), 0)
    assert found.label_names == ("blue", "red") and len(found.test) == 4
    assert found.train.x[0:1].shape == (1, 3, 4, 6) and found.train.x[0:1].dtype == np.float32
    for image, label in zip(found.train.x[:], found.train.y, strict=True):
        np.testing.assert_array_equal(image, np.array([[0, 0, 1], [1, 0, 0]])[label][:, None, None] * np.ones((4, 6)))


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    folder = tmp_path / ".data"
    hidden = (".ipynb_checkpoints", "__MACOSX/red", "red/.ipynb_checkpoints")
    painted(folder, {name: (255, 0, 0) for name in ("red", *hidden)}, each=1)
    (folder / "red" / "._0.png").write_bytes(b"no image")
    assert image_folders.files(str(folder)) == ["red/0.png"]


def test_grey_images_have_one_channel_between_0_and_1(tmp_path: Path) -> None:
    Image.new("L", (5, 5), 51).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        image_folders.pixels_of(str(tmp_path / "a.png"), (2, 3), "grey"), np.full((1, 2, 3), 0.2)
    )


@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_sixteen_bits_and_transparency(tmp_path: Path, mode: str) -> None:
    def read(image: Image.Image, name: str = "a.png") -> np.ndarray:
        image.save(tmp_path / name)
        return image_folders.pixels_of(str(tmp_path / name), image.size[::-1], mode)

    channels = {"grey": 1, "rgb": 3}[mode]
    ramp = np.linspace(0, 65535, 24).round().astype(np.uint16).reshape(4, 6)
    for name in ("a.png", "a.tif"):
        np.testing.assert_allclose(read(Image.fromarray(ramp), name), np.stack([ramp / 65535] * channels), atol=1e-6)
    drawn = np.zeros((4, 6, 4), np.uint8)
    drawn[1, 2, 3] = 255  # one opaque black pixel, on nothing
    white = np.ones((channels, 4, 6))
    white[:, 1, 2] = 0
    for kind in ("RGBA", "LA"):
        np.testing.assert_array_equal(read(Image.fromarray(drawn).convert(kind)), white)
    palette = Image.fromarray((1 - white[0]).astype(np.uint8)).convert("P")
    palette.info["transparency"] = 0
    np.testing.assert_array_equal(read(palette)[:, 0, 0], 1)
    with pytest.raises(RequestError, match="mode F, whose range is not known; expected 8 or 16 bits"):
        read(Image.fromarray(ramp.astype(np.float32)), "b.tif")


def test_wrong_folders_of_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no images in it"):
        image_folders.read(str(tmp_path), (4, 4), "rgb", labelled=True)
    with pytest.raises(RequestError, match="no such folder"):
        image_folders.read(str(tmp_path / "gone"), (4, 4), "rgb", labelled=True)
    painted(tmp_path, {"a": (1, 2, 3)}, each=1)
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(RequestError, match=r"broken\.png': no image that can be read"):
        image_folders.read(str(tmp_path), (4, 4), "rgb", labelled=True)
    (tmp_path / "a" / "broken.png").rename(tmp_path / "loose.png")
    with pytest.raises(RequestError, match="in no class's folder"):
        image_folders.read(str(tmp_path), (4, 4), "rgb", labelled=True)
    with pytest.raises(ValueError, match="image_size"):
        DataSpec(kind="images", train="a", test="b")


def test_all_damaged_images_are_named(tmp_path: Path) -> None:
    painted(tmp_path, {"a": (1, 2, 3)})
    for name in ("0", "5", "6"):
        (tmp_path / "a" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(RequestError, match=r"a/0\.png': no image .* of 2 more of 8: 'a/5\.png', 'a/6\.png'\."):
        image_folders.read(str(tmp_path), (4, 4), "rgb", labelled=True)
