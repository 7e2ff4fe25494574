"""How a DINOv2 checkpoint names its tensors, told by its keys, and what network it is, told by its shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from mvead_jax.backbones.checkpoint import Source, Tensors
from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.tables import hub_table, timm_table, transformers_table
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
