"""The three ways in which DINOv2 checkpoints name their tensors, with one strict table for each.

- transformers: encoder.layer.N.attention.attention.query, layer_scale1.lambda1, embeddings.register_tokens
- hub: the authors' own release (facebookresearch/dinov2): blocks.N.attn.qkv, ls1.gamma, mlp.w12,
  register_tokens
- timm: as hub, but mlp.fc1 for both feed-forward parts, reg_token, and with registers a CLS token that
  already has its position (timm/models/vision_transformer.py, `_convert_dinov2`)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mvead_jax.backbones.checkpoint import Source, Tensors, linear, same
from mvead_jax.backbones.dinov2.modeling import DinoV2Config
from mvead_jax.runtime.errors import UserError

HEAD_WIDTH = 64  # of every published size: the number of heads is in no tensor's shape


class Naming(NamedTuple):
    """One way of naming.

    Attributes:
      title: whose.
      table: key -> Source of every key that a complete checkpoint of a config has.
      own: regular expression for the start of the network's names.
      bare_heads: names of heads that may stand beside a network without a prefix.
      mask_token: only pre-training uses it; a checkpoint may have it or not.
      positions, projection, registers, block, gated: keys that tell the architecture; block is the start of
        block 0's names, gated its hidden layer where the feed-forward part is a SwiGLU.
      hidden, output: of a plain feed-forward part, after `block`.
    """

    title: str
    table: Callable[[DinoV2Config], dict[str, Source]]
    own: str
    bare_heads: tuple[str, ...]
    mask_token: str
    positions: str
    projection: str
    registers: str
    block: str
    gated: str
    hidden: str
    output: str
    query_bias: str


# ---- transforms


def _patch_matrix(array: np.ndarray) -> np.ndarray:
    """Return convolution weights [out,channel,row,column] as [row * column * channel,out]."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def _three_linear(array: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return query, key and value [in,out] of one matrix [3 out,in]."""
    return tuple(part.T for part in np.split(array, 3))


def _three(array: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.split(array, 3))


def _with_cls(array: np.ndarray) -> np.ndarray:
    """Return positions of patches alone with one of CLS before them: zero, for CLS has its own already."""
    return np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)


# ---- tables


