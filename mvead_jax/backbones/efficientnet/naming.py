"""The two ways in which EfficientNet checkpoints name their tensors, with a strict table for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mvead_jax.backbones.checkpoint import Source, Transform, batch_norm, convolution, linear, same
from mvead_jax.backbones.efficientnet.modeling import CLASSES
from mvead_jax.backbones.efficientnet.variants import STEM_KERNEL, Variant, block_shapes


class Names(NamedTuple):
    """One way of naming: stem, parts of a block, head; each batch norm stands beside its convolution.

    `block` has the places {number} (through all stages), {stage} and {index} (in its stage).
    """

    stem: tuple[str, str]
    block: str
    unexpanded: dict[str, tuple[str, str]]
    expanded: dict[str, tuple[str, str]]
    squeeze: tuple[str, str]
    head: tuple[str, str]
    classifier: str
    own: str


_TIMM_PARTS = ("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")
_THEIR_PARTS = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
_OURS = ("expand", "depthwise", "project")
TIMM = Names(
    stem=("conv_stem", "bn1"),
    block="blocks.{stage}.{index}.",
    unexpanded={"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")},
    expanded=dict(zip(_OURS, _TIMM_PARTS, strict=True)),
    squeeze=("se.conv_reduce", "se.conv_expand"),
    head=("conv_head", "bn2"),
    classifier="classifier",
    own=r"conv_stem\.|bn1\.|blocks\.",
)
EFFICIENTNET_PYTORCH = Names(
    stem=("_conv_stem", "_bn0"),
    block="_blocks.{number}.",
    unexpanded=dict(zip(_OURS[1:], _THEIR_PARTS[1:], strict=True)),
    expanded=dict(zip(_OURS, _THEIR_PARTS, strict=True)),
    squeeze=("_se_reduce", "_se_expand"),
    head=("_conv_head", "_bn1"),
    classifier="_fc",
    own=r"_conv_stem\.|_bn0\.|_blocks\.",
)


def key_table(variant: Variant, names: Names, blocks: int | None = None) -> dict[str, Source]:
    """Return every key that a checkpoint of the stem and of `blocks` blocks has.

    Args:
      blocks: None = all, and head and classifier.
    """
    table = _conv_norm(*names.stem, "stem", (variant.stem, 3, STEM_KERNEL, STEM_KERNEL), convolution)
    places = [(s, i) for s, stage in enumerate(variant.stages) for i in range(stage.blocks)]
    shapes = block_shapes(variant, static=False)[:blocks]
    for number, (shape, (stage, index)) in enumerate(zip(shapes, places, strict=False)):
        theirs, ours = names.block.format(number=number, stage=stage, index=index), f"blocks.{number}."
        inner = shape.inputs * shape.expansion
        kernels = {
            "expand": ((inner, shape.inputs, 1, 1), _pointwise),
            "depthwise": ((inner, 1, shape.kernel, shape.kernel), _depthwise),
            "project": ((shape.width, inner, 1, 1), _pointwise),
        }
        parts = names.expanded if shape.expansion > 1 else names.unexpanded
        for part, (conv, norm) in parts.items():
            table |= _conv_norm(theirs + conv, theirs + norm, ours + part, *kernels[part])
        if shape.squeeze:
            reduce, expand = (theirs + one for one in names.squeeze)
            size = (shape.squeeze, inner, 1, 1)
            table |= _dense(reduce, f"{ours}squeeze.reduce", size, _pointwise)
            table |= _dense(expand, f"{ours}squeeze.expand", (inner, shape.squeeze, 1, 1), _pointwise)
    return table | (_head(variant, names) if blocks is None else {})


def _head(variant: Variant, names: Names) -> dict[str, Source]:
    """Return the keys after the last block."""
    shape = (variant.head, variant.stages[-1].width, 1, 1)
    rows = _conv_norm(*names.head, "head", shape, _pointwise)
    return rows | _dense(names.classifier, "classifier", (CLASSES, variant.head), linear)


def left_out(table: Mapping[str, Source], variant: Variant, names: Names) -> set[str]:
    """Return the keys that a checkpoint may have besides: what follows the blocks, and counts of steps."""
    keys = table.keys() | _head(variant, names).keys()
    counts = {key.replace("running_mean", "num_batches_tracked") for key in keys if "running_mean" in key}
    return (keys | counts) - table.keys()


def _conv_norm(
    conv: str, norm: str, ours: str, shape: tuple[int, ...], transform: Transform
) -> dict[str, Source]:
    kernel = Source(f"{ours}.kernel", shape, transform)
    return {f"{conv}.weight": kernel, **batch_norm(norm, ours, shape[0])}


def _dense(theirs: str, ours: str, shape: tuple[int, ...], transform: Transform) -> dict[str, Source]:
    return {
        f"{theirs}.weight": Source(f"{ours}.kernel", shape, transform),
        f"{theirs}.bias": Source(f"{ours}.bias", shape[:1], same),
    }


def _pointwise(array: np.ndarray) -> np.ndarray:
    """Return kernels [out,in,1,1] as [in,out]."""
    return array[:, :, 0, 0].T


def _depthwise(array: np.ndarray) -> np.ndarray:
    """Return kernels [channel,1,row,column] as [row,column,channel]."""
    return array[:, 0].transpose(1, 2, 0)
