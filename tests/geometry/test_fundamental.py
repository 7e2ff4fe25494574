import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.geometry.fundamental import fundamental_from_cameras, mirror_fundamental

SIZE = np.array([256.0, 320.0, 200.0, 256.0])


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def cameras(seed, views=4):
    """Cameras all over a sphere of 300 mm, looking roughly at the origin, each with its own intrinsics."""
    rng = np.random.default_rng(seed)
    K, R, t = [], [], []
    for v in range(views):
        K.append([[900.0 + 40 * v, 3.0, SIZE[v] / 2], [0, 880.0, 120.0 - v], [0, 0, 1]])
        R.append(rotation(rng))
        t.append([*rng.uniform(-5, 5, 2), 300.0 + 10 * v])
    return np.array(K), np.array(R), np.array(t)


def images(points, K, R, t):
    """Homogeneous image points [V,n,3]."""
    x = np.einsum("vij,vnj->vni", K, np.einsum("vij,nj->vni", R, points) + t[:, None])
    return x / x[..., 2:]


def line_distance(F, a, b):
    """Distance in pixels of points a [n,3] from the epipolar lines F b of points b [n,3]."""
    line = b @ F.T
    return np.abs((a * line).sum(-1)) / np.hypot(line[:, 0], line[:, 1])


@pytest.mark.parametrize("seed", range(3))
def test_every_point_lies_on_the_line_of_its_match(seed):
    K, R, t = cameras(seed)
    points = np.random.default_rng(seed).uniform(-20, 20, (50, 3))
    x = images(points, K, R, t)
    F = fundamental_from_cameras(K, R, t)
    for a in range(4):
        for b in range(4):
            if a != b:
                assert line_distance(F[a, b], x[a], x[b]).max() < 1e-6


def test_a_point_elsewhere_is_off_the_line():
    K, R, t = cameras(0)
    x = images(np.random.default_rng(0).uniform(-20, 20, (50, 3)), K, R, t)
    F = fundamental_from_cameras(K, R, t)
    assert np.median(line_distance(F[0, 1], np.roll(x[0], 1, 0), x[1])) > 5


def test_orders_are_transposes_and_norms_are_one():
    K, R, t = cameras(1)
    plain = fundamental_from_cameras(K, R, t)
    stored = mirror_fundamental(plain, np.array([False, True, False, True]), SIZE)
    for F in (plain, stored):
        np.testing.assert_array_equal(F, F.transpose(1, 0, 3, 2))
        norm = np.sqrt((F**2).sum((-2, -1)))
        np.testing.assert_allclose(norm, 1 - np.eye(4), atol=1e-12)
        assert np.abs(np.linalg.det(F)).max() < 1e-12


@pytest.mark.parametrize("mirrored", [[True, False, False, False], [False, True, True, False], [True] * 4])
def test_mirrored_images_get_their_own_lines(mirrored):
    K, R, t = cameras(2)
    mirrored = np.array(mirrored)
    x = images(np.random.default_rng(5).uniform(-20, 20, (50, 3)), K, R, t)
    plain = fundamental_from_cameras(K, R, t)
    for v in np.flatnonzero(mirrored):
        x[v, :, 0] = SIZE[v] - x[v, :, 0]
    F = mirror_fundamental(plain, mirrored, SIZE)
    assert line_distance(F[0, 1], x[0], x[1]).max() < 1e-6
    assert line_distance(F[2, 3], x[2], x[3]).max() < 1e-6
    assert np.median(line_distance(plain[0, 1], x[0], x[1])) > 1  # the flip matters
    np.testing.assert_allclose(mirror_fundamental(F, mirrored, SIZE), plain, atol=1e-12)


def test_two_cameras_at_one_place_have_no_lines():
    K, R, t = cameras(3)
    t[1] = R[1] @ R[0].T @ t[0]  # the same centre up to rounding
    F = fundamental_from_cameras(K, R, t)
    assert np.all(F[0, 1] == 0)
    assert np.all(F[1, 0] == 0)
    np.testing.assert_allclose(np.linalg.norm(F[0, 2]), 1)


def test_jax_arrays_stay_in_jax_under_jit():
    K, R, t = cameras(4)
    single = [jnp.asarray(x, jnp.float32) for x in (K, R, t)]
    F = jax.jit(fundamental_from_cameras)(*single)
    assert isinstance(F, jax.Array)
    np.testing.assert_allclose(F, fundamental_from_cameras(K, R, t), atol=2e-5)
    flip = jnp.array([True, False, True, False])
    np.testing.assert_allclose(
        jax.jit(mirror_fundamental)(F, flip, jnp.asarray(SIZE, jnp.float32)),
        mirror_fundamental(np.asarray(F, np.float64), np.asarray(flip), SIZE),
        atol=2e-5,
    )
