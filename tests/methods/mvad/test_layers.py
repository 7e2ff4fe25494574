"""The layers of MVAD's network against loops, NumPy, and JAX's own derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.methods.mvad.batch_norm import BatchNorm
from mvead_jax.methods.mvad.dropout import drop, kept
from mvead_jax.methods.mvad.layers import Conv, Linear, Upsample
from mvead_jax.runtime import sharding


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loops(x, kernel, stride):
    """A convolution pixel by pixel, in float64."""
    x, kernel = np.asarray(x, "f8"), np.asarray(kernel, "f8")
    size, pad = len(kernel), len(kernel) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    tall, wide = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((len(x), tall, wide, kernel.shape[-1]))
    for i, j in np.ndindex(tall, wide):
        patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.einsum("nijc,ijcd->nd", patch, kernel)
    return out


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_a_convolution_is_that_of_loops_with_zeros_around_the_map(size, stride):
    conv, x = Conv(3, 4, size, stride=stride, bias=True, rngs=nnx.Rngs(0)), draw(0, 2, 5, 6, 3)
    expected = loops(x, conv.kernel[...], stride) + np.asarray(conv.bias[...])
    np.testing.assert_allclose(conv(x), expected, atol=1e-6)


@pytest.mark.parametrize("images", [10, 7, 4])
def test_the_derivative_of_a_convolution_is_jaxs_own_however_the_images_are_grouped(images):
    conv, x, g = Conv(3, 4, rngs=nnx.Rngs(0)), draw(0, images, 5, 6, 3), draw(1, images, 5, 6, 4)
    graph, state = nnx.split(conv)

    def plain(state, x):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = state["kernel"][...]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    ours, theirs = (
        jax.tree.leaves(jax.vjp(f, state, x)[1](g)) for f in (lambda s, x: nnx.merge(graph, s)(x), plain)
    )
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_upsampling_writes_four_pixels_for_each():
    up, x = Upsample(3, 4, rngs=nnx.Rngs(0)), draw(0, 2, 2, 3, 3)
    found, kernel = up(x), np.asarray(up.kernel[...])
    assert found.shape == (2, 4, 6, 4)
    for h, w, i, j in np.ndindex(2, 3, 2, 2):
        np.testing.assert_allclose(found[:, 2 * h + i, 2 * w + j], x[:, h, w] @ kernel[i, j], atol=1e-6)


def test_initial_values_have_the_spread_of_the_released_code():
    rngs = nnx.Rngs(0)
    kernel = Conv(64, 128, rngs=rngs).kernel[...]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (128 * 9)), rtol=0.02)  # by the outputs
    uniform = {
        1 / np.sqrt(64): Conv(64, 500, 1, bias=True, rngs=rngs).bias[...],
        1 / np.sqrt(4 * 50): Upsample(64, 50, rngs=rngs).kernel[...],
        1 / np.sqrt(65): Linear(65, 100, rngs=rngs).kernel[...],
        1 / np.sqrt(66): Linear(66, 1000, rngs=rngs).bias[...],
    }
    for bound, values in uniform.items():
        assert bound * 0.98 < np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.05)


# ---- batch norm


def normed(norm, x, **options):
    graph, state = nnx.split(norm)

    @jax.jit
    def run(state, x, weights):
        module = nnx.merge(graph, state)
        return module(x, weights=weights, **options), nnx.state(module, nnx.BatchStat)

    return run(state, x, options.pop("weights", None))


def started(width=3):
    norm = BatchNorm(width)
    for number, variable in enumerate((norm.scale, norm.bias, norm.mean, norm.variance)):
        variable[...] = jnp.abs(draw(number, width)) + 0.5
    return norm


@pytest.mark.parametrize("weights", [None, (1, 0, 1, 1)])
def test_batch_norm_uses_the_images_that_count_and_moves_its_running_statistics(weights):
    norm, x = started(), draw(7, 4, 2, 5, 3) * 3 + 10
    counted = np.asarray(x, "f8")[[n for n in range(4) if weights is None or weights[n]]].reshape(-1, 3)
    mean, variance = counted.mean(0), counted.var(0)
    given = None if weights is None else jnp.array(weights, jnp.float32)
    found, state = normed(norm, x, train=True, weights=given)
    expected = (np.asarray(x, "f8") - mean) / np.sqrt(variance + 1e-5)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    unbiased = counted.var(0, ddof=1)
    np.testing.assert_allclose(state["mean"][...], 0.9 * norm.mean[...] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["variance"][...], 0.9 * norm.variance[...] + 0.1 * unbiased, rtol=1e-5)


def test_batch_norm_in_evaluation_uses_its_running_statistics_and_keeps_them():
    norm, x = started(), draw(7, 4, 2, 5, 3)
    found, state = normed(norm, x, train=False)
    mean, variance, scale, bias = map(np.asarray, (norm.mean, norm.variance, norm.scale, norm.bias))
    expected = (np.asarray(x) - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(state["mean"][...], mean)


def test_the_derivative_of_batch_norm_is_that_of_differences():
    weights, rng = jnp.array([1, 0, 1], jnp.float32), np.random.default_rng(0)
    graph, state = nnx.split(started())
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), np.float64), state)
        arrays = state, jnp.asarray(rng.normal(size=(3, 2, 2, 3)))
        factors = jnp.asarray(rng.normal(size=(3, 2, 2, 3)))

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


@pytest.mark.parametrize("manual", [True, False])
def test_batch_norm_over_four_devices_is_that_of_one(manual):
    norm, x = started(), draw(7, 8, 2, 5, 3) + 3
    weights = jnp.array([1, 0, 1, 1, 1, 1, 1, 0], jnp.float32)
    graph, state = nnx.split(norm)

    def images(state, rows, axis_name=None):
        module = nnx.merge(graph, state)
        out = module(rows[0], train=True, weights=rows[1], axis_name=axis_name)
        return (out**2).mean((1, 2, 3)), jnp.broadcast_to(module.variance[...], (len(rows[0]), 3))

    def loss(state, rows, run):
        values, variance = run(state, rows)
        return (values * rows[1] * jnp.arange(8, dtype=jnp.float32)).sum(), variance

    def divided(state, rows):
        return sharding.on_each_device(lambda s, r: images(s, r, sharding.AXIS), sharding.mesh())(state, rows)

    one = jax.value_and_grad(loss, has_aux=True)(state, (x, weights), images)
    rows = sharding.place((np.asarray(x), np.asarray(weights)))
    run = divided if manual else images
    four = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)(state, rows, run)
    for found, expected in zip(jax.tree.leaves(four), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ---- dropout


def test_dropout_drops_the_share_asked_for_and_keeps_the_mean():
    seeds = jax.random.bits(jax.random.key(0), (4, 2), "uint32")
    out = np.asarray(drop(jnp.ones((4, 100, 500)), 0.1, seeds))
    assert set(np.unique(out)) == {0, np.float32(1 / 0.9)}
    np.testing.assert_allclose((out == 0).mean((1, 2)), 0.1, atol=4 * np.sqrt(0.09 / 50_000))
    # Neighbours and images are independent: both are dropped in 1 of 100 cases.
    for left, right in ((out[:, :, 1:], out[:, :, :-1]), (out[:, 1:], out[:, :-1]), (out[1:], out[:-1])):
        np.testing.assert_allclose(((left == 0) & (right == 0)).mean(), 0.01, atol=0.001)


def test_dropout_depends_on_the_seed_of_the_image_alone():
    seeds = jax.random.bits(jax.random.key(0), (3, 2), "uint32")
    whole, last = (kept(0.1, own, (20, 30)) for own in (seeds, seeds[2:]))
    np.testing.assert_array_equal(whole[2:], last)
    assert (whole[0] != whole[1]).any()
    for word in range(2):
        assert (kept(0.1, seeds.at[0, word].add(np.uint32(1)), (20, 30))[0] != whole[0]).any()


def test_a_whole_image_is_dropped_or_kept_together():
    seeds = jax.random.bits(jax.random.key(1), (4000, 2), "uint32")
    out = np.asarray(drop(jnp.ones((4000, 2, 2)), 0.1, seeds, whole=True))
    assert (out == out[:, :1, :1]).all()
    np.testing.assert_allclose((out[:, 0, 0] == 0).mean(), 0.1, atol=0.02)


def test_dropout_is_off_without_seeds_or_rate():
    x = draw(0, 2, 3)
    assert drop(x, 0.1, None) is x
    assert drop(x, 0.0, jnp.zeros((2, 2), jnp.uint32)) is x
