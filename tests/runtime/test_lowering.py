"""Every compiled function that the methods share has a program for NVIDIA GPUs and for TPUs.

Nothing is run: that the program is right, or fast, there is not shown here.
"""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import lowered, platform, shape, shapes_of  # noqa: F401  (platform is a fixture)

from mvead_jax.backbones.base import as_function, load_network
from mvead_jax.bank import coreset, hull
from mvead_jax.bank.search import exact, projection, rows, sharded
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.rig.cameras import five_cameras
from mvead_jax.runtime.sharding import local_mesh

QUERIES, WIDTH, NEAREST = 300, 48, 5


@pytest.mark.parametrize(
    ("name", "side", "tap"),
    [("efficientnet-lite0", 64, "patches"), ("resnet18", 64, "layer3"), ("dinov2-small", 28, "patches")],
)
def test_a_backbone(platform, name, side, tap):  # noqa: F811
    forward, state = as_function(
        load_network(BackboneConfig(name=name, weights="random"), (tap,)).network, (tap,)
    )
    program = lowered(forward, platform, shapes_of(state), shape(2, side, side, 3))
    assert [out.dtype for out in program.out_avals] == [np.float32]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("bank", [200, 20_000])
def test_the_search(platform, precision, bank):  # noqa: F811
    found = lowered(
        *(exact.search, platform, shape(QUERIES, WIDTH), shape(bank, WIDTH), None),
        k=NEAREST,
        block_size=None,
        precision=precision,
    )
    assert [out.shape for out in found.out_avals][:2] == [(QUERIES, NEAREST)] * 2
    assert ("bf16" in found.mlir_module()) == (precision == "bfloat16")


def test_the_search_of_a_bank_over_devices(platform):  # noqa: F811
    mesh = local_mesh()
    program = lowered(
        *(sharded._search_shares, platform, shape(QUERIES, WIDTH), shape(4096 * mesh.size, WIDTH)),
        shape(1, 4096 * mesh.size, dtype=np.bool_),
        mesh=mesh,
        axis="data",
        k=NEAREST,
        block_size=None,
        precision="float32",
    )
    assert program.nr_devices == mesh.size
    assert [out.shape for out in program.out_avals][:2] == [(QUERIES, NEAREST)] * 2


def test_distances_to_hulls(platform):  # noqa: F811
    some = shape(QUERIES, WIDTH), shape(4096, WIDTH), shape(QUERIES, NEAREST, dtype=np.int32)
    assert lowered(hull._in_chunks, platform, *some, ridge=1e-3, chunk=64).out_avals[0].shape == (QUERIES,)
    mesh = local_mesh()
    program = lowered(hull._of_shares, platform, *some, mesh=mesh, axis="data", ridge=1e-3, chunk=64)
    assert program.nr_devices == mesh.size


def test_the_coreset(platform):  # noqa: F811
    height, centres, candidates = 4096, 16, 32
    number, places = shape(dtype=np.int32), shape(candidates, dtype=np.int32)

    def outputs(function, *arguments, **static):
        return [out.shape for out in lowered(function, platform, *arguments, **static).out_avals]

    bank, chosen = shape(height, WIDTH), shape(candidates, WIDTH)
    advanced = (shape(height), shape(centres, WIDTH), shape(centres, dtype=np.int32), shape(WIDTH), number)
    assert (height,) in outputs(coreset._advance, bank, *advanced, candidates=candidates)
    farthest = [(shape(candidates), places)] * 2
    assert (candidates,) in outputs(coreset._farthest, farthest, height=height, candidates=candidates)
    assert outputs(coreset._gather_from, bank, None, places) == [(candidates, WIDTH)]
    assert outputs(coreset._gather_from, bank, chosen, places) == [(candidates, WIDTH)]
    assert (centres,) in outputs(coreset._replay, chosen, shape(candidates), places, number, steps=centres)
    assert outputs(projection.project, bank, shape(WIDTH), shape(WIDTH, 8)) == [(height, 8)]
    assert outputs(rows._extremes, bank)


def test_the_mask_of_epipolar_lines(platform):  # noqa: F811
    rig = five_cameras(64)
    F = jnp.asarray(fundamental_from_cameras(rig.K, rig.R, rig.t), jnp.float32)
    program = lowered(epipolar_mask, platform, shapes_of(F), grid=(4, 4), patch_size=16.0)
    assert program.out_avals[0].shape == (5, 5, 16, 16)


def test_an_operation_without_a_lowering_is_found(platform):  # noqa: F811
    """The check itself can fail: a callback into Python exists on the CPU alone in this form."""
    other = "tpu" if platform == "cuda" else "cuda"
    only = jax.jit(lambda x: jax.lax.platform_dependent(x, **{other: jnp.sin}))
    with pytest.raises(Exception, match=platform):
        lowered(only, platform, shape(3))
