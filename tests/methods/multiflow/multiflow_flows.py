"""Small flows with random weights, for the tests beside it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import Graph


def random_flow(
    graph: Graph, width: int, kernels=(3, 5), hidden=4, condition=True, seed=0, **options
) -> MultiFlow:
    """A flow whose gains are not zero, so that all of its parts matter."""
    config = FlowConfig(width, graph, hidden, kernels, condition=condition, **options)
    flow = MultiFlow(config, nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    for coupling in flow.couplings:
        for network in (coupling.s1, coupling.s2):
            network.gain[...] = jnp.asarray(random.uniform(0.3, 0.9, graph.views), jnp.float32)
    return flow


def features(seed: int, *shape: int) -> jax.Array:
    """Standard normal features."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def forward(flow: MultiFlow, x, present=None, condition=None):
    """`MultiFlow.forward`, compiled."""
    return _run(*nnx.split(flow), "forward", x, *_given(flow, x, present, condition))


def inverse(flow: MultiFlow, z, present=None, condition=None):
    """`MultiFlow.inverse`, compiled."""
    return _run(*nnx.split(flow), "inverse", z, *_given(flow, z, present, condition))


def _given(flow, x, present, condition):
    present = np.ones(len(x), bool) if present is None else present
    if condition is None and flow.config.condition:
        condition = jnp.zeros((*x.shape[1:3], 1), x.dtype)
    return present, condition


@partial(jax.jit, static_argnums=(0, 2))
def _run(graph, state, name, *arrays):
    return getattr(nnx.merge(graph, state), name)(*arrays)
