"""SimpleNet: a discriminator learns to tell adapted features of normal images from the same with noise.

Liu et al., CVPR 2023. Facts are those of the released code; docs/method.md tells where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from mvead_jax.backbones.random_weights import from_key, from_seed, no_numbers
from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.methods.simplenet.config import SimpleNetSection, SimpleNetTrainConfig
from mvead_jax.methods.simplenet.embedding import embed
from mvead_jax.methods.simplenet.modeling import Network
from mvead_jax.methods.simplenet.objective import losses, optimiser


@dataclass(frozen=True)
class SimpleNet(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    spec: Spec
    section: SimpleNetSection
    training: SimpleNetTrainConfig
    requires: Requires

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(partial(Network, self.section.width, self.section.hidden, normal=no_numbers))

    def init(self, key: jax.Array) -> State:
        """Return adaptor and discriminator as they start: weights by Xavier's rule, biases by PyTorch's."""
        return network_state(Network(self.section.width, self.section.hidden, normal=from_key(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train adaptor and discriminator on the features of normal samples."""
        check_views(data.index)
        normal = from_seed(seed_from(run.key))
        network = Network(self.section.width, self.section.hidden, normal=normal)
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: Network, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        embedding = self._embedding(batch["features"])
        present = jnp.asarray(batch["present"])
        weights = counted_images(batch).reshape(-1).astype(embedding.dtype)
        # A key for each sample: how many fill the batch up to the number of devices changes nothing.
        shape = (present.shape[1], *embedding.shape[1:])
        noise = jax.vmap(lambda own: jax.random.normal(own, shape, embedding.dtype))(
            jax.random.split(key, len(present))
        )
        normal, noisy = network.told_apart(
            embedding, self.section.noise * noise.reshape(embedding.shape), weights
        )
        by_normal, by_noisy = losses(normal, noisy, weights, self.section.margin)
        return by_normal + by_noisy, {"normal_loss": by_normal, "noisy_loss": by_noisy}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        return optimiser(self.training, steps)

    def _embedding(self, features: Mapping[str, Array]) -> Float[Array, "N P D"]:
        """The embedding of every position of every image."""
        maps = (jnp.asarray(features[tap]) for tap in self.spec.maps)
        maps = [x.reshape(-1, *x.shape[2:]) for x in maps]
        own = partial(embed, first_width=self.section.first_width, width=self.section.width)
        found = jax.vmap(own)(*maps)
        return found.reshape(len(found), -1, found.shape[-1])

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the discriminator's number of every position, negative; an image takes the highest of them."""
        found = _score(self._graph, state, self._embedding(batch.features))
        return found.reshape(*batch.present.shape, *next(iter(self.spec.maps.values()))[:2])

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        return {
            "fusion": "none",
            "trained": f"adaptor and discriminator on features with noise of deviation {own.noise:g}, "
            f"{training.epochs} epochs of batches of {training.batch_size}, AdamW {training.adaptor_rate:g} and Adam "
            f"{training.learning_rate:g}, the last epoch taken",
            "patch_score": "the discriminator's number of the adapted feature, negative",
        }


@partial(jax.jit, static_argnums=0)
def _score(graph: nnx.GraphDef, state: State, embedding: Float[Array, "N P D"]) -> Float32[Array, "N P"]:
    return merged(graph, state)(embedding)
