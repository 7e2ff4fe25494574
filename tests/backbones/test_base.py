"""The door of all backbones: what each tells of itself is what it does, and the digest covers all of it."""

import dataclasses
from importlib.metadata import EntryPoint

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones import base
from mvead_jax.backbones.base import as_function, load_backbone, load_network, weights_digest
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.modeling import random_dinov2
from mvead_jax.backbones.registry import REGISTRY
from mvead_jax.backbones.stored import STORED, write_stored
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime import registry
from mvead_jax.runtime.errors import UserError

SMALL = BackboneConfig(name="dinov2-small", weights="random", block=1)
LITE0 = BackboneConfig(name="efficientnet-lite0")
# DINOv2-small in small: what takes these tests their time is drawing and compiling.
TINY = DinoV2Config(
    hidden_size=24, num_hidden_layers=8, num_attention_heads=3, image_size=28, patch_size=14, mlp_ratio=2
)
TINY_REGISTERS = dataclasses.replace(TINY, with_registers=True, num_register_tokens=4)
# One of each kind; the others differ in sizes, and golden cases hold them.
KINDS = ("efficientnet-lite0", "efficientnet-b5", "resnet18", "wide_resnet50_2", "dinov2-small")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", TINY)
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small-registers", TINY_REGISTERS)


def images(size, count=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("config", "size", "shape", "stride", "multiple"),
    [
        (LITE0, 64, (4, 4, 152), 16, 16),
        (SMALL, 56, (4, 4, 24), 14, 14),
        (dataclasses.replace(SMALL, name="dinov2-small-registers"), 42, (3, 3, 24), 14, 14),
        (BackboneConfig(name="resnet18", weights="random"), 32, (4, 4, 384), 8, 16),
    ],
)
def test_every_backbone_tells_its_grid_patch_and_width_and_keeps_to_them(
    config, size, shape, stride, multiple
):
    backbone = load_backbone(config, size, ("patches",))
    assert backbone.shapes == {"patches": shape}
    assert backbone.info.taps["patches"] == (stride, shape[2])
    assert backbone.info.multiple == multiple
    found = backbone(images(size))
    assert list(found) == ["patches"]
    assert found["patches"].shape == (2, *shape)
    assert found["patches"].dtype == jnp.float32


@pytest.mark.parametrize("name", KINDS)
def test_every_tap_of_every_backbone_has_the_stride_and_width_that_its_info_tells(name):
    config = BackboneConfig(name=name, weights="random", block=3)
    first = load_network(config, ("patches",)).info
    taps = tuple(first.taps)
    loaded = load_network(config, taps)
    info, size = loaded.info, 2 * loaded.info.multiple
    assert info.taps == first.taps
    assert set(info.pyramid) <= info.taps.keys()
    strides = [info.taps[tap].stride for tap in info.pyramid]
    assert strides == sorted(set(strides))
    maps = jax.eval_shape(
        lambda x: loaded.network(x, taps), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )
    for tap in taps:
        stride, width = info.taps[tap]
        assert size % stride == 0
        assert maps[tap].shape == (1, size // stride, size // stride, width), tap
        assert maps[tap].dtype == jnp.float32
    assert not info.trained
    assert "random" in info.weights
    assert "random" in info.licence
    assert info.normalisation


def test_the_pyramids_are_what_the_methods_of_several_scales_expect():
    widths = {
        "resnet34": {"layer1": 64, "layer2": 128, "layer3": 256},
        "wide_resnet50_2": {"layer1": 256, "layer2": 512, "layer3": 1024},
        "efficientnet-lite0": {"stride4": 24, "stride8": 40, "stride16": 112},
        "tf-efficientnet-b4": {"stride4": 32, "stride8": 56, "stride16": 160},
    }
    for name, expected in widths.items():
        info = load_network(BackboneConfig(name=name, weights="random"), ("patches",)).info
        assert {tap: info.taps[tap].width for tap in info.pyramid} == expected
        assert [info.taps[tap].stride for tap in info.pyramid] == [4, 8, 16]


@pytest.mark.parametrize(
    ("name", "tap", "more"),
    [
        ("resnet18", "layer1", "layer3"),
        ("efficientnet-b5", "stride4", "stride16"),
        ("dinov2-small", "block1", "block8"),
    ],
)
def test_what_the_taps_do_not_need_is_neither_there_nor_changes_what_they_give(name, tap, more):
    config = BackboneConfig(name=name, weights="random")
    cut, whole = (load_network(config, taps, seed=4).network for taps in ((tap,), (tap, more)))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(nnx.state(one))) for one in (cut, whole)]
    assert sizes[0] < sizes[1] / 1.5
    small = dict(nnx.to_flat_state(nnx.state(cut)))
    large = dict(nnx.to_flat_state(nnx.state(whole)))
    assert all(np.array_equal(leaf[...], large[path][...]) for path, leaf in small.items())


