"""MVAD: a student gives back a frozen teacher's feature maps after window attention over views (seed 003).

Where the student fails, by the cosine of its features and the teacher's, an image is abnormal. Facts are those of
the released code; docs/method.md tells where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.distillation import SMOOTHING, image_scores
from mvead_jax.methods.mvad.config import MvadSection, MvadTrainConfig
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig, check_maps
from mvead_jax.methods.mvad.objective import anomaly_map, batch_loss
from mvead_jax.methods.mvad.optimizer import optimizer
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network


@dataclass(frozen=True)
class Mvad(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    requires: ClassVar[Requires] = Requires(taps=("pyramid",), joint_views=True, min_views=2)

    spec: Spec
    section: MvadSection
    training: MvadTrainConfig

    @cached_property
    def network(self) -> NetworkConfig:
        """The shape of the network on the backbone's three maps. Raises UserError: maps that it cannot take."""
        own = self.section
        config = NetworkConfig(
            widths=tuple(shape[2] for shape in self.spec.maps.values()),
            windows=own.windows,
            top=own.top,
            heads=own.heads,
            blocks=own.blocks,
            decoder_blocks=own.decoder_blocks,
            projections=own.projections,
            keys=own.keys,
            dropout=own.dropout,
            drop_path=own.drop_path,
        )
        check_maps(list(self.spec.maps.values()), config)
        return config

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(lambda: MVADNetwork(self.network, nnx.Rngs(0)))

    def init(self, key: jax.Array) -> State:
        """Return the network as it starts, by the released code's rules."""
        return network_state(MVADNetwork(self.network, nnx.Rngs(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train neck and decoder to give back the teacher's maps of normal samples."""
        check_views(data.index)
        network = MVADNetwork(self.network, nnx.Rngs(seed_from(run.key)))
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: MVADNetwork, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        teacher, present = self._maps(batch["features"]), jnp.asarray(batch["present"])
        counted = counted_images(batch)
        keys = jax.random.split(key, len(counted))
        student = network(teacher, present, train=True, keys=keys, counted=counted)
        return batch_loss(teacher, student, counted, self.section.loss_weight), {}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        own = self.training
        return optimizer(
            epochs=own.epochs,
            steps_per_epoch=steps // max(1, own.epochs),
            learning_rate=own.learning_rate,
            weight_decay=own.weight_decay,
            clip=own.clip,
            decay_at=own.step_at,
        )

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V S S"]:
        """Return what the student misses at each pixel of the input, before smoothing."""
        size = (self.spec.image_size, self.spec.image_size)
        return _score(self._graph, size, state, self._maps(batch.features), batch.present)

    def image_scores(self, maps: Float32[np.ndarray, "B V S S"]) -> Float32[np.ndarray, "B V"]:
        """Return the largest value of each map after a gaussian of sigma 4."""
        return image_scores(maps)

    def _maps(self, features: Mapping[str, Array]) -> tuple[Array, ...]:
        """The teacher's maps from fine to coarse."""
        return tuple(jnp.asarray(features[tap]) for tap in self.spec.maps)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        numbers = (", ".join(map(str, values)) for values in (own.windows, own.top, own.blocks))
        windows, top, blocks = numbers
        over = "over views" if own.keys == "others" else "within each view"
        return {
            "fusion": f"window attention {over}: {windows} windows a side, the best {top}, {blocks} blocks, "
            f"projections {own.projections}",
            "trained": f"neck and decoder, {training.epochs} epochs of batches of {training.batch_size}, AdamW "
            f"{training.learning_rate:g}, the last epoch taken",
            "patch_score": "sum of 1 - cosine of teacher's and student's features at three scales, by 9",
            "image_score_of_method": f"largest value after a gaussian of sigma {SMOOTHING:g}",
        }


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    graph: nnx.GraphDef,
    size: tuple[int, int],
    state: State,
    teacher: tuple[Array, ...],
    present: Array,
) -> Float32[Array, "B V S S"]:
    student = merged(graph, state)(teacher, present)
    return jax.vmap(jax.vmap(lambda t, s: anomaly_map(t, s, size)))(teacher, student)
