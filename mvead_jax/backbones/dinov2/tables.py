"""The strict tables of DINOv2 checkpoints: every key, its shape in the file, and its place in the network.

- transformers: encoder.layer.N.attention.attention.query, layer_scale1.lambda1, embeddings.register_tokens
- hub: the authors' own release (facebookresearch/dinov2): blocks.N.attn.qkv, ls1.gamma, mlp.w12,
  register_tokens
- timm: as hub, but mlp.fc1 for both feed-forward parts, reg_token, and with registers a CLS token that
  already has its position (timm/models/vision_transformer.py, `_convert_dinov2`)
"""

from __future__ import annotations

import numpy as np

from mvead_jax.backbones.checkpoint import Source, linear, same
from mvead_jax.backbones.dinov2.config import DinoV2Config

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