def transformers_table(config: DinoV2Config) -> dict[str, Source]:
    """Return every key that a complete checkpoint of `config` has, by transformers' names."""
    width, hidden = config.hidden_size, config.mlp_width
    vector, square = (width,), (width, width)
    table = {
        "embeddings.cls_token": Source("cls_token", (1, 1, width), same),
        "embeddings.position_embeddings": Source("position_embeddings", _positions(config), same),
        **_projection("embeddings.patch_embeddings.projection", config),
        **_norm("layernorm", "norm", width),
    }
    if config.num_register_tokens:
        table["embeddings.register_tokens"] = _registers(config)
    # Hidden and output layer of the feed-forward part; SwiGLU's hidden layer holds gate and value.
    names, inner = (
        (("weights_in", "weights_out"), 2 * hidden) if config.use_swiglu_ffn else (("fc1", "fc2"), hidden)
    )
    for index in range(config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{index}.", f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            table |= _norm(f"{theirs}{norm}", f"{ours}{norm}", width)
        for scale in ("layer_scale1", "layer_scale2"):
            table[f"{theirs}{scale}.lambda1"] = Source(f"{ours}{scale}", vector, same)
        for part in ("query", "key", "value"):
            key = f"{theirs}attention.attention.{part}"
            table |= _linear(key, f"{ours}attention.{part}", square, config.qkv_bias)
        table |= _linear(f"{theirs}attention.output.dense", f"{ours}attention.projection", square)
        table |= _linear(f"{theirs}mlp.{names[0]}", f"{ours}mlp.hidden", (inner, width))
        table |= _linear(f"{theirs}mlp.{names[1]}", f"{ours}mlp.output", (width, hidden))
    return table


def hub_table(config: DinoV2Config) -> dict[str, Source]:
    """Return every key that a complete checkpoint of `config` has, by the names of the authors' release."""
    table = _fused_table(config, ("mlp.w12", "mlp.w3") if config.use_swiglu_ffn else ("mlp.fc1", "mlp.fc2"))
    if config.num_register_tokens:
        table["register_tokens"] = _registers(config)
    return table


def timm_table(config: DinoV2Config) -> dict[str, Source]:
    """Return every key that a complete checkpoint of `config` has, by timm's names."""
    table = _fused_table(config, ("mlp.fc1", "mlp.fc2"))
    if config.num_register_tokens:
        table["reg_token"] = _registers(config)
        shape = (1, config.trained_grid**2, config.hidden_size)
        table["pos_embed"] = Source("position_embeddings", shape, _with_cls)
    return table


def _fused_table(config: DinoV2Config, mlp: tuple[str, str]) -> dict[str, Source]:
    """Return what hub and timm have in common: query, key and value are one matrix."""
    width, hidden = config.hidden_size, config.mlp_width
    inner = 2 * hidden if config.use_swiglu_ffn else hidden
    table = {
        "cls_token": Source("cls_token", (1, 1, width), same),
        "pos_embed": Source("position_embeddings", _positions(config), same),
        **_projection("patch_embed.proj", config),
        **_norm("norm", "norm", width),
    }
    for index in range(config.num_hidden_layers):
        block = f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            table |= _norm(f"{block}{norm}", f"{block}{norm}", width)
        for theirs, ours in (("ls1", "layer_scale1"), ("ls2", "layer_scale2")):
            table[f"{block}{theirs}.gamma"] = Source(f"{block}{ours}", (width,), same)
        parts = [f"{block}attention.{part}" for part in ("query", "key", "value")]
        kernels = tuple(f"{part}.kernel" for part in parts)
        table[f"{block}attn.qkv.weight"] = Source(kernels, (3 * width, width), _three_linear)
        if config.qkv_bias:
            biases = tuple(f"{part}.bias" for part in parts)
            table[f"{block}attn.qkv.bias"] = Source(biases, (3 * width,), _three)
        table |= _linear(f"{block}attn.proj", f"{block}attention.projection", (width, width))
        table |= _linear(f"{block}{mlp[0]}", f"{block}mlp.hidden", (inner, width))
        table |= _linear(f"{block}{mlp[1]}", f"{block}mlp.output", (width, hidden))
    return table


def _positions(config: DinoV2Config) -> tuple[int, ...]:
    return (1, 1 + config.trained_grid**2, config.hidden_size)


def _registers(config: DinoV2Config) -> Source:
    return Source("register_tokens", (1, config.num_register_tokens, config.hidden_size), same)


def _projection(key: str, config: DinoV2Config) -> dict[str, Source]:
    kernel = (config.hidden_size, config.num_channels, config.patch_size, config.patch_size)
    return {
        f"{key}.weight": Source("patch_embedding.kernel", kernel, _patch_matrix),
        f"{key}.bias": Source("patch_embedding.bias", kernel[:1], same),
    }


def _norm(theirs: str, ours: str, width: int) -> dict[str, Source]:
    return {
        f"{theirs}.weight": Source(f"{ours}.scale", (width,), same),
        f"{theirs}.bias": Source(f"{ours}.bias", (width,), same),
    }


def _linear(theirs: str, ours: str, shape: tuple[int, int], bias: bool = True) -> dict[str, Source]:
    rows = {f"{theirs}.weight": Source(f"{ours}.kernel", shape, linear)}
    return rows | ({f"{theirs}.bias": Source(f"{ours}.bias", shape[:1], same)} if bias else {})


# ---- the namings


TRANSFORMERS = Naming(
    title="transformers",
    table=transformers_table,
    own=r"embeddings\.|encoder\.layer\.|layernorm\.",
    bare_heads=(),
    mask_token="embeddings.mask_token",
    positions="embeddings.position_embeddings",
    projection="embeddings.patch_embeddings.projection.weight",
    registers="embeddings.register_tokens",
    block="encoder.layer.0.",
    gated="mlp.weights_in.weight",
    hidden="mlp.fc1.weight",
    output="mlp.fc2.weight",
    query_bias="attention.attention.query.bias",
)
HUB = Naming(
    title="the authors' release",
    table=hub_table,
    own=r"cls_token|pos_embed|patch_embed\.|blocks\.|norm\.|mask_token|register_tokens",
    bare_heads=("head.", "linear_head."),
    mask_token="mask_token",
    positions="pos_embed",
    projection="patch_embed.proj.weight",
    registers="register_tokens",
    block="blocks.0.",
    gated="mlp.w12.weight",
    hidden="mlp.fc1.weight",
    output="mlp.fc2.weight",
    query_bias="attn.qkv.bias",
)
TIMM = HUB._replace(
    title="timm",
    table=timm_table,
    own=HUB.own.replace("register_tokens", "reg_token"),
    bare_heads=("head.",),
    registers="reg_token",
)
HEADS = ("classifier.", "head.", "linear_head.")  # of fine-tuned models, beside the wrapped network


def recognised(tensors: Tensors) -> Naming:
    """Return how a checkpoint names its tensors, by its keys; UserError when it is no DINOv2."""
    keys = tensors.keys()
    if any(re.search(r"(^|\.)encoder\.layer\.\d+\.", key) for key in keys):
        return TRANSFORMERS
    if any(re.search(r"(^|\.)blocks\.\d+\.", key) for key in keys):
        own = r"(^|\.)(mask_token|register_tokens|mlp\.w12\.weight)$"
        return HUB if any(re.search(own, key) for key in keys) else TIMM
    raise UserError(
        f"{tensors.name}: no DINOv2 by the names of its {len(keys)} keys ({', '.join(sorted(keys)[:3])} "
        "...); transformers', timm's and the authors' own are read"
    )


# ---- the architecture


def config_from_shapes(tensors: Tensors, naming: Naming) -> DinoV2Config:
    """Return the architecture that names and shapes tell; the heads are 64 wide, as in every published size.

    Raises:
      UserError: a key that is needed is missing, or shapes that no DINOv2 has.
    """
    keys = tensors.keys()
    start, _, _ = naming.block.rpartition("0.")
    numbers = [int(found[1]) for key in keys if (found := re.match(rf"{re.escape(start)}(\d+)\.", key))]
    gated = naming.block + naming.gated in keys
    inner = _shape(tensors, naming.block + (naming.gated if gated else naming.hidden), 2)[0]
    if not gated and inner == 2 * _shape(tensors, naming.block + naming.output, 2)[1]:
        gated = True  # timm names both kinds alike
    width, channels, patch, _ = _shape(tensors, naming.projection, 4)
    registers = _shape(tensors, naming.registers, 3)[1] if naming.registers in keys else 0
    cells = _shape(tensors, naming.positions, 3)[1] - (0 if naming is TIMM and registers else 1)
    side = round(max(cells, 0) ** 0.5)
    if width % HEAD_WIDTH or side**2 != cells or not cells:
        raise UserError(
            f"{tensors.name}: width {width} is no number of heads of {HEAD_WIDTH}, or its {cells} positions "
            "of patches are no square; put transformers' config.json of the model beside it"
        )
    config = DinoV2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(numbers),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
        num_channels=channels,
        qkv_bias=naming.block + naming.query_bias in keys,
        use_swiglu_ffn=gated,
        with_registers=registers > 0,
        num_register_tokens=registers,
    )
    hidden = inner // 2 if gated else inner
    # A ratio that gives the hidden width: the published one, or any that rounds to it.
    for ratio in (4.0, hidden / width, (hidden + 0.5) / width, 1.5 * hidden / width):
        if (found := replace(config, mlp_ratio=ratio)).mlp_width == hidden:
            return found
    raise UserError(f"{tensors.name}: a feed-forward part {hidden} wide is of no DINOv2 {width} wide")


def _shape(tensors: Tensors, key: str, axes: int) -> tuple[int, ...]:
    if key not in tensors.keys():  # noqa: SIM118 (a checkpoint is no dictionary)
        raise UserError(f"{tensors.name}: missing key {key}; use the files of one model")
    if len(shape := tensors.shape(key)) != axes or 0 in shape:
        raise UserError(f"{tensors.name}: key {key} has shape {shape}; in a DINOv2 it has {axes} axes")
    return shape
