"""cameras.json: the rig's cameras, and F of every ordered pair of views for the images as stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.images import between_new_images, mirroring
from mvead_jax.rig.cameras import VIEWS, five_cameras
from mvead_jax.rig.layout import MIRRORED

_CONVENTION = (
    "x_cam = R X + t in mm; image points in pixels, an image spans [0,W] x [0,H], pixel centres at +0.5; "
    "K, R, t give points of the image as taken, a mirrored view is stored flipped (x -> W - x); "
    "x_a^T F x_b = 0 between images as stored, unit Frobenius norm"
)


def cameras_json(families: Sequence[str], size: int) -> dict[str, Any]:
    """Content of cameras.json.

    {"convention": ..., "categories": {category: {
      "views": {"C1": {"image_size": [W, H], "mirrored": bool, "K": 3x3, "R": 3x3, "t": [3]}, ...},
      "pairs": [{"a": "C1", "b": "C2", "F": 3x3}, ... every ordered pair]}}}
    """
    rig = five_cameras(size)
    plain = fundamental_from_cameras(rig.K, rig.R, rig.t)
    categories = {}
    for family in families:
        mirrored = [view == MIRRORED[family] for view in VIEWS]
        maps = [mirroring(size) if flipped else np.eye(3) for flipped in mirrored]
        F = between_new_images(plain, np.stack(maps))
        views = {
            view: {
                "image_size": [size, size],
                "mirrored": mirrored[v],
                "K": rig.K[v].tolist(),
                "R": rig.R[v].tolist(),
                "t": rig.t[v].tolist(),
            }
            for v, view in enumerate(VIEWS)
        }
        pairs = [
            {"a": a, "b": b, "F": F[i, j].tolist()}
            for i, a in enumerate(VIEWS)
            for j, b in enumerate(VIEWS)
            if i != j
        ]
        categories[family] = {"views": views, "pairs": pairs}
    return {"convention": _CONVENTION, "categories": categories}
