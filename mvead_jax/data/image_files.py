"""Where the bytes of an image come from.

An image file is anything that opens for reading: a `pathlib.Path`, a record of prepared data
(tfds_realiad/reading.py), or what is made of a file (made_images.py). Its folder is what gives it for a path
below the data set's root by `root / path`, as `pathlib.Path` does. So nothing but this file asks which of them
it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import sha256


class ImageFile(Protocol):
    """An image or a mask; its text is its name in messages."""

    def open(self, mode: str = "rb") -> BinaryIO: ...


class StoredImageFile(ImageFile, Protocol):
    """An image that is no file of its own; it knows the SHA-256 of its bytes, and checks them by it."""

    sha256: str


class ImageFolder(Protocol):
    """The root of a data set; its text is its name in messages."""

    def __truediv__(self, path: str) -> ImageFile: ...


def folder_of(root: ImageFolder) -> Path | None:
    """Return the folder on the disk that holds a data set's files, None of prepared data, which has none."""
    return root if isinstance(root, Path) else getattr(root, "folder", None)


def source_of(root: ImageFolder, path: str) -> tuple[str, str]:
    """Return the file below the folder of a data set that an image is made of, and how; of an image that is a
    file its own path and the empty text."""
    return (path, "") if isinstance(root, Path) else root.source_of(path)


def size_of(file: ImageFile) -> int:
    """Return how many bytes an image takes; of one that is made about so many."""
    return file.stat().st_size if isinstance(file, Path) else file.size


def digest(file: ImageFile) -> str:
    """Return the hexadecimal SHA-256 of the bytes: read from a file, known of a stored image.

    Raises:
      UserError: no such file, or it can't be read.
    """
    if not isinstance(file, Path):
        return file.sha256
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
