"""IDIF's bottleneck, attention, voxel, spatial transformers, decoders and view dropout against slow NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.transform import Rotation

from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.methods.idif.attention import Attention
from mvead_jax.methods.idif.bottleneck import Bottleneck
from mvead_jax.methods.idif.decoder import Decoder, Decoders
from mvead_jax.methods.idif.spatial_transformer import rotation, turn
from mvead_jax.methods.idif.view_dropout import kept_views
from mvead_jax.methods.idif.voxel import VoxelFusion, patches, voxel_positions


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def affine(layer, x):
    return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)


# ---- bottleneck


def test_the_common_part_is_the_mean_or_a_sample_around_it():
    bottleneck = Bottleneck(5, 3, normal=from_seed(0))
    features = numbers(0, 40, 40, 5)
    still, drawn = bottleneck(features), bottleneck(features, jax.random.key(1))
    np.testing.assert_array_equal(still.common, still.mean)
    np.testing.assert_array_equal(drawn.mean, still.mean)
    deviations = (drawn.common - drawn.mean) / np.exp(np.asarray(drawn.log_variance) / 2)
    assert abs(deviations.mean()) < 0.05
    assert abs(deviations.std() - 1) < 0.05
    for code in (still, drawn):
        expected = affine(bottleneck.decoder, np.asarray(code.common, np.float64))
        np.testing.assert_allclose(code.reconstruction, expected, rtol=1e-5, atol=1e-5)


# ---- attention


@pytest.fixture(scope="module")
def attention():
    return Attention(8, 2, normal=from_seed(0))


def test_attention_is_that_of_slow_loops_over_the_tokens_that_are_there(attention):
    x, memory = numbers(0, 4, 8), numbers(1, 6, 8)
    allowed = np.array([True, False, True, True, False, True])
    q = affine(attention.query, np.asarray(x, np.float64))
    k, v = (affine(layer, np.asarray(memory, np.float64)) for layer in (attention.key, attention.value))
    mixed = np.zeros((4, 8))
    for place in range(4):
        for part in (slice(0, 4), slice(4, 8)):
            here = [i for i in range(6) if allowed[i]]
            weights = np.exp([q[place, part] @ k[i, part] / 2 for i in here])
            own = (w * v[i, part] for w, i in zip(weights / weights.sum(), here, strict=True))
            mixed[place, part] = sum(own)
    expected = affine(attention.output, mixed)
    np.testing.assert_allclose(attention(x, memory, jnp.asarray(allowed)), expected, rtol=1e-5, atol=1e-5)


def test_a_masked_token_may_hold_anything_and_has_no_derivative(attention):
    x, memory, allowed = numbers(0, 4, 8), numbers(1, 3, 8), jnp.array([True, False, True])

    def total(x, memory):
        return jnp.square(attention(x, memory, allowed)).sum()

    expected = jax.value_and_grad(total, (0, 1))(x, memory)
    found = jax.value_and_grad(total, (0, 1))(x, memory.at[1].set(jnp.nan))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(found[1][1])[1].any()


def test_where_no_token_is_there_the_attention_adds_its_bias_alone(attention):
    none = attention(numbers(0, 4, 8), numbers(1, 3, 8), jnp.zeros(3, bool))
    np.testing.assert_allclose(none, np.broadcast_to(attention.output.bias[...], (4, 8)), atol=1e-6)


# ---- voxel


def fusion(view_embedding=False):
    options = {"views": 3, "patch": 2, "blocks": 2, "heads": 2}
    return VoxelFusion(5, (2, 3, 4), 8, view_embedding=view_embedding, normal=from_seed(0), **options)


def test_patches_keep_the_cells_of_a_square_together():
    maps = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    found = patches(maps, 2)
    assert found.shape == (2, 2, 2, 12)
    np.testing.assert_array_equal(found[1, 0, 1], maps[1, :2, 2:].reshape(-1))


def test_every_cell_of_the_voxel_has_a_position_of_its_own():
    found = np.asarray(voxel_positions((3, 4, 5), 8)).round(5)
    assert len(np.unique(found, axis=0)) == 60


def test_a_view_that_is_masked_does_not_change_the_voxel():
    network, maps, present = fusion(), numbers(0, 3, 4, 4, 5), jnp.array([True, False, True])
    found = network(maps, present)
    assert found.shape == (2, 3, 4, 8)
    np.testing.assert_array_equal(network(maps.at[1].set(jnp.nan), present), found)
    assert np.abs(network(maps, jnp.ones(3, bool)) - found).max() > 1e-3


def test_the_order_of_views_matters_by_their_embeddings_alone():
    maps, every, other = numbers(0, 3, 4, 4, 5), jnp.ones(3, bool), jnp.array([2, 0, 1])
    for embedding in (False, True):
        network = fusion(embedding)
        if embedding:
            network.view[...] = numbers(1, 3, 8)
        difference = np.abs(network(maps[other], every) - network(maps, every)).max()
        assert difference > 1e-3 if embedding else difference < 1e-5


# ---- spatial transformer


def test_rotations_are_right_handed_and_multiplied_in_their_order():
    angles = jnp.array([0.3, -0.7, 1.1], jnp.float32)
    expected = Rotation.from_euler("XYZ", np.asarray(angles)).as_matrix()
    found = rotation(angles, ("viewing", "vertical", "horizontal"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(rotation(jnp.zeros(0, jnp.float32), ()), np.eye(3))


def turned_slowly(voxel, matrix):
    """Each cell by its own loop over the corners around the place that it comes from."""
    *shape, _ = voxel.shape
    last = np.array(shape) - 1
    found = np.zeros_like(voxel)
    for cell in np.ndindex(*shape):
        place = (matrix @ (2 * np.array(cell) / last - 1) + 1) / 2 * last
        low = np.floor(place).astype(int)
        for corner in np.ndindex(2, 2, 2):
            source = low + corner
            if (source < 0).any() or (source > last).any():
                continue
            found[cell] += voxel[tuple(source)] * np.prod(1 - np.abs(place - source))
    return found


def test_turning_samples_the_grid_as_slow_trilinear_interpolation():
    voxel, axes = numbers(0, 3, 4, 5, 2), ("vertical", "viewing")
    angles = jnp.array([0.4, -0.9], jnp.float32)
    matrix = np.asarray(rotation(angles, axes), np.float64)
    expected = turned_slowly(np.asarray(voxel, np.float64), matrix)
    np.testing.assert_allclose(turn(voxel, angles, axes), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 8, 8), (1, 6, 7), (1, 1, 1)])
def test_the_angle_zero_is_the_identity(shape):
    voxel = numbers(0, *shape, 2)
    for axes in (("vertical",), ("viewing", "vertical", "horizontal")):
        np.testing.assert_array_equal(turn(voxel, jnp.zeros(len(axes), jnp.float32), axes), voxel)


@pytest.mark.parametrize(
    ("axis", "plane"), [("viewing", (2, 1)), ("vertical", (0, 2)), ("horizontal", (1, 0))]
)
def test_a_quarter_turn_is_that_of_the_array(axis, plane):
    voxel = numbers(0, 4, 4, 4, 2)
    quarter = jnp.array([np.pi / 2], jnp.float32)
    np.testing.assert_allclose(turn(voxel, quarter, (axis,)), np.rot90(voxel, 1, plane), atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_derivative_by_the_angle_is_that_of_differences(angle):
    voxel, weights = numbers(0, 3, 4, 4, 2), numbers(1, 3, 4, 4, 2)

    def total(angle):
        return (turn(voxel, angle[None], ("vertical",)) * weights).sum()

    with jax.enable_x64(True):
        step = 1e-3
        expected = (total(jnp.float32(angle + step)) - total(jnp.float32(angle - step))) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(jnp.float32(angle)), expected, rtol=2e-2, atol=2e-2)


# ---- decoders


def test_decoders_of_all_views_are_those_of_each_view_with_statistics_of_their_own():
    maps, weights = ((4, 4, 3), (2, 2, 5)), jnp.array([[1, 1], [1, 0], [1, 1]], jnp.float32)
    every, x = Decoders(2, 6, maps, 1, normal=from_seed(0)), numbers(0, 3, 2, 2, 2, 6)
    found = jax.jit(lambda x: every(x))(x)
    structure = jax.tree.structure(nnx.state(every.each))

    @nnx.jit
    def trained(every, single):
        every(x, train=True, weights=weights)
        return [one(x[:, view], train=True, weights=weights[:, view]) for view, one in enumerate(single)]

    normal = from_seed(0)
    single = [Decoder(6, maps, 1, normal=normal) for _ in range(2)]
    for view, decoder in enumerate(single):
        for a, b in zip(decoder(x[:, view]), found, strict=True):
            np.testing.assert_allclose(b[:, view], a, rtol=1e-5, atol=1e-6)
    trained(every, single)
    statistics = nnx.to_pure_dict(nnx.state(every.each, nnx.BatchStat))
    for view, decoder in enumerate(single):
        expected = nnx.to_pure_dict(nnx.state(decoder, nnx.BatchStat))
        for a, b in zip(jax.tree.leaves(statistics), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[view], b, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(nnx.state(every.each)) == structure


# ---- view dropout


def test_dropout_leaves_one_present_view_at_least_and_drops_at_its_rate():
    present = jnp.array([True, False, True, True])
    keys = jax.random.split(jax.random.key(0), 4000)
    drop = jax.jit(jax.vmap(kept_views, (0, None, None)))
    kept = np.asarray(drop(keys, present, 0.2))
    assert not kept[:, 1].any()
    assert kept.any(1).all()
    np.testing.assert_allclose(kept[:, [0, 2, 3]].mean(0), 0.8 + 0.2**3 / 3, atol=0.03)
    np.testing.assert_array_equal(drop(keys[:9], present, 0.0), np.broadcast_to(present, (9, 4)))
    alone = np.asarray(drop(keys, present, 0.999999))
    np.testing.assert_allclose(alone[:, [0, 2, 3]].mean(0), 1 / 3, atol=0.03)
