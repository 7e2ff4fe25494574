"""RD4AD: a student decodes a frozen teacher's feature maps from a one-class code; where it fails, an image is
abnormal.

Deng and Li, CVPR 2022. Facts are those of the released code; docs/method.md tells where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

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
from mvead_jax.methods.distillation import SMOOTHING, image_scores
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.methods.rd4ad.config import Rd4adSection, Rd4adTrainConfig
from mvead_jax.methods.rd4ad.modeling import Network, NetworkConfig
from mvead_jax.methods.rd4ad.objective import anomaly_map, batch_loss
from mvead_jax.training.optimisers import learning_rate


@dataclass(frozen=True)
class Rd4ad(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    requires: ClassVar[Requires] = Requires(taps=("pyramid",))

    spec: Spec
    section: Rd4adSection
    training: Rd4adTrainConfig

    @cached_property
    def network(self) -> NetworkConfig:
        """The shape of the network on the backbone's three maps."""
        own, widths = self.section, tuple(shape[2] for shape in self.spec.maps.values())
        inner = widths[-1] if own.variant == "released" else widths[-1] // 2
        return NetworkConfig(widths, own.block, inner, own.neck_blocks, own.decoder_blocks)

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(partial(Network, self.network, normal=no_numbers))

    def init(self, key: jax.Array) -> State:
        """Return the network as it starts: convolutions by He's rule, enlargements by PyTorch's."""
        return network_state(Network(self.network, normal=from_key(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train neck and decoder to give back the teacher's maps of normal samples."""
        check_views(data.index)
        network = Network(self.network, normal=from_seed(seed_from(run.key)))
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: Network, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        counted = counted_images(batch).reshape(-1)
        teacher = self._images(batch["features"])
        student = network(teacher, train=True, weights=counted.astype(teacher[0].dtype))
        return batch_loss(teacher, student, counted), {}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        return optimiser(self.training, steps)

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V S S"]:
        """Return what the student misses at each pixel of the input, before smoothing."""
        size = (self.spec.image_size, self.spec.image_size)
        found = _score(self._graph, size, self.section.variant, state, self._images(batch.features))
        return found.reshape(*batch.present.shape, *size)

    def image_scores(self, maps: Float32[np.ndarray, "B V S S"]) -> Float32[np.ndarray, "B V"]:
        """Return the largest value of each map after a gaussian of sigma 4."""
        return image_scores(maps)

    def _images(self, features: Mapping[str, Array]) -> tuple[Float[Array, "N h w D"], ...]:
        """The teacher's maps of all images, from fine to coarse."""
        maps = (jnp.asarray(features[tap]) for tap in self.spec.maps)
        return tuple(x.reshape(-1, *x.shape[2:]) for x in maps)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        divided = ", by 9" if own.variant == "ader" else ""
        return {
            "fusion": "none",
            "trained": f"neck of {own.neck_blocks} and decoder of {', '.join(map(str, own.decoder_blocks))} "
            f"{own.block} blocks ({own.variant}), {training.epochs} epochs of batches of {training.batch_size}, "
            f"Adam {training.learning_rate:g}, the last epoch taken",
            "patch_score": f"sum of 1 - cosine of teacher's and student's features at three scales{divided}",
            "image_score_of_method": f"largest value after a gaussian of sigma {SMOOTHING:g}",
        }


def optimiser(training: Rd4adTrainConfig, steps: int) -> optax.GradientTransformation:
    """Return Adam with β .5 and .999; ADer clips the global norm of the gradient before."""
    rule = optax.adamw(learning_rate(training, steps), b1=0.5, weight_decay=training.weight_decay)
    return optax.chain(optax.clip_by_global_norm(training.clip), rule) if training.clip else rule


@partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    graph: nnx.GraphDef,
    size: tuple[int, int],
    variant: Literal["released", "ader"],
    state: State,
    teacher: tuple[Float[Array, "N h w D"], ...],
) -> Float32[Array, "N S S"]:
    student = merged(graph, state)(teacher)
    return jax.vmap(lambda t, s: anomaly_map(t, s, size, variant))(teacher, student)
