"""SimpleNet: the embedding against a slow one, statistics of both halves, two optimisers, and strict weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.methods.simplenet.config import SimpleNetConfig, SimpleNetSection, SimpleNetTrainConfig
from mvead_jax.methods.simplenet.embedding import embed, patches, pooled
from mvead_jax.methods.simplenet.modeling import Network
from mvead_jax.methods.simplenet.objective import losses, optimiser
from mvead_jax.methods.simplenet.params import from_released, key_table
from mvead_jax.runtime.errors import UserError


def adaptive(x, width):
    """One value after the other, by the definition."""
    length = len(x)
    return np.array([x[k * length // width : -(-(k + 1) * length // width)].mean() for k in range(width)])


def half_pixel(plane, size):
    """Bilinear with half-pixel centres, edges repeated."""
    for axis in (0, 1):
        old = plane.shape[axis]
        at = np.clip((np.arange(size[axis]) + 0.5) * old / size[axis] - 0.5, 0, old - 1)
        plane = np.apply_along_axis(lambda line, a=at, n=old: np.interp(a, np.arange(n), line), axis, plane)
    return plane


@pytest.mark.parametrize(("first_width", "width"), [(9, 6), (7, 5), (40, 50)])
def test_the_embedding_is_the_released_codes_step_by_step(first_width, width):
    """Patches are enlarged before they are averaged there; widths divide, do not, and exceed the patches."""
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(4, 6, 2)), rng.normal(size=(2, 3, 4))

    def unfolded(x):
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        rows, columns, _ = x.shape
        return np.array(
            [
                [padded[i : i + 3, j : j + 3].transpose(2, 0, 1).ravel() for j in range(columns)]
                for i in range(rows)
            ]
        )

    small = unfolded(coarse)
    large = np.stack([half_pixel(small[..., k], (4, 6)) for k in range(small.shape[-1])], axis=-1)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(patches(jnp.asarray(fine)), unfolded(fine))
        found = embed(jnp.asarray(fine), jnp.asarray(coarse), first_width, width)
    for i in range(4):
        for j in range(6):
            parts = [adaptive(own[i, j], first_width) for own in (unfolded(fine), large)]
            np.testing.assert_allclose(found[i, j], adaptive(np.concatenate(parts), width), atol=1e-12)


def test_averages_of_equal_parts_are_those_of_the_general_rule():
    x = np.random.default_rng(1).normal(size=(3, 12))
    np.testing.assert_allclose(pooled(jnp.float32(x), 4), x.reshape(3, 4, 3).mean(-1), atol=1e-6)


@pytest.fixture(scope="module")
def network():
    return Network(6, 5, normal=from_seed(0))


def test_the_statistics_are_those_of_normal_and_noisy_rows_together_but_of_images_that_count(network):
    rng = np.random.default_rng(0)
    embedding, noise = (rng.normal(size=(3, 4, 6)).astype(np.float32) for _ in range(2))
    weights = jnp.array([1.0, 0.0, 1.0])
    graph, state = nnx.split(network)
    own = nnx.merge(graph, state)
    normal, noisy = own.told_apart(embedding, noise, weights)

    adapted = np.asarray(network.adaptor(embedding))
    hidden = np.asarray(network.discriminator.hidden(np.concatenate([adapted, adapted + noise])))
    rows = hidden.reshape(2, 3, 4, 5)[:, [0, 2]].reshape(-1, 5)
    mean, variance = rows.mean(0), rows.var(0)
    y = (hidden - mean) / np.sqrt(variance + 1e-5)
    y = np.where(y > 0, y, 0.2 * y) @ np.asarray(network.discriminator.tail.kernel[...])
    np.testing.assert_allclose(np.concatenate([normal, noisy]), y[..., 0], atol=1e-5)
    np.testing.assert_allclose(own.discriminator.norm.mean[...], 0.1 * mean, atol=1e-6)

    s, f = (np.asarray(x)[[0, 2]] for x in (normal, noisy))
    found = losses(normal, noisy, weights, 0.5)
    np.testing.assert_allclose(
        found, [np.maximum(0, 0.5 - s).mean(), np.maximum(0, 0.5 + f).mean()], rtol=1e-5
    )


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_the_adaptor_is_decayed_beside_its_gradient_and_the_discriminator_through_it(decayed):
    training = SimpleNetTrainConfig(decayed=decayed, weight_decay=0.3, adaptor_decay=0.2, learning_rate=2e-3)
    own = {"matrix": jnp.full((2, 2), 3.0), "vector": jnp.full(2, 3.0)}
    parameters = {"adaptor": own, "discriminator": own}
    gradient = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), parameters)
    rule = optimiser(training, 10)
    state, expected, moments = rule.init(parameters), {}, {}
    for step in (1, 2):
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            updates, state = rule.update(gradient, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        for part, kind in itertools.product(("adaptor", "discriminator"), ("matrix", "vector")):
            p, (m, v) = expected.get((part, kind), 3.0), moments.get((part, kind), (0.0, 0.0))
            on = decayed == "all" or kind == "matrix"
            g = 0.5 + (0.3 * p * on if part == "discriminator" else 0)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            rate = 1e-4 if part == "adaptor" else 2e-3
            p -= rate * (0.2 * p * on if part == "adaptor" else 0)
            p -= rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            expected[part, kind], moments[part, kind] = p, (m, v)
    for (part, kind), value in expected.items():
        np.testing.assert_allclose(parameters[part][kind], value, rtol=1e-6)


def test_the_usual_maps_follow_from_the_backbone_and_any_two_may_be_named():
    config = SimpleNetConfig()
    assert config.requires().taps == ("layer2", "layer3")
    assert SimpleNetConfig.debug().requires().taps == ("stride8", "stride16")
    with pytest.raises(UserError, match="config simplenet.taps="):
        SimpleNetConfig(simplenet=SimpleNetSection(taps=("layer2",)))


@pytest.fixture(scope="module")
def released():
    rng = np.random.default_rng(0)
    shapes = {key: source.shape for key, source in key_table(6, 5).items()}
    shapes["discriminator.body.block1.1.num_batches_tracked"] = ()
    return {key: np.asarray(rng.normal(size=shape), np.float32) for key, shape in shapes.items()}


def test_released_weights_fill_every_leaf_in_its_layout(released):
    network = from_released(Arrays("here", released), 6, 5)
    weight = released["discriminator.body.block1.0.weight"]
    np.testing.assert_array_equal(network.discriminator.hidden.kernel[...], weight.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tail.bias": np.zeros(1, np.float32)}, "here: extra key tail.bias"),
        ({"discriminator.tail.weight": None}, "here: missing key discriminator.tail.weight"),
        (
            {"discriminator.tail.weight": np.zeros((1, 6), np.float32)},
            "here: key discriminator.tail.weight has shape",
        ),
        ({"discriminator.tail.weight": np.full((1, 5), np.inf, np.float32)}, "tail.weight has 5 numbers"),
    ],
)
def test_other_weights_are_refused_by_file_and_key(released, change, message):
    arrays = {key: value for key, value in (released | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        from_released(Arrays("here", arrays), 6, 5)
