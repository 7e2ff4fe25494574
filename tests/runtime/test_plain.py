"""runtime/plain.py: what is traced for a format of plain operations gives the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mvead_jax.backbones.dinov2.positions import resize_positions
from mvead_jax.bank.hull import hull_distance
from mvead_jax.runtime.plain import mapped, mapped_on_cpu, traced_plainly


def test_a_loop_that_is_written_out_gives_what_the_loop_gives_and_traces_none():
    rows = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.arange(3.0)}

    def function(row):
        return row["a"] * row["b"], row["b"] + 1

    expected = mapped(function, rows)
    assert "scan" in str(jax.make_jaxpr(lambda rows: mapped(function, rows))(rows))
    with traced_plainly():
        assert "scan" not in str(jax.make_jaxpr(lambda rows: mapped(function, rows))(rows))
        found = mapped(function, rows)
    for own, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, wanted)


def test_a_loop_for_cpus_is_no_loop_on_other_devices_and_gives_the_same():
    rows = jnp.arange(12.0).reshape(4, 3)

    def each(rows):
        return mapped_on_cpu(lambda row: jnp.cumsum(row) ** 2, rows)

    loops = {
        platform: "while" in export.export(jax.jit(each), platforms=[platform])(rows).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert loops == {"cpu": True, "cuda": False, "tpu": False}
    with traced_plainly():
        assert "platform" not in str(jax.make_jaxpr(each)(rows))
        plain = each(rows)
    np.testing.assert_array_equal(jax.jit(each)(rows), np.cumsum(rows, 1) ** 2)
    np.testing.assert_array_equal(plain, np.cumsum(rows, 1) ** 2)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(3, 5), (7, 7), (12, 9)])
def test_position_embeddings_are_resized_by_a_matrix_as_by_the_image_operation(grid, antialias):
    rng = np.random.default_rng(0)
    positions = jnp.asarray(rng.normal(size=(1, 50, 4)), jnp.float32)
    expected = resize_positions(positions, grid, antialias)
    with traced_plainly():
        found = resize_positions(positions, grid, antialias)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_the_distance_to_a_hull_says_that_it_has_no_plain_form():
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with traced_plainly(), pytest.raises(NotImplementedError, match=r"score\.distance=hull"):
        hull_distance(rows[:3] + 0.1, rows, k=5)
