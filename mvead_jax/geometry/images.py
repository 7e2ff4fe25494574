"""What resizing, cropping and mirroring an image do to its points, and so to fundamental matrices.

A map M [3,3] takes a homogeneous point of the old image to the new one. Images span [0, W] x [0, H], so that
a resize is a pure scaling and a flip is x -> W - x (decision D1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mvead_jax.geometry.cameras import AnyArray, of_both_orders, product, transposed


def resizing(old: tuple[float, float], new: tuple[float, float]) -> Float[np.ndarray, "3 3"]:
    """Map of a resize from old (W, H) to new (W, H) pixels."""
    return np.diag([new[0] / old[0], new[1] / old[1], 1.0])


def cropping(left: float, top: float) -> Float[np.ndarray, "3 3"]:
    """Map of a crop whose corner lies at (left, top)."""
    return np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])


def mirroring(width: float) -> Float[np.ndarray, "3 3"]:
    """Map of a left-right flip of an image `width` pixels wide; its own inverse."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def between_new_images(
    F: Float[AnyArray, "V V 3 3"], maps: Float[AnyArray, "V 3 3"]
) -> Float[AnyArray, "V V 3 3"]:
    """F between the new images: M_a⁻ᵀ F_ab M_b⁻¹, of unit norm, with F_ba = F_abᵀ exactly.

    Args:
      F: F between the old images, all ordered pairs.
      maps: from old to new points, for each view.
    """
    inverse = F.__array_namespace__().linalg.inv(maps)
    return of_both_orders(product(product(transposed(inverse)[:, None], F), inverse[None]))
