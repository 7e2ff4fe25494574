"""Eq. 7-10 against loops, their gradients, and what must not become NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.methods.mvead.objective import (
    multi_center_loss,
    nearest_centers,
    negative_loss,
    safe_norm,
    select_negatives,
)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def positive_oracle(z, centers, present=None):
    """Eq. 7, patch by patch, mean over the patches of the views that there are."""
    present = np.ones(len(z), bool) if present is None else present
    found = [
        min(np.sqrt(((patch.astype("f8") - center) ** 2).sum()) for center in centers[v])
        for v in np.flatnonzero(present)
        for patch in z[v]
    ]
    return np.mean(found)


def negative_oracle(z_neg, view, centers, where):
    """Eq. 9, negative by negative, mean over those that count."""
    found = []
    for patch, v, counts in zip(z_neg, view, where, strict=True):
        distances = [np.sqrt(((patch.astype("f8") - center) ** 2).sum()) for center in centers[v]]
        if counts:
            found.append(-np.log(np.mean(distances)))
    return np.mean(found)


def finite_differences(function, x, step=1e-2):
    """Central differences of a scalar function, entry by entry.

    Their error: step² times the third derivative, and float32's 1e-7 over the step: about 1e-4 and 1e-5.
    """
    steps = step * np.eye(x.size, dtype="f4").reshape(-1, *x.shape)
    moved = np.concatenate([x[None] + steps, x[None] - steps])
    up, down = np.split(np.asarray(jax.jit(jax.vmap(function))(moved), "f8"), 2)
    return ((up - down) / (2 * step)).reshape(x.shape)


# ---- positives (eq. 7)


@pytest.mark.parametrize("present", [None, np.array([True, False, True])])
def test_the_positive_term_is_the_mean_distance_to_the_nearest_centre_of_the_own_view(present):
    z, centers = random(0, 3, 5, 4), random(1, 3, 6, 4)
    expected = positive_oracle(z, centers, present)
    np.testing.assert_allclose(multi_center_loss(z, centers, present), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(multi_center_loss)(z, centers, present), expected, rtol=1e-6)


def test_the_nearest_centre_is_found_far_from_the_origin_and_the_lowest_of_equal_ones():
    centers = random(0, 7, 4) + np.float32(1000)
    z = centers[[3, 0, 6]] + random(1, 3, 4) * np.float32(1e-2)
    np.testing.assert_array_equal(nearest_centers(z, centers), [3, 0, 6])
    repeated = jnp.asarray(centers[[2, 3, 3, 3]])
    np.testing.assert_array_equal(nearest_centers(jnp.asarray(centers[[3, 3]]), repeated), [1, 1])


def test_one_centre_is_deep_svdd():
    z, center = random(0, 2, 5, 4), random(1, 2, 1, 4)
    expected = np.sqrt(((z - center) ** 2).sum(-1)).mean()
    np.testing.assert_allclose(multi_center_loss(z, center), expected, rtol=1e-6)


def test_the_positive_gradient_is_that_of_finite_differences():
    z, centers = random(2, 2, 3, 3), 3 * random(3, 2, 2, 3)  # no patch is near a border between centres
    gradient = jax.jit(jax.grad(multi_center_loss))(z, centers)
    expected = finite_differences(lambda z: multi_center_loss(z, centers), z)
    np.testing.assert_allclose(gradient, expected, atol=2e-3 * np.abs(expected).max())  # see there


def test_an_absent_view_has_neither_loss_nor_gradient():
    z, centers = random(0, 3, 5, 4), random(1, 3, 6, 4)
    present = np.array([True, False, True])
    other = z.copy()
    other[1] = 1e6
    assert multi_center_loss(z, centers, present) == multi_center_loss(other, centers, present)
    gradient = jax.jit(jax.grad(multi_center_loss))(z, centers, present)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.abs(gradient[::2]).min() > 0
    assert multi_center_loss(z, centers, np.zeros(3, bool)) == 0


def test_a_patch_on_its_centre_has_loss_zero_and_a_finite_gradient():
    centers = random(0, 2, 3, 4)
    value, gradient = jax.value_and_grad(multi_center_loss)(centers[:, :2], centers)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_the_order_of_patches_and_of_centres_does_not_matter():
    z, centers = random(0, 2, 6, 4), random(1, 2, 5, 4)
    shuffled = multi_center_loss(z[:, ::-1], centers[:, [3, 1, 4, 0, 2]])
    np.testing.assert_allclose(shuffled, multi_center_loss(z, centers), rtol=1e-6)
    np.testing.assert_allclose(
        multi_center_loss(z[::-1], centers[::-1]), multi_center_loss(z, centers), rtol=1e-6
    )
    assert abs(multi_center_loss(z[::-1], centers) - multi_center_loss(z, centers)) > 1e-3  # of its own view


def test_the_norm_is_numpys_and_its_gradient_at_zero_is_zero():
    x = random(0, 3, 4)
    np.testing.assert_allclose(safe_norm(x), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(safe_norm)(jnp.zeros(4)), 0)
    np.testing.assert_allclose(jax.grad(safe_norm)(jnp.asarray([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_a_feature_that_is_no_number_makes_the_loss_none():
    z, centers = random(0, 2, 5, 4), random(1, 2, 6, 4)
    z[1, 2, 3] = np.nan
    assert np.isnan(multi_center_loss(z, centers))
    assert np.isnan(negative_loss(z[1], np.ones(5, "i4"), centers))


# ---- negatives (eq. 8, 9)


def test_the_negative_term_is_minus_log_of_the_mean_distance_to_all_centres_of_the_view():
    z_neg, centers = random(0, 5, 4), random(1, 3, 6, 4)
    view, where = np.array([0, 2, 2, 1, 0], "i4"), np.array([True, True, False, True, False])
    expected = negative_oracle(z_neg, view, centers, where)
    np.testing.assert_allclose(negative_loss(z_neg, view, centers, where), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(negative_loss)(z_neg, view, centers, where), expected, rtol=1e-5)
    everything = negative_oracle(z_neg, view, centers, np.ones(5, bool))
    np.testing.assert_allclose(negative_loss(z_neg, view, centers), everything, rtol=1e-5)


def test_the_negative_gradient_is_that_of_finite_differences_and_pushes_away():
    z_neg, centers, view = random(4, 3, 3), random(5, 2, 4, 3), np.array([0, 1, 1], "i4")
    where = np.array([True, True, False])
    gradient = jax.jit(jax.grad(negative_loss))(z_neg, view, centers, where)
    expected = finite_differences(lambda z: negative_loss(z, view, centers, where), z_neg)
    np.testing.assert_allclose(gradient, expected, atol=2e-3 * np.abs(expected).max())  # see there
    np.testing.assert_array_equal(gradient[2], 0)
    far = z_neg + 10 * (z_neg - centers[view].mean(1))
    assert negative_loss(far, view, centers, where) < negative_loss(z_neg, view, centers, where)


def test_a_negative_on_its_only_centre_is_finite_in_value_and_gradient():
    center, view = random(0, 1, 1, 4), np.zeros(2, "i4")
    z_neg = np.repeat(center[:, 0], 2, axis=0)
    value, gradient = jax.value_and_grad(negative_loss)(z_neg, view, center)
    assert np.isfinite(value)
    assert value > 10
    assert np.isfinite(gradient).all()


def test_what_does_not_count_changes_nothing_and_none_at_all_is_zero():
    z_neg, centers, view = random(0, 3, 4), random(1, 2, 3, 4), np.array([0, 1, 1], "i4")
    where = np.array([True, False, True])
    value = negative_loss(z_neg, view, centers, where)
    z_neg[1] = np.inf
    assert negative_loss(z_neg, view, centers, where) == value
    order = [2, 0, 1]
    np.testing.assert_allclose(
        negative_loss(z_neg[order], view[order], centers[:, ::-1], where[order]), value, rtol=1e-6
    )
    assert negative_loss(z_neg, view, centers, np.zeros(3, bool)) == 0


def test_negatives_are_the_most_changed_candidates_most_changed_first():
    clean = random(0, 6, 4)
    change = np.array([5, 1, 9, 3, 7, 2], "f4")
    masked = clean + change[:, None] * np.array([[0, 1, 0, 0]], "f4")
    candidates = np.array([True, True, False, True, True, False])
    np.testing.assert_array_equal(select_negatives(clean, masked, candidates, 3), [4, 0, 3])
    np.testing.assert_array_equal(select_negatives(clean, masked, candidates, 1), [4])


def test_fewer_candidates_than_wanted_come_first_and_the_rest_can_be_told():
    clean, masked = random(0, 5, 4), random(1, 5, 4)
    candidates = np.array([False, True, False, True, False])
    chosen = np.asarray(jax.jit(select_negatives, static_argnums=3)(clean, masked, candidates, 4))
    assert len(set(chosen.tolist())) == 4
    np.testing.assert_array_equal(candidates[chosen], [True, True, False, False])
    unchanged = np.asarray(select_negatives(clean, clean, candidates, 2))  # a change of 0 is one too
    np.testing.assert_array_equal(unchanged, [1, 3])
