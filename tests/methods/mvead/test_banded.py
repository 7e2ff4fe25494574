import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.epipolar import epipolar_mask, patch_centers
from mvead_jax.methods.mvead import banded
from mvead_jax.methods.mvead.banded import (
    BandPlan,
    banded_attention,
    has_keys,
    pencil_order,
    plan_bands,
    readers_of,
)
from mvead_jax.methods.mvead.dense import masked_attention
from mvead_jax.rig.cameras import five_cameras

PATCH = 14.0


def mask_of(F, grid):
    return np.asarray(jax.jit(epipolar_mask, static_argnums=(1, 2))(F, grid, PATCH))


def rig_mask(grid):
    """F and mask of the rig of five cameras, whose images are cropped to the grid."""
    rig = five_cameras(int(max(grid) * PATCH))
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    return F, mask_of(F, grid)


def random_qkv(seed, shape):
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=shape).astype("f4") for _ in range(3))


@functools.cache  # each shape is compiled once
def compiled(attention):
    def loss(q, k, v, *rest):
        output = attention(q, k, v, *rest)
        return (output**2).sum(), output

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def value_and_gradient(attention, qkv, *rest):
    """Attention's output and the gradient of the sum of its squares."""
    (_, output), gradient = compiled(attention)(*qkv, *rest)
    return output, *gradient


def assert_same(qkv, mask, plan, *present):
    expected = value_and_gradient(masked_attention, qkv, mask, *present)
    found = value_and_gradient(banded_attention, qkv, plan, *present)
    for ours, dense in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, dense, atol=1e-5, rtol=1e-5)
    return found


def test_one_pair_of_views_after_the_other_gives_what_all_give_at_once(monkeypatch):
    F, mask = rig_mask((6, 10))
    plan, qkv = plan_bands(mask, F, (6, 10), PATCH, 16), random_qkv(0, (5, 60, 2, 8))

    def run(cache):
        monkeypatch.setattr(banded, "_CACHE", cache)
        gradient = jax.grad(lambda *qkv: (banded_attention(*qkv, plan) ** 2).sum(), argnums=(0, 1, 2))
        program = jax.jit(lambda *qkv: (banded_attention(*qkv, plan), gradient(*qkv))).lower(*qkv)
        return program.as_text().count("stablehlo.while"), program.compile()(*qkv)

    (few, expected), (more, found) = run(2**22), run(0)
    assert more > few
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("views", [(3, 1), (0,), (4, 2, 0)])
def test_queries_of_some_views_get_what_they_get_among_all(views, gather):
    F, mask = rig_mask((6, 10))
    plan, views = plan_bands(mask, F, (6, 10), PATCH, 16, gather=gather), jnp.asarray(views)
    qkv = random_qkv(0, (5, 60, 2, 8))
    present = jnp.asarray([True, True, False, True, True])

    def loss(of, q, k, v):
        output = of(q, k, v)[views] if of is every else of(q[views], k, v)
        return (output**2).sum(), output

    def every(q, k, v):
        return banded_attention(q, k, v, plan, present)

    def some(q, k, v):
        return banded_attention(q, k, v, plan.of(views), present)

    def dense(q, k, v):
        return masked_attention(q, k, v, mask[views], present)

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2, 3), has_aux=True), static_argnums=0)
    expected = gradient(every, *qkv)
    for of in (some, dense):
        for found, wanted in zip(jax.tree.leaves(gradient(of, *qkv)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(
        has_keys(plan.of(views), present), np.asarray(has_keys(plan, present))[views]
    )


@pytest.mark.parametrize(("grid", "block"), [((16, 16), 64), ((6, 10), 16), ((9, 5), 7)])
def test_it_is_the_dense_attention_and_its_gradient(grid, block):
    F, mask = rig_mask(grid)
    plan = plan_bands(mask, F, grid, PATCH, block)
    assert plan.mask.sum() == mask.sum()
    assert_same(random_qkv(0, (5, grid[0] * grid[1], 2, 16)), mask, plan)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_any_mask_is_served_exactly_whatever_the_order(share):
    grid, views = (4, 5), 3
    random = np.random.default_rng(0)
    mask = random.random((views, views, 20, 20)) < share
    mask[np.arange(views), np.arange(views)] = False
    F = random.normal(size=(views, views, 3, 3))
    output, *gradient = assert_same(
        random_qkv(1, (views, 20, 2, 8)), mask, plan_bands(mask, F, grid, PATCH, block=6)
    )
    without = ~mask.any(axis=(1, 3))
    assert without.any() == (share < 0.1)
    assert (np.asarray(output)[without] == 0).all()
    assert (np.asarray(gradient[0])[without] == 0).all()


@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf])
def test_pairs_without_geometry_have_no_keys(nothing):
    F, _ = rig_mask((4, 6))
    F[0, 1] = F[1, 0] = nothing
    mask = mask_of(F, (4, 6))
    assert_same(random_qkv(2, (5, 24, 2, 8)), mask, plan_bands(mask, F, (4, 6), PATCH, block=8))


def test_absent_views_are_seen_by_nobody():
    F, mask = rig_mask((6, 6))
    plan = plan_bands(mask, F, (6, 6), PATCH, block=16)
    qkv = random_qkv(3, (5, 36, 2, 8))
    for present in ([True, False, True, True, False], [False, True, False, False, False]):
        assert_same(qkv, mask, plan, np.array(present))


