"""Fundamental matrices of known cameras.

Convention of the project: x_aᵀ F_ab x_b = 0 for homogeneous image points, x_cam = R X + t, an image spans
[0, W] x [0, H] and pixel centres lie at +0.5. Every matrix has unit Frobenius norm.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray


def fundamental_from_cameras(
    K: Float[AnyArray, "V 3 3"], R: Float[AnyArray, "V 3 3"], t: Float[AnyArray, "V 3"]
) -> Float[AnyArray, "V V 3 3"]:
    """F of every ordered pair of views from their cameras; F_ba = F_abᵀ exactly, the diagonal is zero.

    With R_ab = R_a R_bᵀ and t_ab = t_a - R_ab t_b (Hartley and Zisserman, sec. 9.6):
    F_ab = K_a⁻ᵀ [t_ab]ₓ R_ab K_b⁻¹, divided by its Frobenius norm. Two views from one point have no epipolar
    geometry: where t_ab is no longer than the rounding of t_a and t_b, F is zero.

    Args:
      K: intrinsics. R, t: x_cam = R X + t. NumPy arrays are computed in NumPy at their own precision, JAX
        arrays (traced ones too) in JAX.
    """
    xp = K.__array_namespace__()
    relative = product(R[:, None], transposed(R)[None])
    offset = t[:, None] - product(relative, t[None, :, :, None])[..., 0]
    length = xp.sqrt(xp.sum(t * t, axis=-1))
    rounding = 16 * xp.finfo(t.dtype).eps * (length[:, None] + length[None])
    apart = xp.sqrt(xp.sum(offset * offset, axis=-1)) > rounding
    offset = xp.where(apart[..., None], offset, xp.zeros_like(offset))
    x, y, z = offset[..., 0], offset[..., 1], offset[..., 2]
    zero = xp.zeros_like(x)
    cross = xp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    inverse = xp.linalg.inv(K)
    F = product(product(transposed(inverse)[:, None], product(cross, relative)), inverse[None])
    return of_both_orders(F)


def from_opencv(F: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """OpenCV's F (x_bᵀ F x_a = 0, pixel centres at integers) in our convention, unit norm (decision D1)."""
    half = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    ours = half.T @ F.T @ half
    return ours / max(np.linalg.norm(ours), 1e-300)


def product(a: Float[AnyArray, "... n k"], b: Float[AnyArray, "... k m"]) -> Float[AnyArray, "... n m"]:
    """Matrix product written out: a backend's fast matmul would round a 3 x 3 matrix to bfloat16."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def transposed(a: Float[AnyArray, "V n m"]) -> Float[AnyArray, "V m n"]:
    return a.__array_namespace__().transpose(a, (0, 2, 1))


def of_both_orders(F: Float[AnyArray, "V V 3 3"]) -> Float[AnyArray, "V V 3 3"]:
    """Unit Frobenius norm (zero stays zero), and F_ba = F_abᵀ to the last bit: a < b decides both orders."""
    xp = F.__array_namespace__()
    views = xp.arange(F.shape[0])
    F = xp.where((views[:, None] < views[None, :])[..., None, None], F, xp.zeros_like(F))
    norm = xp.sqrt(xp.sum(F * F, axis=(-2, -1), keepdims=True))
    F = F / xp.where(norm > 0, norm, xp.ones_like(norm))
    return F + xp.transpose(F, (1, 0, 3, 2))
