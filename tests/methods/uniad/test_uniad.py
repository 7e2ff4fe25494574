"""UniAD: mask, attention and layers against NumPy, jitter, scores, its start, and the strict table of weights."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.ndimage import uniform_filter

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.methods.uniad.attention import dropout, neighbour_mask
from mvead_jax.methods.uniad.config import UniadConfig, UniadSection, UniadTrainConfig
from mvead_jax.methods.uniad.modeling import Network, NetworkConfig, check_map
from mvead_jax.methods.uniad.objective import batch_loss, image_scores, jittered, joined, optimiser
from mvead_jax.methods.uniad.params import from_released, key_table
from mvead_jax.runtime.errors import UserError

TINY = NetworkConfig(
    inputs=5,
    grid=(3, 4),
    width=8,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    feedforward=6,
    neighbours=(1, 2),
)


@pytest.mark.parametrize("neighbours", [(1, 1), (3, 2), (4, 1)])
def test_a_token_attends_to_all_but_the_block_around_it(neighbours):
    found = neighbour_mask(5, 4, neighbours)
    for query in range(20):
        for key in range(20):
            rows, columns = abs(query // 4 - key // 4), abs(query % 4 - key % 4)
            assert found[query, key] == (rows > neighbours[0] // 2 or columns > neighbours[1] // 2)


@pytest.fixture(scope="module")
def network():
    network = Network(TINY, normal=from_seed(0))
    rng = np.random.default_rng(1)
    graph, state = nnx.split(network)  # biases and gains of their own, so that none is missed
    state = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), state)
    return nnx.merge(graph, state)


def linear(layer, x):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    found = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return found * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])


def attention(layer, query, key, value, mask):
    kernels = np.split(np.asarray(layer.in_proj.kernel[...]), 3, axis=1)
    biases = np.split(np.asarray(layer.in_proj.bias[...]), 3)
    q, k, v = (x @ w + b for x, w, b in zip((query, key, value), kernels, biases, strict=True))
    heads = []
    for at in (np.s_[:4], np.s_[4:]):
        logits = np.where(mask, q[:, at] @ k[:, at].T / 2, -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, at])
    return linear(layer.out_proj, np.concatenate(heads, axis=1))


def feed(layer, x):
    return linear(layer.feed.linear2, np.maximum(linear(layer.feed.linear1, x), 0))


def test_the_transformer_is_the_papers_written_out(network):
    """Each layer of the decoder starts from its own query; columns come before rows in the position."""
    tokens = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    rows, columns = (
        np.asarray(own[...]) for own in (network.pos_embed.row_embed, network.pos_embed.col_embed)
    )
    position = np.array([np.concatenate([columns[n % 4], rows[n // 4]]) for n in range(12)])
    mask = neighbour_mask(3, 4, (1, 2))
    x = linear(network.input_proj, tokens)
    for layer in network.encoder:
        x = norm(layer.norm1, x + attention(layer.self_attn, x + position, x + position, x, mask))
        x = norm(layer.norm2, x + feed(layer, x))
    memory = x
    for layer in network.decoder:
        t = np.asarray(layer.learned_embed[...])
        t = norm(layer.norm1, t + attention(layer.self_attn, t + position, memory + position, memory, mask))
        t = norm(layer.norm2, t + attention(layer.multihead_attn, t + position, x + position, x, mask))
        x = norm(layer.norm3, t + feed(layer, t))
    expected = linear(network.output_proj, norm(network.norm, x))
    found = network(jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(jax.jit(network)(tokens), found, atol=1e-6)


def test_dropout_follows_from_its_key_and_keeps_the_mean(network):
    x = jnp.ones((200, 100))
    found = dropout(x, 0.1, jax.random.key(0))
    assert set(np.unique(found).tolist()) == {0.0, float(np.float32(1) / np.float32(0.9))}
    np.testing.assert_allclose(found.mean(), 1, atol=0.02)
    tokens = jnp.ones((12, 5))
    one, same, other = (network(tokens, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_layers_of_a_stack_start_with_the_same_packed_projections_and_queries():
    own = Network(TINY, normal=from_seed(0))
    first, second = own.decoder
    for name in ("self_attn", "multihead_attn"):
        packed = [getattr(layer, name).in_proj.kernel[...] for layer in (first, second)]
        np.testing.assert_array_equal(*packed)
    np.testing.assert_array_equal(first.learned_embed[...], second.learned_embed[...])
    assert (first.feed.linear1.kernel[...] != second.feed.linear1.kernel[...]).any()
    bound = np.sqrt(6 / (8 + 24))
    assert np.abs(own.encoder[0].self_attn.in_proj.kernel[...]).max() <= bound
    learned = np.concatenate([own.pos_embed.row_embed[...], own.pos_embed.col_embed[...]])
    assert learned.min() >= 0
    assert learned.max() <= 1


def test_maps_are_joined_by_looking_up_single_points_corners_on_corners():
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(7, 5, 2)).astype("f4"), rng.normal(size=(3, 3, 4)).astype("f4")
    found = joined([jnp.asarray(fine), jnp.asarray(coarse)])
    np.testing.assert_array_equal(found[..., 2:], coarse)
    np.testing.assert_allclose(found[..., :2], fine[::3, ::2], atol=1e-6)


def test_jitter_has_the_norm_of_the_feature_by_its_width_times_the_scale():
    rng = np.random.default_rng(0)
    tokens, noise = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    expected = tokens + noise * np.linalg.norm(tokens, axis=1, keepdims=True) / 4 * 20
    np.testing.assert_allclose(jittered(jnp.float32(tokens), jnp.float32(noise)), expected, rtol=1e-5)


def test_the_loss_is_the_mean_over_images_that_count():
    rng = np.random.default_rng(0)
    found, expected = (jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32) for _ in range(2))
    counted = jnp.array([True, False, True])
    mean = np.square(np.asarray(found - expected))[[0, 2]].mean()
    np.testing.assert_allclose(batch_loss(found, expected, counted), mean, rtol=1e-6)
    assert batch_loss(found, expected, jnp.zeros(3, bool)) == 0


def test_an_image_scores_the_highest_mean_of_a_whole_square():
    maps = np.random.default_rng(0).normal(size=(2, 1, 20, 24)).astype(np.float32)
    expected = uniform_filter(maps.astype("f8"), (0, 0, 16, 16))[..., 8:13, 8:17].max((2, 3))  # whole squares
    np.testing.assert_allclose(image_scores(maps), expected, rtol=1e-5)
    small = maps[..., :5, :6]
    np.testing.assert_allclose(image_scores(small), small.mean((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_decay_is_of_every_parameter_or_of_matrices_alone(decayed):
    parameters = {"matrix": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    rule = optimiser(UniadTrainConfig(decayed=decayed, weight_decay=0.5, learning_rate=0.1), 10)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
        updates, _ = rule.update(jax.tree.map(jnp.zeros_like, parameters), rule.init(parameters), parameters)
        after = optax.apply_updates(parameters, updates)
    np.testing.assert_allclose(after["matrix"], 3 * (1 - 0.05), rtol=1e-6)
    np.testing.assert_allclose(after["bias"], 3 * (1 - 0.05 * (decayed == "all")), rtol=1e-6)


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(UserError, match=r"config uniad.neighbours=\(7, 7\): on a map of 4 x 4"):
        check_map(4, 4, (7, 7))
    with pytest.raises(UserError, match=r"config uniad.neighbours=\(7,\)"):
        UniadConfig(uniad=UniadSection(neighbours=(7,)))
    with pytest.raises(UserError, match="config uniad.width=12: .* uniad.heads=8"):
        UniadConfig(uniad=UniadSection(width=12))
    assert UniadConfig().requires().taps == ("stride2", "stride4", "stride8", "stride16")


@pytest.fixture(scope="module")
def released():
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=source.shape).astype("f4") for key, source in key_table(TINY).items()}


def test_released_weights_fill_every_leaf_in_its_layout(released):
    own = from_released(Arrays("here", released), TINY)
    packed = released["transformer.decoder.layers.1.multihead_attn.in_proj_weight"]
    np.testing.assert_array_equal(own.decoder[1].multihead_attn.in_proj.kernel[...], packed.T)
    sine = dataclasses.replace(TINY, position="sine")
    assert not any(key.startswith("pos_embed") for key in key_table(sine))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.encoder.norm.weight": np.zeros(8, "f4")},
            "here: extra key transformer.encoder.norm.weight",
        ),
        ({"input_proj.bias": None}, "here: missing key input_proj.bias"),
        ({"input_proj.bias": np.zeros(9, "f4")}, "here: key input_proj.bias has shape (9,)"),
        ({"input_proj.bias": np.full(8, np.nan, "f4")}, "here: key input_proj.bias has 8 numbers"),
    ],
)
def test_other_weights_are_refused_by_file_and_key(released, change, message):
    arrays = {key: value for key, value in (released | change).items() if value is not None}
    with pytest.raises(UserError, match=re.escape(message)):
        from_released(Arrays("here", arrays), TINY)