def test_logits_far_apart_in_two_views_do_not_overflow():
    F, mask = rig_mask((6, 6))
    query, key, value = random_qkv(4, (5, 36, 2, 8))
    key[1] *= 100
    key[2] -= 1000
    output, *gradient = value_and_gradient(
        banded_attention, (query, key, value), plan_bands(mask, F, (6, 6), PATCH, block=16)
    )
    assert all(np.isfinite(x).all() for x in (output, *gradient))
    # Logits of 1e3 are known to 1e-4 in float32, and so are the weights.
    np.testing.assert_allclose(output, masked_attention(query, key, value, mask), atol=1e-3)


def test_samples_are_vmapped_with_one_plan():
    F, mask = rig_mask((6, 6))
    plan = plan_bands(mask, F, (6, 6), PATCH, block=16)
    batch = tuple(map(jnp.stack, zip(*(random_qkv(s, (5, 36, 2, 8)) for s in range(2)), strict=True)))
    present = np.array([[True] * 5, [True, True, False, True, True]])

    def both(attention, how):
        mapped = jax.vmap(attention, in_axes=(0, 0, 0, None, 0))
        return value_and_gradient(mapped, batch, how, present)

    for ours, dense in zip(both(banded_attention, plan), both(masked_attention, mask), strict=True):
        np.testing.assert_allclose(ours, dense, atol=1e-5, rtol=1e-5)


def test_jit_equals_eager():
    F, mask = rig_mask((4, 6))
    plan = plan_bands(mask, F, (4, 6), PATCH)
    qkv = random_qkv(5, (5, 24, 2, 8))
    eager = banded_attention(*qkv, plan)
    np.testing.assert_allclose(jax.jit(banded_attention)(*qkv, plan), eager, atol=1e-6)


def test_a_block_gathers_little_more_than_the_keys_of_one_line():
    grid = (32, 32)
    F, mask = rig_mask(grid)
    plan = plan_bands(mask, F, grid, PATCH)
    line = mask.sum() / (5 * 4 * 1024)
    assert plan.mask.sum() == mask.sum()
    assert plan.keys.shape[-1] < 2.7 * line  # the widest of 320 blocks of 64 queries


def test_the_order_turns_about_an_epipole_inside_the_image():
    # A camera that moves along its axis: lines are rays from the centre of the image.
    center = 8 * PATCH
    F = np.array([[0, -1, center], [1, 0, -center], [-center, center, 0]])
    centers = patch_centers((16, 16), PATCH)
    order = pencil_order(F, centers)
    assert sorted(order) == list(range(256))
    ray = np.arctan2(*(centers - center).T)[order] % np.pi
    turns = np.diff(ray)
    assert (turns < -1e-6).sum() + (turns > 1e-6).sum() < 256
    assert min((turns < -1e-6).sum(), (turns > 1e-6).sum()) <= 1  # one way round, but for the wrap


def shuffled(plan, seed):
    """The same plan with the blocks of each pair of views in another order."""
    queries, keys, mask, places = (np.asarray(x) for x in (plan.queries, plan.keys, plan.mask, plan.places))
    queries, keys, mask, places = queries.copy(), keys.copy(), mask.copy(), places.copy()
    random, (shifts, views, blocks, block) = np.random.default_rng(seed), queries.shape
    for pair in np.ndindex(shifts, views):
        order = random.permutation(blocks)
        queries[pair], keys[pair], mask[pair] = queries[pair][order], keys[pair][order], mask[pair][order]
        within = places[pair] - pair[1] * blocks * block
        places[pair] += (np.argsort(order)[within // block] - within // block).astype(np.int32) * block
    readers = None if plan.readers is None else readers_of(queries, keys, mask)
    return BandPlan(*(None if x is None else jnp.asarray(x) for x in (queries, keys, mask, places, readers)))


def test_a_gathered_gradient_is_that_of_the_scattered_one_but_for_rounding():
    F, mask = rig_mask((12, 12))
    qkv = random_qkv(6, (5, 144, 2, 8))
    plans = [plan_bands(mask, F, (12, 12), PATCH, block=16, gather=gather) for gather in (False, True)]
    scattered, gathered = (value_and_gradient(banded_attention, qkv, plan) for plan in plans)
    np.testing.assert_array_equal(gathered[0], scattered[0])
    for one, other in zip(gathered[1:], scattered[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gather", [False, True])
def test_the_order_of_blocks_changes_no_bit_of_a_gathered_gradient(gather):
    F, mask = rig_mask((12, 12))
    qkv = random_qkv(7, (5, 144, 2, 8))
    plan = plan_bands(mask, F, (12, 12), PATCH, block=16, gather=gather)
    expected = value_and_gradient(banded_attention, qkv, plan)
    others = [value_and_gradient(banded_attention, qkv, shuffled(plan, seed)) for seed in range(3)]
    same = [all(np.array_equal(x, y) for x, y in zip(own, expected, strict=True)) for own in others]
    assert all(same) if gather else not any(same)


def test_readers_are_all_rows_in_which_a_patch_is_a_key():
    F, mask = rig_mask((6, 6))
    plan = plan_bands(mask, F, (6, 6), PATCH, block=8, gather=True)
    keys, seen = np.asarray(plan.keys).reshape(-1), np.asarray(plan.mask).any(3).reshape(-1)
    for patch, rows in enumerate(np.asarray(plan.readers)):
        assert sorted(rows[rows < keys.size]) == np.flatnonzero(seen & (keys == patch)).tolist()


def test_a_gradient_that_is_gathered_scatters_nothing():
    F, mask = rig_mask((6, 6))

    def text(gather):
        plan = plan_bands(mask, F, (6, 6), PATCH, block=8, gather=gather)
        loss = lambda *qkv: (banded_attention(*qkv, plan) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*random_qkv(0, (5, 36, 2, 8))).as_text()

    assert "stablehlo.scatter" in text(False)
    assert "stablehlo.scatter" not in text(True)
