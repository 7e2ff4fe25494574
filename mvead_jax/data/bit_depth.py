"""How many bits the cameras of a data set have, where its files store 16 a channel (`data.bit_depth`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from mvead_jax.data.deep_images import bits_of
from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.images import bits_in_file, largest_value
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress

log = logging.getLogger(__name__)

_MAY_BE_DEEP = (".png", ".tif", ".tiff")  # a deep file of another name is refused where it is decoded
_THREADS = 8


def measured_bit_depth(index: DatasetIndex) -> int:
    """Return the bit depth that the training images need, and say it in the log where files store 16 bits.

    It is the fewest bits, of those that cameras have, that hold the largest value of all training images
    (of all images of an index without training samples), and 8 if no file stores more. Images that can't be
    read are left out: who needs them says so.
    """
    largest = largest_values(index)
    if not largest:
        return 8
    log.info("%s: %s", index.root, depth_words(largest))
    return bits_of(max(largest))


def own_bit_depth(file: ImageFile) -> int:
    """Return the bit depth that one image needs, which is of no data set. Raises UserError as `open_image`."""
    return bits_of(largest_value(file)) if bits_in_file(file) > 8 else 8


def depth_words(largest: Sequence[int]) -> str:
    """Return how images of 16 bits are read by `auto`. largest: of `largest_values`."""
    bits = bits_of(max(largest))
    return (
        f"{len(largest)} training images store 16 bits a channel, their largest value is {max(largest)}: "
        f"read as {bits} bits, 0 to {2**bits - 1} as 0 to 255 (data.bit_depth={bits} fixes it)"
    )


def largest_values(index: DatasetIndex) -> list[int]:
    """Return the largest value of each training image of 16 bits that can be read."""
    training = index.select(split="train")
    paths = [
        view.image
        for sample in (training if len(training) else index).samples
        for view in sample.views
        if PurePosixPath(view.image).suffix.lower() in _MAY_BE_DEEP
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        bits = pool.map(lambda path: _unless_unreadable(bits_in_file, index.root / path), paths)
        deep = [path for path, own in zip(paths, bits, strict=True) if own is not None and own > 8]
        if not deep:
            return []
        found = []
        with progress("measuring the bit depth", len(deep), "images") as bar:
            for value in pool.map(lambda path: _unless_unreadable(largest_value, index.root / path), deep):
                found += [] if value is None else [value]
                bar.advance()
    return found


def _unless_unreadable(read: Callable[[ImageFile], int], file: ImageFile) -> int | None:
    try:
        return read(file)
    except UserError:
        return None
