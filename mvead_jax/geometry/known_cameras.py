"""Geometry that the user knows: cameras.json with K, R, t of every view, or with F of the pairs.

    {"categories": {"usb": {"views": {"C1": {"K": 3x3, "R": 3x3, "t": [3], "image_size": [W, H],
                                             "mirrored": false}, ...}}}}
    {"categories": {"usb": {"convention": "opencv", "image_size": {"C1": [W, H], ...},
                            "pairs": [{"a": "C1", "b": "C2", "F": 3x3}, ...]}}}

Without "categories" the content holds for all of them. K, R, t: x_cam = R X + t, pixels in which an image
spans [0, W] x [0, H]; "mirrored" says that the view is stored flipped left-right after this camera took it.
Convention "ours": x_aᵀ F x_b = 0 in these pixels; "opencv": x_bᵀ F x_a = 0, pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.geometry.cameras import from_opencv, fundamental_from_cameras
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry
from mvead_jax.geometry.images import between_new_images, mirroring, resizing
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json


def read_cameras(
    path: Path, category: str, views: tuple[str, ...], sizes: tuple[tuple[int, int], ...]
) -> CategoryGeometry:
    """Geometry of a category between its pictures as stored.

    Args:
      path: cameras.json. views, sizes: names and (W, H) of the stored pictures; an "image_size" in the file
        that differs from them means that the pictures were resized since.

    Raises:
      UserError: missing, damaged, without this category or view, or with matrices that are none.
    """
    content = read_json(path, "cameras: K, R, t of every view or F of the pairs")
    try:
        entry = content["categories"].get(category) if "categories" in content else content
        if entry is None:
            known = ", ".join(sorted(content["categories"])) or "none"
            raise UserError(f"{path}: no category {category!r}; it has {known}")
        given = (
            _from_cameras(path, entry, views, sizes)
            if "views" in entry
            else _from_pairs(path, entry, views, sizes)
        )
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{path}: {category}: not as expected ({error!r}); see mvead_jax/geometry/known_cameras.py"
        ) from error
    pairs = {}
    for a, b in combinations(range(len(views)), 2):
        ok = bool(given[a, b].any())
        reason = "" if ok else "no geometry: not in the file, or both views from one point"
        pairs[a, b] = PairGeometry(given[a, b], ok, "given", {"reason": reason})
    return CategoryGeometry(views, sizes, pairs)


def _from_cameras(path: Path, entry: Mapping[str, Any], views, sizes) -> np.ndarray:
    """F [V,V,3,3] of K, R, t."""
    cameras, maps = [], []
    for view, size in zip(views, sizes, strict=True):
        if view not in entry["views"]:
            raise UserError(f"{path}: no view {view!r}; it has {', '.join(sorted(entry['views']))}")
        one = entry["views"][view]
        K, R, t = (np.asarray(one[name], np.float64).reshape(shape) for name, shape in _SHAPES.items())
        if not all(np.isfinite(matrix).all() for matrix in (K, R, t)):
            raise UserError(f"{path}: {view}: a number is not finite")
        if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
            raise UserError(f"{path}: {view}: R is no rotation")
        if abs(np.linalg.det(K)) < 1e-12:
            raise UserError(f"{path}: {view}: K cannot be inverted")
        cameras.append((K, R, t))
        taken = tuple(one.get("image_size", size))
        flip = mirroring(taken[0]) if one.get("mirrored", False) else np.eye(3)
        maps.append(resizing(taken, size) @ flip)
    K, R, t = (np.stack(values) for values in zip(*cameras, strict=True))
    return between_new_images(fundamental_from_cameras(K, R, t), np.stack(maps))


def _from_pairs(path: Path, entry: Mapping[str, Any], views, sizes) -> np.ndarray:
    """F [V,V,3,3] of the file's matrices; zeros where it has none."""
    convention = entry.get("convention")
    if convention not in ("ours", "opencv"):
        raise UserError(f'{path}: "convention" is {convention!r}; say "ours" or "opencv"')
    F = np.zeros((len(views), len(views), 3, 3))
    for pair in entry["pairs"]:
        if pair["a"] not in views or pair["b"] not in views:
            continue
        a, b = views.index(pair["a"]), views.index(pair["b"])
        own = np.asarray(pair["F"], np.float64).reshape(3, 3)
        own = from_opencv(own) if convention == "opencv" else own
        if not np.isfinite(own).all():
            raise UserError(f"{path}: F of {pair['a']}, {pair['b']} is not finite")
        singular = np.linalg.svd(own, compute_uv=False)
        if singular[0] == 0 or singular[2] > 1e-3 * singular[1]:
            raise UserError(f"{path}: F of {pair['a']}, {pair['b']} has not rank 2")
        if a < b or not F[b, a].any():
            F[min(a, b), max(a, b)] = own if a < b else own.T
    taken = entry.get("image_size", {})
    return between_new_images(
        F,
        np.stack(
            [resizing(tuple(taken.get(view, size)), size) for view, size in zip(views, sizes, strict=True)]
        ),
    )


_SHAPES = {"K": (3, 3), "R": (3, 3), "t": (3,)}
