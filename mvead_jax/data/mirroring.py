"""Which cameras' images are mirrored before anything is learned of them: a table by category and view.

Some of Real-IAD's cameras store mirror images. The released code flips those files in place, which compresses
the JPEGs a second time; here the table is data (data.mirrored), and images and masks are flipped when they are
loaded. So features, maps, images of the report and places of defects are those of the flipped images.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mvead_jax.data.images import open_image
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

PUBLISHED_NAME = "real-iad"
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


def mirrored_table(named: str) -> Mirrored:
    """Return the table that data.mirrored names: none where it is empty, `PUBLISHED_NAME`, or that of a file.

    Raises:
      UserError: as `read_mirrored`.
    """
    if not named:
        return {}
    return read_mirrored(PUBLISHED if named == PUBLISHED_NAME else expanded(named))


def with_mirrored(index: DatasetIndex, table: Mirrored) -> DatasetIndex:
    """Return the index with the views marked whose images are flipped when they are loaded.

    A category or view that the table does not name stays as it is.
    """
    if not table:
        return index

    def marked(sample: Sample) -> Sample:
        own = table.get(sample.category, frozenset())
        views = tuple(replace(view, mirrored=view.name in own) for view in sample.views)
        return replace(sample, views=views)

    return replace(index, samples=tuple(map(marked, index.samples)))


def open_view(index: DatasetIndex, view: View) -> Image.Image:
    """Return the image of a view as 8-bit RGB, upright, and flipped if its camera's table says so.

    Raises:
      UserError: as `open_image`.
    """
    return flipped_image(open_image(index.root / view.image, index.bit_depth), view.mirrored)


def flipped_image(image: Image.Image, mirrored: bool) -> Image.Image:
    """Return an image or a mask, flipped left-right if `mirrored`."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
