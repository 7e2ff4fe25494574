"""MVAD's network: what must not change its results, and which sizes it takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.methods.mvad.layers import same_size
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig, check_maps
from mvead_jax.methods.mvad.objective import batch_loss
from mvead_jax.methods.positions import position_map
from mvead_jax.runtime.errors import UserError

B, V = 2, 3
TINY = {
    "widths": (8, 16, 16),
    "windows": (3, 2, 2),
    "top": (2, 2, 2),
    "heads": 2,
    "blocks": (1, 1, 1),
    "decoder_blocks": (1, 1, 1),
}


def teacher_maps(seed=0, widths=TINY["widths"], sides=((8, 8), (4, 4), (2, 2))):
    rng = np.random.default_rng(seed)
    shapes = [(B, V, *side, width) for side, width in zip(sides, widths, strict=True)]
    return tuple(jnp.asarray(np.maximum(rng.normal(size=shape), 0), jnp.float32) for shape in shapes)


def filled(config, seed=0):
    """A network whose every number is random; drawn by NumPy, because jax.random compiles for each shape."""
    graph, state = nnx.split(nnx.eval_shape(lambda: MVADNetwork(config, nnx.Rngs(0))))
    rng = np.random.default_rng(seed)

    def drawn(leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.2
        return jnp.asarray(spread * rng.normal(size=leaf.shape), jnp.float32)

    state = jax.tree.map(drawn, state)
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] in ("scale", "variance"):
            leaf[...] = 1 + jnp.abs(leaf[...])
    return nnx.merge(graph, state)


@pytest.fixture(scope="module")
def network():
    return filled(NetworkConfig(**TINY))


@partial(jax.jit, static_argnums=0, static_argnames="train")
def compiled(graph, state, teacher, present, *, keys=None, train=False):
    """The student's maps and the running statistics after the pass."""
    module = nnx.merge(graph, state)
    return module(teacher, present, keys=keys, train=train), nnx.state(module, nnx.BatchStat)


def run(network, teacher, present=None, **options):
    present = jnp.ones((B, V), bool) if present is None else jnp.asarray(present)
    return compiled(*nnx.split(network), teacher, present, **options)


