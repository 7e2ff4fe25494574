"""The DINOv2 port: the reference's numbers, what cutting, jit and precision may change, and bad sizes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2, random_dinov2
from mvead_jax.backbones.dinov2.params import load_dinov2
from mvead_jax.backbones.dinov2.positions import resize_positions
from mvead_jax.runtime.errors import UserError

_SPEC = importlib.util.spec_from_file_location(
    "make_dinov2", Path(__file__).parents[2] / "golden" / "make_dinov2.py"
)
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)

TINY = DinoV2Config(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=20, patch_size=4)
TINY_REGISTERS = DinoV2Config(**{**vars(TINY), "with_registers": True, "num_register_tokens": 4})
GOLDEN = [(case, size) for case, (_, _, sizes) in golden.CASES.items() for size in sizes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Case -> directory of its checkpoint, written once."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {case: golden.write_checkpoint(root / case, case) for case in golden.CASES}


def _images(seed: int, height: int, width: int, batch: int = 2) -> jax.Array:
    values = np.random.default_rng(seed).standard_normal((batch, height, width, 3), dtype=np.float32)
    return jnp.asarray(values)


def _forward(model: DinoV2, images: jax.Array) -> dict[str, jax.Array]:
    """All intermediates, compiled: one compilation where the eager call compiles every operation."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(graph, state).tokens(x))(state, images)


# ---- the reference's numbers


@pytest.mark.parametrize(("case", "size"), GOLDEN)
def test_intermediates_are_those_of_transformers(checkpoint, case, size):
    named = _forward(load_dinov2(checkpoint[case]), jnp.asarray(golden.images(case, size)))
    expected = golden.expected(case, size)
    assert set(named) == set(expected) == {"embeddings", "block1", "block2", "block3", "norm"}
    for name, value in named.items():
        tolerance = 1e-5 if name in ("embeddings", "block1") else 1e-4
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("case", list(golden.CASES))
def test_cut_off_model_gives_the_reference_up_to_its_last_block(checkpoint, case):
    size = golden.CASES[case][2][0]
    model = load_dinov2(checkpoint[case], num_blocks=2)
    named = _forward(model, jnp.asarray(golden.images(case, size)))
    assert set(named) == {"embeddings", "block1", "block2"}
    np.testing.assert_allclose(named["block2"], golden.expected(case, size)["block2"], rtol=0, atol=1e-4)
    assert len(model.blocks) == 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # transformers' models have hidden_size more, the mask token of pre-training (test_dinov2_parity.py).
        ("dinov2-small", 22_056_192),
        ("dinov2-base", 86_579_712),
        ("dinov2-large", 304_367_616),
        ("dinov2-giant", 1_136_479_232),
        ("dinov2-small-registers", 22_057_728),
        ("dinov2-base-registers", 86_582_784),
        ("dinov2-large-registers", 304_371_712),
        ("dinov2-giant-registers", 1_136_485_376),
    ],
)
def test_published_sizes_have_their_number_of_parameters(name, parameters):
    model = nnx.eval_shape(lambda: DinoV2(DINOV2_SIZES[name], rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == parameters


# ---- position embeddings


def _kernel(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _resize_matrix(old: int, new: int, antialias: bool) -> np.ndarray:
    """PyTorch's bicubic rule along one axis, one weight at a time: [new, old]."""
    matrix = np.zeros((new, old))
    scale = old / new
    for row in range(new):
        centre = (row + 0.5) * scale - 0.5
        if antialias:
            support = max(scale, 1)
            weights = _kernel((np.arange(old) - centre) / support, -0.5)
            matrix[row] = weights / weights.sum()
        else:
            for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                matrix[row, np.clip(tap, 0, old - 1)] += _kernel(np.array(tap - centre), -0.75)
    return matrix


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(5, 9), (3, 3), (2, 12), (11, 11), (1, 7)])
def test_positions_are_resized_by_pytorchs_bicubic_rule(antialias, grid):
    positions = np.random.default_rng(0).standard_normal((1, 50, 6)).astype(np.float32)
    cells = positions[0, 1:].reshape(7, 7, 6).astype(np.float64)
    rows, columns = (_resize_matrix(7, new, antialias) for new in grid)
    slow = np.einsum("rh,cw,hwd->rcd", rows, columns, cells).reshape(-1, 6)
    resized = resize_positions(jnp.asarray(positions), grid, antialias)
    np.testing.assert_allclose(resized[0, 1:], slow, rtol=0, atol=5e-6)
    np.testing.assert_array_equal(resized[0, 0], positions[0, 0])


def test_positions_of_the_trained_grid_are_kept_bit_for_bit():
    positions = jnp.asarray(np.random.default_rng(0).standard_normal((1, 50, 6)), jnp.float32)
    np.testing.assert_array_equal(resize_positions(positions, (7, 7), antialias=True), positions)


def test_registers_stand_behind_cls_and_carry_no_position():
    model = random_dinov2(TINY_REGISTERS, seed=0)
    registers = np.random.default_rng(1).standard_normal((1, 4, 24)).astype(np.float32)
    model.register_tokens[...] = jnp.asarray(registers)
    for height, width in ((20, 20), (8, 32)):
        embeddings = model.embed(_images(0, height, width))
        assert embeddings.shape == (2, 1 + 4 + height * width // 16, 24)
        np.testing.assert_array_equal(embeddings[:, 1:5], np.repeat(registers, 2, axis=0))


def test_patches_are_ordered_row_by_row():
    model = random_dinov2(TINY, seed=0)
    images = np.zeros((1, 8, 12, 3), np.float32)
    images[0, 4:8, 8:12] = 1  # row 1, column 2 of a 2 x 3 grid
    change = model.embed(jnp.asarray(images)) - model.embed(jnp.zeros((1, 8, 12, 3)))
    np.testing.assert_array_equal(np.flatnonzero(np.abs(change[0]).max(axis=1)), [1 + 5])


# ---- what must not change the answer


def test_jit_over_split_state_equals_the_eager_call():
    model = random_dinov2(TINY_REGISTERS, seed=3)
    images = _images(0, 12, 28)
    jitted = _forward(model, images)
    eager = model.tokens(images)
    assert list(eager) == ["embeddings", "block1", "block2", "block3", "norm"]
    for name, value in eager.items():
        np.testing.assert_allclose(jitted[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_an_image_has_the_same_features_in_every_batch():
    model = random_dinov2(TINY, seed=3)
    images = _images(0, 20, 20, batch=5)
    together = _forward(model, images)["norm"]
    for index in (0, 4):
        alone = _forward(model, images[index : index + 1])["norm"]
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=2e-6)


def test_cutting_blocks_off_changes_no_block_that_stays():
    whole, cut = random_dinov2(TINY, seed=5), random_dinov2(TINY, seed=5, num_blocks=2)
    images = _images(0, 20, 20)
    np.testing.assert_allclose(
        _forward(cut, images)["block2"], _forward(whole, images)["block2"], rtol=0, atol=2e-6
    )


def test_random_weights_are_a_function_of_the_seed():
    first, again, other = (jax.tree.leaves(nnx.state(random_dinov2(TINY, seed))) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_random_weights_have_the_initial_distribution_of_transformers():
    model = random_dinov2(DinoV2Config(num_hidden_layers=1, layerscale_value=0.5), seed=0)
    block = model.blocks[0]
    for kernel in (block.attention.query.kernel, block.mlp.output.kernel, model.patch_embedding.kernel):
        assert abs(float(kernel[...].std()) / 0.02 - 1) < 0.01
    assert not block.attention.projection.bias[...].any()
    np.testing.assert_array_equal(block.layer_scale1[...], np.full(768, 0.5))


# ---- taps


@pytest.mark.parametrize("config", [TINY, TINY_REGISTERS], ids=["plain", "registers"])
def test_a_tap_is_the_patch_tokens_of_its_block_as_a_map_row_by_row(config):
    model, images = random_dinov2(config, seed=3, patches=2), _images(0, 12, 28)
    named, prefix = model.tokens(images), config.num_prefix_tokens
    maps = model(images, ("norm", "block1", "patches"))
    assert list(maps) == ["norm", "block1", "patches"]
    for tap, source in (("norm", "norm"), ("block1", "block1"), ("patches", "block2")):
        assert maps[tap].shape == (2, 3, 7, 24)
        for row, column in ((0, 0), (0, 6), (2, 3)):
            token = named[source][:, prefix + row * 7 + column]
            np.testing.assert_array_equal(maps[tap][:, row, column], token)


# ---- numerics


def test_bfloat16_products_stay_near_float32_and_give_float32():
    images = _images(0, 20, 20)
    exact = _forward(random_dinov2(TINY, seed=0), images)["norm"]
    rough = _forward(random_dinov2(TINY, seed=0, dtype=jnp.bfloat16), images)["norm"]
    assert rough.dtype == jnp.float32
    error = float(jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact))
    assert 1e-5 < error < 2e-2  # the lower bound: it did round


def test_attention_survives_logits_far_beyond_the_range_of_exp():
    model = random_dinov2(TINY, seed=0, num_blocks=1)
    attention = model.blocks[0].attention
    attention.query.kernel[...] = attention.query.kernel[...] * 1e6
    output = attention(jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 24)), jnp.float32))
    assert bool(jnp.isfinite(output).all())


