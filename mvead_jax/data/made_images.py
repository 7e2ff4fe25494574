"""Images that are made of a file when they are opened, where a data set keeps them in another form.

folder = MadeFolder(root, {"good/1.V2.png": part_of("good/1.png", 2, 5), "masks/1.png": marked("masks/1.png")})
folder / "good/1.V2.png"     an image that opens as PNG; other paths are files

Its path has an ending that tells PNG. Prepared data and artefacts keep the bytes of what was made.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mvead_jax.data.images import decode, opened
from mvead_jax.runtime.errors import UserError

_KEPT = 16  # decoded files, for threads that read one view after the other


@dataclass(frozen=True)
class Recipe:
    """How an image is made.

    Attributes:
      source: the file below the data set's root. name: what is done with it, for the record of its state.
      make: makes the image of the decoded file.
      images: how many images are made of one file.
    """

    source: str
    name: str
    make: Callable[[Image.Image], Image.Image]
    images: int = 1


def part_of(source: str, number: int, count: int) -> Recipe:
    """Return the recipe of one of several images that stand side by side in a file, the first from the left.

    Args:
      number: of the part, from 1. count: of the parts.
    """

    def make(image: Image.Image) -> Image.Image:
        width = image.width // count
        return image.crop(((number - 1) * width, 0, number * width, image.height))

    return Recipe(source, f"part {number} of {count}", make, count)


def marked(source: str) -> Recipe:
    """Return the recipe of a mask whose every level or colour above 0 marks a defect, as numbers of kinds do."""

    def make(image: Image.Image) -> Image.Image:
        levels = np.asarray(image)
        above = levels > 0 if levels.ndim == 2 else (levels[..., :3] > 0).any(-1)
        return Image.fromarray(above.astype(np.uint8) * 255)

    return Recipe(source, "marked above 0", make)


class MadeImage:
    """An image that is made when it is opened, as image_files.StoredImageFile."""

    def __init__(self, folder: MadeFolder, path: str, recipe: Recipe):
        self._folder, self._path, self._recipe = folder, path, recipe

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the bytes of the image as PNG.

        Raises:
          UserError: the file can't be read as an image.
        """
        made = self._recipe.make(self._folder.decoded(self._recipe.source))
        content = io.BytesIO()
        made.save(content, "PNG", compress_level=1)  # 6, the default, takes many times as long for little
        content.seek(0)
        return content

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the bytes, which it makes."""
        return hashlib.sha256(self.open().read()).hexdigest()

    @property
    def size(self) -> int:
        """Return about how many bytes it takes: its share of the file."""
        return (self._folder.folder / self._recipe.source).stat().st_size // self._recipe.images

    def __str__(self) -> str:
        return f"{self._folder}/{self._path}"


class MadeFolder:
    """The root of a data set some of whose images are made, as image_files.ImageFolder.

    Attributes:
      folder: the root on the disk.
    """

    def __init__(self, folder: Path, made: Mapping[str, Recipe]):
        self.folder, self._made = folder, made
        self._decoded = lru_cache(_KEPT)(_decoded)

    def __truediv__(self, path: str) -> Path | MadeImage:
        recipe = self._made.get(path)
        return self.folder / path if recipe is None else MadeImage(self, path, recipe)

    def __str__(self) -> str:
        return str(self.folder)

    def decoded(self, source: str) -> Image.Image:
        """Return the decoded image of a file; the last ones are kept, for the other images that are made of it.

        Raises:
          UserError: the file can't be read as an image.
        """
        file = self.folder / source
        try:
            stat = file.stat()
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from None
        return self._decoded(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def source_of(self, path: str) -> tuple[str, str]:
        """Return the file that an image is made of, and how; of a file itself and the empty text."""
        recipe = self._made.get(path)
        return (path, "") if recipe is None else (recipe.source, recipe.name)


def _decoded(file: Path, *state: int) -> Image.Image:
    """Return the decoded image of a file. state: its size and times, by which the caller's cache tells a new one."""
    with opened(file) as image:
        return decode(image, str(file))
