"""DINOv2 weights of others: three ways of naming, fine-tuned checkpoints, architectures without a config."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.naming import HUB, TIMM, TRANSFORMERS, config_from_shapes
from mvead_jax.backbones.dinov2.params import architecture, load_dinov2
from mvead_jax.runtime.errors import UserError

_SPEC = importlib.util.spec_from_file_location(
    "make_dinov2", Path(__file__).parents[2] / "golden" / "make_dinov2.py"
)
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)

NAMINGS = {"transformers": TRANSFORMERS, "hub": HUB, "timm": TIMM}
SHAPE = DinoV2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=42, mlp_ratio=2)


def renamed(tensors: dict[str, np.ndarray], naming: str) -> dict[str, np.ndarray]:
    """A checkpoint of transformers under the names of others, as their own conversions relate them.

    (transformers' convert_dinov2_to_hf.py, read backwards; timm's `_convert_dinov2`.)
    """
    tensors = dict(tensors)
    swiglu = "encoder.layer.0.mlp.weights_in.weight" in tensors
    hidden = ("mlp.w12", "mlp.w3") if swiglu and naming == "hub" else ("mlp.fc1", "mlp.fc2")
    plain = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.": "",
        "layernorm": "norm",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "mlp.weights_in": hidden[0],
        "mlp.weights_out": hidden[1],
    }
    out = {}
    for key in list(tensors):
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)", key):
            parts = [tensors[key.replace("query", part)] for part in ("query", "key", "value")]
            out[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = np.concatenate(parts)
        elif "attention.attention" not in key:
            name = key
            for theirs, other in plain.items():
                name = name.replace(theirs, other)
            out[name] = tensors[key]
    if naming == "timm":
        out.pop("mask_token", None)
        if "register_tokens" in out:
            out["reg_token"] = out.pop("register_tokens")
            out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
            out["pos_embed"] = out["pos_embed"][:, 1:]
    return out


def write(directory: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    contiguous = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    save_file(contiguous, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def drawn(naming: str, shape: DinoV2Config = SHAPE) -> dict[str, np.ndarray]:
    """A complete checkpoint of a naming with random numbers."""
    rng, own = np.random.default_rng(0), NAMINGS[naming]
    return {key: rng.normal(size=one.shape).astype(np.float32) for key, one in own.table(shape).items()}


def leaves(model) -> dict[str, np.ndarray]:
    return {".".join(map(str, k)): np.asarray(v[...]) for k, v in nnx.to_flat_state(nnx.state(model))}


# ---- the same network under every name


@pytest.mark.parametrize("naming", ["hub", "timm"])
@pytest.mark.parametrize("case", list(golden.CASES))
def test_the_names_of_others_fill_the_same_network(tmp_path, case, naming):
    theirs = golden.write_checkpoint(tmp_path / "transformers", case)
    tensors = renamed(load_file(theirs / "model.safetensors"), naming)
    config = json.loads((theirs / "config.json").read_text())
    expected, found = (load_dinov2(path) for path in (theirs, write(tmp_path / naming, tensors, config)))
    one, two = leaves(expected), leaves(found)
    assert one.keys() == two.keys()
    own = {"cls_token", "position_embeddings"} if naming == "timm" and "registers" in case else set()
    assert all(np.array_equal(one[name], two[name]) for name in one.keys() - own)
    images = jnp.asarray(golden.images(case, (20, 20)))
    assert bool(own) == (not np.array_equal(one["cls_token"], two["cls_token"]))
    np.testing.assert_allclose(expected.embed(images), found.embed(images), rtol=0, atol=1e-6)


def test_a_checkpoint_of_timm_with_registers_gives_the_numbers_of_transformers(tmp_path):
    """At a size other than the trained one, where positions are resized."""
    case, size = "registers_swiglu", golden.CASES["registers_swiglu"][2][0]
    theirs = golden.write_checkpoint(tmp_path / "transformers", case)
    tensors = renamed(load_file(theirs / "model.safetensors"), "timm")
    model = load_dinov2(write(tmp_path / "timm", tensors, json.loads((theirs / "config.json").read_text())))
    named = jax.jit(model.tokens)(jnp.asarray(golden.images(case, size)))
    np.testing.assert_allclose(named["norm"], golden.expected(case, size)["norm"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("naming", ["hub", "timm"])
def test_each_part_of_the_fused_matrix_comes_to_its_own_place(tmp_path, naming):
    tensors = drawn(naming)
    found = leaves(load_dinov2(write(tmp_path, tensors)))
    fused, bias = tensors["blocks.1.attn.qkv.weight"], tensors["blocks.1.attn.qkv.bias"]
    for index, part in enumerate(("query", "key", "value")):
        rows = slice(128 * index, 128 * (index + 1))
        np.testing.assert_array_equal(found[f"blocks.1.attention.{part}.kernel"], fused[rows].T)
        np.testing.assert_array_equal(found[f"blocks.1.attention.{part}.bias"], bias[rows])


# ---- the architecture without a config


class Shapes:
    """A checkpoint of which only names and shapes exist."""

    def __init__(self, table):
        self.name, self._table = "shapes", table

    def keys(self):
        return set(self._table)

    def shape(self, key):
        return self._table[key].shape


@pytest.mark.parametrize("name", list(DINOV2_SIZES))
@pytest.mark.parametrize("naming", list(NAMINGS))
def test_names_and_shapes_tell_every_published_architecture(name, naming):
    own, config = NAMINGS[naming], DINOV2_SIZES[name]
    assert config_from_shapes(Shapes(own.table(config)), own) == config


@pytest.mark.parametrize("naming", list(NAMINGS))
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}, {"use_swiglu_ffn": True, "mlp_ratio": 3.0}])
def test_names_and_shapes_tell_other_architectures_too(naming, changes):
    own, config = NAMINGS[naming], DinoV2Config(**{**vars(SHAPE), **changes})
    found = config_from_shapes(Shapes(own.table(config)), own)
    assert found.mlp_width == config.mlp_width
    assert DinoV2Config(**{**vars(found), "mlp_ratio": config.mlp_ratio}) == config


@pytest.mark.parametrize("naming", list(NAMINGS))
def test_no_config_is_needed_and_timms_own_is_passed_over(tmp_path, naming):
    directory = write(tmp_path, drawn(naming))
    assert architecture(directory) == DinoV2Config(**{**vars(SHAPE), "mlp_ratio": 2.0})
    if naming != "transformers":
        write(directory, drawn(naming), {"architecture": "vit_base_patch14_dinov2", "num_classes": 0})
        assert len(load_dinov2(directory, 1).blocks) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 96, "num_attention_heads": 3}, "width 96 is no number of heads of 64"),
        ({"num_hidden_layers": 1}, r"missing key blocks.1.attn.proj.bias and \d+ more"),
    ],
)
def test_shapes_of_no_dinov2_are_refused(tmp_path, changes, message):
    tensors = drawn("timm", DinoV2Config(**{**vars(SHAPE), **changes}))
    if "num_hidden_layers" in changes:
        tensors["blocks.1.norm1.weight"] = np.ones(128, np.float32)
    with pytest.raises(UserError, match=message):
        load_dinov2(write(tmp_path, tensors))


def test_a_grid_that_is_no_square_is_refused(tmp_path):
    tensors = drawn("hub") | {"pos_embed": np.zeros((1, 1 + 12, 128), np.float32)}
    with pytest.raises(UserError, match="its 12 positions of patches are no square"):
        load_dinov2(write(tmp_path, tensors))


def test_keys_of_no_dinov2_are_shown(tmp_path):
    tensors = {"layer1.0.conv1.weight": np.zeros((2, 2), np.float32), "fc.bias": np.zeros(3, np.float32)}
    with pytest.raises(
        UserError, match=r"no DINOv2 by the names of its 2 keys \(fc.bias, layer1.0.conv1.weight"
    ):
        load_dinov2(write(tmp_path, tensors))


# ---- strict in every naming


@pytest.mark.parametrize(
    ("naming", "key", "shape", "message"),
    [
        ("hub", "blocks.1.attn.qkv.bias", None, "missing key blocks.1.attn.qkv.bias"),
        (
            "hub",
            "blocks.0.attn.qkv.weight",
            (128, 128),
            r"key blocks.0.attn.qkv.weight has shape \(128, 128\)",
        ),
        ("hub", "blocks.0.mlp.w12.weight", (8, 8), "a feed-forward part 4 wide is of no DINOv2 128 wide"),
        (
            "hub",
            "reg_token",
            (1, 4, 128),
            "extra key reg_token; a DINOv2 of 2 blocks, 128 wide, in the names of",
        ),
        ("timm", "fc_norm.weight", (128,), "extra key fc_norm.weight"),
        ("timm", "blocks.0.ls1.gamma", None, "missing key blocks.0.ls1.gamma"),
        ("timm", "norm.bias", None, "missing key norm.bias"),
        ("timm", "pos_embed", None, "missing key pos_embed"),
        ("transformers", "classifier.bias", (3,), "extra key classifier.bias"),
    ],
)
def test_each_table_is_strict(tmp_path, naming, key, shape, message):
    tensors = drawn(naming)
    if naming == "hub":
        tensors["mask_token"] = np.zeros((1, 128), np.float32)
    if shape is None:
        del tensors[key]
    else:
        tensors[key] = np.ones(shape, np.float32)
    with pytest.raises(UserError, match=message) as caught:
        load_dinov2(write(tmp_path, tensors))
    assert "\n" not in str(caught.value)


# ---- fine-tuned checkpoints


@pytest.mark.parametrize(
    ("naming", "prefix", "head", "left"),
    [
        ("transformers", "dinov2.", "classifier.weight", "left out: classifier.weight"),
        ("transformers", "module.dinov2.", "module.classifier.weight", "left out: module.classifier.weight"),
        ("transformers", "backbone.", "", "the prefix 'backbone.' is taken off"),
        ("timm", "", "head.weight", "left out: head.weight"),
        (
            "timm",
            "model.",
            "model.head.bias",
            "the prefix 'model.' is taken off all names; left out: model.head.bias",
        ),
        ("hub", "backbone.", "linear_head.weight", "left out: linear_head.weight"),
        ("hub", "", "linear_head.weight", "left out: linear_head.weight"),
    ],
)
def test_a_fine_tuned_checkpoint_loads_without_prefix_and_head_and_says_so(
    tmp_path, caplog, naming, prefix, head, left
):
    plain = drawn(naming)
    if naming == "hub":
        plain["mask_token"] = np.zeros((1, 128), np.float32)
    expected = leaves(load_dinov2(write(tmp_path / "plain", plain)))
    assert not caplog.text
    wrapped = {prefix + key: array for key, array in plain.items()}
    wrapped |= {head: np.ones((3, 256), np.float32)} if head else {}
    with caplog.at_level(logging.WARNING):
        found = leaves(load_dinov2(write(tmp_path / "wrapped", wrapped)))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert f"a fine-tuned checkpoint; {left}" in caplog.text or f"; {left}" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck.weight": 1}, "extra key neck.weight; the names of the network begin with 'dinov2.' here"),
        ({"dinov2.neck.weight": 1}, "extra key neck.weight; a DINOv2 of 2 blocks"),
        ({"layernorm.weight": 128}, "extra key layernorm.weight; the names of the network begin"),
        ({"base_model.model.lora_A.weight": 1}, "extra key base_model.model.lora_A.weight"),
        ({"dinov2.layernorm.weight": None}, "missing key layernorm.weight"),
    ],
)
def test_beside_a_wrapped_network_only_heads_may_stand(tmp_path, changes, message):
    tensors = {"dinov2." + key: array for key, array in drawn("transformers").items()}
    for key, size in changes.items():
        if size is None:
            del tensors[key]
        else:
            tensors[key] = np.ones(size, np.float32)
    with pytest.raises(UserError, match=message):
        load_dinov2(write(tmp_path, tensors))


# ---- pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "dinov2_vitb14_pretrain.pth", "last.ckpt"])
def test_a_pickle_is_refused_by_name_with_the_command_that_converts_it(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    (tmp_path / name).write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match=f"lacks model.safetensors \\({name} is not read") as caught:
        load_dinov2(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    program = message[message.index('python -c "') + 11 : message.rindex('"')]
    compile(program, "program", "exec")
    assert f"torch.load('{tmp_path / name}'" in program
    assert f"'{tmp_path / 'model.safetensors'}')" in program
    assert "weights_only=True" in program
