"""The network of a coupling against loops; missing views; the order of views; the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from multiflow_flows import features

from mvead_jax.methods.multiflow.graph import Graph, complete, top_ring, unconnected
from mvead_jax.methods.multiflow.messages import MessageNetwork

H, W, INPUTS, HIDDEN, OUTPUTS = 4, 3, 3, 2, 4


def network(graph, kernel=3, seed=0):
    made = MessageNetwork(graph, INPUTS, HIDDEN, OUTPUTS, kernel, nnx.Rngs(seed))
    made.gain[...] = features(seed, graph.views)
    return made


def convolution(x, kernel, bias):
    """Patch by patch, the nearest patch inside where the kernel reaches out."""
    side = len(kernel)
    found = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for row, column, i, j in np.ndindex(*x.shape[:2], side, side):
        at = np.clip([row + i - side // 2, column + j - side // 2], 0, np.array(x.shape[:2]) - 1)
        found[row, column] += x[at[0], at[1]] @ kernel[i, j]
    return found + bias


def weights(own, name, which):
    part = getattr(own, name)
    return np.asarray(part.kernel[...], "f8")[which], np.asarray(part.bias[...], "f8")[which]


def oracle(own, x, present):
    y = [
        np.maximum(convolution(one, *weights(own, "inner", view)), 0)
        for view, one in enumerate(np.asarray(x, "f8"))
    ]
    found = []
    for view in range(own.graph.views):
        heard = [
            convolution(y[source], *weights(own, "message", edge))
            for edge, (source, target) in enumerate(own.graph.edges)
            if target == view and present[source]
        ]
        message = np.mean(heard, axis=0) if heard else 0
        found.append(float(own.gain[view]) * (convolution(y[view], *weights(own, "own", view)) + message))
    return np.stack(found)


def run(own, x, present=None):
    """The outputs of one sample, compiled."""
    present = np.ones(len(x), bool) if present is None else present
    return np.asarray(jax.jit(lambda x, present: jnp.stack(own(list(x), present)))(x, present))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("present", [(True, True, True), (True, False, True)])
def test_the_network_is_what_the_loops_say_eager_and_compiled(kernel, present):
    own = network(Graph(3, ((0, 1), (1, 0), (2, 1))), kernel)
    x, present = features(1, 3, H, W, INPUTS), np.array(present)
    expected = oracle(own, x, present)
    np.testing.assert_allclose(jnp.stack(own(list(x), present)), expected, atol=2e-6)
    compiled = jax.jit(jax.vmap(lambda x, present: jnp.stack(own(list(x), present))))
    np.testing.assert_allclose(compiled(x[None], present[None])[0], expected, atol=2e-6)


def test_a_missing_view_changes_nothing_about_what_the_others_say_to_each_other():
    own = network(top_ring(5))
    present = np.array([True, True, False, True, True])
    x = features(2, 5, H, W, INPUTS)
    found, other = run(own, x, present), run(own, x.at[2].set(1e3), present)
    assert (found[present] == other[present]).all()
    # The same as a graph that never had the view.
    kept = [edge for edge, ends in enumerate(own.graph.edges) if 2 not in ends]
    without = MessageNetwork(
        Graph(5, tuple(own.graph.edges[edge] for edge in kept)), INPUTS, HIDDEN, OUTPUTS, 3, nnx.Rngs(0)
    )
    for name in ("inner", "own"):
        setattr(without, name, getattr(own, name))
    without.message.kernel[...] = own.message.kernel[...][np.array(kept)]
    without.message.bias[...] = own.message.bias[...][np.array(kept)]
    without.gain[...] = own.gain[...]
    np.testing.assert_allclose(found[present], run(without, x)[present], atol=1e-6)


def test_in_a_complete_graph_the_order_of_the_views_does_not_matter():
    own, order = network(complete(3)), np.array([2, 0, 1])
    moved = network(complete(3), seed=1)
    for name in ("inner", "own"):
        for leaf in ("kernel", "bias"):
            getattr(getattr(moved, name), leaf)[...] = getattr(getattr(own, name), leaf)[...][order]
    edges = np.array([own.graph.edges.index((order[a], order[b])) for a, b in own.graph.edges])
    moved.message.kernel[...] = own.message.kernel[...][edges]
    moved.message.bias[...] = own.message.bias[...][edges]
    moved.gain[...] = own.gain[...][order]
    x = features(3, 3, H, W, INPUTS)
    np.testing.assert_allclose(run(moved, x[order]), run(own, x)[order], atol=1e-6)


def test_a_view_that_hears_nobody_has_its_own_prediction_alone():
    own = network(unconnected(1))
    x = features(4, 1, H, W, INPUTS)
    y = np.maximum(convolution(np.asarray(x[0], "f8"), *weights(own, "inner", 0)), 0)
    expected = float(own.gain[0]) * convolution(y, *weights(own, "own", 0))
    np.testing.assert_allclose(run(own, x)[0], expected, atol=2e-6)


def test_weights_start_uniform_within_pytorchs_bound_and_gains_at_zero():
    own = MessageNetwork(complete(4), 16, 8, 24, 5, nnx.Rngs(0))
    for part, inputs in ((own.inner, 16), (own.own, 8), (own.message, 8)):
        bound = 1 / np.sqrt(inputs * 25)
        for leaf in (part.kernel[...], part.bias[...]):
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.15)
    assert not own.gain[...].any()
    assert not run(own, features(5, 4, H, W, 16)).any()
