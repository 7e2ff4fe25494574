import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvead_jax.geometry.epipolar import epipolar_lines, epipolar_mask, line_distances, patch_centers
from mvead_jax.geometry.fundamental import fundamental_from_cameras

GRID, PATCH = (12, 20), 10.0  # 200 x 120 pixels: row and column order matters


def cameras(seed, views=3):
    """K, R, t of cameras around the origin."""
    rng = np.random.default_rng(seed)
    K, R, t = [], [], []
    for v in range(views):
        angle = 2 * np.pi * v / views + rng.uniform(-0.3, 0.3)
        center = 300 * np.array([np.cos(angle), np.sin(angle), rng.uniform(0.6, 1.4)])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        turn = np.stack([right, np.cross(forward, right), forward])
        K.append([[700.0, 0, 100 + rng.uniform(-5, 5)], [0, 700.0, 60], [0, 0, 1]])
        R.append(turn)
        t.append(-turn @ center)
    return np.array(K), np.array(R), np.array(t)


def rig(seed):
    """F, and image points [V,400,2] of a scene that all cameras see."""
    K, R, t = cameras(seed)
    points = np.random.default_rng(seed).uniform(-18, 18, (400, 3))
    x = np.einsum("vij,vnj->vni", K, np.einsum("vij,nj->vni", R, points) + t[:, None])
    return fundamental_from_cameras(K, R, t), x[..., :2] / x[..., 2:]


def slow_mask(F, threshold=1.0):
    """The definition, patch by patch."""
    (h, w), views = GRID, len(F)
    points = np.array([[(k % w + 0.5) * PATCH, (k // w + 0.5) * PATCH, 1] for k in range(h * w)])
    mask = np.zeros((views, views, h * w, h * w), bool)
    for a, b, j in np.ndindex(mask.shape[:3]):
        line = F[a, b].T @ points[j]
        norm = np.hypot(*line[:2])
        if a != b and norm > 0:
            mask[a, b, j] = abs(points @ line) / norm <= threshold * PATCH
    return mask


def test_the_mask_is_its_definition():
    F, _ = rig(0)
    found, expected = np.asarray(epipolar_mask(F, GRID, PATCH)), slow_mask(F)
    assert 0.05 < expected[0, 1].mean() < 0.5
    assert (found != expected).mean() < 1e-6  # a distance of exactly one patch may round either way
    np.testing.assert_array_equal(jax.jit(lambda F: epipolar_mask(F, GRID, PATCH))(F), found)


def patch_of(x):
    """Patch index of image points [n,2], and which of them lie in the image."""
    h, w = GRID
    inside = (x > 0).all(1) & (x[:, 0] < w * PATCH) & (x[:, 1] < h * PATCH)
    return (x[:, 1] // PATCH * w + x[:, 0] // PATCH).astype(int), inside


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_whatever_a_patch_centre_shows_is_inside(seed):
    K, R, t = cameras(seed)
    mask = np.asarray(epipolar_mask(fundamental_from_cameras(K, R, t), GRID, PATCH))
    rng = np.random.default_rng(seed)
    centers = patch_centers(GRID, PATCH)
    for a in range(3):
        rays = np.column_stack([centers, np.ones(len(centers))]) @ np.linalg.inv(K[a]).T
        depth = np.linalg.norm(t[a]) + rng.uniform(-18, 18, (len(rays), 1))
        points = (rays * depth - t[a]) @ R[a]
        for b in range(3):
            x = (points @ R[b].T + t[b]) @ K[b].T
            patch, inside = patch_of(x[:, :2] / x[:, 2:])
            assert a == b or mask[a, b, np.flatnonzero(inside), patch[inside]].all()


def test_matches_off_the_centres_are_inside_but_for_a_few():
    shares = []
    for seed in range(5):
        F, x = rig(seed)
        mask = np.asarray(epipolar_mask(F, GRID, PATCH))
        (p, p_in), (q, q_in) = patch_of(x[0]), patch_of(x[1])
        both = p_in & q_in
        shares.append(mask[0, 1, p[both], q[both]].mean())
    assert np.mean(shares) > 0.975  # both ends are rounded to their patch


def test_rows_and_columns_are_not_swapped():
    F, x = rig(1)
    swapped = F[..., [1, 0, 2], :][..., [1, 0, 2]]
    mask = np.asarray(epipolar_mask(swapped, GRID, PATCH))
    (p, p_in), (q, q_in) = patch_of(x[0]), patch_of(x[1])
    assert mask[0, 1, p[p_in & q_in], q[p_in & q_in]].mean() < 0.9
    np.testing.assert_array_equal(patch_centers((2, 3), 4.0)[:4], [[2, 2], [6, 2], [10, 2], [2, 6]])


def test_no_keys_for_itself_invalid_pairs_no_geometry_and_lines_beside_the_image():
    F, _ = rig(2)
    mask = np.asarray(epipolar_mask(F, GRID, PATCH))
    assert not mask[np.arange(3), np.arange(3)].any()
    valid = np.ones((3, 3), bool)
    valid[0, 1] = False
    masked = np.asarray(epipolar_mask(F, GRID, PATCH, valid=valid))
    assert not masked[0, 1].any()
    np.testing.assert_array_equal(masked[1, 0], mask[1, 0])
    for nothing in (0.0, np.nan, np.inf):
        broken = F.copy()
        broken[0, 1] = nothing
        assert not np.asarray(epipolar_mask(broken, GRID, PATCH))[0, 1].any()
    # F of a pure sideways shift: the line of a point is its own row; here shifted out of the image.
    rows = np.zeros((2, 2, 3, 3))
    rows[0, 1] = [[0, 0, 0], [0, 0, 1], [0, -1, -500]]
    rows[1, 0] = rows[0, 1].T
    assert not np.asarray(epipolar_mask(rows, GRID, PATCH))[0, 1].any()


def test_a_wider_band_holds_the_narrower_one_and_is_symmetric_in_distance():
    F, _ = rig(3)
    narrow, wide = (np.asarray(epipolar_mask(F, GRID, PATCH, threshold)) for threshold in (0.5, 2.0))
    assert (wide | ~narrow).all()
    assert wide.sum() > 3 * narrow.sum()


def test_lines_and_distances_are_those_of_numpy():
    F, x = rig(4)
    lines = np.asarray(epipolar_lines(x[0], F[0, 1]))
    expected = np.column_stack([x[0], np.ones(len(x[0]))]) @ F[0, 1]
    np.testing.assert_allclose(lines, expected, atol=1e-5 * np.abs(expected).max())
    assert np.asarray(line_distances(x[1], lines)).max() < 0.01
    off = np.asarray(line_distances(x[1] + 5.0, lines))
    slow = np.abs((np.column_stack([x[1] + 5.0, np.ones(len(x[0]))]) * expected).sum(1))
    np.testing.assert_allclose(off, slow / np.hypot(*expected[:, :2].T), atol=0.01)
    assert line_distances(jnp.ones((1, 2)), jnp.array([[0.0, 0.0, 1.0]]))[0] == jnp.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_of_the_caller_do_not_matter(dtype):
    F, x = rig(5)
    mask = epipolar_mask(F.astype(dtype), GRID, PATCH)
    assert mask.dtype == bool
    assert epipolar_lines(x[0].astype(dtype), jnp.asarray(F[0, 1])).shape == (400, 3)
