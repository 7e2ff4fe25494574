"""Which cameras' images are mirrored before anything is learned of them: a table by category and view.

Some of Real-IAD's cameras store mirror images. The released code flips those files in place, which compresses
the JPEGs a second time; here the table is data, and images and masks are flipped when they are loaded.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from mvead_jax.runtime.errors import UserError

PUBLISHED = Path(__file__).with_name("mirrored.csv")  # of the 30 categories of Real-IAD, made by hand
_MOST_BYTES = 1_000_000

Mirrored = Mapping[str, frozenset[str]]  # category -> the views whose images are flipped


def read_mirrored(path: Path = PUBLISHED) -> Mirrored:
    """Return the table of a CSV file: a column `category` and one of 0 and 1 for each view (1 = flip).

    Raises:
      UserError: no such file, or not such a table; it names the line.
    """
    try:
        text = path.read_bytes()[: _MOST_BYTES + 1].decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8; save the table as CSV in UTF-8") from None
    if len(text) > _MOST_BYTES:
        raise UserError(f"{path}: is larger than {_MOST_BYTES} bytes; a line for each category is enough")
    header, *lines = [row for row in csv.reader(text.splitlines()) if row] or [[]]
    if header[:1] != ["category"] or len(header) < 2 or len(set(header)) != len(header):
        raise UserError(f"{path}: line 1 is {','.join(header)!r}; expected a header such as category,C1,C2")
    found: dict[str, frozenset[str]] = {}
    for number, row in enumerate(lines, start=2):
        category, flags = row[0], row[1:]
        if len(row) != len(header) or not set(flags) <= {"0", "1"}:
            raise UserError(
                f"{path}: line {number} is {','.join(row)!r}; expected a category and {len(header) - 1} "
                "flags of 0 or 1"
            )
        if category in found:
            raise UserError(f"{path}: line {number}: category {category!r} stands there twice; keep one line")
        found[category] = frozenset(view for view, flag in zip(header[1:], flags, strict=True) if flag == "1")
    return found


def flipped(
    array: Shaped[np.ndarray, "h w *channels"], category: str, view: str, table: Mirrored
) -> Shaped[np.ndarray, "h w *channels"]:
    """Return an image or a mask, flipped left-right if the table says so for its category and view.

    A category or view that the table does not name stays as it is.
    """
    if view not in table.get(category, frozenset()):
        return array
    return np.ascontiguousarray(array[:, ::-1])
