"""Where the bytes of an image come from.

An image file is anything that opens for reading: a `pathlib.Path`, or a record of prepared data
(tfds_realiad/reading.py). Its folder is what gives it for a path below the data set's root by `root / path`,
as `pathlib.Path` does. So nothing but this file asks which of the two it has.
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
