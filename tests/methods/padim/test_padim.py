"""PaDiM: its embedding, its Gaussians against SciPy's distance, its smoothing, and what it refuses."""

import random
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from mvead_jax.methods.base import Batch, RunContext, Spec, TrainData
from mvead_jax.methods.padim.config import PadimConfig, PadimSection
from mvead_jax.methods.padim.embedding import check_maps, chosen_channels, embed
from mvead_jax.methods.padim.gaussian import distances, fit, inverse_covariance
from mvead_jax.methods.padim.method import Padim
from mvead_jax.methods.padim.scores import smoothed
from mvead_jax.runtime.errors import UserError

MAPS = {"fine": (4, 6, 3), "coarse": (2, 3, 5)}


def test_a_coarser_map_is_repeated_and_the_channels_keep_their_chosen_order():
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(2, 4, 6, 3)), rng.normal(size=(2, 2, 3, 5))
    channels = np.array([7, 0, 4], np.int32)
    found = embed([fine, coarse], channels)
    for row in range(4):
        for column in range(6):
            whole = np.concatenate([fine[:, row, column], coarse[:, row // 2, column // 2]], axis=-1)
            np.testing.assert_array_equal(found[:, row, column], whole[:, channels])
    compiled = jax.jit(embed)([jnp.float32(fine), jnp.float32(coarse)], channels)
    np.testing.assert_array_equal(compiled, found.astype("f4"))


def test_the_ports_channels_are_fixed_and_anomalibs_follow_from_the_seed():
    keys = [jax.random.key(seed) for seed in (0, 1)]
    expected = random.Random(1024).sample(range(448), 100)
    for key in keys:
        np.testing.assert_array_equal(chosen_channels(448, 100, "port", key), expected)
    one, other = (chosen_channels(448, 100, "anomalib", key) for key in keys)
    assert len(set(one.tolist())) == 100
    assert list(one) != list(other)
    np.testing.assert_array_equal(one, chosen_channels(448, 100, "anomalib", keys[0]))


@pytest.mark.parametrize("images", [1, 3, 40])
def test_distances_are_scipys_mahalanobis_distances(images):
    """Also where fewer images than channels leave the covariance singular but for its regularisation."""
    rng = np.random.default_rng(images)
    train, test = (rng.normal(3, 2, size=(count, 5, 6)).astype(np.float32) for count in (images, 2))
    gaussians = fit(train, 0.01)
    found, inverse = distances(jnp.asarray(test), *gaussians), inverse_covariance(gaussians.whitening)
    for place in range(5):
        own = train[:, place].astype("f8")
        covariance = np.cov(own.T, ddof=1) if images > 1 else np.zeros((6, 6))
        expected = np.linalg.inv(covariance + 0.01 * np.eye(6))
        np.testing.assert_allclose(inverse[place], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        for image in range(2):
            one = mahalanobis(test[image, place].astype("f8"), own.mean(0), expected)
            np.testing.assert_allclose(found[image, place], one, rtol=1e-4)


def test_smoothing_repeats_the_edge_with_the_port_and_mirrors_about_it_with_anomalib():
    weights = np.exp(-(np.arange(-16, 17) ** 2) / 32.0)
    weights /= weights.sum()
    maps = np.random.default_rng(0).normal(size=(1, 20, 24))  # at its own size: nothing is interpolated
    for variant, mode in (("port", "symmetric"), ("anomalib", "reflect")):
        padded = np.pad(maps[0], 16, mode=mode)
        rows = sum(weight * padded[k : k + 20] for k, weight in enumerate(weights))
        expected = sum(weight * rows[:, k : k + 24] for k, weight in enumerate(weights))
        np.testing.assert_allclose(smoothed(maps, (20, 24), variant)[0], expected, atol=1e-12)


def trained(**section):
    """A model of six samples, the second view of two of which is missing."""
    rng = np.random.default_rng(0)
    present = np.ones((6, 2), bool)
    present[1:3, 1] = False
    features = {
        tap: rng.normal(size=(6, 2, *shape)).astype(np.float32) * present[..., None, None, None]
        for tap, shape in MAPS.items()
    }
    spec = Spec(("left", "right"), ("part",), 16, None, MAPS, "part")
    index = SimpleNamespace(present=lambda: present, views=spec.views, categories=spec.categories)
    method = Padim(spec, PadimSection(channels=4, **section))
    return method, features, present, method.fit(TrainData(index, features, {}, None), RunContext(0))


def test_each_view_has_gaussians_of_the_images_that_it_has():
    method, features, present, state = trained()
    embedding = embed(list(features.values()), state["channels"]).reshape(6, 2, 24, 4)
    for view in range(2):
        own = embedding[present[:, view], view]
        np.testing.assert_allclose(state["mean"][view], own.mean(0), atol=1e-6)
        expected = fit(own, 0.01).whitening
        np.testing.assert_array_equal(state["whitening"][view], expected)
    batch = Batch(features, present, np.zeros(6, np.int32))
    maps = method.score(state, batch)
    assert maps.shape == (6, 2, 4, 6)
    one = distances(jnp.asarray(embedding[:, 0]), state["mean"][0], state["whitening"][0])
    np.testing.assert_allclose(maps[:, 0].reshape(6, 24), one, rtol=1e-5)


def test_how_many_places_are_fitted_at_a_time_changes_nothing():
    for found, expected in zip(
        *(jax.tree.leaves(trained(**own)[3]) for own in ({}, {"band_bytes": 500})), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_embedded_is_refused_in_words():
    with pytest.raises(UserError, match=r"config padim.channels=9: the backbone's maps have 8 channels"):
        check_maps(list(MAPS.values()), 9)
    with pytest.raises(UserError, match=r"5 x 5, 3 x 3 pixels.*data.image_size"):
        check_maps([(5, 5, 1), (3, 3, 1)], 1)
    with pytest.raises(UserError, match="config padim.regularisation=0"):
        PadimConfig(padim=PadimSection(regularisation=0.0))
