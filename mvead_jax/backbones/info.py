"""What is known of a backbone, and what a family of backbones hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flax import nnx

from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError


class Tap(NamedTuple):
    """One feature map: how many input pixels a cell has along a side, and how many channels D."""

    stride: int
    width: int


@dataclass(frozen=True)
class Info:
    """What is known of a backbone before any image.

    Attributes:
      name: which one.
      weights: where its weights came from, for people.
      trained: False for random weights.
      licence: of the weights, in one sentence (model card, artefact).
      normalisation: what images the network was trained on, and what it does with ours, in words. All take
        images that are normalised by the ImageNet mean and deviation.
      multiple: the sides of an input image are multiples of it, for the taps that were asked for.
      taps: every tap that can be asked for. All have "patches", one vector for each patch of an image.
      pyramid: taps from fine to coarse, for methods that want several scales; () where there are none.
      heads: of its attention; 1 where it has none.
      has_next: whether a transformer block follows the one that gives "patches".
    """

    name: str
    weights: str
    trained: bool
    licence: str
    normalisation: str
    multiple: int
    taps: Mapping[str, Tap]
    pyramid: tuple[str, ...]
    heads: int = 1
    has_next: bool = False


@dataclass(frozen=True)
class Loaded:
    """What a family's `load` gives.

    Attributes:
      network: network(images [B,H,W,3], taps) -> {tap: [B,h,w,D] float32}; it may be cut off after the taps
        that were asked for.
      info: of it.
      recipe: JSON by which the family's `empty(recipe, dtype)` builds the same architecture. A family whose
        "patches" depend on backbone.block writes that into it as "block".
      next_block: gives the transformer block after the one that gives "patches", loaded anew; None where
        there is none.
    """

    network: nnx.Module
    info: Info
    recipe: dict[str, Any]
    next_block: Callable[[], Any] | None = None


PYRAMID = "pyramid"  # stands for all taps of a backbone's pyramid where taps are asked for


def expanded(name: str, taps: Sequence[str], pyramid: Sequence[str]) -> tuple[str, ...]:
    """Return taps with those of the pyramid in the place of the word "pyramid".

    Raises:
      UserError: a backbone without a pyramid.
    """
    if PYRAMID in taps and not pyramid:
        raise UserError(
            f"backbone.name={name!r}: has feature maps of one scale, and this method reads several; take a ResNet "
            "or an EfficientNet, for example --config.backbone.name=efficientnet-lite0"
        )
    found = (own for tap in taps for own in (pyramid if tap == PYRAMID else (tap,)))
    return tuple(dict.fromkeys(found))


def check_taps(name: str, known: Mapping[str, Tap], taps: Sequence[str]) -> None:
    """Raise a UserError unless a backbone has all of these taps."""
    if not taps:
        raise ValueError("no tap is asked for")
    for tap in taps:
        if tap not in known:
            raise UserError(f"backbone.name={name!r} has no tap {tap!r}; it has {', '.join(known)}")


def licence_of(config: BackboneConfig, published: str, hub_ids: Sequence[str]) -> str:
    """Return the licence of the weights that a config names.

    Args:
      published: the licence of the weights that `auto` takes.
      hub_ids: where these are.
    """
    if config.weights == "random":
        return "none: the weights are random"
    if config.weights == "auto" or config.weights in hub_ids:
        return published
    return (
        f"unknown to this program, for the weights are from {config.weights} (of the published: {published})"
    )
