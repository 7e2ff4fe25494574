"""RD4AD: loss, maps, what missing images change, and the strict table of the released weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.ndimage import gaussian_filter, zoom

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.methods.distillation import image_scores
from mvead_jax.methods.rd4ad.config import Rd4adConfig, Rd4adSection
from mvead_jax.methods.rd4ad.modeling import Network, NetworkConfig, check_maps
from mvead_jax.methods.rd4ad.objective import anomaly_map, batch_loss
from mvead_jax.methods.rd4ad.params import from_released, key_table
from mvead_jax.runtime.errors import UserError

TINY = NetworkConfig((4, 6, 8), "bottleneck", 5, 2, (1, 2, 1))
SIZES = ((8, 4), (4, 6), (2, 8))  # side and width of the maps


def maps(seed, images=2):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(images, side, side, width)), jnp.float32) for side, width in SIZES]


def cosine(a, b):
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


def test_the_loss_has_one_cosine_for_each_image_and_scale():
    teacher, student = maps(0), maps(1)
    expected = sum(
        np.mean([1 - cosine(np.asarray(t[i]), np.asarray(s[i])) for i in range(2)])
        for t, s in zip(teacher, student, strict=True)
    )
    np.testing.assert_allclose(batch_loss(teacher, student, jnp.ones(2, bool)), expected, rtol=1e-5)


def test_the_map_has_one_cosine_for_each_position_and_is_summed_over_scales():
    teacher, student = ([np.asarray(x[0], "f8") for x in maps(seed)] for seed in (0, 1))
    expected = np.zeros((16, 16))
    for t, s in zip(teacher, student, strict=True):
        distance = [[1 - cosine(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(t, s, strict=True)]
        expected += zoom(np.array(distance), 16 / len(t), order=1, grid_mode=False)  # corners on corners
    with jax.enable_x64(True):
        for variant, divisor in (("released", 1), ("ader", 9)):
            found = anomaly_map(teacher, student, (16, 16), variant)
            np.testing.assert_allclose(found, expected / divisor, atol=1e-12)
    smooth = gaussian_filter(expected, 4)
    np.testing.assert_allclose(image_scores(expected[None, None]), [[smooth.max()]], rtol=1e-6)


@pytest.fixture(scope="module")
def network():
    return Network(TINY, normal=from_seed(0))


def test_the_student_has_the_teachers_shapes_and_a_code_of_half_the_sides(network):
    teacher = maps(0)
    assert network.neck(*teacher).shape == (2, 1, 1, 16)
    assert [x.shape for x in network(teacher)] == [x.shape for x in teacher]


def test_an_image_that_does_not_count_changes_neither_loss_nor_gradient_nor_statistics(network):
    """Zeros of a missing view, of which a cosine has no derivative, included."""
    graph, parameters, statistics = nnx.split(network, nnx.Param, ...)

    @jax.jit
    def run(teacher, counted):
        def loss(parameters):
            network = nnx.merge(graph, parameters, statistics)
            student = network(teacher, train=True, weights=counted.astype(jnp.float32))
            return batch_loss(teacher, student, counted), nnx.state(network, nnx.BatchStat)

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        return value, after, gradient

    counted = jnp.array([True, True, False])
    some, other = maps(0, 3), [x.at[2].set(0) for x in maps(0, 3)]
    found, expected = run(other, counted), run(some, counted)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_maps_that_the_network_cannot_take_are_refused_in_words():
    with pytest.raises(UserError, match=r"8 x 8, 4 x 4, 3 x 3 .* data.image_size"):
        check_maps([(8, 8, 4), (4, 4, 6), (3, 3, 8)])
    with pytest.raises(UserError, match=re.escape("config rd4ad.decoder_blocks=(1, 2)")):
        Rd4adConfig(rd4ad=Rd4adSection(decoder_blocks=(1, 2)))


@pytest.fixture(scope="module")
def released():
    rng, unused = (
        np.random.default_rng(0),
        {"neck.conv4.weight": (2, 2, 3, 3), "neck.bn1.num_batches_tracked": ()},
    )
    shapes = {key: source.shape for key, source in key_table(TINY).items()} | unused
    return {key: np.asarray(rng.normal(size=shape), np.float32) for key, shape in shapes.items()}


def test_released_weights_fill_every_leaf_in_its_layout(released):
    network = from_released(Arrays("here", released), TINY)
    for found, key, order in (
        (network.neck.bn_layer[1].conv2.kernel, "neck.bn_layer.1.conv2.weight", (2, 3, 1, 0)),
        (network.decoder.layer2[0].conv2.kernel, "decoder.layer2.0.conv2.weight", (2, 3, 0, 1)),
        (network.decoder.layer2[0].upsample[1].variance, "decoder.layer2.0.upsample.1.running_var", (0,)),
    ):
        np.testing.assert_array_equal(found[...], released[key].transpose(order))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neck.conv9.weight": np.zeros(1, np.float32)}, "here: extra key neck.conv9.weight"),
        ({"neck.bn1.weight": None}, "here: missing key neck.bn1.weight"),
        ({"neck.bn1.weight": np.zeros(7, np.float32)}, "here: key neck.bn1.weight has shape"),
        ({"neck.bn1.weight": np.full(6, np.nan, np.float32)}, "here: key neck.bn1.weight has 6 numbers"),
    ],
)
def test_other_weights_are_refused_by_file_and_key(released, change, message):
    arrays = {key: value for key, value in (released | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        from_released(Arrays("here", arrays), TINY)
