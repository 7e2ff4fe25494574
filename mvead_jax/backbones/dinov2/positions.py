"""DINOv2's position embeddings on another grid of patches than the one they were trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mvead_jax.runtime.plain import is_plain


def resize_positions(
    positions: Float[Array, "1 cells+1 D"], grid: tuple[int, int], antialias: bool
) -> Float[Array, "1 N+1 D"]:
    """Position embeddings for another patch grid: the CLS one is kept, the square of patch ones is resized.

    Args:
      positions: CLS first, then the trained square grid row by row.
      grid: patch rows and columns wanted.
      antialias: False follows `Dinov2Model` (PyTorch's bicubic, a = -0.75, border cells repeated), True
        `Dinov2WithRegistersModel` (Keys' a = -0.5, support widened when the grid shrinks, no border cells).
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    width = positions.shape[2]
    cells = positions[0, 1:].reshape(side, side, width)
    if is_plain():
        rows, columns = (_resizing(side, size, antialias) for size in grid)
        cells = jnp.einsum("rs,stw,ct->rcw", rows, cells, columns, precision="highest")
    else:
        cells = jax.image.resize(cells, (*grid, width), "cubic-pytorch", antialias=antialias)
    return jnp.concatenate([positions[:, :1], cells.reshape(1, grid[0] * grid[1], width)], axis=1)


def _resizing(side: int, size: int, antialias: bool) -> Float[np.ndarray, "size side"]:
    """Return the matrix that resizes one axis of the square as `resize_positions` does.

    In NumPy, not as a resized identity: while jax2onnx traces, `jax.image.resize` cannot be called.
    """
    centre = (np.arange(size)[:, None] + 0.5) * side / size - 0.5  # in cells of the square
    if antialias:
        weight = _cubic(np.abs(centre - np.arange(side)) / max(side / size, 1), -0.5)
        return (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    found = np.zeros((size, side))
    cells = np.floor(centre).astype(int) + np.arange(-1, 3)  # the four around each place; border cells repeat
    np.add.at(
        found, (np.arange(size)[:, None], np.clip(cells, 0, side - 1)), _cubic(np.abs(centre - cells), -0.75)
    )
    return found.astype(np.float32)


def _cubic(x: Float[np.ndarray, ...], a: float) -> Float[np.ndarray, ...]:
    """Return the cubic kernel at distances from its middle."""
    inner, outer = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))