def test_layer_norm_is_exact_far_from_the_origin():
    norm = random_dinov2(TINY, seed=0, num_blocks=1).blocks[0].norm1
    x = np.random.default_rng(0).standard_normal((1, 50, 24)).astype(np.float32) + np.float32(2000)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    # 2000 in float32 has steps of 1.2e-4, which the mean inherits.
    np.testing.assert_allclose(norm(jnp.asarray(x)), exact, rtol=0, atol=5e-4)


# ---- bad input


@pytest.mark.parametrize("size", [(20, 22), (3, 20), (0, 20)])
def test_a_size_that_patches_do_not_tile_is_named_with_the_patch(size):
    model = random_dinov2(TINY, seed=0, num_blocks=1)
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}.*patch size 4") as caught:
        model.tokens(jnp.zeros((1, *size, 3)))
    assert "\n" not in str(caught.value)


def test_images_with_another_number_of_channels_are_refused():
    with pytest.raises(UserError, match="4 channels for a backbone of 3"):
        random_dinov2(TINY, seed=0, num_blocks=1).tokens(jnp.zeros((1, 20, 20, 4)))


def test_images_of_integers_are_a_mistake_in_the_program():
    with pytest.raises(AssertionError, match="uint8"):
        random_dinov2(TINY, seed=0, num_blocks=1).tokens(jnp.zeros((1, 20, 20, 3), jnp.uint8))


@pytest.mark.parametrize("num_blocks", [0, 4, -1])
def test_a_block_that_does_not_exist_is_refused(num_blocks):
    with pytest.raises(UserError, match=rf"num_blocks={num_blocks}.*blocks 1 to 3"):
        random_dinov2(TINY, seed=0, num_blocks=num_blocks)


def test_a_compute_type_other_than_float32_and_bfloat16_is_refused():
    with pytest.raises(UserError, match="float16"):
        random_dinov2(TINY, seed=0, dtype=jnp.float16)
