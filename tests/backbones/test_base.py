import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.backbones import base as extractor
from mvead_jax.backbones.base import load_backbone
from mvead_jax.backbones.dinov2.modeling import DINOV2_SIZES, random_dinov2
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError

SMALL = BackboneConfig(name="dinov2-small", weights="random", block=1)


def images(size, count=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("config", "size", "grid", "patch_size", "width"),
    [
        (BackboneConfig(name="efficientnet-lite0"), 64, (4, 4), 16, 152),
        (SMALL, 56, (4, 4), 14, 384),
        (dataclasses.replace(SMALL, name="dinov2-small-registers"), 42, (3, 3), 14, 384),
    ],
)
def test_every_backbone_tells_its_grid_patch_and_width_and_keeps_to_them(
    config, size, grid, patch_size, width
):
    backbone = load_backbone(config, size)
    assert (backbone.grid, backbone.patch_size, backbone.width) == (grid, patch_size, width)
    assert backbone(images(size)).shape == (2, grid[0] * grid[1], width)
    assert backbone(images(size)).dtype == jnp.float32


@pytest.mark.parametrize("name", ["dinov2-small", "dinov2-small-registers"])
def test_patch_features_are_the_blocks_tokens_without_the_prefix(name):
    backbone = load_backbone(dataclasses.replace(SMALL, name=name), 28, seed=3)
    tokens = random_dinov2(DINOV2_SIZES[name], 3, 1)(images(28))["block1"]
    np.testing.assert_allclose(backbone(images(28)), tokens[:, -4:], rtol=1e-5, atol=1e-5)


def test_the_digest_covers_all_that_decides_the_numbers(monkeypatch):
    found = [
        load_backbone(SMALL, 28).digest,
        load_backbone(SMALL, 42).digest,
        load_backbone(SMALL, 28, seed=1).digest,
        load_backbone(dataclasses.replace(SMALL, block=2), 28).digest,
        load_backbone(dataclasses.replace(SMALL, precision="bfloat16"), 28).digest,
        load_backbone(dataclasses.replace(SMALL, name="dinov2-small-registers"), 28).digest,
    ]
    heads = dataclasses.replace(DINOV2_SIZES["dinov2-small"], num_attention_heads=3)  # the same parameters
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", heads)
    found.append(load_backbone(SMALL, 28).digest)
    monkeypatch.setattr(extractor, "_VERSION", 2)
    found.append(load_backbone(SMALL, 28).digest)
    assert len(set(found)) == 8
    monkeypatch.undo()
    assert load_backbone(SMALL, 28).digest == found[0]


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (SMALL, 30, r"data.image_size=30: .*multiple of .*patch size 14"),
        (BackboneConfig(name="efficientnet-lite0"), 40, r"data.image_size=40: .*multiples of 16"),
        (dataclasses.replace(SMALL, block=13), 28, r"backbone.block=13: this dinov2-small has 12 blocks"),
        (
            dataclasses.replace(SMALL, name="dino"),
            28,
            r"backbone.name='dino'.*expected one of efficientnet-lite0, ",
        ),
        (BackboneConfig(name="efficientnet-lite0", weights="x"), 64, r"takes auto \(its package\) or random"),
    ],
)
def test_what_can_not_be_loaded_is_one_line_that_names_the_field(config, size, message):
    with pytest.raises(UserError, match=message) as error:
        load_backbone(config, size)
    assert "\n" not in str(error.value)
