"""IDIF's losses: distillation at each level of each view, and the information bottleneck.

Written for one image; `batch_loss` takes the means over those that count.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.distillation import cosine_distance
from mvead_jax.methods.idif.bottleneck import Code
from mvead_jax.methods.idif.network import Student


def distillation(
    teacher: Sequence[Float[Array, "h w D"]], student: Sequence[Float[Array, "h w D"]]
) -> Float[Array, ""]:
    """Return the sum over levels of the mean over cells of 1 - cosine."""
    return sum(cosine_distance(t, s).mean() for t, s in zip(teacher, student, strict=True))


def divergence(mean: Float[Array, "h w L"], log_variance: Float[Array, "h w L"]) -> Float[Array, ""]:
    """Return the Kullback-Leibler divergence of N(mean, variance) from N(0, 1), a mean over cells and channels."""
    return (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).mean() / 2


def reconstruction(features: Float[Array, "h w C"], found: Float[Array, "h w C"]) -> Float[Array, ""]:
    """Return the mean squared difference of features and what the common part gives of them.

    The features are a fixed target: else they could come nearer by vanishing.
    """
    return jnp.square(jax.lax.stop_gradient(features) - found).mean()


def batch_loss(
    teacher: Sequence[Float[Array, "B V h w D"]],
    student: Student,
    counted: Bool[Array, "B V"],
    *,
    distillation_weight: float = 1.0,
    bottleneck_weight: float = 0.1,
    kl_weight: float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of a batch and its parts: α distillation + β (reconstruction + weight of the KL · KL).

    Each part is a mean over the images that count, 0 if none does; the others may hold anything.

    Args:
      distillation_weight: α. bottleneck_weight: β.
    """
    parts = {"distillation": _counted(distillation, counted, tuple(teacher), student.maps)}
    value = distillation_weight * parts["distillation"]
    if student.code is not None:
        code: Code = student.code
        parts["reconstruction"] = _counted(reconstruction, counted, student.features, code.reconstruction)
        parts["kl"] = _counted(divergence, counted, code.mean, code.log_variance)
        value = value + bottleneck_weight * (parts["reconstruction"] + kl_weight * parts["kl"])
    return value, parts


def _counted(loss, counted: Bool[Array, "B V"], *arrays) -> Float[Array, ""]:
    """The mean of a loss of one image over the images that count."""

    def of_image(here: Bool[Array, ""], *arrays) -> Float[Array, ""]:
        # Before the loss: a number that is none has no derivative that a factor of 0 could take away.
        return jnp.where(here, loss(*jax.tree.map(lambda x: jnp.where(here, x, 0), arrays)), 0)

    found = jax.vmap(jax.vmap(of_image))(counted, *arrays)
    return found.sum() / jnp.maximum(counted.sum(), 1).astype(found.dtype)
