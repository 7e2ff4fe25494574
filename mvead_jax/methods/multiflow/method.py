"""Multi-Flow: how unlikely a sample's features are under a normalising flow of all its views (seed 002).

Facts are those of the released code; docs/method.md tells where the paper or this program differs.
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
from jaxtyping import Array, Bool, Float, Float32

from mvead_jax.bank.memory import check_views, seed_from
from mvead_jax.data.records import spread_evenly
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.batches import counted_images
from mvead_jax.methods.multiflow.config import MultiFlowSection, MultiFlowTrainConfig
from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import Graph
from mvead_jax.methods.multiflow.noise import draw_noise, no_noise, with_noise
from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss
from mvead_jax.methods.network import LearnsNetwork, merged, network_graph, network_state, train_network
from mvead_jax.training.optimisers import adamw

_B2 = 0.95  # decay of AdamW's mean of squared gradients
_STATISTICS_SAMPLES = 64  # of which channels are measured


class FeatureFlow(nnx.Module):
    """A flow of a backbone's features, with what it keeps of the training samples.

    Attributes:
      mean, deviation: of each channel, by which features are normalised; 0 and 1 where they are not.
      latents: the least and the largest latent value that training met, from 0 and 0 on.
    """

    def __init__(self, config: FlowConfig, rngs: nnx.Rngs):
        self.flow = MultiFlow(config, rngs)
        self.mean = nnx.BatchStat(jnp.zeros(config.width, jnp.float32))
        self.deviation = nnx.BatchStat(jnp.ones(config.width, jnp.float32))
        self.latents = nnx.BatchStat(jnp.zeros(2, jnp.float32))

    def __call__(
        self,
        features: Float[Array, "B V H W C"],
        present: Bool[Array, "B V"],
        noise: Float[Array, "B H W 1"] | None,
        foreground: Bool[Array, "B V H W"] | None,
    ) -> tuple[Float[Array, "B V H W C"], Float[Array, "B V H W"]]:
        """Return latent values and anomaly maps of a batch."""
        shape = (1,) * 4 + (-1,)
        mean, deviation = self.mean[...].reshape(shape), self.deviation[...].reshape(shape)
        x = (features - mean) / deviation

        def of_sample(x, present, noise, foreground):
            noisy, condition = with_noise(x, noise)
            z, log_det = self.flow.forward(noisy, present, condition)
            return z, anomaly_map(z, log_det, foreground)

        return jax.vmap(of_sample)(x, jnp.asarray(present), noise, foreground)

    def remember(self, z: Float[Array, "B V H W C"], counted: Bool[Array, "B V"]) -> None:
        """Widen the range to the latent values of the images that count."""
        each = jnp.expand_dims(counted, (2, 3, 4))
        z = jnp.where(each, jax.lax.stop_gradient(z), 0)
        before = self.latents[...]
        widened = jnp.stack([jnp.minimum(before[0], z.min()), jnp.maximum(before[1], z.max())])
        # A new variable: the old one may belong to an outer trace (backbones/batch_norm.py).
        self.latents = self.latents.replace(widened)


@dataclass(frozen=True)
class MultiFlowMethod(LearnsNetwork):
    """The method. Attributes: section, training: sections of the config. graph: of the model's views."""

    spec: Spec
    section: MultiFlowSection
    training: MultiFlowTrainConfig
    graph: Graph
    requires: Requires

    @cached_property
    def network(self) -> FlowConfig:
        """The shape of the flow on the backbone's feature map."""
        own, (_, _, width) = self.section, self.spec.maps[self._tap]
        return FlowConfig(
            width=width,
            graph=self.graph,
            hidden=own.hidden,
            kernels=own.kernels,
            clamp=own.clamp,
            condition=own.noise != "none",
            gain=own.gain,
            rematerialise=own.rematerialise,
        )

    @property
    def _tap(self) -> str:
        return next(iter(self.spec.maps))

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return network_graph(lambda: FeatureFlow(self.network, nnx.Rngs(0)))

    def init(self, key: jax.Array) -> State:
        """Return the flow as it starts, by the released code's rules."""
        return network_state(FeatureFlow(self.network, nnx.Rngs(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train the flow to make the features of normal samples likely."""
        check_views(data.index)
        network = FeatureFlow(self.network, nnx.Rngs(seed_from(run.key)))
        if self.section.normalise == "channels":
            mean, deviation = channel_statistics(data.features[self._tap], data.index.present())
            network.mean[...], network.deviation[...] = jnp.asarray(mean), jnp.asarray(deviation)
        return train_network(network, self._loss, data, self.training, self._optimiser, run, self.spec.name)

    def _loss(
        self, network: FeatureFlow, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        x, present = jnp.asarray(batch["features"][self._tap]), jnp.asarray(batch["present"])
        counted = counted_images(batch)
        grid = x.shape[2:4]
        noise = jax.vmap(lambda key: draw_noise(self.section.noise, key, grid))(jax.random.split(key, len(x)))
        z, maps = network(x, present, noise, batch.get("foreground"))
        network.remember(z, counted)
        return flow_loss(maps, counted), {}

    def _optimiser(self, steps: int) -> optax.GradientTransformation:
        return adamw(self.training, steps, _B2)

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the negative log-likelihood of each patch, by channel and without the Gaussian constant.

        A patch of the background has 0.
        """
        features = batch.features[self._tap]
        return _score(self._graph, self.section.noise, state, features, batch.present, batch.foreground)

    def map_range(self, state: State) -> tuple[float, float]:
        """Return the least and the largest latent value that training met (`TellsRange`).

        The released evaluation cuts maps off there, although they are other quantities.
        """
        low, high = np.asarray(state["statistics"]["latents"], np.float64)
        return float(low), float(high)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        views = self.spec.views
        edges = ", ".join(f"{views[source]}>{views[target]}" for source, target in self.graph.edges)
        return {
            "fusion": f"messages between views: {edges or 'none'}",
            "trained": f"normalising flow of {len(own.kernels)} couplings, hidden width {own.hidden}, noise "
            f"{own.noise}, {training.epochs} epochs of batches of {training.batch_size}, AdamW "
            f"{training.learning_rate:g}, the last epoch taken",
            "features_of_method": {
                "none": "as the backbone gives them",
                "channels": "each channel normalised by its mean and deviation in training",
            }[own.normalise],
            "patch_score": "(|z|^2 / 2 - log-determinant) / channels, 0 in the background",
        }


def channel_statistics(
    features: Any, present: Bool[np.ndarray, "S V"]
) -> tuple[Float32[np.ndarray, " C"], Float32[np.ndarray, " C"]]:
    """Return mean and deviation of each channel over the patches of some training samples, spread evenly.

    A channel that does not vary has the deviation 1.

    Args:
      features: [S,V,H,W,C], an array or a FeatureStore. present: which views each sample has.
    """
    chosen = spread_evenly(len(present), _STATISTICS_SAMPLES)
    values = np.asarray(features[chosen], np.float64)[present[chosen]]
    mean, deviation = values.mean((0, 1, 2)), values.std((0, 1, 2))
    varies = deviation > 1e-6 * deviation.max()
    return mean.astype(np.float32), np.where(varies, deviation, 1).astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    graph: nnx.GraphDef,
    noise: str,
    state: State,
    x: Float[Array, "B V H W C"],
    present: Bool[Array, "B V"],
    foreground: Bool[Array, "B V H W"] | None,
) -> Float32[Array, "B V H W"]:
    zeros = no_noise(noise, x.shape[2:4])
    zeros = None if zeros is None else jnp.broadcast_to(zeros, (len(x), *zeros.shape))
    return merged(graph, state)(x, present, zeros, foreground)[1]
