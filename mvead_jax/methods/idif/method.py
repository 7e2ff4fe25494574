"""IDIF: a student learns to give a teacher's features of clean images from images with pseudo-anomalies, by what all
views of a sample tell it; where the two differ, an image is abnormal (seed 004).

docs/method.md tells what the paper leaves open and what is done here.
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
from mvead_jax.methods.changed_batches import texture_digests, textured_batches
from mvead_jax.methods.distillation import summed_distance
from mvead_jax.methods.idif.config import IdifSection, IdifTrainConfig
from mvead_jax.methods.idif.network import IdifNetwork, NetworkConfig
from mvead_jax.methods.idif.objective import batch_loss
from mvead_jax.methods.idif.view_dropout import kept_views
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.runtime.errors import UserError
from mvead_jax.training.optimisers import adamw


def needs(section: IdifSection) -> Requires:
    """Return what the method needs of the program: without the voxel no view looks at another."""
    return Requires(taps=("pyramid",), images=True, joint_views=section.fusion != "none")


@dataclass(frozen=True)
class Idif(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config."""

    spec: Spec
    section: IdifSection
    training: IdifTrainConfig

    @property
    def requires(self) -> Requires:
        return needs(self.section)

    @cached_property
    def network(self) -> NetworkConfig:
        """The shape of the student. Raises UserError: its maps cannot be cut into patches."""
        own, spec = self.section, self.spec
        side = -(-spec.image_size // 2 ** (len(own.encoder_blocks) + 1))
        if own.fusion == "voxel" and side % own.patch:
            raise UserError(
                f"config idif.patch={own.patch}: the encoder's maps have {side} x {side} cells at "
                f"data.image_size={spec.image_size}; give a number that divides {side}, as 1"
            )
        return NetworkConfig(
            maps=tuple(spec.maps.values()),
            views=len(spec.views),
            encoder_blocks=own.encoder_blocks,
            encoder_width=own.encoder_width,
            decoder_blocks=own.decoder_blocks,
            bottleneck=own.bottleneck,
            latent=own.latent,
            fusion=own.fusion,
            voxel=own.voxel,
            voxel_width=own.voxel_width,
            fusion_blocks=own.fusion_blocks,
            heads=own.heads,
            patch=own.patch,
            view_embedding=own.view_embedding,
            axes=own.axes,
        )

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(partial(IdifNetwork, self.network, no_numbers))

    def init(self, key: jax.Array) -> State:
        """Return the student as it starts."""
        return network_state(IdifNetwork(self.network, from_key(key)))

    def file_digests(self) -> dict[str, str]:
        return texture_digests("idif.textures", self.section.textures)

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train the student on changed images to give the teacher's maps of the images as they are."""
        check_views(data.index)
        own = self.section
        batches = textured_batches(data, own.textures, own.most_of_image, run.seed, teach_changed=False)
        return train_network(
            IdifNetwork(self.network, from_seed(seed_from(run.key))),
            self._loss,
            data,
            self.training,
            self._optimiser,
            run,
            self.spec.name,
            read=batches.read,
        )

    def _loss(
        self, network: IdifNetwork, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """A dropped view counts in nothing, like a missing one."""
        own, present = self.section, jnp.asarray(batch["present"])
        samples = jnp.arange(len(present))
        drops, noises = (
            jax.vmap(lambda sample, key=one: jax.random.fold_in(key, sample))(samples)
            for one in jax.random.split(key)
        )
        kept = jax.vmap(lambda key, present: kept_views(key, present, own.view_dropout))(drops, present)
        counted = counted_images(batch) & kept
        images = jnp.asarray(batch["changed"])
        student = network(images, kept, train=True, counted=counted, keys=noises)
        return batch_loss(
            self._maps(batch["features"]),
            student,
            counted,
            distillation_weight=own.distillation_weight,
            bottleneck_weight=own.bottleneck_weight,
            kl_weight=own.kl_weight,
        )

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        return adamw(self.training, steps)

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the sum over levels of 1 - cosine, at the size of the teacher's finest map."""
        return _score(
            self._graph,
            state,
            self._maps(batch.features),
            jnp.asarray(batch.images),
            jnp.asarray(batch.present),
        )

    def _maps(self, features: Mapping[str, Array]) -> tuple[Float[Array, "B V h w D"], ...]:
        """The teacher's maps, from fine to coarse."""
        return tuple(jnp.asarray(features[tap]) for tap in self.spec.maps)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        shape = " x ".join(map(str, own.voxel))
        part = "all" if own.bottleneck == "none" else f"the {own.bottleneck} part"
        voxel = f"a voxel of {shape} cells gathers {part} of each view's features, {own.fusion_blocks} blocks"
        textures = f"images of {own.textures}" if own.textures else "textures drawn by formulas"
        return {
            "fusion": voxel if own.fusion == "voxel" else "none",
            "trained": f"student, {training.epochs} epochs of batches of {training.batch_size}, AdamW "
            f"{training.learning_rate:g}, on {textures} over Perlin masks, view dropout {own.view_dropout:g}, "
            "the last epoch taken",
            "patch_score": f"sum of 1 - cosine of teacher's and student's features at {len(self.spec.maps)} scales",
        }


@partial(jax.jit, static_argnums=0)
def _score(
    graph: nnx.GraphDef, state: State, teacher: tuple[Array, ...], images: Array, present: Array
) -> Float32[Array, "B V h w"]:
    student = merged(graph, state)(images, present).maps
    size = teacher[0].shape[2:4]
    return jax.vmap(jax.vmap(lambda t, s: summed_distance(t, s, size)))(teacher, student)