def test_jit_equals_the_eager_call(network):
    teacher = teacher_maps()
    for found, expected in zip(run(network, teacher)[0], network(teacher), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_one_sample_is_scored_as_among_others(network):
    teacher = teacher_maps()
    whole = run(network, teacher)[0]
    last = run(network, tuple(jnp.concatenate([x[1:], x[1:]]) for x in teacher))[0]
    for found, expected in zip(last, whole, strict=True):
        np.testing.assert_allclose(found[0], expected[1], atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_what_stands_in_a_missing_view_changes_nothing_about_the_others(network, train):
    teacher, present = teacher_maps(), np.array([[True] * V, [True, False, True]])
    garbage = tuple(x.at[1, 1].set(np.nan) for x in teacher)
    student, statistics = run(network, teacher, present, train=train)
    again, same = run(network, garbage, present, train=train)
    for one, other in zip(student, again, strict=True):
        np.testing.assert_array_equal(one[present], other[present])
    for one, other in zip(jax.tree.leaves(statistics), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = run(network, teacher, np.array([[True] * V, [False, False, True]]))[0]
    assert all(np.isfinite(x).all() for x in alone)


def test_a_missing_view_is_as_if_the_samples_had_one_view_less_also_in_the_statistics_of_training(network):
    teacher, present = teacher_maps(), np.array([[True, False, True]] * B)
    less = tuple(x[:, present[0]] for x in teacher)
    found, statistics = run(network, teacher, present, train=True)
    expected, same = run(network, less, np.ones((B, 2), bool), train=True)
    # The last batch norms see four values a channel, which amplifies the rounding.
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[:, present[0]], other, rtol=2e-3, atol=2e-3)
    for one, other in zip(jax.tree.leaves(statistics), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_the_order_of_views_only_reorders_the_result(network):
    teacher, order = teacher_maps(), np.array([2, 0, 1])
    turned = run(network, tuple(x[:, order] for x in teacher))[0]
    for found, expected in zip(turned, run(network, teacher)[0], strict=True):
        np.testing.assert_allclose(found, expected[:, order], atol=1e-5)


def test_dropout_is_a_function_of_the_key_of_each_sample(network):
    teacher, keys = teacher_maps(), jax.random.split(jax.random.key(0), B)
    other = keys.at[0].set(jax.random.key(7))
    first, again, changed = (run(network, teacher, keys=own)[0][0] for own in (keys, keys, other))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[1], changed[1])
    assert (first[0] != changed[0]).any()
    assert (first != run(network, teacher)[0][0]).any()


def test_a_step_down_the_gradient_lowers_the_loss_and_changes_every_parameter(network):
    graph, parameters, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    teacher, counted = teacher_maps(), jnp.ones((B, V), bool)

    @jax.jit
    def loss(parameters):
        module = nnx.merge(graph, parameters, statistics)
        value = batch_loss(teacher, module(teacher, train=True), counted)
        return value, nnx.state(module, nnx.BatchStat)

    (before, _), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.isfinite(leaf[...]).all(), path
        # The gradient of a bias before a batch norm is zero but for rounding.
        assert leaf[...].any(), path
    after, moved = loss(jax.tree.map(lambda p, g: p - 1e-4 * g, parameters, gradient))
    assert after < before
    assert all((x != y).any() for x, y in zip(*map(jax.tree.leaves, (moved, statistics)), strict=True))


def test_the_form_for_accelerators_gives_what_the_form_for_cpus_gives(network, monkeypatch):
    teacher, present = teacher_maps()[0], jnp.array([[True] * V, [True, False, True]])
    keys = jax.random.split(jax.random.key(0), B)
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 8, 4)), jnp.float32)
    graph, state = nnx.split(network)

    def total(state, kernel):
        fused = nnx.merge(graph, state).fused(0, teacher, present, keys)[present]
        return jnp.sin(same_size(fused, kernel)).sum()

    ours = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(state, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    theirs = jax.jit(jax.value_and_grad(lambda *given: total(*given), argnums=(0, 1)))(state, kernel)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "width", "inputs", "outputs"),
    # pairs of pixels; an odd width; many outputs in groups of 2, 3, 5 images and each by itself
    [(3, 6, 5, 4), (2, 5, 5, 4), (4, 6, 3, 65), (3, 4, 3, 65), (5, 5, 3, 65), (7, 6, 3, 65), (2, 6, 3, 64)],
)
@pytest.mark.parametrize("side", [3, 5])
def test_a_convolution_and_its_derivatives_are_those_of_jax(images, width, inputs, outputs, side):
    rng = np.random.default_rng(images * outputs + side)
    x = jnp.asarray(rng.normal(size=(images, 4, width, inputs)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, inputs, outputs)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(images, 4, width, outputs)), jnp.float32)

    def plain(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
        )

    with jax.default_matmul_precision("highest"):
        ours, theirs = (jax.vjp(function, x, kernel) for function in (same_size, plain))
    for one, other in zip((ours[0], *ours[1](g)), (theirs[0], *theirs[1](g)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


# ---- shapes


def count(config, *kinds):
    state = nnx.state(nnx.eval_shape(lambda: MVADNetwork(config, nnx.Rngs(0))), *kinds)
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def test_parameters_number_what_code_and_paper_say():
    neck_and_student = 17_803_392 - 8_170_304  # without the teacher
    assert count(NetworkConfig(), nnx.Param) == neck_and_student
    with_projections = count(NetworkConfig(projections="linear"), nnx.Param)
    assert round((with_projections + 8_170_304) / 1e6, 1) == 18.7
    tensors = jax.tree.leaves(
        nnx.state(nnx.eval_shape(lambda: MVADNetwork(NetworkConfig(), nnx.Rngs(0))), nnx.Param)
    )
    assert [sum(leaf.ndim >= 2 for leaf in tensors), sum(leaf.ndim < 2 for leaf in tensors)] == [58, 133]


@pytest.mark.parametrize(
    ("widths", "sides", "projections"),
    [
        ((24, 40, 112), ((64, 64), (32, 32), (16, 16)), "none"),
        ((8, 16, 16), ((24, 16), (12, 8), (6, 4)), "linear"),
    ],
)
def test_widths_and_sizes_follow_the_teacher(widths, sides, projections):
    heads = 8 if widths[0] % 8 == 0 else 2
    config = NetworkConfig(widths=widths, heads=heads, projections=projections)

    def outputs(teacher):
        return MVADNetwork(config, nnx.Rngs(0))(
            teacher, train=True, keys=jax.random.split(jax.random.key(0), B)
        )

    teacher = [
        jax.ShapeDtypeStruct((B, V, *side, width), jnp.float32)
        for side, width in zip(sides, widths, strict=True)
    ]
    assert [x.shape for x in jax.eval_shape(outputs, teacher)] == [x.shape for x in teacher]


def test_projections_are_trained():
    graph, state = nnx.split(filled(NetworkConfig(**TINY, projections="linear")))
    teacher = teacher_maps()

    def total(state):
        return jnp.sin(nnx.merge(graph, state).fused(1, teacher[1], jnp.ones((B, V), bool))).sum()

    gradient = jax.jit(jax.grad(total))(state)
    for name in ("query", "key", "value"):
        assert gradient["fusion"][1][0]["projections"][name]["kernel"][...].any(), name


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (((63, 64), (32, 32), (16, 16)), "63 x 64, 32 x 32, 16 x 16 pixels"),
        (((36, 36), (18, 18), (9, 9)), "data.image_size must be a multiple of 8 times its stride"),
    ],
)
def test_maps_that_the_network_cannot_halve_are_refused(sides, message):
    config = NetworkConfig()
    with pytest.raises(UserError, match=message):
        check_maps([(*side, width) for side, width in zip(sides, config.widths, strict=True)], config)
    with pytest.raises(UserError, match=r"widths \(64, 128, 512\) for a network of"):
        check_maps([(64, 64, 64), (32, 32, 128), (16, 16, 512)], config)


def test_widths_that_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of heads=8"):
        NetworkConfig(widths=(24, 40, 100))


def test_the_position_map_tells_rows_in_its_first_half_and_columns_in_its_second():
    found = np.asarray(position_map(3, 5, 8), "f8")
    for i, j, k in np.ndindex(3, 5, 4):
        wave = np.cos if k % 2 else np.sin
        for start, place, side in ((0, i, 3), (4, j, 5)):
            angle = 2 * np.pi * (place + 1) / (side + 1e-6) / 10000 ** (2 * (k // 2) / 4)
            np.testing.assert_allclose(found[i, j, start + k], wave(angle), atol=1e-6)
    with pytest.raises(ValueError, match="even number of channels, not 7"):
        position_map(3, 5, 7)
