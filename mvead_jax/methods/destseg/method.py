"""DeSTSeg: a student learns to give the features of the clean image from one with a pseudo-anomaly; a segmentation
network then learns to tell from both where the anomaly is.

Every view is an image of its own. Facts are those of the released code; docs/method.md tells where this differs.
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
from jaxtyping import Array, Float, Float32

from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.changed_batches import texture_digests, textured_batches
from mvead_jax.methods.destseg import objective
from mvead_jax.methods.destseg.config import DestsegSection, DestsegTrainConfig
from mvead_jax.methods.destseg.modeling import DestsegNetwork, NetworkConfig
from mvead_jax.methods.destseg.optimizer import phased_sgd
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.runtime.errors import UserError
from mvead_jax.training.loop import steps_of_epoch
from mvead_jax.training.optimisers import clip_norm

_PARTS = 3  # maps of a pyramid


@dataclass(frozen=True)
class Destseg(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    numbers_of_training: ClassVar[int] = 2  # with the momentum
    requires: ClassVar[Requires] = Requires(taps=("pyramid",), images=True)

    spec: Spec
    section: DestsegSection
    training: DestsegTrainConfig

    @cached_property
    def network(self) -> NetworkConfig:
        """The shapes of the networks. Raises UserError: a pyramid of another number of maps than three."""
        maps, own = tuple(self.spec.maps.values()), self.section
        if len(maps) != _PARTS:
            raise UserError(
                f"method=destseg reads a pyramid of {_PARTS} maps; this backbone's has {len(maps)}"
            )
        return NetworkConfig(
            maps, own.student_blocks, own.student_width, own.decoder_blocks, own.segmentation_width
        )

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(lambda: self._start(jax.random.key(0)))

    def _start(self, key: jax.Array) -> DestsegNetwork:
        rngs = nnx.Rngs(key)
        return DestsegNetwork(
            self.network, lambda shape: jax.random.normal(rngs.params(), shape, jnp.float32)
        )

    def init(self, key: jax.Array) -> State:
        """Return the networks as they start, by the released code's rules."""
        return network_state(self._start(key))

    def file_digests(self) -> dict[str, str]:
        return texture_digests("destseg.textures", self.section.textures)

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train the student on changed images, then the segmentation network, in one run of the loop."""
        check_views(data.index)
        steps = steps_of_epoch(len(data.index), self.training) * self.training.epochs
        network = DestsegNetwork(self.network, from_seed(seed_from(run.key)))
        own = self.section
        batches = textured_batches(data, own.textures, own.most_of_image, run.seed, teach_changed=True)
        return train_network(
            network,
            self._student_loss,
            data,
            self.training,
            self._optimiser,
            run,
            self.spec.name,
            read=batches.read,
            then=(self._boundary(steps), self._segmentation_loss),
        )

    def check_steps(self, steps: int) -> None:
        """Raise UserError if a part has none of the steps, and the scores need what it trains."""
        own, boundary = self.section, self._boundary(steps)
        left_out = "student" if boundary == 0 else "segmentation" if boundary == steps else ""
        if steps and left_out in ("student", own.map):
            raise UserError(
                f"config destseg.student_share={own.student_share:g}: none of {steps} steps trains the {left_out}, by "
                f"which destseg.map={own.map} scores; give another share, or more train.epochs"
            )

    def _boundary(self, steps: int) -> int:
        """The step with which the segmentation's training begins."""
        return round(self.section.student_share * steps)

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        own, training = self.section, self.training
        rates = {
            "student": (training.learning_rate, 0),
            "res": (own.res_rate, 1),
            "head": (own.head_rate, 1),
        }
        optimiser = phased_sgd(rates, self._boundary(steps), training.weight_decay)
        return optax.chain(clip_norm(training.clip), optimiser) if training.clip else optimiser

    def _student_loss(
        self, network: DestsegNetwork, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        counted, clean = counted_images(batch).reshape(-1), self._maps(batch["features"])
        return student_phase(network, clean, _flat(batch["changed"]), counted), {}

    def _segmentation_loss(
        self, network: DestsegNetwork, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        counted, changed = counted_images(batch).reshape(-1), self._maps(batch["changed_features"])
        images, masks = (_flat(batch[name]) for name in ("changed", "masks"))
        return segmentation_phase(network, changed, images, masks, counted, self.section.focus), {}

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the map of each image at the size of the teacher's finest map; it is enlarged bilinearly."""
        teacher, images = self._maps(batch.features), _flat(batch.images)
        found = _score(self._graph, self.section.map, state, teacher, images)
        return found.reshape(*jnp.shape(batch.present), *found.shape[1:])

    def image_scores(self, maps: Float32[np.ndarray, "B V h w"]) -> Float32[np.ndarray, "B V"]:
        """Return the mean of the highest pixels of each map after it is enlarged to the input."""
        return np.asarray(_image_scores(jnp.asarray(maps), self.spec.image_size, self.section.top))

    def _maps(self, features: Mapping[str, Array]) -> tuple[Array, ...]:
        """The teacher's maps of all images, from fine to coarse."""
        return tuple(_flat(features[tap]) for tap in self.spec.maps)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        textures = f"images of {own.textures}" if own.textures else "textures drawn by formulas"
        maps = {
            "segmentation": "probability by the segmentation network",
            "distillation": "product of 1 - cosine of teacher's and student's features at three scales",
        }
        return {
            "fusion": "none",
            "trained": f"student {own.student_share:g} of {training.epochs} epochs, then segmentation, batches of "
            f"{training.batch_size}, SGD {training.learning_rate:g}, {own.res_rate:g} and {own.head_rate:g}, on "
            f"{textures} over Perlin masks; the last epoch taken",
            "patch_score": maps[own.map],
            "image_score_of_method": f"mean of the highest {own.top} pixels of the map enlarged to the input",
        }


def student_phase(
    network: DestsegNetwork,
    teacher: Sequence[Float[Array, "N h w C"]],
    changed: Float[Array, "N H W 3"],
    counted: Array,
) -> Float[Array, ""]:
    """Return the loss of the first phase. Args: teacher: maps of the images as they are."""
    student = network.student(changed, train=True, weights=counted.astype(changed.dtype))
    return objective.student_loss(teacher, student, counted)


def segmentation_phase(
    network: DestsegNetwork,
    teacher: Sequence[Float[Array, "N h w C"]],
    changed: Float[Array, "N H W 3"],
    masks: Float[Array, "N H W"],
    counted: Array,
    focus: float,
) -> Float[Array, ""]:
    """Return the loss of the second phase. Args: teacher: maps of the changed images, as the student's."""
    student = [jax.lax.stop_gradient(x) for x in network.student(changed)]
    found = network.segment(teacher, student, train=True, weights=counted.astype(changed.dtype))
    small = objective.small_mask(masks, found.shape[1:])
    losses = (
        objective.focal_loss(found, small, counted, focus),
        objective.absolute_loss(found, small, counted),
    )
    return sum(losses)


def _flat(x: Array) -> Array:
    """Every view of every sample as an image of its own."""
    x = jnp.asarray(x)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    graph: nnx.GraphDef, kind: str, state: State, teacher: tuple[Array, ...], images: Array
) -> Float32[Array, "N h w"]:
    network = merged(graph, state)
    student = network.student(images)
    if kind == "distillation":
        return objective.distance_product(objective.distances(teacher, student))
    return network.segment(teacher, student)


@partial(jax.jit, static_argnums=(1, 2))
def _image_scores(maps: Float32[Array, "B V h w"], size: int, top: int) -> Float32[Array, "B V"]:
    flat = maps.reshape(-1, *maps.shape[2:], 1)
    found = objective.enlarged(flat, (size, size))[..., 0]
    return jax.vmap(lambda own: objective.top_mean(own, top))(found).reshape(maps.shape[:2])