@pytest.mark.parametrize("name", ["dinov2-small", "dinov2-small-registers"])
def test_patch_features_are_the_blocks_tokens_without_the_prefix(name):
    backbone = load_backbone(dataclasses.replace(SMALL, name=name), 28, ("patches",), seed=3)
    tokens = random_dinov2(DINOV2_SIZES[name], 3, 1).tokens(images(28))["block1"]
    expected = tokens[:, -4:].reshape(2, 2, 2, 24)
    np.testing.assert_allclose(backbone(images(28))["patches"], expected, rtol=1e-5, atol=1e-5)


def test_all_devices_at_once_compute_what_one_computes():
    backbone = load_backbone(SMALL, 28, ("patches", "block2"))
    batch = images(28, 2 * len(jax.devices()))
    for tap, found in backbone.on_devices(batch).items():
        np.testing.assert_array_equal(found[2:4], backbone(batch[2:4])[tap])


def test_the_digest_covers_all_that_decides_the_numbers(monkeypatch):
    def digest(config=SMALL, size=28, taps=("patches",), seed=0):
        return load_backbone(config, size, taps, seed).digest

    found = [
        digest(),
        digest(size=42),
        digest(seed=1),
        digest(taps=("block1",)),
        digest(taps=("patches", "block1")),
        digest(dataclasses.replace(SMALL, block=2)),
        digest(dataclasses.replace(SMALL, precision="bfloat16")),
        digest(dataclasses.replace(SMALL, name="dinov2-small-registers")),
    ]
    assert digest(taps=("block1", "patches")) == found[4]  # the order decides no number
    heads = dataclasses.replace(TINY, num_attention_heads=4)  # the same parameters
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", heads)
    found.append(digest())
    monkeypatch.setattr(base, "_VERSION", base._VERSION + 1)
    found.append(digest())
    assert len(set(found)) == 10
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", TINY)
    monkeypatch.setattr(base, "_VERSION", base._VERSION - 1)
    assert digest() == found[0]


def test_paddings_alone_make_other_digests():
    configs = [
        BackboneConfig(name=name, weights="random") for name in ("efficientnet-b4", "tf-efficientnet-b4")
    ]
    digests = {load_backbone(config, 32, ("stride2",)).digest for config in configs}
    states = {weights_digest(as_function(load_network(one, ("stride2",)).network, ())[1]) for one in configs}
    assert (len(digests), len(states)) == (2, 1)


def test_the_next_block_is_the_one_after_the_patch_features_or_none():
    config = BackboneConfig(name="dinov2-small", weights="random", block=7)
    expected = jax.tree.leaves(nnx.state(random_dinov2(TINY, 5).blocks[7]))
    loaded = load_network(config, ("patches",), seed=5)
    assert len(loaded.network.blocks) == 7
    found = jax.tree.leaves(nnx.state(loaded.next_block()))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert load_network(dataclasses.replace(config, block=8), ("patches",)).next_block is None
    assert load_network(LITE0, ("patches",)).next_block is None


