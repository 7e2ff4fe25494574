"""The layers of MVAD's network against loops, NumPy, and JAX's own derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.methods.mvad.dropout import drop, kept
from mvead_jax.methods.mvad.layers import Conv, Linear, Upsample


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
