"""The shapes of the published DINOv2 (Oquab et al. 2023, arXiv:2304.07193; Darcet et al. 2023, arXiv:2309.16588)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DinoV2Config:
    """The fields of a Hugging Face `config.json` that shape the network; defaults of its `Dinov2Config`.

    `num_register_tokens > 0` is the model type `dinov2_with_registers`, which also resizes its position
    embeddings by another rule (`resize_positions`).
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    use_swiglu_ffn: bool = False
    initializer_range: float = 0.02
    with_registers: bool = False
    num_register_tokens: int = 0

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's feed-forward part."""
        width = int(self.hidden_size * self.mlp_ratio)
        # SwiGLU has three matrices where the MLP has two: two thirds of the width, rounded up to 8s.
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width

    @property
    def trained_grid(self) -> int:
        """Patches along one side of the square grid that the position embeddings were trained on."""
        return self.image_size // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: CLS and registers."""
        return 1 + self.num_register_tokens


def _size(width: int, blocks: int, heads: int, swiglu: bool, registers: bool) -> DinoV2Config:
    return DinoV2Config(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=518,
        use_swiglu_ffn=swiglu,
        with_registers=registers,
        num_register_tokens=4 if registers else 0,
    )


_SHAPES = {
    "small": (384, 12, 6, False),
    "base": (768, 12, 12, False),
    "large": (1024, 24, 16, False),
    "giant": (1536, 40, 24, True),
}
DINOV2_SIZES: dict[str, DinoV2Config] = {
    f"dinov2-{size}{suffix}": _size(*shape, registers=bool(suffix))
    for suffix in ("", "-registers")
    for size, shape in _SHAPES.items()
}
