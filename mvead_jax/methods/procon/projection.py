"""The soft projection of patches on the rows of a bank, and what is left of them (ProCon, arXiv 2607.04894).

Letters: N patches of an image, k rows near a patch, D width of a feature map, K of its random projection.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

_SMALL = 1e-12


def unit(x: Float[Array, "*cells D"]) -> Float[Array, "*cells D"]:
    """Return vectors of norm 1; one of zeros stays."""
    return x / jnp.maximum(jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)), _SMALL)


def random_projection(key: Array, inputs: int, outputs: int) -> Float32[Array, "D K"]:
    """Return independent normal numbers of variance 1 / K: lengths are kept on average."""
    scale = np.float32(1 / np.sqrt(outputs))
    return scale * jax.random.normal(key, (inputs, outputs), jnp.float32)


def prepared(x: Float[Array, "*cells D"], projection: Float[Array, "D K"] | None) -> Float[Array, "*cells K"]:
    """Return what banks hold and are asked for: unit vectors, projected where there is a projection."""
    x = unit(x)
    return x if projection is None else jnp.matmul(x, projection, precision="highest")


def residuals(
    patches: Float[Array, "N K"], rows: Float[Array, "N k K"], squared: Float[Array, "N k"]
) -> Float[Array, " N"]:
    """Return how far each patch of an image is from the mean of its rows, weighted by softmax(-d² / τ).

    τ is the median of all squared distances of the image.

    Args:
      rows: the nearest of each patch. squared: their squared distances d²; inf where a bank has fewer rows.
    """
    there = jnp.isfinite(squared)
    scale = jnp.maximum(jnp.nanmedian(jnp.where(there, squared, jnp.nan)), _SMALL)
    shares = jax.nn.softmax(jnp.where(there, -squared / scale, -jnp.inf), axis=-1)
    mean = (shares[..., None] * rows).sum(1)
    return jnp.sqrt(jnp.square(patches - mean).sum(-1))


def top_mean(values: Float[np.ndarray, "*images h w"], share: float) -> Float[np.ndarray, "*images"]:
    """Return the mean of the highest patch scores of each map, at least of one."""
    flat = np.sort(values.reshape(*values.shape[:-2], -1), -1)
    return flat[..., -max(1, int(share * flat.shape[-1])) :].mean(-1)
