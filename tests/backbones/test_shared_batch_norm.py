"""Batch normalisation against a slow formula, and what weights, devices and modes may change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvead_jax.backbones.batch_norm import BatchNorm

WIDTH = 5


def norm(**options) -> BatchNorm:
    """A batch norm whose every number is far from where it starts."""
    module, rng = BatchNorm(WIDTH, **options), np.random.default_rng(0)
    for variable in (module.scale, module.bias, module.mean):
        variable[...] = jnp.asarray(rng.normal(size=WIDTH), jnp.float32)
    module.variance[...] = jnp.asarray(rng.uniform(0.5, 2, WIDTH), jnp.float32)
    return module


def features(seed=1, shape=(4, 3, 2, WIDTH), offset=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + offset, jnp.float32)


def slow(module, x, weights=None, train=True):
    """The definition, one channel at a time, in float64: output, new running mean, new running variance."""
    x = np.asarray(x, np.float64)
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    gain, bias, means, variances = (
        np.asarray(v[...], np.float64) for v in (module.scale, module.bias, module.mean, module.variance)
    )
    out, new_means, new_variances = np.empty_like(x), means.copy(), variances.copy()
    each = np.broadcast_to(weights.reshape(-1, *[1] * (x.ndim - 2)), x.shape[:-1])
    for channel in range(x.shape[-1]):
        values, mean, variance = x[..., channel], means[channel], variances[channel]
        if train:
            count = each.sum()
            mean = (each * values).sum() / count
            variance = (each * (values - mean) ** 2).sum() / count
            new_means[channel] += module.momentum * (mean - means[channel])
            unbiased = variance * count / (count - 1)
            new_variances[channel] += module.momentum * (unbiased - variances[channel])
        scaled = (values - mean) / np.sqrt(variance + module.epsilon)
        out[..., channel] = scaled * gain[channel] + bias[channel]
    return out, new_means, new_variances


def run(module, x, **options):
    """Output and running statistics of a copy of the module, compiled."""
    graph, state = nnx.split(module)

    @jax.jit
    def forward(state, x, weights):
        own = nnx.merge(graph, state)
        train = options.get("train", False)
        return own(x, train=train, weights=weights), own.mean[...], own.variance[...]

    return forward(state, x, options.get("weights"))


@pytest.mark.parametrize("shape", [(4, 3, 2, WIDTH), (7, WIDTH), (2, 6, WIDTH)])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "epsilon": 1e-3}])
def test_outputs_and_running_statistics_are_those_of_the_definition(shape, train, options):
    module, x = norm(**options), features(shape=shape)
    for found, expected in zip(run(module, x, train=train), slow(module, x, train=train), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_images_of_no_weight_change_neither_statistics_nor_the_other_images():
    module, x = norm(), features()
    weights = jnp.asarray([1.0, 0.0, 1.0, 0.0], jnp.float32)
    found = run(module, x, train=True, weights=weights)
    spoiled = run(module, x.at[1].set(1e4).at[3].set(-1e4), train=True, weights=weights)
    alone = run(module, x[::2], train=True)
    for one, two in zip(found[1:], spoiled[1:], strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(found[0][::2], alone[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[1], alone[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2], alone[2], rtol=0, atol=1e-6)


def test_fractional_weights_are_those_of_the_definition():
    module, x, weights = norm(), features(), jnp.asarray([0.5, 2.0, 0.0, 1.5], jnp.float32)
    found, expected = run(module, x, train=True, weights=weights), slow(module, x, weights)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "weights"), [((4, 3, WIDTH), jnp.zeros(4)), ((2, 1, WIDTH), jnp.eye(2)[0])]
)
def test_at_most_one_value_leaves_the_running_statistics_as_they_are_and_everything_finite(shape, weights):
    module = norm()
    out, mean, variance = run(module, features(shape=shape), train=True, weights=weights)
    np.testing.assert_array_equal(mean, module.mean[...])
    np.testing.assert_array_equal(variance, module.variance[...])
    assert bool(jnp.isfinite(out).all())


def test_the_variance_survives_a_mean_that_is_a_thousand_times_larger():
    module, x = norm(momentum=1.0), features(offset=3000.0)
    _, _, variance = run(module, x, train=True)
    expected = np.asarray(x, np.float64).reshape(-1, WIDTH).var(0, ddof=1)
    np.testing.assert_allclose(variance, expected, rtol=1e-3)  # the inputs are rounded to steps of 2e-4


def test_evaluation_remembers_nothing_and_treats_each_image_by_itself():
    module, x = norm(), features()
    out, mean, variance = run(module, x)
    np.testing.assert_array_equal(mean, module.mean[...])
    np.testing.assert_array_equal(variance, module.variance[...])
    np.testing.assert_array_equal(run(module, x[2:3])[0], out[2:3])


def test_four_devices_compute_what_one_computes_in_values_statistics_and_gradients():
    graph, params, stats = nnx.split(norm(), nnx.Param, nnx.BatchStat)
    x, weights = features(shape=(8, 3, 2, WIDTH)), jnp.asarray([1, 1, 0, 1, 1, 1, 0, 1], jnp.float32)

    def loss(params, x, weights):
        module = nnx.merge(graph, params, stats)
        out = module(x, train=True, weights=weights)
        return jnp.square(out * x).sum(), nnx.state(module, nnx.BatchStat)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    rows, shared = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    before = [np.array(leaf) for leaf in jax.tree.leaves(stats)]
    one = step(params, x, weights)
    assert all(map(np.array_equal, before, jax.tree.leaves(stats))), "the old statistics were changed"
    four = step(jax.device_put(params, shared), jax.device_put(x, rows), jax.device_put(weights, rows))
    assert len(jax.devices()) == 4
    for expected, found in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_go_through_the_statistics_of_the_batch():
    """A constant added to a channel, or a factor, changes nothing: gradients are orthogonal to both."""
    with jax.enable_x64(True):
        graph, state = nnx.split(norm())
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
        x = jnp.asarray(np.random.default_rng(3).normal(size=(6, WIDTH)))
        cotangent = jnp.asarray(np.random.default_rng(4).normal(size=(6, WIDTH)))
        loss = lambda x: (nnx.merge(graph, state)(x, train=True) * cotangent).sum()  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(x)
        assert gradient.dtype == jnp.float64
        np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-12)
        # epsilon breaks the invariance under a factor by about epsilon
        np.testing.assert_allclose((gradient * (x - x.mean(0, keepdims=True))).sum(0), 0, atol=1e-3)
        step = 1e-6 * jnp.asarray(np.random.default_rng(5).normal(size=x.shape))
        slope = (loss(x + step) - loss(x - step)) / 2
        np.testing.assert_allclose(slope, (gradient * step).sum(), rtol=1e-6)


def test_the_derivative_of_batch_norm_is_that_of_differences():
    weights, rng = jnp.array([1, 0, 1], jnp.float32), np.random.default_rng(0)
    graph, state = nnx.split(norm())
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), np.float64), state)
        arrays = state, jnp.asarray(rng.normal(size=(3, 2, 2, WIDTH)))
        factors = jnp.asarray(rng.normal(size=(3, 2, 2, WIDTH)))

        @jax.jit
        def total(arrays):
            state, x = arrays
            return (nnx.merge(graph, state)(x, train=True, weights=weights) * factors).sum()

        step = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), arrays)
        ahead, behind = (
            total(jax.tree.map(lambda x, d, side=side: x + side * d, arrays, step)) for side in (1e-6, -1e-6)
        )
        slope = sum(
            (g * d).sum() for g, d in zip(*map(jax.tree.leaves, (jax.grad(total)(arrays), step)), strict=True)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-7)
