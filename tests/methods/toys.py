"""Two methods that are in no folder of the program: they enter by the registry alone.

`toy-gaussian` has a mean and a variance for every patch of every view; `toy-network` trains a small network with
running statistics on pixels and feature maps, and mixes the views.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.config.schema import Config, TrainConfig
from mvead_jax.methods.base import PATCHES, Requires, Spec, parameter_count
from mvead_jax.methods.batches import training_batch
from mvead_jax.training.loop import Problem, fit_loop
from mvead_jax.training.optimisers import adamw

MOMENTUM = 0.1


@dataclass(frozen=True)
class GaussianConfig(Config):
    method: str = "toy-gaussian"

    def requires(self):
        return Requires()

    def build(self, spec):
        return Gaussian(spec)


@dataclass(frozen=True)
class Gaussian:
    requires: ClassVar[Requires] = Requires()

    spec: Spec

    def init(self, key):
        shape = len(self.spec.views), *self.spec.maps[PATCHES]
        return {"mean": jnp.zeros(shape, jnp.float32), "variance": jnp.ones(shape, jnp.float32)}

    def fit(self, data, run):
        features, present = data.features[PATCHES][:], data.index.present()
        found = [features[present[:, view], view] for view in range(len(self.spec.views))]
        mean, variance = (np.stack([f(own, axis=0) for own in found]) for f in (np.mean, np.var))
        return {"mean": mean, "variance": variance + np.float32(0.01)}

    def score(self, state, batch):
        difference = batch.features[PATCHES] - state["mean"][None]
        return jnp.sqrt(jnp.mean(difference**2 / state["variance"][None], axis=-1))

    def state_bytes(self, images):
        return 4 * parameter_count(self)

    def describe(self):
        return {"patch_score": "deviation from the mean of its place"}


@dataclass(frozen=True)
class NetworkConfig(Config):
    method: str = "toy-network"
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2)
    )

    def requires(self):
        return Requires(images=True, joint_views=True)

    def build(self, spec):
        return Network(spec, self.train)

    @classmethod
    def debug(cls):
        return replace(
            super().debug(), train=TrainConfig(epochs=3, batch_size=2, learning_rate=1e-2, clip=1.0)
        )


@dataclass(frozen=True)
class Network:
    """Predicts a view's patch features from the image's mean colours and from the other views' mean feature."""

    requires: ClassVar[Requires] = Requires(images=True, joint_views=True)

    spec: Spec
    training: TrainConfig

    def init(self, key):
        width = self.spec.maps[PATCHES][-1]
        kernel = 0.1 * jax.random.normal(key, (3 + width, width), jnp.float32)
        return {
            "network": {"kernel": kernel, "bias": jnp.zeros(width, jnp.float32)},
            "statistics": {"mean": jnp.zeros(width, jnp.float32)},
        }

    def _errors(self, network, mean, features, images, present):
        """Squared errors [B,V,h,w] of the prediction."""
        batch, views, rows, columns, width = features.shape
        side = images.shape[2] // rows
        colours = images.reshape(batch, views, rows, side, columns, side, 3).mean((3, 5))
        has = jnp.asarray(present)[..., None, None, None].astype(jnp.float32)
        others = jnp.sum(features * has, 1, keepdims=True) - features * has
        count = jnp.maximum(jnp.sum(has, 1, keepdims=True) - has, 1)
        inputs = jnp.concatenate([colours, others / count], axis=-1)
        found = jnp.einsum("...i,io->...o", inputs, network["kernel"], precision="highest")
        expected = features - mean.reshape((1,) * 4 + mean.shape)
        return jnp.mean((found + network["bias"].reshape((1,) * 4 + (width,)) - expected) ** 2, axis=-1)

    def fit(self, data, run):
        start = self.init(run.key)
        present, categories = data.index.present(), data.category_numbers()

        def loss(network, statistics, batch, key):
            features = batch["features"][PATCHES]
            weight = jnp.asarray(batch["present"]).astype(jnp.float32) * batch["weight"][:, None]
            own = weight[..., None, None, None]
            cells = features.shape[2] * features.shape[3]
            mean = jnp.sum(features * own, (0, 1, 2, 3)) / (jnp.sum(own) * cells)
            mean = jax.lax.stop_gradient(mean)
            noisy = features + 0.01 * jax.random.normal(key, features.shape, jnp.float32)
            errors = self._errors(network, mean, noisy, batch["images"], batch["present"])
            errors = errors.mean((2, 3))
            value = jnp.sum(errors * weight) / jnp.sum(weight)
            running = (1 - MOMENTUM) * statistics["mean"] + MOMENTUM * mean
            return value, ({"loss": value}, {"mean": running})

        problem = Problem(
            parameters=start["network"],
            extras=start["statistics"],
            begin=lambda: start["statistics"],
            loss=loss,
            batch=lambda chosen, size, epoch: training_batch(data, present, categories, chosen, size),
            names=[sample.id for sample in data.index.samples],
            optimiser=lambda steps: adamw(self.training, steps),
        )
        network, statistics = fit_loop(problem, self.training, run.seed, self.spec.name, run.checkpoints)
        return jax.device_get({"network": network, "statistics": statistics})

    def score(self, state, batch):
        errors = self._errors(
            state["network"],
            state["statistics"]["mean"],
            batch.features[PATCHES],
            batch.images,
            batch.present,
        )
        return jnp.sqrt(errors)

    def state_bytes(self, images):
        return 4 * parameter_count(self)

    def checkpoint_bytes(self):
        return 12 * parameter_count(self)

    def describe(self):
        return {"trained": f"{self.training.epochs} epochs", "patch_score": "error of a prediction"}
