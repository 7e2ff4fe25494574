"""Rows of features as the points that a coreset is chosen among: in slabs on the device, projected or not.

A random projection to d dimensions changes a distance by about sqrt((1 - d/D) / 2d) of itself (6 % for 768 to
128). What it saves is the reading: the points of n rows are n d float32, however wide the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from mvead_jax.bank.search.rows import Rows, check_rows

_SLAB_ELEMENTS = 2**25  # features in a slab: 134 MB, and what an interrupt waits for
_ORIGIN_ROWS = 1024
_LARGEST = 1e15  # feature: its square, summed over any width, is a float32


@dataclass(frozen=True)
class Slabs(Sequence):
    """float32 [height,D] pieces of rows on the device, read when asked for; the last is filled with zeros.

    Attributes:
      rows: features [n,D]; at most one slab of them is ever copied.
      height: rows in a slab.
    """

    rows: Rows
    height: int

    @classmethod
    def of(cls, rows: Rows) -> Slabs:
        """Return slabs of about equal height, rounded up by at most an eighth so that few are compiled."""
        count = -(-rows.shape[0] * rows.shape[1] // _SLAB_ELEMENTS)
        height = -(-rows.shape[0] // max(count, 1))
        grain = 2 ** max(height.bit_length() - 4, 0)
        return cls(rows, -(-height // grain) * grain)

    def __len__(self) -> int:
        return -(-self.rows.shape[0] // self.height)

    def __getitem__(self, number: int) -> Float32[Array, "height D"]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        block = np.asarray(self.rows[number * self.height : (number + 1) * self.height], np.float32)
        if lacking := self.height - len(block):
            block = np.concatenate([block, np.zeros((lacking, block.shape[1]), np.float32)])
        return jax.device_put(block)

    def checked(self) -> Iterator[Float32[Array, "height D"]]:
        """Yield the slabs in turn. Raises NotFinite at a row that float32 can't take squares of."""
        for number, slab in enumerate(self):
            check_rows(slab, number * self.height, _LARGEST)
            yield slab

    def check(self) -> None:
        """Read all rows. Raises as `checked`."""
        for _ in self.checked():
            pass


def origin_of(rows: Rows) -> Float32[np.ndarray, " D"]:
    """Return the mean of the first rows: near enough to all that no digits are lost to a common offset."""
    return np.asarray(rows[0:_ORIGIN_ROWS], np.float32).mean(0, dtype=np.float64).astype(np.float32)


def random_matrix(width: int, dimension: int, seed: int) -> Float32[np.ndarray, "D d"]:
    """Return orthogonal directions drawn evenly, as long as keeps the expectation of squared distances.

    Independent gaussians where d is not below D. Orthogonal ones change distances less, most of all
    where d is near D.
    """
    gaussian = np.random.default_rng([seed, 1]).standard_normal((width, dimension))
    if dimension < width:
        gaussian = np.linalg.qr(gaussian)[0] * np.sqrt(width)
    return (gaussian / np.sqrt(dimension)).astype(np.float32)


@jax.jit
def project(
    block: Float[Array, "n D"], origin: Float[Array, " D"], matrix: Float[Array, "D d"]
) -> Float[Array, "n d"]:
    """Return (block - origin) matrix, in full float32."""
    return jnp.dot(block - origin[None], matrix, precision="highest")


def projected(slabs: Slabs, dimension: int, seed: int) -> Iterator[Float32[Array, "height d"]]:
    """Yield the slabs in d dimensions, each read once. Raises as `Slabs.checked`."""
    width = slabs.rows.shape[1]
    origin, matrix = origin_of(slabs.rows), jax.device_put(random_matrix(width, dimension, seed))
    for slab in slabs.checked():
        yield project(slab, origin, matrix)
