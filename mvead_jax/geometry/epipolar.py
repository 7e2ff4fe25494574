"""Epipolar lines, and which patches of other views they allow a patch to see (MVEAD eq. 3-4).

Convention: x_aᵀ F_ab x_b = 0, an image spans [0, W] x [0, H], the centre of patch (row r, column c) is
((c + 0.5) P, (r + 0.5) P) (decision D1). Pure functions of JAX arrays, all jit-able.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def epipolar_lines(points_a: Float[Array, "n 2"], F_ab: Float[Array, "3 3"]) -> Float[Array, "n 3"]:
    """Lines F_abᵀ (x, y, 1) of view b that show points of view a: (l1, l2, l3) with l1 x + l2 y + l3 = 0.

    Args:
      points_a: (x, y) in view a. F_ab: x_aᵀ F_ab x_b = 0.
    """
    points_a, F_ab = jnp.asarray(points_a), jnp.asarray(F_ab)
    # Written out: a backend's fast matmul would round to bfloat16.
    return points_a[:, :1] * F_ab[:1] + points_a[:, 1:] * F_ab[1:2] + F_ab[2:]


def line_distances(points_b: Float[Array, "n 2"], lines: Float[Array, "n 3"]) -> Float[Array, " n"]:
    """Distance of each point from its line, in pixels; infinite for the line (0, 0, c), which is none."""
    points_b, lines = jnp.asarray(points_b), jnp.asarray(lines)
    value = points_b[:, 0] * lines[:, 0] + points_b[:, 1] * lines[:, 1] + lines[:, 2]
    norm = jnp.hypot(lines[:, 0], lines[:, 1])
    return jnp.where(norm > 0, jnp.abs(value) / jnp.where(norm > 0, norm, 1), jnp.inf)


def patch_centers(grid: tuple[int, int], patch_size: float) -> Float[np.ndarray, "N 2"]:
    """Centres (x, y) in pixels of the patches of an (h, w) grid, row by row."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return (np.stack([columns, rows], axis=1) + 0.5) * patch_size


def epipolar_mask(
    F: Float[Array, "V V 3 3"],
    grid: tuple[int, int],
    patch_size: float,
    threshold: float = 1.0,
    valid: Bool[Array, "V V"] | None = None,
) -> Bool[Array, "V V N N"]:
    """mask[a, b, j, k]: may patch j of view a attend to patch k of view b?

    Yes if the centre of k lies at most `threshold` patches from the epipolar line of the centre of j (eq. 4).
    A view never attends to itself; a pair without epipolar geometry (F zero or not finite) has no keys.

    Args:
      F: between the images as the backbone sees them, in their pixels.
      grid: patches (h, w); N = h w.
      patch_size: in the same pixels.
      threshold: δ, in patches.
      valid: pairs to use; None: all.
    """
    F = jnp.asarray(F)
    centers = jnp.asarray(patch_centers(grid, patch_size), F.dtype)
    xj, yj = (centers[None, None, :, None, i] for i in range(2))
    xk, yk = (centers[None, None, None, :, i] for i in range(2))
    f = F[..., None, None]
    # Lines of patch j of a in b, coefficient by coefficient [V,V,N,1]: XLA fuses all of it into one loop.
    l1, l2, l3 = (f[:, :, 0, i] * xj + f[:, :, 1, i] * yj + f[:, :, 2, i] for i in range(3))
    norm = jnp.hypot(l1, l2)
    near = jnp.abs(l1 * xk + l2 * yk + l3) <= threshold * patch_size * norm
    views = jnp.arange(F.shape[0])
    use = views[:, None] != views[None, :]
    if valid is not None:
        use = use & jnp.asarray(valid)
    return near & (norm > 0) & jnp.isfinite(norm) & use[..., None, None]
