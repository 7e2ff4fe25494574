"""Window attention over views against loops, and what must not change it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.methods.mvas import mvas, partition, routing_scores, select_windows, unpartition

V, H, W, C, HEADS = 3, 5, 4, 8, 2


def maps(seed=0, shape=(V, H, W, C), shift=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + shift, jnp.float32)


def oracle(query, keys, values, present, windows, top, heads):
    """Every window, pixel and head by itself, in float64."""
    query, keys, values = (np.asarray(x, "f8") for x in (query, keys, values))
    views, height, width, channels = query.shape
    tall, wide = -(-height // windows), -(-width // windows)
    grow = ((0, 0), (0, tall * windows - height), (0, wide * windows - width), (0, 0))
    query, keys, values = (np.pad(x, grow) for x in (query, keys, values))

    def window(x, view, i, j):
        return x[view, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide].reshape(-1, channels)

    places = [(i, j) for i in range(windows) for j in range(windows)]
    out = np.zeros(query.shape)
    for view in range(views):
        there = [(b, *place) for b in range(views) if b != view and present[b] for place in places]
        for i, j in places:
            asking = window(query, view, i, j)
            scores = [asking.mean(0) @ window(keys, *other).mean(0) for other in there]
            best = [there[k] for k in np.argsort(scores, kind="stable")[::-1][:top]]
            if not best:
                continue
            seen = np.concatenate([window(keys, *other) for other in best])
            taken = np.concatenate([window(values, *other) for other in best])
            mixed = np.zeros(asking.shape)
            size = channels // heads
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                weights = np.exp(asking[:, part] @ seen[:, part].T / np.sqrt(channels))
                mixed[:, part] = weights / weights.sum(1, keepdims=True) @ taken[:, part]
            target = out[view, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            target[...] = mixed.reshape(target.shape)
    return out[:, :height, :width]


@pytest.mark.parametrize(
    ("windows", "top", "present", "apart"),
    [(2, 3, (1, 1, 1), False), (3, 2, (1, 1, 1), True), (2, 6, (1, 0, 1), True), (1, 2, (0, 1, 0), False)],
)
def test_mvas_attends_to_the_chosen_windows_pixel_by_pixel(windows, top, present, apart):
    query, keys, values = maps(0), maps(1), maps(2) if apart else None
    found = mvas(query, keys, values, jnp.array(present, bool), windows=windows, top=top, heads=HEADS)
    expected = oracle(query, keys, keys if values is None else values, present, windows, top, HEADS)
    there = np.array(present, bool)
    np.testing.assert_allclose(found[there], expected[there], atol=2e-6)
    assert np.isfinite(found).all()


def test_partition_numbers_windows_and_pixels_row_by_row_and_unpartition_takes_it_back():
    x = jnp.arange(1, H * W + 1, dtype=jnp.float32).reshape(1, H, W, 1)
    cut = partition(x, 2)  # windows of 3 x 2 pixels, the lower ones padded with a row of zeros
    np.testing.assert_array_equal(cut[0, 1, :, 0], [3, 4, 7, 8, 11, 12])
    np.testing.assert_array_equal(cut[0, 2, :, 0], [13, 14, 17, 18, 0, 0])
    np.testing.assert_array_equal(unpartition(cut, 2, (H, W)), x)


def test_one_window_and_all_other_views_chosen_is_attention_over_the_other_views():
    query, keys = maps(0), maps(1)
    found = mvas(query, keys, windows=1, top=V - 1, heads=1)
    for view in range(V):
        seen = jnp.delete(keys, view, axis=0).reshape(-1, C)
        weights = jax.nn.softmax(query[view].reshape(-1, C) @ seen.T / np.float32(C**0.5), axis=-1)
        np.testing.assert_allclose(found[view].reshape(-1, C), weights @ seen, atol=1e-6)


def test_more_windows_asked_for_than_there_are_is_all_of_them():
    query, keys = maps(0), maps(1)
    some, all_of_them = (mvas(query, keys, windows=2, top=top, heads=HEADS) for top in (99, 4 * (V - 1)))
    np.testing.assert_array_equal(some, all_of_them)


def test_the_order_of_views_only_reorders_the_result():
    query, keys, order = maps(0), maps(1), jnp.array([2, 0, 1])
    run = partial(mvas, windows=2, top=3, heads=HEADS)
    np.testing.assert_allclose(run(query[order], keys[order]), run(query, keys)[order], atol=1e-6)


def test_equal_views_give_equal_results():
    query, keys = (jnp.broadcast_to(maps(seed, (1, H, W, C)), (V, H, W, C)) for seed in (0, 1))
    found = mvas(query, keys, windows=2, top=3, heads=HEADS)
    np.testing.assert_array_equal(found[1:], found[:-1])


@pytest.mark.parametrize("garbage", [100.0, np.nan, np.inf])
def test_a_missing_view_changes_nothing_about_the_others(garbage):
    query, keys, there = maps(0), maps(1), jnp.array([True, False, True])
    run = partial(mvas, windows=2, top=3, heads=HEADS)
    found = run(query.at[1].set(garbage), keys.at[1].set(garbage), present=there)
    np.testing.assert_allclose(found[there], run(query[there], keys[there]), atol=1e-6)


def test_a_view_without_any_other_gets_nothing_and_finite_gradients():
    there = jnp.array([False, True, False])

    def total(query, keys):
        return mvas(query, keys, present=there, windows=2, top=3, heads=HEADS)[1].sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(maps(0), maps(1))
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_windows_that_are_all_padding_are_chosen_where_nothing_scores_higher():
    query, keys = jnp.ones((2, 3, 3, C)), -jnp.ones((2, 3, 3, C))  # of 4 x 4 windows the last row and column
    chosen = np.asarray(select_windows(query, keys, windows=4, top=2).window).reshape(2, 4, 4, 2)
    padding = {16 * view + 4 * i + j for view in range(2) for i in range(4) for j in range(4) if 3 in (i, j)}
    assert set(chosen[:, :3, :3].reshape(-1).tolist()) <= padding
    assert not mvas(query, keys, windows=4, top=2, heads=HEADS).any()  # zeros are attended to, not masked
    found = mvas(query, keys, windows=4, top=32, heads=HEADS)  # 9 of the 16 keys are -1
    share = 9 / (9 + 7 * np.exp(C / HEADS / C**0.5))
    np.testing.assert_allclose(found, -share, rtol=1e-6)


def test_no_gradient_flows_through_the_choice_of_windows():
    query, keys = maps(0), maps(1)
    np.testing.assert_array_equal(jax.grad(lambda q: routing_scores(q, keys, 2).sum())(query), 0)
    fixed = select_windows(query, keys, windows=2, top=3)

    def total(query, keys, selection):
        return jnp.sin(mvas(query, keys, windows=2, top=3, heads=HEADS, selection=selection)).sum()

    own, given = (jax.grad(total, argnums=(0, 1))(query, keys, selection) for selection in (None, fixed))
    for one, other in zip(own, given, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("apart", [False, True])
def test_the_derivative_is_that_of_differences(apart):
    there = jnp.array([True, True, False])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.random.default_rng(seed).normal(size=(V, 3, 3, 4))) for seed in range(3)]
        arrays = arrays if apart else arrays[:2]
        query, keys = arrays[:2]
        selection = select_windows(query, keys, there, windows=2, top=3)

        def total(arrays):
            options = {"windows": 2, "top": 3, "heads": 2, "selection": selection}
            return jnp.sin(mvas(*arrays[:2], *arrays[2:], present=there, **options)[:2]).sum()

        gradients = jax.grad(total)(arrays)
        for which, gradient in enumerate(gradients):
            step = np.random.default_rng(9).normal(size=gradient.shape)
            moved = [
                total([x + side * 1e-6 * step if k == which else x for k, x in enumerate(arrays)])
                for side in (1, -1)
            ]
            np.testing.assert_allclose((gradient * step).sum(), (moved[0] - moved[1]) / 2e-6, rtol=1e-7)


def test_jit_and_vmap_equal_the_eager_call():
    query, keys = (maps(seed, (2, V, H, W, C)) for seed in (0, 1))
    there = jnp.array([[True] * 3, [True, False, True]])
    run = partial(mvas, windows=3, top=2, heads=HEADS)
    compiled = jax.jit(jax.vmap(lambda q, k, p: run(q, k, present=p)))(query, keys, there)
    for sample in range(2):
        eager = run(query[sample], keys[sample], present=there[sample])
        np.testing.assert_allclose(compiled[sample], eager, atol=1e-6)


def test_another_scale_is_taken_as_given():
    query, keys = maps(0), maps(1)
    run = partial(mvas, windows=2, top=3, heads=HEADS)
    scaled = run(query * np.float32(C**0.5), keys)
    np.testing.assert_allclose(run(query, keys, scale=1.0), scaled, atol=1e-6)


def test_one_view_and_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="at least two views"):
        mvas(maps()[:1], maps()[:1], windows=2, top=1, heads=HEADS)
    with pytest.raises(ValueError, match="heads=3 must divide"):
        mvas(maps(), maps(), windows=2, top=1, heads=3)


def test_the_control_attends_to_its_own_view_alone():
    query, keys = maps(0), maps(1)
    found = mvas(query, keys, windows=2, top=2, heads=HEADS, own_view=True)
    for view in range(V):
        changed = keys.at[view].set(0)
        again = mvas(query, changed, windows=2, top=2, heads=HEADS, own_view=True)
        others = np.arange(V) != view
        np.testing.assert_array_equal(found[others], again[others])
        assert np.abs(found[view] - again[view]).max() > 0.1
