"""ResNets as backbones: their four layers are taps, and what comes after the highest one is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from mvead_jax.backbones.info import Info, Loaded, Tap, check_taps, expanded, licence_of
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.backbones.resnet.modeling import ARCHITECTURES, JOINED, JOINED_STRIDE, ResNet
from mvead_jax.backbones.resnet.params import HUB, load_resnet, random_resnet
from mvead_jax.backbones.weights import locate
from mvead_jax.config.schema import BackboneConfig

_IMAGENET = "trained on ImageNet, whose images have terms of their own"
_TORCHVISION = f"torchvision's: BSD-3-Clause by the model card; {_IMAGENET}"
_TIMM = f"timm's: Apache-2.0 by the model card; {_IMAGENET}"
_NORMALISATION = "by the ImageNet mean and deviation, as their model cards have it"
PYRAMID = ("layer1", "layer2", "layer3")


def load(config: BackboneConfig, taps: Sequence[str], seed: int) -> Loaded:
    """Return the ResNet that a config names, cut off after the highest layer that `taps` need.

    Raises:
      UserError: a tap that it does not have, or weights that can't be found or don't fit.
    """
    taps = expanded(config.name, taps, PYRAMID)
    name, dtype = config.name, jnp.dtype(config.precision)
    known = taps_of(name)
    check_taps(name, known, taps)
    layers = max(int(one[-1]) for tap in taps for one in (JOINED if tap == "patches" else (tap,)))
    if config.weights == "random":
        network, weights = random_resnet(name, seed, layers, dtype), f"random, seed {seed}"
    else:
        directory = locate(name, config.weights, Path(config.directory), HUB)
        network, weights = load_resnet(name, directory, layers, dtype), str(directory)
    hub_id = HUB[name][0]
    info = Info(
        name=name,
        weights=weights,
        trained=config.weights != "random",
        licence=licence_of(config, f"{hub_id}, {_TORCHVISION if '.tv_' in hub_id else _TIMM}", [hub_id]),
        normalisation=_NORMALISATION,
        multiple=known[f"layer{layers}"].stride,
        taps=known,
        pyramid=PYRAMID,
    )
    return Loaded(network, info, recipe={"architecture": name, "layers": layers})


def empty(recipe: dict[str, Any], dtype: DTypeLike) -> ResNet:
    """Return the architecture of a recipe; its numbers do not matter."""
    architecture = ARCHITECTURES[recipe["architecture"]]
    return ResNet(architecture, recipe["layers"], normal=no_numbers, dtype=dtype)


def taps_of(name: str) -> dict[str, Tap]:
    widths = ARCHITECTURES[name].widths
    layers = {f"layer{k}": Tap(2 ** (k + 1), width) for k, width in enumerate(widths, start=1)}
    return {"patches": Tap(JOINED_STRIDE, sum(layers[one].width for one in JOINED)), **layers}
