"""Images in folders: one folder for each class, whose name is the class's name.

Pictures of any size are scaled to fill one size and cut at the edges, in grey or colour, with values from 0 to 1.
What is transparent becomes white.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from workers import storage
from workers.data import memory
from workers.errors import RequestError

Pixels = NDArray[np.float32]
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MODES, CHANNELS = {"rgb": "RGB", "grey": "L"}, {"rgb": 3, "grey": 1}
MOST_NAMED = 50
"""Most images that a message lists."""


class Damaged(RequestError):
    """An image that cannot be decoded."""


def files(folder: str) -> list[str]:
    """Paths of the images below a folder, relative to it, in the order of their names; hidden ones are left out."""
    seen = [each for each in storage.files_below(folder) if not storage.is_hidden(each)]
    return [each for each in seen if posixpath.splitext(each.lower())[1] in ENDINGS]


def read(uri: str, size: tuple[int, int], mode: str, labelled: bool) -> tuple[Pixels, list[str] | None]:
    """The images [N, C, height, width] float32 of a split, and the name of each one's class.

    Raises: `RequestError` for a folder without images, for images that cannot be read, or for one outside a class's
    folder.
    """
    if not storage.is_folder(uri):
        raise RequestError(f"'{uri}': no such folder. Expected a folder with a folder of images for each class.")
    found = files(uri)
    if not found:
        raise RequestError(f"'{uri}': no images in it. Expected {', '.join(ENDINGS)}, in a folder for each class.")
    classes = classes_of(uri, found) if labelled else None
    memory.require(4 * len(found) * CHANNELS[mode] * size[0] * size[1], f"'{uri}': {len(found):,} images")
    return _pixels_of_all(uri, found, size, mode), classes


def classes_of(folder: str, found: Sequence[str]) -> list[str]:
    """The class of each image: the name of the folder that it is in. found: paths of the images, as from `files`.

    Raises: `RequestError` where an image is in `folder` itself.
    """
    outside = [each for each in found if "/" not in each]
    if outside:
        raise RequestError(
            f"'{folder}': the image '{outside[0]}' is in no class's folder. Expected a folder for each class."
        )
    return [each.split("/")[0] for each in found]


def _pixels_of_all(folder: str, found: Sequence[str], size: tuple[int, int], mode: str) -> Pixels:
    """The images [N, C, height, width]. Raises: `RequestError` with all those that cannot be read."""

    def decoded(path: str) -> Pixels | Damaged:
        try:
            return pixels_of(storage.join(folder, path), size, mode)
        except Damaged as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter
        pixels = [*pool.map(decoded, found)]
    damaged = [(path, each) for path, each in zip(found, pixels, strict=True) if isinstance(each, Damaged)]
    if damaged:
        (_, first), *others = damaged
        shown = ", ".join(repr(path) for path, _ in others[:MOST_NAMED]) + (", ..." if others[MOST_NAMED:] else "")
        more = f" The same is true of {len(others):,} more of {len(found):,}: {shown}." if others else ""
        raise RequestError(f"{first}{more}")
    return np.stack([each for each in pixels if not isinstance(each, Damaged)])


@contextmanager
def opened(uri: str) -> Iterator[Image.Image]:
    """An image in any storage. Raises: `Damaged` where it is none, or the block cannot decode it."""
    try:
        with Image.open(io.BytesIO(storage.read_bytes(uri))) as image:
            yield image
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Damaged(f"'{uri}': no image that can be read ({error}). Remove it, or write it anew.") from error


def pixels_of(uri: str, size: tuple[int, int], mode: str) -> Pixels:
    """One image as [C, height, width], values from 0 to 1."""
    with opened(uri) as image:
        turned = _opaque(ImageOps.exif_transpose(image), mode)
        fitted = ImageOps.fit(turned, (size[1], size[0]), Image.Resampling.BILINEAR)
    values = np.asarray(fitted, np.float32) / np.float32(255)
    if values.ndim == 2:
        return np.repeat(values[None], CHANNELS[mode], axis=0)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """The picture with values from 0 to 255, of 16 bits as fractions, and white behind what is transparent.

    Raises: ValueError for numbers of no known range.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(257))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, whose range is not known; expected 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(MODES[mode])
