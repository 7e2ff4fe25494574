"""UniAD: one transformer for all categories gives features back; where it fails, an image is abnormal.

You et al., NeurIPS 2022. Facts are those of the released code; docs/method.md tells where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from mvead_jax.backbones.random_weights import from_key, from_seed, no_numbers
from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.methods.uniad.config import UniadSection, UniadTrainConfig
from mvead_jax.methods.uniad.modeling import Network, NetworkConfig
from mvead_jax.methods.uniad.objective import (
    POOL,
    anomaly_map,
    batch_loss,
    difference,
    image_scores,
    jittered,
    joined,
    optimiser,
)


@dataclass(frozen=True)
class Uniad(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    spec: Spec
    section: UniadSection
    training: UniadTrainConfig
    requires: Requires

    @cached_property
    def network(self) -> NetworkConfig:
        """The shape of the network on the backbone's maps."""
        own, shapes = self.section, list(self.spec.maps.values())
        return NetworkConfig(
            inputs=sum(shape[2] for shape in shapes),
            grid=shapes[-1][:2],
            width=own.width,
            heads=own.heads,
            encoder_layers=own.encoder_layers,
            decoder_layers=own.decoder_layers,
            feedforward=own.feedforward,
            neighbours=own.neighbours,
            position=own.position,
            dropout=own.dropout,
        )

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(partial(Network, self.network, normal=no_numbers))

    def init(self, key: jax.Array) -> State:
        """Return the transformer as it starts, by the released code's rules."""
        return network_state(Network(self.network, normal=from_key(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train the transformer to give back clean features of normal samples from jittered ones."""
        check_views(data.index)
        network = Network(self.network, normal=from_seed(seed_from(run.key)))
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: Network, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        tokens, present = self._tokens(batch["features"]), jnp.asarray(batch["present"])
        counted = counted_images(batch).reshape(-1)

        def given_back(own: Float[Array, "N D"], key: Array) -> Float[Array, "N D"]:
            noise, drop = jax.random.split(key)
            noise = jax.random.normal(noise, own.shape, own.dtype)
            return network(jittered(own, noise, self.section.jitter), drop)

        # A key for each sample, then for each view: how many fill the batch up changes nothing.
        keys = jax.vmap(lambda own: jax.random.split(own, present.shape[1]))(
            jax.random.split(key, len(present))
        )
        found = jax.vmap(given_back)(tokens, keys.reshape(-1))
        return batch_loss(found, tokens, counted), {}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        return optimiser(self.training, steps)

    def _tokens(self, features: Mapping[str, Array]) -> Float[Array, "n N D"]:
        """The joined features of all images, as tokens."""
        maps = (jnp.asarray(features[tap]) for tap in self.spec.maps)
        found = jax.vmap(lambda *own: joined(own))(*(x.reshape(-1, *x.shape[2:]) for x in maps))
        return found.reshape(len(found), -1, found.shape[-1])

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V S S"]:
        """Return the length of what is not given back, at each pixel of the input."""
        size = (self.spec.image_size, self.spec.image_size)
        found = _score(self._graph, self.network.grid, size, state, self._tokens(batch.features))
        return found.reshape(*batch.present.shape, *size)

    def image_scores(self, maps: Float32[np.ndarray, "B V S S"]) -> Float32[np.ndarray, "B V"]:
        """Return the highest mean of a square of 16 x 16 pixels."""
        return image_scores(maps)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        return {
            "fusion": "none",
            "trained": f"transformer of {own.encoder_layers} and {own.decoder_layers} layers of width {own.width}, "
            f"neighbours {' x '.join(map(str, own.neighbours))} masked, jitter {own.jitter:g}, {training.epochs} "
            f"epochs of batches of {training.batch_size}, AdamW {training.learning_rate:g}, the last epoch taken",
            "patch_score": "length of the difference of features and what is given back",
            "image_score_of_method": f"highest mean of a square of {POOL} x {POOL} pixels",
        }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    graph: nnx.GraphDef,
    grid: tuple[int, int],
    size: tuple[int, int],
    state: State,
    tokens: Float[Array, "n N D"],
) -> Float32[Array, "n S S"]:
    network = merged(graph, state)

    def one(own: Float[Array, "N D"]) -> Float32[Array, "S S"]:
        return anomaly_map(difference(network(own), own).reshape(grid), size)

    return jax.vmap(one)(tokens)