@pytest.mark.parametrize(
    ("config", "size", "taps", "message"),
    [
        (SMALL, 30, ("patches",), r"data.image_size=30: dinov2-small takes multiples of 14 pixels"),
        (LITE0, 40, ("patches",), r"data.image_size=40: efficientnet-lite0 takes multiples of 16"),
        (LITE0, 48, ("stride32",), r"data.image_size=48: efficientnet-lite0 takes multiples of 32"),
        (LITE0, 0, ("patches",), r"data.image_size=0: .* for example 16"),
        (
            dataclasses.replace(SMALL, block=13),
            28,
            ("patches",),
            r"backbone.block=13: this dinov2-small has 8 blocks",
        ),
        (
            dataclasses.replace(SMALL, name="dino"),
            28,
            ("patches",),
            r"backbone.name='dino'.*expected one of efficientnet-lite0, ",
        ),
        (dataclasses.replace(LITE0, weights="x"), 64, ("patches",), r"takes auto \(its package\) or random"),
        (
            SMALL,
            28,
            ("block13",),
            r"'dinov2-small' has no tap 'block13'; it has patches, block1, .*block8, norm",
        ),
        (
            LITE0,
            64,
            ("patches", "layer1"),
            r"'efficientnet-lite0' has no tap 'layer1'; it has patches, stride2, ",
        ),
        (
            BackboneConfig(name="resnet34", weights="random"),
            64,
            ("stride4",),
            r"'resnet34' has no tap 'stride4'; it has patches, layer1, layer2, layer3, layer4$",
        ),
    ],
)
def test_what_can_not_be_loaded_is_one_line_that_names_the_field(config, size, taps, message):
    with pytest.raises(UserError, match=message) as error:
        load_backbone(config, size, taps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("dinov2_vits14", "dinov2-small"),
        ("dinov2_vitb14", "dinov2-base"),
        ("vitb14", "dinov2-base"),
        ("dinov2_vitl14", "dinov2-large"),
        ("dinov2_vitg14_reg", "dinov2-giant-registers"),
        ("vit_base_patch14_dinov2.lvd142m", "dinov2-base"),
        ("facebook/dinov2-large", "dinov2-large"),
        ("tf_efficientnet_b4", "tf-efficientnet-b4"),
        ("wideresnet50", "wide_resnet50_2"),
        ("resnet-34", "resnet34"),
    ],
)
def test_the_names_of_others_lead_to_ours(said, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        REGISTRY.check(said)


_TOY = """
from flax import nnx
import jax.numpy as jnp
from mvead_jax.backbones.info import Info, Loaded, Tap, check_taps

class Squares(nnx.Module):
    def __init__(self, power):
        self.power = nnx.Param(jnp.full((1, 1, 1, 1), power, jnp.float32))
    def __call__(self, images, taps):
        return {tap: images[:, ::4, ::4] ** self.power[...] for tap in taps}

def load(config, taps, seed):
    known = {"patches": Tap(4, 3)}
    check_taps(config.name, known, taps)
    info = Info(config.name, "none", True, "public domain", "any", 4, known, ())
    return Loaded(Squares(2.0), info, {"power": 2.0})

def empty(recipe, dtype):
    return Squares(0.0)
"""


def test_an_installed_package_adds_a_backbone_that_is_stored_like_ours(tmp_path, monkeypatch):
    (tmp_path / "toy_backbone.py").write_text(_TOY)
    monkeypatch.syspath_prepend(tmp_path)
    added = [EntryPoint("squares", "toy_backbone", "mvead_jax.backbones")]
    monkeypatch.setattr(registry, "entry_points", lambda group: [one for one in added if one.group == group])
    config = BackboneConfig(name="squares")
    backbone = load_backbone(config, 8, ("patches",))
    np.testing.assert_allclose(backbone(images(8))["patches"], images(8)[:, ::4, ::4] ** 2, rtol=1e-6)
    write_stored(tmp_path / STORED, load_network(config, ("patches",)), ("patches",))
    again = load_backbone(dataclasses.replace(config, weights=str(tmp_path)), 8, ("patches",))
    assert again.digest == backbone.digest
    with pytest.raises(UserError, match="'squares' has no tap 'layer1'; it has patches"):
        load_backbone(config, 8, ("layer1",))


@pytest.mark.parametrize(
    ("name", "tap", "size"),
    [("dinov2-small", "block1", 28), ("resnet18", "layer1", 32), ("efficientnet-b4", "stride2", 32)],
)
def test_a_host_program_in_double_precision_gets_the_same_float32_maps(name, tap, size):
    config = BackboneConfig(name=name, weights="random")
    expected = load_backbone(config, size, (tap,))(images(size))[tap]
    with jax.enable_x64(True):
        found = load_backbone(config, size, (tap,))(images(size))[tap]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_random_weights_are_said_loudly_and_trained_ones_have_a_licence(caplog):
    backbone = load_backbone(SMALL, 28, ("patches",))
    assert "dinov2-small is UNTRAINED: random, seed 0" in caplog.text
    assert backbone.info.licence.startswith("none")
    info = load_network(LITE0, ("patches",)).info
    assert info.trained
    assert "Apache-2.0" in info.licence
    assert "127) / 128" in info.normalisation
