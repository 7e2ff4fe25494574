"""The Gaussian of each place of normal images, and the Mahalanobis distance to it.

A covariance is kept as the inverse W of its lower Cholesky factor: Σ^-1 = W' W, so that a distance is the length of
W (x - µ). It cannot turn negative, and costs one product where a solve would have d dependent steps.

Letters: N images, P places of a map, d channels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64
from scipy.linalg.lapack import dtrtri
from threadpoolctl import threadpool_limits

_PLACES = 32  # that a thread computes at a time


class Gaussians(NamedTuple):
    """One Gaussian for each place. Attributes: whitening: lower triangular W, of which W Σ W' is the identity."""

    mean: Float[np.ndarray, "P d"]
    whitening: Float[np.ndarray, "P d d"]


def fit(features: Float32[np.ndarray, "N P d"], regularisation: float) -> Gaussians:
    """Return the Gaussians of features, computed in float64 and rounded to float32.

    The covariance has the divisor N - 1, and a multiple of the identity is added to it: few images give one that
    is singular. A single image gives the multiple alone.
    """
    places, width = features.shape[1:]
    mean, whitening = np.empty((places, width), np.float32), np.empty((places, width, width), np.float32)

    def fill(at: int) -> None:
        own = np.s_[at : at + _PLACES]
        x = np.ascontiguousarray(features[:, own].swapaxes(0, 1)).astype(np.float64)  # [p,N,d]
        centre = x.mean(1, keepdims=True)
        mean[own] = centre[:, 0]
        for place, covariance in enumerate(covariances(x - centre, regularisation), start=at):
            whitening[place] = whitened(covariance)

    # The matrices are small: BLAS with threads of its own took 80 times as long as one thread for each.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(fill, range(0, places, _PLACES)))
    return Gaussians(mean, whitening)


def covariances(centred: Float64[np.ndarray, "P N d"], regularisation: float) -> Float64[np.ndarray, "P d d"]:
    """Return the regularised covariance of each place, of features whose mean is 0."""
    count, width = centred.shape[1:]
    return centred.swapaxes(1, 2) @ centred / max(count - 1, 1) + regularisation * np.eye(width)


def whitened(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """Return the inverse of the lower Cholesky factor."""
    return dtrtri(np.linalg.cholesky(covariance), lower=1)[0]


def distances(
    features: Float32[Array, "N P d"], mean: Float32[Array, "P d"], whitening: Float32[Array, "P d d"]
) -> Float32[Array, "N P"]:
    """Return the Mahalanobis distance of each place of each image to the Gaussian of its place."""
    found = jnp.einsum("pij,npj->npi", whitening, features - mean[None], precision="highest")
    return jnp.sqrt(jnp.square(found).sum(-1))


def inverse_covariance(whitening: Float[Array, "P d d"]) -> Float[Array, "P d d"]:
    """Return Σ^-1 of each place."""
    return jax.vmap(lambda own: jnp.matmul(own.T, own, precision="highest"))(whitening)
