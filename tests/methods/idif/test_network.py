"""IDIF's student as a whole: its losses, what a missing view changes, and the settings that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.integrate import quad
from scipy.stats import norm

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.methods.base import Spec
from mvead_jax.methods.idif import objective
from mvead_jax.methods.idif.bottleneck import Code
from mvead_jax.methods.idif.config import IdifConfig, IdifSection
from mvead_jax.methods.idif.network import IdifNetwork, NetworkConfig, Student
from mvead_jax.runtime.errors import UserError

MAPS = ((8, 8, 3), (4, 4, 5), (2, 2, 4))
SMALL = NetworkConfig(MAPS, 2, (1, 1), 4, 1, "common", 3, "voxel", (2, 3, 3), 8, 1, 2, 2)


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def teacher_of(seed, samples=3, views=2):
    return tuple(numbers(seed + number, samples, views, *shape) for number, shape in enumerate(MAPS))


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


# ---- losses


def test_distillation_is_a_sum_over_levels_of_the_mean_cosine_distance():
    teacher, student = ([np.asarray(x[0, 0], np.float64) for x in teacher_of(seed)] for seed in (0, 10))
    expected = 0
    for t, s in zip(teacher, student, strict=True):
        cells = list(np.ndindex(t.shape[:2]))
        expected += sum(1 - t[c] @ s[c] / (np.linalg.norm(t[c]) * np.linalg.norm(s[c])) for c in cells) / len(
            cells
        )
    found = objective.distillation(
        *([jnp.asarray(x, jnp.float32) for x in own] for own in (teacher, student))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_divergence_is_the_integral_of_its_definition():
    mean, log_variance = numbers(0, 2, 1, 3), numbers(1, 2, 1, 3)
    each = []
    for m, v in zip(np.ravel(mean), np.ravel(log_variance), strict=True):
        own = norm(m, np.exp(v / 2))
        each.append(quad(lambda x, own=own: own.pdf(x) * (own.logpdf(x) - norm.logpdf(x)), -15, 15)[0])
    np.testing.assert_allclose(objective.divergence(mean, log_variance), np.mean(each), rtol=1e-5)
    assert objective.divergence(jnp.zeros_like(mean), jnp.zeros_like(mean)) == 0


def test_reconstruction_is_the_mean_square_and_its_target_stays():
    features, found = numbers(0, 2, 3, 4), numbers(1, 2, 3, 4)
    squares = [(float(features[i]) - float(found[i])) ** 2 for i in np.ndindex(features.shape)]
    np.testing.assert_allclose(objective.reconstruction(features, found), np.mean(squares), rtol=1e-5)
    by_target, by_found = jax.grad(objective.reconstruction, (0, 1))(features, found)
    assert not np.asarray(by_target).any()
    assert np.asarray(by_found).all()


def test_the_loss_is_the_weighted_sum_of_means_over_the_images_that_count():
    teacher, maps = teacher_of(0), teacher_of(10)
    code = Code(*(numbers(20 + i, 3, 2, 2, 2, 3) for i in range(3)), numbers(24, 3, 2, 2, 2, 5))
    student = Student(maps, numbers(23, 3, 2, 2, 2, 5), code)
    counted = np.array([[True, False], [True, True], [False, False]])
    weights = {"distillation_weight": 2.0, "bottleneck_weight": 0.3, "kl_weight": 0.5}
    value, parts = objective.batch_loss(teacher, student, jnp.asarray(counted), **weights)
    each = {"distillation": [], "reconstruction": [], "kl": []}
    for place in zip(*np.nonzero(counted), strict=True):
        each["distillation"].append(
            objective.distillation(*([x[place] for x in own] for own in (teacher, maps)))
        )
        each["reconstruction"].append(
            objective.reconstruction(student.features[place], code.reconstruction[place])
        )
        each["kl"].append(objective.divergence(code.mean[place], code.log_variance[place]))
    means = {name: np.mean(own) for name, own in each.items()}
    for name, expected in means.items():
        np.testing.assert_allclose(parts[name], expected, rtol=1e-5)
    expected = 2 * means["distillation"] + 0.3 * (means["reconstruction"] + 0.5 * means["kl"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    none, _ = objective.batch_loss(teacher, student, jnp.zeros((3, 2), bool))
    assert none == 0


# ---- the student


def split(config, seed=0):
    return nnx.split(IdifNetwork(config, from_seed(seed)), nnx.Param, ...)


@jax.jit
def scored(images, present):
    return IdifNetwork(SMALL, from_seed(0))(images, present).maps


def test_a_missing_view_changes_nothing_in_the_others_and_a_present_one_does():
    images, some = numbers(0, 2, 2, 32, 32, 3), jnp.array([[True, False], [True, True]])
    found, other = (scored(x, some) for x in (images, images.at[:, 1].set(7)))
    assert tuple(x.shape for x in found) == tuple((2, 2, *shape) for shape in MAPS)
    for a, b in zip(found, other, strict=True):
        np.testing.assert_array_equal(a[0, 0], b[0, 0])
        assert np.abs(a[1, 0] - b[1, 0]).max() > 1e-6


def test_equal_views_with_equal_numbers_give_equal_maps():
    images = jnp.repeat(numbers(0, 2, 1, 32, 32, 3), 2, axis=1)
    network = IdifNetwork(SMALL, from_seed(0))
    network.fusion.view[...] = jnp.repeat(numbers(1, 1, 8), 2, axis=0)
    network.transformers.angles[...] = jnp.full((2, 1), 0.4, jnp.float32)
    state = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, axis=0), nnx.state(network.decoders.each))
    nnx.update(network.decoders.each, state)
    graph, state = nnx.split(network)
    maps = jax.jit(lambda state: nnx.merge(graph, state)(images, jnp.ones((2, 2), bool)).maps)(state)
    for own in maps:
        np.testing.assert_allclose(own[:, 0], own[:, 1], rtol=1e-6, atol=1e-6)
        assert np.abs(own[0] - own[1]).max() > 1e-3


@pytest.mark.parametrize("part", ["common", "specific"])
def test_an_image_that_does_not_count_changes_neither_loss_nor_gradient_nor_statistics(part):
    graph, parameters, statistics = split(small(bottleneck=part))
    teacher, keys = teacher_of(0), jax.random.split(jax.random.key(0), 3)
    kept = jnp.array([[True, True], [True, False], [True, True]])
    counted = jnp.array([[True, True], [True, False], [False, False]])

    @jax.jit
    def run(images, teacher):
        def loss(parameters):
            network = nnx.merge(graph, parameters, statistics)
            student = network(images, kept, train=True, counted=counted, keys=keys)
            value, _ = objective.batch_loss(teacher, student, counted)
            return value, nnx.state(network, nnx.BatchStat)

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        return value, after, gradient

    images = numbers(0, 3, 2, 32, 32, 3)
    expected = run(images, teacher)
    other = [x.at[1, 1].set(jnp.nan).at[2].set(jnp.nan) for x in teacher]
    found = run(images.at[1, 1].set(0).at[2].set(3), tuple(other))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    gradient = nnx.to_pure_dict(found[2])
    moved = {name: any(np.asarray(x).any() for x in jax.tree.leaves(own)) for name, own in gradient.items()}
    parts = ("encoder", "bottleneck", "own", "fusion", "transformers", "decoders")
    assert moved == dict.fromkeys(parts, True)
    assert np.asarray(gradient["transformers"]["angles"]).all()
    for name in ("prototype", "view"):
        assert np.asarray(gradient["fusion"][name]).any()


def test_a_view_that_no_sample_of_a_batch_has_leaves_every_derivative_finite():
    graph, parameters, statistics = split(small(decoder_blocks=4))
    counted, teacher = jnp.array([[True, False]] * 3), teacher_of(0)

    @jax.jit
    @jax.grad
    def gradient(parameters):
        network = nnx.merge(graph, parameters, statistics)
        student = network(numbers(0, 3, 2, 32, 32, 3), counted, train=True, counted=counted)
        return objective.batch_loss(teacher, student, counted)[0]

    for own in jax.tree.leaves(gradient(parameters)):
        assert np.isfinite(own).all()


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"bottleneck": "none"}, {"bottleneck"}),
        ({"fusion": "none"}, {"fusion", "transformers"}),
        ({"bottleneck": "none", "fusion": "none"}, {"bottleneck", "fusion", "transformers"}),
    ],
)
def test_parts_that_are_left_out_have_no_numbers_and_no_loss(changes, missing):
    config = small(**changes)
    network = IdifNetwork(config, no_numbers)
    named = set(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    assert named == {"encoder", "bottleneck", "own", "fusion", "transformers", "decoders"} - missing
    shapes = nnx.eval_shape(
        lambda: IdifNetwork(config, no_numbers)(jnp.zeros((1, 2, 32, 32, 3)), jnp.ones((1, 2), bool))
    )
    assert tuple(x.shape for x in shapes.maps) == tuple((1, 2, *shape) for shape in MAPS)
    assert (shapes.code is None) == ("bottleneck" in missing)


# ---- settings


def spec(size=64):
    shapes = {f"layer{k}": (size // 2 ** (k + 1), size // 2 ** (k + 1), 8) for k in (1, 2, 3)}
    info = Info("some", "random", False, "", "", 1, {name: Tap(4, 8) for name in shapes}, tuple(shapes))
    return Spec(("a", "b"), ("part",), size, info, shapes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_blocks": ()}, "idif.encoder_blocks"),
        ({"voxel": (4, 8)}, "idif.voxel"),
        ({"voxel_width": 12, "heads": 8}, "idif.voxel_width=12.* idif.heads=8"),
        ({"axes": ("vertcal",)}, "did you mean 'vertical'"),
        ({"axes": ()}, r"idif.axes=\(\): give one or more"),
        ({"axes": ("viewing", "viewing")}, "each once"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        IdifConfig(idif=IdifSection(**changes))


def test_patches_that_do_not_divide_the_map_are_refused_by_name():
    with pytest.raises(UserError, match=r"idif.patch=3: .* 4 x 4 cells"):
        IdifConfig(idif=IdifSection(patch=3)).build(spec())


def test_views_are_joint_by_the_voxel_alone():
    for fusion, joint in (("voxel", True), ("none", False)):
        config = IdifConfig(idif=IdifSection(fusion=fusion))
        assert config.requires().joint_views == joint
        assert config.build(spec()).requires == config.requires()
