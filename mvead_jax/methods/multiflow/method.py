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
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData, parameter_count
from mvead_jax.methods.multiflow.config import MultiFlowSection, MultiFlowTrainConfig
from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import Graph
from mvead_jax.methods.multiflow.noise import draw_noise, no_noise, with_noise
from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss
from mvead_jax.methods.network import merged, network_graph, network_state, train_network
from mvead_jax.training.optimisers import adamw

_B2 = 0.95  # decay of AdamW's mean of squared gradients


class FlowWithRange(nnx.Module):
    """A flow, and the least and the largest latent value that its training met (from 0 and 0 on)."""

    def __init__(self, config: FlowConfig, rngs: nnx.Rngs):
        self.flow = MultiFlow(config, rngs)
        self.latents = nnx.BatchStat(jnp.zeros(2, jnp.float32))

    def remember(self, z: Float[Array, "B V H W C"], counted: Bool[Array, "B V"]) -> None:
        """Widen the range to the latent values of the images that count."""
        each = jnp.expand_dims(counted, (2, 3, 4))
        z = jnp.where(each, jax.lax.stop_gradient(z), 0)
        before = self.latents[...]
        widened = jnp.stack([jnp.minimum(before[0], z.min()), jnp.maximum(before[1], z.max())])
        # A new variable: the old one may belong to an outer trace (backbones/batch_norm.py).
        self.latents = self.latents.replace(widened)


@dataclass(frozen=True)
class MultiFlowMethod:
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
        return network_graph(lambda: FlowWithRange(self.network, nnx.Rngs(0)))

    def init(self, key: jax.Array) -> State:
        """Return the flow as it starts, by the released code's rules."""
        return network_state(FlowWithRange(self.network, nnx.Rngs(key)))

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Train the flow to make the features of normal samples likely."""
        check_views(data.index)
        network = FlowWithRange(self.network, nnx.Rngs(seed_from(run.key)))
        dropped = self.training.drop_last
        return train_network(
            network,
            self._loss,
            data,
            self.training,
            self._optimiser,
            run,
            self.spec.name,
            whole_batches=dropped,
        )

    def _loss(
        self, network: FlowWithRange, batch: Mapping[str, Any], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        x, present = jnp.asarray(batch["features"][self._tap]), jnp.asarray(batch["present"])
        counted = present & (jnp.asarray(batch["weight"]) > 0)[:, None]
        grid = x.shape[2:4]
        noise = jax.vmap(lambda key: draw_noise(self.section.noise, key, grid))(jax.random.split(key, len(x)))
        z, maps = _maps(network.flow, x, present, noise, batch.get("foreground"))
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
        """Return the least and the largest latent value that training met.

        The released evaluation cuts maps off there, although they are other quantities.
        """
        low, high = np.asarray(state["statistics"]["latents"], np.float64)
        return float(low), float(high)

    def state_bytes(self, images: int) -> int:
        return 4 * parameter_count(self)

    def checkpoint_bytes(self) -> int:
        return 12 * parameter_count(self)

    def describe(self) -> dict[str, str]:
        own, training = self.section, self.training
        views = self.spec.views
        edges = ", ".join(f"{views[source]}>{views[target]}" for source, target in self.graph.edges)
        return {
            "fusion": f"messages between views: {edges or 'none'}",
            "trained": f"normalising flow of {len(own.kernels)} couplings, hidden width {own.hidden}, noise "
            f"{own.noise}, {training.epochs} epochs of batches of {training.batch_size}, AdamW "
            f"{training.learning_rate:g}, the last epoch taken",
            "patch_score": "(|z|^2 / 2 - log-determinant) / channels, 0 in the background",
        }


def _maps(
    flow: MultiFlow,
    x: Float[Array, "B V H W C"],
    present: Bool[Array, "B V"],
    noise: Float[Array, "B H W 1"] | None,
    foreground: Bool[Array, "B V H W"] | None,
) -> tuple[Float[Array, "B V H W C"], Float[Array, "B V H W"]]:
    """Return latent values and anomaly maps of a batch."""

    def of_sample(x, present, noise, foreground):
        noisy, condition = with_noise(x, noise)
        z, log_det = flow.forward(noisy, present, condition)
        return z, anomaly_map(z, log_det, foreground)

    return jax.vmap(of_sample)(x, jnp.asarray(present), noise, foreground)


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
    return _maps(merged(graph, state).flow, x, present, zeros, foreground)[1]
