import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.geometry.fundamental import fundamental_from_cameras
from mvead_jax.geometry.images import between_new_images, cropping, mirroring, resizing

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
    stored = between_new_images(plain, np.stack([mirroring(width) for width in SIZE]))
    for F in (plain, stored):
        np.testing.assert_array_equal(F, F.transpose(1, 0, 3, 2))
        norm = np.sqrt((F**2).sum((-2, -1)))
        np.testing.assert_allclose(norm, 1 - np.eye(4), atol=1e-12)
        assert np.abs(np.linalg.det(F)).max() < 1e-12


MAPS = {
    "resize": lambda x, v: (x * [224 / SIZE[v], 224 / 240, 1], resizing((SIZE[v], 240), (224, 224))),
    "crop": lambda x, v: (x - [10.0 + v, 20.0, 0], cropping(10.0 + v, 20.0)),
    "mirror": lambda x, v: (x * [-1, 1, 1] + [SIZE[v], 0, 0], mirroring(SIZE[v])),
    "two mirrored": lambda x, v: (
        (x * [-1, 1, 1] + [SIZE[v], 0, 0], mirroring(SIZE[v])) if v < 2 else (x, np.eye(3))
    ),
}


@pytest.mark.parametrize("change", MAPS)
def test_changed_images_get_their_own_lines(change):
    K, R, t = cameras(2)
    x = images(np.random.default_rng(5).uniform(-20, 20, (50, 3)), K, R, t)
    plain = fundamental_from_cameras(K, R, t)
    new, maps = zip(*(MAPS[change](x[v], v) for v in range(4)), strict=True)
    F = between_new_images(plain, np.stack(maps))
    for a, b in ((0, 1), (2, 3), (1, 2)):
        assert line_distance(F[a, b], new[a], new[b]).max() < 1e-6
    np.testing.assert_array_equal(F, F.transpose(1, 0, 3, 2))
    assert np.median(line_distance(plain[1, 2], new[1], new[2])) > 1  # the change matters
    back = between_new_images(F, np.linalg.inv(np.stack(maps)))
    np.testing.assert_allclose(
        back * np.sign((back * plain).sum((-2, -1)))[..., None, None], plain, atol=1e-9
    )


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
    maps = np.stack([mirroring(width) for width in SIZE])
    np.testing.assert_allclose(
        jax.jit(between_new_images)(F, jnp.asarray(maps, jnp.float32)),
        between_new_images(np.asarray(F, np.float64), maps),
        atol=2e-5,
    )
