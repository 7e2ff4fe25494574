"""Weights of ResNets: where they are on the hub, and the one table of torchvision's and timm's names."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mvead_jax.backbones.checkpoint import Source, Tensors, batch_norm, convolution, fill, unwrapped
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.backbones.resnet.modeling import ARCHITECTURES, LAYERS, STEM_WIDTH, ResNet
from mvead_jax.backbones.weights import opened

# Name -> hub id, revision: torchvision's first weights, but for MVAD's ResNet-34, which is timm's own; of its
# commit no public record was found.
HUB: dict[str, tuple[str, str]] = {
    "resnet18": ("timm/resnet18.tv_in1k", "bbd144b3e5565108aad885f145491d11bc6ce807"),
    "resnet34": ("timm/resnet34.bt_in1k", "main"),
    "resnet50": ("timm/resnet50.tv_in1k", "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa"),
    "wide_resnet50_2": ("timm/wide_resnet50_2.tv_in1k", "343c5fa59ca8a131e0cdf42144a641b36a0387c2"),
}
_HEADS = ("fc.", "classifier.", "head.")
CLASSIFIER = {"fc.weight", "fc.bias"}


def key_table(name: str, layers: int = LAYERS) -> dict[str, Source]:
    """Return every key that a checkpoint of the stem and of `layers` layers has."""
    architecture = ARCHITECTURES[name]
    table = _convolution("conv1", 3, STEM_WIDTH, 7) | batch_norm("bn1", "bn1", STEM_WIDTH)
    width = STEM_WIDTH
    for number, (blocks, inner, out) in enumerate(zip(*architecture, strict=True), start=1):
        for block in range(blocks if number <= layers else 0):
            at = f"layer{number}.{block}"
            sizes = [(width, out, 3), (out, out, 3)]
            if inner != out:
                sizes = [(width, inner, 1), (inner, inner, 3), (inner, out, 1)]
            for index, (inputs, outputs, size) in enumerate(sizes, start=1):
                table |= _convolution(f"{at}.conv{index}", inputs, outputs, size)
                table |= batch_norm(f"{at}.bn{index}", f"{at}.bn{index}", outputs)
            if block == 0 and (number > 1 or width != out):
                table |= _convolution(f"{at}.downsample.0", width, out, 1)
                table |= batch_norm(f"{at}.downsample.1", f"{at}.downsample.1", out)
            width = out
    return table


def left_out(table: dict[str, Source]) -> set[str]:
    """Return the keys that a checkpoint may have besides: the classifier, and counts of training steps."""
    counts = {key.replace("running_mean", "num_batches_tracked") for key in table if "running_mean" in key}
    return CLASSIFIER | counts


def from_tensors(
    name: str, tensors: Tensors, layers: int = LAYERS, *, held: int = LAYERS, dtype: DTypeLike = jnp.float32
) -> ResNet:
    """Return a ResNet, cut off after `layers` layers, with the weights of an open checkpoint.

    Args:
      held: how many layers the checkpoint has.

    Raises:
      UserError: one line naming the file and the key.
    """
    table = key_table(name, held)
    own = unwrapped(tensors, r"conv1\.|bn1\.|layer\d\.", _HEADS)

    def empty() -> ResNet:
        return ResNet(ARCHITECTURES[name], layers, normal=no_numbers, dtype=dtype)

    return fill(empty, table, own, left_out=left_out(table), what=f"a {name}")


def load_resnet(name: str, directory: Path, layers: int = LAYERS, dtype: DTypeLike = jnp.float32) -> ResNet:
    """Return a ResNet, cut off after `layers` layers, with the weights of a directory.

    Raises:
      UserError: one line naming the file and the key.
    """
    with opened(directory) as tensors:
        return from_tensors(name, tensors, layers, dtype=dtype)


def random_resnet(name: str, seed: int, layers: int = LAYERS, dtype: DTypeLike = jnp.float32) -> ResNet:
    """Return an untrained ResNet; cutting layers off does not change the ones that stay."""
    return ResNet(ARCHITECTURES[name], layers, normal=from_seed(seed), dtype=dtype)


def parameters(table: dict[str, Source]) -> int:
    """Return the number of parameters that a table sets; running statistics are none."""
    return sum(int(np.prod(source.shape)) for key, source in table.items() if "running_" not in key)


def _convolution(key: str, inputs: int, outputs: int, size: int) -> dict[str, Source]:
    return {f"{key}.weight": Source(f"{key}.kernel", (outputs, inputs, size, size), convolution)}
