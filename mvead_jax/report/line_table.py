"""The epipolar geometry of a category as the page draws it: F between unit squares, whatever the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvead_jax.geometry.category import CategoryGeometry


def line_table(geometry: CategoryGeometry | None, views: Sequence[str]) -> dict[str, Any]:
    """Which lines can be drawn between `views`.

    Returns:
      {"F": {"a b": nine numbers, row by row}, "untrusted": ["a b", ...]}, a and b numbers of views. Of every
      ordered trusted pair: with x_a = (x / width, y / height, 1) the line of view b is F^T x_a, likewise in
      shares of its width and height. Pairs that are in neither have no geometry at all.
    """
    found: dict[str, Any] = {"F": {}, "untrusted": []}
    if geometry is None:
        return found
    for (a, b), pair in geometry.pairs.items():
        names = geometry.views[a], geometry.views[b]
        if not all(name in views for name in names):
            continue
        i, j = (list(views).index(name) for name in names)
        scale_a, scale_b = (np.diag([*geometry.sizes[at], 1.0]) for at in (a, b))
        F = scale_a @ pair.F @ scale_b
        size = np.linalg.norm(F)
        if not pair.ok or not np.isfinite(size) or size == 0:
            found["untrusted"] += [f"{i} {j}", f"{j} {i}"]
            continue
        for key, own in ((f"{i} {j}", F), (f"{j} {i}", F.T)):
            found["F"][key] = [float(f"{value:.7g}") for value in (own / size).ravel()]
    return found
