"""The maps and masks of a category, read batch by batch and as often as asked: never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# A call starts at the first image and yields (maps [b,H,W], masks [b,H,W]); H and W may change between
# batches.
Batches = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class Batch(NamedTuple):
    """Maps and masks that passed the checks. first: the place of the first image in the category."""

    first: int
    maps: Float[np.ndarray, "b H W"]
    masks: Bool[np.ndarray, "b H W"]


def read(batches: Batches) -> Iterator[Batch]:
    """Maps as float32 (float64 and large integers as float64), masks as booleans.

    Raises:
      ValueError: shapes that differ, a map that is not finite, a mask of other values than 0 and 1 (a mask of
        0 and 255 needs the threshold of a protocol first), or a batch of another precision than the first.
    """
    first, kind = 0, None
    for maps, masks in batches():
        maps, masks = np.asarray(maps), np.asarray(masks)
        if maps.ndim != 3 or maps.shape != masks.shape:
            raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be [n,H,W]")
        maps = maps.astype(np.promote_types(maps.dtype, np.float32), copy=False)
        if (kind := kind or maps.dtype) != maps.dtype:
            raise ValueError(f"image {first}: maps change from {kind} to {maps.dtype}")
        if not np.isfinite(maps).all():
            image = first + int(np.flatnonzero(~np.isfinite(maps).all((1, 2)))[0])
            raise ValueError(
                f"image {image}: its map holds NaN or infinity, which have no place in a ranking"
            )
        yield Batch(first, maps, _boolean(masks, first))
        first += len(maps)


def _boolean(masks: np.ndarray, first: int) -> np.ndarray:
    if masks.dtype == bool:
        return masks
    if (strange := (masks != 0) & (masks != 1)).any():
        image, value = first + int(np.nonzero(strange)[0][0]), masks[strange][0]
        raise ValueError(f"image {image}: its mask holds {value}; masks are boolean, or 0 and 1")
    return masks.astype(bool)
