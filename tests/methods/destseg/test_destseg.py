"""DeSTSeg's losses, optimiser, networks, batches and config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones.random_weights import from_seed
from mvead_jax.methods.destseg import objective
from mvead_jax.methods.destseg.config import DestsegConfig, DestsegSection, DestsegTrainConfig
from mvead_jax.methods.destseg.method import Destseg, segmentation_phase, student_phase
from mvead_jax.methods.destseg.modeling import DestsegNetwork, NetworkConfig
from mvead_jax.methods.destseg.optimizer import phased_sgd
from mvead_jax.runtime.errors import UserError

MAPS = ((8, 8, 3), (4, 4, 5), (2, 2, 4))


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def maps_of(seed, images=2):
    return [numbers(seed + number, images, *shape) for number, shape in enumerate(MAPS)]


@pytest.fixture(scope="module")
def network():
    return DestsegNetwork(NetworkConfig(MAPS, (1,), 4, 1, 4), from_seed(0))


def test_distances_are_those_of_slow_loops():
    teacher, student = maps_of(0), maps_of(10)
    for found, t, s in zip(objective.distances(teacher, student), teacher, student, strict=True):
        t, s = (np.asarray(x, np.float64) for x in (t, s))
        for place in np.ndindex(t.shape[:3]):
            expected = 1 - t[place] @ s[place] / (np.linalg.norm(t[place]) * np.linalg.norm(s[place]))
            np.testing.assert_allclose(found[place], expected, rtol=1e-5, atol=1e-6)


def test_a_vector_of_zeros_is_normalised_to_zeros_and_has_a_derivative():
    zeros = jnp.zeros((1, 3), jnp.float32)
    np.testing.assert_array_equal(objective.normalised(zeros), 0)
    assert np.isfinite(jax.grad(lambda x: objective.normalised(x).sum())(zeros)).all()


def test_the_student_loss_is_a_sum_over_images():
    teacher, student, both = maps_of(0), maps_of(10), jnp.ones(2, bool)
    each = [
        objective.student_loss([x[at : at + 1] for x in teacher], [x[at : at + 1] for x in student], both[:1])
        for at in range(2)
    ]
    np.testing.assert_allclose(objective.student_loss(teacher, student, both), sum(each), rtol=1e-6)
    odd = [x.at[1].set(jnp.nan) for x in teacher]
    counted = jnp.array([True, False])
    value, slope = jax.value_and_grad(lambda s: objective.student_loss(odd, s, counted))(student)
    assert value == each[0]
    assert all(np.isfinite(x).all() and not np.asarray(x)[1].any() for x in slope)


def test_focal_and_absolute_losses_are_means_of_their_formulas():
    found = jax.nn.sigmoid(numbers(0, 2, 3, 3))
    mask = (numbers(1, 2, 3, 3) > 0).astype(jnp.float32)
    p, m = (np.asarray(x, np.float64) for x in (found, mask))
    true = np.where(m > 0, p, 1 - p)
    both, first = jnp.ones(2, bool), jnp.array([True, False])
    focal = -np.log(true) * (1 - true) ** 4
    np.testing.assert_allclose(objective.focal_loss(found, mask, both), focal.mean(), rtol=1e-5)
    np.testing.assert_allclose(objective.focal_loss(found, mask, first), focal[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(objective.absolute_loss(found, mask, both), np.abs(p - m).mean(), rtol=1e-6)


def test_a_probability_of_zero_for_what_is_true_costs_what_torch_says():
    zero, one, counted = (
        jnp.zeros((1, 1, 1), jnp.float32),
        jnp.ones((1, 1, 1), jnp.float32),
        jnp.ones(1, bool),
    )
    value, slope = jax.value_and_grad(lambda x: objective.focal_loss(x, one, counted))(zero)
    assert value == 100
    assert np.isfinite(slope).all()


def test_a_small_mask_is_one_from_a_half_on():
    mask = jnp.zeros((1, 4, 4), jnp.float32).at[0, :2, :3].set(1)
    np.testing.assert_array_equal(objective.small_mask(mask, (2, 2))[0], [[1, 1], [0, 0]])


def test_parts_move_in_their_phase_only_and_start_without_momentum():
    own = {"student": jnp.ones(2, jnp.float32), "res": jnp.ones(2, jnp.float32)}
    gradient = {"student": jnp.full(2, 0.5, jnp.float32), "res": jnp.full(2, 0.25, jnp.float32)}
    rule = phased_sgd({"student": (0.1, 0), "res": (0.2, 1)}, 2, 0.01)
    state, seen = rule.init(own), []
    for _ in range(4):
        changes, state = rule.update(gradient, state, own)
        own = {name: own[name] + changes[name] for name in own}
        seen.append({name: float(own[name][0]) for name in own})
    assert seen[1]["res"] == 1
    assert seen[3]["student"] == seen[1]["student"] != 1
    step = 0.5 + 0.01 * 1.0
    np.testing.assert_allclose(seen[0]["student"], 1 - 0.1 * step, rtol=1e-6)
    second = 0.9 * step + 0.5 + 0.01 * seen[0]["student"]
    np.testing.assert_allclose(seen[1]["student"], seen[0]["student"] - 0.1 * second, rtol=1e-6)
    np.testing.assert_allclose(seen[2]["res"], 1 - 0.2 * (0.25 + 0.01), rtol=1e-6)


def test_each_phase_gives_gradients_to_its_own_part_alone(network):
    graph, parameters, statistics = nnx.split(network, nnx.Param, ...)
    images, masks, counted = numbers(0, 2, 32, 32, 3), jnp.zeros((2, 32, 32), jnp.float32), jnp.ones(2, bool)
    teacher = maps_of(0)

    def gradients(phase, *arguments):
        def loss(parameters):
            return phase(nnx.merge(graph, parameters, statistics), *arguments)

        found = nnx.to_pure_dict(jax.jit(jax.grad(loss))(parameters))
        return {name: any(np.asarray(x).any() for x in jax.tree.leaves(own)) for name, own in found.items()}

    first = gradients(student_phase, teacher, images, counted)
    assert first == {"student": True, "res": False, "head": False}
    second = gradients(segmentation_phase, teacher, images, masks, counted, 4.0)
    assert second == {"student": False, "res": True, "head": True}


def test_student_maps_have_the_shapes_of_the_teachers(network):
    found = nnx.eval_shape(network.student, jnp.zeros((3, 32, 32, 3), jnp.float32))
    assert tuple(x.shape for x in found) == tuple((3, *shape) for shape in MAPS)


def test_an_image_scores_by_its_highest_pixels():
    assert objective.top_mean(jnp.arange(9, dtype=jnp.float32).reshape(3, 3), 2) == 7.5
    assert objective.top_mean(jnp.arange(9, dtype=jnp.float32).reshape(3, 3), 100) == 4


@pytest.mark.parametrize(
    ("share", "kind", "steps", "left_out"),
    [
        (1, "segmentation", 12, "segmentation"),
        (0.9, "segmentation", 4, "segmentation"),
        (0.2, "segmentation", 2, "student"),
        (0, "distillation", 12, "student"),
        (1, "distillation", 12, None),
        (0.2, "segmentation", 12, None),
        (0.2, "segmentation", 0, None),
    ],
)
def test_a_part_without_a_step_is_refused_where_scores_need_it(share, kind, steps, left_out):
    method = Destseg(None, DestsegSection(student_share=share, map=kind), DestsegTrainConfig())
    if left_out is None:
        method.check_steps(steps)
        return
    with pytest.raises(
        UserError, match=f"student_share={share}: none of {steps} steps trains the {left_out}, "
    ):
        method.check_steps(steps)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"destseg": DestsegSection(student_blocks=())}, "destseg.student_blocks"),
        ({"destseg": DestsegSection(student_blocks=(2, 0))}, "destseg.student_blocks"),
        ({"train": DestsegTrainConfig(schedule="cosine")}, "train.schedule='cosine'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(DestsegConfig(), **changes)
