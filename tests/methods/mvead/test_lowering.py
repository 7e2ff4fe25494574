"""The attention over views, dense and in bands, has a program for NVIDIA GPUs and TPUs, and so has its gradient."""

import jax
import numpy as np
import pytest
from flax import nnx
from lowering import lowered, platform, shape, shapes_of  # noqa: F401  (platform is a fixture)

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention, attend_batch
from mvead_jax.methods.mvead.banded import plan_bands
from mvead_jax.rig.cameras import five_cameras

GRID, PATCH, WIDTH = (6, 6), 14.0, 16


@pytest.fixture(scope="module")
def keys():
    rig = five_cameras(int(max(GRID) * PATCH))
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    mask = np.asarray(epipolar_mask(F, GRID, PATCH))
    return {"dense": mask, "banded": plan_bands(mask, F, GRID, PATCH, 16)}


@pytest.mark.parametrize("kind", ["dense", "banded"])
def test_attention_and_its_gradient(platform, keys, kind):  # noqa: F811
    graph, parameters = nnx.split(EpipolarAttention(AttentionConfig(WIDTH, 2), nnx.Rngs(0)))
    parameters, keys = shapes_of(parameters), shapes_of(keys[kind])
    features, present = shape(2, 5, *GRID, WIDTH), shape(2, 5, dtype=np.bool_)

    def attend(parameters, features, present, keys):
        return attend_batch(graph, parameters, features, present, keys)

    program = lowered(attend, platform, parameters, features, present, keys)
    assert program.out_avals[0].shape == features.shape

    def loss(*arguments):
        return (attend(*arguments) ** 2).sum()

    gradient = lowered(jax.grad(loss), platform, parameters, features, present, keys)
    assert len(gradient.out_avals) == len(jax.tree.leaves(parameters))
