"""Where the bytes of a picture come from.

A picture is anything that opens for reading: a `pathlib.Path`, or a record of prepared data
(tfds_realiad/reading.py). Its folder is what gives it for a path below the data set's root by `root / path`,
as `pathlib.Path` does. So nothing but this file asks which of the two it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import sha256


class Picture(Protocol):
    """A picture or a mask; its text is its name in messages."""

    def open(self, mode: str = "rb") -> BinaryIO: ...


class StoredPicture(Picture, Protocol):
    """A picture that is no file of its own; it knows the SHA-256 of its bytes, and checks them by it."""

    sha256: str


class PictureFolder(Protocol):
    """The root of a data set; its text is its name in messages."""

    def __truediv__(self, path: str) -> Picture: ...


def digest(picture: Picture) -> str:
    """Hexadecimal SHA-256 of the bytes; reads a file, believes a stored picture.

    Raises:
      UserError: no such file, or it can't be read.
    """
    if not isinstance(picture, Path):
        return picture.sha256
    try:
        return sha256(picture)
    except OSError as error:
        raise UserError(f"{picture}: {error.strerror}") from None
