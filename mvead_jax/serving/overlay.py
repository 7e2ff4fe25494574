"""The scores of a view as heat over its picture."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib import colormaps
from PIL import Image

from mvead_jax.evaluation.enlarging import enlarge

SIDE = 640  # pixels of the longer side of a picture that is kept to be shown
_OPAQUE = 0.75  # how opaque the highest heat is
_CONTOUR = (0, 255, 255)


def shown(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Return an upright image as it is kept to be shown, its longer side at most SIDE pixels."""
    if max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    return np.asarray(image)


def overlay(
    picture: UInt8[np.ndarray, "H W 3"],
    scores: Float32[np.ndarray, "h w"],
    scale: tuple[float, float],
    threshold: float | None = None,
) -> Image.Image:
    """Return the picture under heat.

    Args:
      scores: of the patches. scale: the scores where heat begins and where it is full.
      threshold: what is above it is outlined; None: nothing is.
    """
    low, high = scale
    enlarged = enlarge(scores[None], *picture.shape[:2])[0]
    heat = np.clip((enlarged - low) / max(high - low, 1e-12), 0, 1)
    colours = colormaps["inferno"](heat)[..., :3] * 255
    alpha = _OPAQUE * heat[..., None]
    found = np.rint(picture * (1 - alpha) + colours * alpha).astype(np.uint8)
    if threshold is not None:
        above = (enlarged > threshold).astype(np.uint8)
        contours, _ = cv2.findContours(above, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(found, contours, -1, _CONTOUR, 1)
    return Image.fromarray(found)
