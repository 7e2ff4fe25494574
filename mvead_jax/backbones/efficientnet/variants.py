"""The EfficientNets that there are, block by block.

Block numbers count from 0 through all stages.
"""

from __future__ import annotations

from typing import NamedTuple

from mvead_jax.backbones.efficientnet.layers import same_padding

STEM_KERNEL = 3
STRIDES = (2, 4, 8, 16, 32)


class Stage(NamedTuple):
    """Blocks in a row; only the first has the stride, and changes the width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


class Variant(NamedTuple):
    """One size of the network.

    Attributes:
      nominal: side of the images that it was made for, in pixels.
      scales: the block whose map stands for each of `STRIDES`: the last one of that stride, but of stride 32
        in B4 and B5 the last of the stage before, as Multi-Flow has it.
      joined: the strides whose maps a patch's feature joins; a patch is as large as the last of them.
      lite: ReLU6, no squeeze-and-excitation, and images of its own scale.
    """

    stem: int
    stages: tuple[Stage, ...]
    head: int
    nominal: int
    scales: tuple[int, ...]
    joined: tuple[int, ...]
    lite: bool = False

    def at(self, stride: int) -> int:
        """Return the block whose map stands for a stride."""
        return self.scales[STRIDES.index(stride)]


def _stages(*widths_and_blocks: tuple[int, int]) -> tuple[Stage, ...]:
    shapes = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
    return tuple(
        Stage(blocks, *shape, width) for shape, (width, blocks) in zip(shapes, widths_and_blocks, strict=True)
    )


VARIANTS = {
    "lite0": Variant(
        stem=32,
        stages=_stages((16, 1), (24, 2), (40, 2), (80, 3), (112, 3), (192, 4), (320, 1)),
        head=1280,
        nominal=224,
        scales=(0, 2, 4, 10, 15),
        joined=(8, 16),
        lite=True,
    ),
    "b4": Variant(
        stem=48,
        stages=_stages((24, 2), (32, 4), (56, 4), (112, 6), (160, 6), (272, 8), (448, 2)),
        head=1792,
        nominal=380,
        scales=(1, 5, 9, 21, 29),
        joined=(16,),
    ),
    "b5": Variant(
        stem=48,
        stages=_stages((24, 3), (40, 5), (64, 5), (128, 7), (176, 7), (304, 9), (512, 3)),
        head=2048,
        nominal=456,
        scales=(2, 7, 12, 26, 35),
        joined=(16,),
    ),
}


class Shape(NamedTuple):
    """What decides one block: its shape, its padding along a side (None = SAME), and its map's stride."""

    inputs: int
    width: int
    kernel: int
    stride: int
    expansion: int
    squeeze: int
    padding: tuple[int, int] | None
    map_stride: int


def block_shapes(variant: Variant, static: bool) -> list[Shape]:
    """Return all blocks of a variant, in order."""
    shapes, width, side, map_stride = [], variant.stem, -(-variant.nominal // 2), 2
    for stage in variant.stages:
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            padding = same_padding(side, stage.kernel, stride) if static else None
            side, map_stride = -(-side // stride), map_stride * stride
            squeeze = 0 if variant.lite else max(1, width // 4)
            kind = (stage.kernel, stride, stage.expansion, squeeze, padding, map_stride)
            shapes.append(Shape(width, stage.width, *kind))
            width = stage.width
    return shapes


def block_of(variant: Variant, tap: str) -> int:
    """Return the last block that a tap needs."""
    if tap == "patches":
        return variant.at(variant.joined[-1])
    kind = tap.rstrip("0123456789")
    number = int(tap.removeprefix(kind))
    return number if kind == "block" else variant.at(number)
