"""Dinomaly: a decoder gives back, loosely, what a frozen encoder sees of normal images.

Where it fails, by the cosine of its features and the encoder's, an image is abnormal. Every view is an image of its
own. Facts are those of the released code; docs/method.md tells where this differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.dinomaly import maps
from mvead_jax.methods.dinomaly.config import DinomalySection, DinomalyTrainConfig
from mvead_jax.methods.dinomaly.modeling import DinomalyNetwork, NetworkConfig, grouped
from mvead_jax.methods.dinomaly.objective import hard_table, loose_loss
from mvead_jax.methods.dinomaly.optimizer import schedule, stable_adamw
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import UserError
from mvead_jax.training.optimisers import clip_norm


@dataclass(frozen=True)
class Dinomaly(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    numbers_of_training: ClassVar[int] = 4  # with StableAdamW's three moments
    spec: Spec
    section: DinomalySection
    training: DinomalyTrainConfig
    requires: Requires

    @cached_property
    def network(self) -> NetworkConfig:
        """The shape of the network.

        Raises:
          UserError: taps of several shapes, or heads that do not divide their width.
        """
        shapes = {tap: self.spec.maps[tap] for tap in self.section.taps}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{tap} {'x'.join(map(str, shape))}" for tap, shape in shapes.items())
            raise UserError(f"config dinomaly.taps: their maps must have one shape, and these have {told}")
        width, heads = next(iter(shapes.values()))[2], self.section.heads or self.spec.backbone.heads
        if width % heads:
            raise UserError(f"config dinomaly.heads={heads}: does not divide the width {width} of the taps")
        return NetworkConfig(width, heads, len(shapes), self.section.dropout)

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(lambda: DinomalyNetwork(self.network, nnx.Rngs(0)))

    @cached_property
    def _hard(self) -> Int[np.ndarray, "steps images"]:
        rows, columns, _ = self.spec.maps[self.section.taps[0]]
        images = sharding.padded(self.training.batch_size) * len(self.spec.views)
        return hard_table(images, rows * columns, self.section.easy, self.section.easy_steps)

    def init(self, key: jax.Array) -> State:
        """Return the network as it starts, by the released code's rules."""
        return network_state(DinomalyNetwork(self.network, nnx.Rngs(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train bottleneck and decoder to give back the features of normal images."""
        check_views(data.index)
        network = DinomalyNetwork(self.network, nnx.Rngs(seed_from(run.key)))
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: DinomalyNetwork, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        counted = counted_images(batch).reshape(-1)
        encoded = _tokens(batch["features"], self.section.taps)
        decoded = network(encoded, jax.random.split(key, len(counted)))
        step = network.step[...]
        network.step = network.step.replace(step + 1)
        hard = jnp.asarray(self._hard)[jnp.minimum(step, self.section.easy_steps), counted.sum()]
        groups = (grouped(outputs, self.section.groups) for outputs in (encoded, decoded))
        return loose_loss(*groups, counted, hard, self.section.easy_gradient), {}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        own = self.training
        rate = schedule(own.learning_rate, own.final_rate, own.warmup_steps, steps)
        optimiser = stable_adamw(rate, own.weight_decay)
        return optax.chain(clip_norm(own.clip), optimiser) if own.clip else optimiser

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V S S"]:
        """Return what the decoder misses, at the size at which the released code smooths, before that."""
        sizes = (self.spec.image_size, self.section.map_size)
        features = {tap: jnp.asarray(batch.features[tap]) for tap in self.section.taps}
        return _score(self._graph, self.section.taps, self.section.groups, sizes, state, features)

    def image_scores(self, maps: Float32[np.ndarray, "B V S S"]) -> Float32[np.ndarray, "B V"]:
        """Return the mean of the highest values of each map after a gaussian of 5 x 5 taps."""
        return np.asarray(_image_scores(jnp.asarray(maps), self.section.top))

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        return {
            "fusion": "none",
            "trained": f"bottleneck (dropout {own.dropout:g}) and {len(own.taps)} blocks of linear attention, "
            f"{training.epochs} epochs of batches of {training.batch_size}, StableAdamW {training.learning_rate:g}, "
            f"gradients of the {own.easy:g} easiest positions times {own.easy_gradient:g}, the last epoch taken",
            "patch_score": f"mean over {own.groups} groups of 1 - cosine of the means of {', '.join(own.taps)} and of "
            "the decoder's blocks; class and register tokens take no part",
            "image_score_of_method": f"mean of the highest {own.top:g} of the map of {own.map_size} pixels a side, "
            "after a gaussian of 5 x 5 taps, sigma 4, zeros outside",
        }


def _tokens(features: Mapping[str, Array], taps: Sequence[str]) -> list[Float[Array, "BV hw D"]]:
    """Return the patches of every view of every sample, each view an image of its own."""
    maps_of_taps = (jnp.asarray(features[tap]) for tap in taps)
    return [x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3], x.shape[4]) for x in maps_of_taps]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _score(
    graph: nnx.GraphDef,
    taps: tuple[str, ...],
    groups: int,
    sizes: tuple[int, int],
    state: State,
    features: Mapping[str, Array],
) -> Float32[Array, "B V S S"]:
    shape = features[taps[0]].shape
    encoded = _tokens(features, taps)
    decoded = merged(graph, state)(encoded)
    encoded, decoded = (
        [x.reshape(-1, *shape[2:]) for x in grouped(outputs, groups)] for outputs in (encoded, decoded)
    )

    def of_image(encoded: list[Array], decoded: list[Array]) -> Array:
        return maps.resized(maps.anomaly_map(encoded, decoded, sizes[0]), sizes[1])

    found = jax.vmap(of_image)(encoded, decoded)
    return found.reshape(*shape[:2], *found.shape[1:])


@partial(jax.jit, static_argnums=1)
def _image_scores(values: Float32[Array, "B V S S"], top: float) -> Float32[Array, "B V"]:
    return jax.vmap(jax.vmap(lambda own: maps.image_score(maps.smoothed(own), top)))(values)
