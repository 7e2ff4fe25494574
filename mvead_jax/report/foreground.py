"""The foreground masks of one sample over its images: what a method takes for the part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mvead_jax.report.lines import any_letter
from mvead_jax.runtime.files import whole

_CELL_INCHES = 1.8
_DPI = 110
_DIMMED = 0.3  # of its brightness, where an image is background


def draw_foreground(
    images: Mapping[str, Image.Image], masks: Mapping[str, Bool[np.ndarray, "h w"]], path: Path
) -> None:
    """Write a sheet with the images of one sample, each with its background dimmed.

    Args:
      images, masks: by view.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: an Inspector draws no figure
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_CELL_INCHES * len(images) + 0.2, _CELL_INCHES + 0.4), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, (view, image) in zip(axes, images.items(), strict=True):
        axis.imshow(dimmed(image, masks[view]), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{view}: {masks[view].mean():.0%}", fontsize=8, parse_math=False)
    with whole(path) as temporary, any_letter():
        figure.tight_layout(pad=0.3)
        figure.savefig(temporary, format="png")


def dimmed(image: Image.Image, mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Return the image as uint8 [H,W,3], darker where the mask, which is enlarged to it, says background."""
    part = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    factor = np.where(np.asarray(part) > 0, 1.0, _DIMMED)[..., None]
    return (np.asarray(image.convert("RGB")) * factor).astype(np.uint8)
