"""A coreset of features that come block by block, are seen once and fit no memory.

What is held is their random projection, in a bounded number of rows. When that is full, the rows held are
replaced by a greedy selection of half of them. Each replacement selects at least `size` rows, so by Gonzalez'
bound it leaves every row within 2 r of a row that stays, r being the smallest radius that any `size` centres
can have over all rows seen; after t replacements the result's radius is at most 2 (t + 1) r, measured in the
projection. With none, it is the selection of `greedy_coreset`, whose radius is at most 2 r.

Rows that can be read again need none of this: `greedy_coreset` takes a memory-mapped array and holds n x 128
float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.bank.coreset import first_row, select
from mvead_jax.bank.projection import Slabs, origin_of, project, random_matrix

log = logging.getLogger(__name__)

_READ_ELEMENTS = 2**22  # features projected at a time: 16 MB


def streaming_coreset(
    blocks: Iterable[Float[np.ndarray, "b D"]],
    size: int,
    *,
    seed: int,
    projection_dim: int = 128,
    most_rows: int = 2**23,
) -> Int[np.ndarray, " size"]:
    """Indices of a coreset of all rows of all blocks, counted through, in the order they were taken.

    Args:
      blocks: finite features, of any numbers of rows.
      size: how many rows to take; all, if there are no more.
      seed: as of `greedy_coreset`.
      projection_dim: d. Distances are those of the projection, wider than the features or not.
      most_rows: how many projected rows are held, 4 d bytes each (4.3 GB by default); at least twice `size`.

    Raises:
      ValueError: no rows, a size or most_rows out of range, or features that are not finite.
    """
    if size < 1 or projection_dim < 1 or most_rows < 2 * size:
        raise ValueError(
            f"size={size} and projection_dim={projection_dim} must be at least 1, "
            f"most_rows={most_rows} at least twice size"
        )
    held = _Held(most_rows, seed)
    for points in _projected(blocks, projection_dim, seed):
        held.add(points)
    if not held.seen:
        raise ValueError("there are no rows")
    if held.replaced:
        log.warning(
            "coreset: %d rows seen, %d held: the radius may be %d times that of one selection",
            *(held.seen, most_rows, held.replaced + 1),
        )
    return held.selection(size)


def _projected(blocks, dimension: int, seed: int) -> Iterator[Float[np.ndarray, "n d"]]:
    """The blocks in d dimensions, in pieces of one height but for the last, so that one is compiled."""
    origin = matrix = None
    for piece in _pieces(blocks):
        if origin is None:
            origin, matrix = origin_of(piece), random_matrix(piece.shape[1], dimension, seed)
        Slabs(piece, len(piece)).check()
        yield np.asarray(project(piece, origin, matrix))


def _pieces(blocks) -> Iterator[Float[np.ndarray, "n D"]]:
    parts, count = [], 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] == 0 or (parts and block.shape[1] != parts[0].shape[1]):
            raise ValueError(f"a block of {block.shape} must be [b,D] like the others")
        height = max(_READ_ELEMENTS // block.shape[1], 1024)
        parts.append(np.asarray(block, np.float32))
        count += len(block)
        if count >= height:
            joined = np.concatenate(parts)
            whole = count - count % height
            yield from (joined[start : start + height] for start in range(0, whole, height))
            parts, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(parts)


class _Held:
    """Projected rows and their indices, never more than `most`."""

    def __init__(self, most: int, seed: int):
        self._most, self._seed = most, seed
        self._points = np.empty((0, 0), np.float32)
        self._index = np.empty(0, np.int64)
        self._count = self.seen = self.replaced = 0

    def add(self, points: Float[np.ndarray, "n d"]) -> None:
        if not self.seen:
            self._points = np.empty((self._most, points.shape[1]), np.float32)  # memory comes as it is filled
            self._index = np.empty(self._most, np.int64)
        while len(points):
            if self._count == self._most:
                self._replace()
            part = points[: self._most - self._count]
            own = slice(self._count, self._count + len(part))
            self._points[own] = part
            self._index[own] = np.arange(self.seen, self.seen + len(part))
            self._count, self.seen = own.stop, self.seen + len(part)
            points = points[len(part) :]

    def selection(self, size: int) -> Int[np.ndarray, " size"]:
        """Indices of a greedy selection among the rows held."""
        return self._index[: self._count][self._select(size)]

    def _replace(self) -> None:
        kept = np.sort(self._select(self._most // 2))
        self._points[: len(kept)], self._index[: len(kept)] = self._points[kept], self._index[kept]
        self._count, self.replaced = len(kept), self.replaced + 1

    def _select(self, size: int) -> Int[np.ndarray, " n"]:
        if size >= self._count:
            return np.arange(self._count)
        points = self._points[: self._count]
        origin = np.zeros(points.shape[1], np.float32)
        return select(Slabs.of(points), self._count, size, origin, first_row(self._count, self._seed))
