"""Forward and inverse, exact log-determinants, likelihoods and samples of small flows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from multiflow_flows import features, forward, inverse, random_flow
from scipy.stats import norm

from mvead_jax.methods.multiflow.coupling import inverse_order, permutations, permuted, soft_clamp
from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import complete, top_ring, unconnected
from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss

V, H, W, C = 3, 2, 3, 5
PRESENT = np.array([True, False, True])


@pytest.mark.parametrize("present", [None, PRESENT])
def test_forward_and_inverse_meet_with_and_without_a_missing_view(present):
    flow = random_flow(top_ring(V), C)
    x, condition = features(0, V, H, W, C), features(1, H, W, 1)
    z, log_det = forward(flow, x, present, condition)
    assert np.abs(log_det).max() > 0.1
    np.testing.assert_allclose(inverse(flow, z, present, condition), x, atol=1e-5)
    assert np.abs(inverse(flow, z, present, -condition) - x).max() > 1e-2  # the condition matters


def test_the_log_determinant_is_that_of_the_jacobian():
    with jax.enable_x64(True):
        flow = random_flow(complete(2), 3, kernels=(3, 3))
        graph, state = nnx.split(flow)
        flow = nnx.merge(graph, jax.tree.map(lambda own: own.astype(jnp.float64), state))
        random = np.random.default_rng(2)
        x, condition = (
            jnp.asarray(random.normal(size=(2, 2, 2, 3))),
            jnp.asarray(random.normal(size=(2, 2, 1))),
        )

        def flat(values):
            z, log_det = flow.forward(values.reshape(x.shape), None, condition)
            return z.reshape(-1), log_det

        jacobian, log_det = jax.jit(jax.jacrev(flat, has_aux=True))(x.reshape(-1))
        jacobian, log_det = np.asarray(jacobian), np.asarray(log_det)
    sign, expected = np.linalg.slogdet(jacobian)
    assert sign != 0
    np.testing.assert_allclose(log_det.sum(), expected, rtol=1e-10)
    # Messages: z of each view depends on x of the other one.
    blocks = np.abs(jacobian).reshape(2, 12, 2, 12).max((1, 3))
    assert (blocks > 1e-3).all()


def test_an_untrained_flow_is_a_permutation_that_keeps_the_volume():
    flow = MultiFlow(FlowConfig(C, top_ring(V), 4, (3, 3)), nnx.Rngs(0))
    x = features(3, V, H, W, C)
    z, log_det = forward(flow, x, None, features(4, H, W, 1))
    assert not log_det.any()
    expected = x
    for number in range(2):
        orders = permutations(number, V, C)
        expected = np.stack([own[..., list(order)] for own, order in zip(expected, orders, strict=True)])
    np.testing.assert_array_equal(z, expected)
    likelihood = jax.jit(flow.log_likelihood)(x)
    np.testing.assert_allclose(likelihood, norm.logpdf(np.asarray(x, "f8")).sum(-1), rtol=1e-5)


def test_compiled_batches_and_rematerialised_flows_give_the_same_numbers_and_gradients():
    flow = random_flow(top_ring(V), C)
    again = random_flow(top_ring(V), C, rematerialise=True)
    x, condition = features(5, 2, V, H, W, C), features(6, 2, H, W, 1)
    present = np.stack([np.ones(V, bool), PRESENT])

    def loss(state, graph):
        own = nnx.merge(graph, state)
        z, log_det = jax.vmap(own.forward)(x, present, condition)
        return flow_loss(jax.vmap(anomaly_map)(z, log_det), present), z

    (value, z), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(
        *nnx.split(flow)[::-1]
    )
    (same, _), same_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(
        *nnx.split(again)[::-1]
    )
    np.testing.assert_allclose(value, same, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, same_gradient)
    for sample in range(2):
        alone, _ = forward(flow, x[sample], present[sample], condition[sample])
        np.testing.assert_allclose(z[sample], alone, atol=1e-5)
    with jax.disable_jit():
        eager, _ = flow.forward(x[1], present[1], condition[1])
    np.testing.assert_allclose(z[1], eager, atol=1e-5)


def test_no_gradient_reaches_what_only_a_missing_view_uses():
    flow = random_flow(complete(2), 4, kernels=(3,), condition=False)
    graph, state = nnx.split(flow)
    x, present = features(7, 1, 2, H, W, 4), np.array([[True, False]])

    def loss(state):
        z, log_det = jax.vmap(nnx.merge(graph, state).forward)(x, present)
        return flow_loss(jax.vmap(anomaly_map)(z, log_det), present)

    gradient = jax.jit(jax.grad(loss))(state)["couplings"][0]
    for network in ("s1", "s2"):
        own = gradient[network]
        assert np.abs(own["own"]["kernel"][...][0]).max() > 0
        assert not np.asarray(own["own"]["kernel"][...][1]).any()
        assert not np.asarray(own["message"]["kernel"][...]).any()


def test_one_view_is_a_flow_of_its_own():
    flow = random_flow(unconnected(1), 4, kernels=(3,))
    x = features(8, 1, H, W, 4)
    z, log_det = forward(flow, x)
    assert log_det.shape == (1, H, W)
    np.testing.assert_allclose(inverse(flow, z), x, atol=1e-5)


def test_a_sample_is_what_the_flow_makes_normal():
    flow = random_flow(top_ring(V), C)
    key = jax.random.key(3)
    sample = jax.jit(lambda key: flow.sample(key, (H, W), PRESENT))
    drawn = sample(key)
    z, _ = forward(flow, drawn, PRESENT)
    np.testing.assert_allclose(z, jax.random.normal(key, (V, H, W, C), jnp.float32), atol=1e-5)
    np.testing.assert_array_equal(drawn, sample(key))


def test_the_likelihood_leaves_missing_views_out():
    flow = random_flow(top_ring(V), C)
    x = features(9, V, H, W, C)
    z, log_det = forward(flow, x, PRESENT)
    expected = norm.logpdf(np.asarray(z, "f8")).sum(-1) + np.asarray(log_det)
    found = jax.jit(flow.log_likelihood)(x, PRESENT)
    np.testing.assert_allclose(found[PRESENT], expected[PRESENT], rtol=1e-5)
    assert not found[1].any()


def test_training_makes_likely_what_it_sees():
    random = np.random.default_rng(10)
    # The second view is a shifted copy of the first one: only messages can tell.
    first = random.normal(size=(8, 1, 4, 4, 4))
    data = jnp.asarray(
        np.concatenate([first, 2 + 0.2 * random.normal(size=first.shape) + first], 1), jnp.float32
    )
    losses = {}
    for graph in (complete(2), unconnected(2)):
        definition, state = nnx.split(
            MultiFlow(FlowConfig(4, graph, 8, (3, 3), condition=False), nnx.Rngs(0))
        )
        optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, 120))

        def loss(state, definition=definition):
            z, log_det = jax.vmap(nnx.merge(definition, state).forward)(data)
            return flow_loss(jax.vmap(anomaly_map)(z, log_det))

        @jax.jit
        def step(carry, _, loss=loss, optimiser=optimiser):
            state, memory = carry
            value, gradient = jax.value_and_grad(loss)(state)
            updates, memory = optimiser.update(gradient, memory, state)
            return (optax.apply_updates(state, updates), memory), value

        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            _, values = jax.lax.scan(step, (state, optimiser.init(state)), length=120)
        losses[graph.edges] = np.asarray(values)
    with_messages, without = losses.values()
    assert with_messages[0] == without[0]
    assert with_messages[-1] < without[-1] < with_messages[0] - 0.5, (with_messages[::10], without[::10])


def test_an_order_is_undone_by_its_inverse_and_comes_from_the_legacy_generator():
    assert permutations(0, 1, 5) == ((2, 0, 1, 3, 4),)  # of numpy.random.seed(0); numpy.random.permutation(5)
    x = features(11, H, W, 16)
    orders = permutations(3, 4, 16)
    assert len(set(orders)) == 4
    for order in orders:
        np.testing.assert_array_equal(permuted(permuted(x, order), inverse_order(order)), x)


def test_scales_stay_within_the_clamp():
    scales = soft_clamp(jnp.asarray([-1e9, 0.0, 1e-4, 1e9], jnp.float32), 1.9)
    np.testing.assert_allclose(scales, [-1.898, 0, 0.636e-4, 1.898], rtol=1e-3)


@pytest.mark.parametrize("shape", [(2, H, W, C), (V, H, W, C + 1)])
def test_features_of_another_rig_or_backbone_are_a_programmers_error(shape):
    with pytest.raises(ValueError, match="for a flow of 3 views and 5 channels"):
        random_flow(top_ring(V), C).forward(features(0, *shape))


def test_a_condition_for_a_flow_without_one_is_a_programmers_error():
    flow = random_flow(top_ring(V), C, kernels=(3,), condition=False)
    with pytest.raises(ValueError, match="without one"):
        flow.forward(features(0, V, H, W, C), None, features(1, H, W, 1))
