"""SimpleNet's loss (the paper's truncated l1) and its two optimisers, as the released code has them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mvead_jax.methods.simplenet.config import SimpleNetTrainConfig
from mvead_jax.training.optimisers import learning_rate


def losses(
    normal: Float[Array, "N P"],
    noisy: Float[Array, "N P"],
    weights: Float[Array, " N"],
    margin: float = 0.5,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the mean of max(0, margin - normal) and that of max(0, margin + noisy).

    Args:
      weights: how much each image counts.
    """

    def mean(x: Float[Array, "N P"]) -> Float[Array, ""]:
        return (x.mean(1) * weights).sum() / jnp.maximum(weights.sum(), 1)

    return mean(jax.nn.relu(margin - normal)), mean(jax.nn.relu(margin + noisy))


def optimiser(training: SimpleNetTrainConfig, steps: int) -> optax.GradientTransformation:
    """Return AdamW for `adaptor` and Adam for `discriminator`, at constant rates unless the config says otherwise.

    The discriminator's decay is added to its gradient, the adaptor's is decoupled: PyTorch's Adam and AdamW.
    """

    def mask(parameters: Any) -> Any:
        return jax.tree.map(lambda p: training.decayed == "all" or p.ndim >= 2, parameters)

    clip = [optax.clip_by_global_norm(training.clip)] if training.clip else []
    rate = learning_rate(training, steps)
    share = training.adaptor_rate / training.learning_rate if training.learning_rate else 0.0
    adaptor_rate = (lambda step: share * rate(step)) if callable(rate) else training.adaptor_rate
    rules = {
        "adaptor": optax.adamw(adaptor_rate, weight_decay=training.adaptor_decay, mask=mask),
        "discriminator": optax.chain(
            optax.add_decayed_weights(training.weight_decay, mask), optax.adam(rate)
        ),
    }
    rules = {name: optax.chain(*clip, rule) for name, rule in rules.items()}
    return optax.partition(
        rules,
        lambda parameters: {name: jax.tree.map(lambda _, n=name: n, own) for name, own in parameters.items()},
    )
