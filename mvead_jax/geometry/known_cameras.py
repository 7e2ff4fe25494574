"""Geometry that the user knows: cameras.json with K, R, t of every view, or with F of the pairs.

    {"categories": {"usb": {"views": {"C1": {"K": 3x3, "R": 3x3, "t": [3], "image_size": [W, H],
                                             "mirrored": false}, ...}}}}
    {"categories": {"usb": {"convention": "opencv", "image_size": {"C1": [W, H], ...},
                            "pairs": [{"a": "C1", "b": "C2", "F": 3x3}, ...]}}}

Without "categories" the content holds for all of them. K, R, t: x_cam = R X + t, pixels in which an image
spans [0, W] x [0, H]; "mirrored" says that the view is stored flipped left-right after this camera took it.
"image_size" is that of the images which K or F describe; the stored ones may be smaller or larger copies.
Convention "ours": x_aᵀ F x_b = 0 in these pixels; "opencv": x_bᵀ F x_a = 0, pixel centres at integers.

What can't be cameras of the images is refused (camera_checks.py), and so are unknown names, distortion, and
files of other programs (camera_formats.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mvead_jax.data.safe_paths import normal_form
from mvead_jax.geometry.camera_checks import (
    check_intrinsics,
    check_names,
    check_rotation,
    image_size,
    matrix,
    without_distortion,
)
from mvead_jax.geometry.camera_formats import read_camera_file
from mvead_jax.geometry.cameras import from_opencv, fundamental_from_cameras
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry
from mvead_jax.geometry.images import between_new_images, mirroring, resizing
from mvead_jax.runtime.errors import UserError

Sizes = tuple[tuple[int, int], ...]  # (width, height) of each view

_OF_CATEGORY = ("views", "pairs", "convention", "image_size")
_OF_CAMERA = ("K", "R", "t", "image_size", "mirrored")
_OF_PAIR = ("a", "b", "F")


def read_cameras(
    path: Path, category: str, views: tuple[str, ...], sizes: tuple[tuple[int, int], ...]
) -> CategoryGeometry:
    """Return the geometry of a category between its images as stored.

    Args:
      path: cameras.json. views, sizes: names and (W, H) of the stored images; an "image_size" in the file
        that differs from them means that the images were resized since.

    Raises:
      UserError: missing, damaged, of another program, without this category or view, with names that nothing
        reads, with distortion, or with matrices or sizes that can't be those of the images.
    """
    content = read_camera_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not as expected (a list); see mvead_jax/geometry/known_cameras.py")
    try:
        entry = _of_category(path, content, category)
        with_cameras = bool(entry.get("views"))
        check_names(entry, _OF_CATEGORY)
        given = (_from_cameras if with_cameras else _from_pairs)(entry, views, sizes)
    except ValueError as error:
        raise UserError(f"{path}: {category}: {error}") from error
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path}: {category}: not as expected ({error!r}); see mvead_jax/geometry/known_cameras.py"
        ) from error
    pairs = {}
    for a, b in combinations(range(len(views)), 2):
        ok = bool(given[a, b].any())
        reason = "" if ok else "no geometry: not in the file, or both views from one point"
        pairs[a, b] = PairGeometry(given[a, b], ok, "given", {"reason": reason})
    return CategoryGeometry(views, sizes, pairs)


def _of_category(path: Path, content: Mapping[str, Any], category: str) -> Mapping[str, Any]:
    """Return what the file says of a category."""
    if "categories" not in content:
        return content
    check_names(content, ("categories", "convention"))
    found = {normal_form(name): own for name, own in content["categories"].items()}
    if category not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UserError(f"{path}: no category {category!r}; it has {known}")
    return found[category]


def _from_cameras(
    entry: Mapping[str, Any], views: tuple[str, ...], sizes: Sizes
) -> Float[np.ndarray, "V V 3 3"]:
    """Return F of K, R, t. Raises ValueError: what of a view can't be."""
    given = {normal_form(name): own for name, own in entry["views"].items()}
    cameras, maps = [], []
    for view, size in zip(views, sizes, strict=True):
        if view not in given:
            raise ValueError(f"no view {view!r}; it has {', '.join(sorted(given))}")
        try:
            camera, own_map = _camera(given[view], size)
        except ValueError as error:
            raise ValueError(f"{view}: {error}") from None
        cameras.append(camera)
        maps.append(own_map)
    K, R, t = (np.stack(values) for values in zip(*cameras, strict=True))
    return between_new_images(fundamental_from_cameras(K, R, t), np.stack(maps))


def _camera(
    entry: Mapping[str, Any], stored: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], Float[np.ndarray, "3 3"]]:
    """Return K, R, t of a view, and the map from the points of its image as taken to the stored ones."""
    entry = without_distortion(entry)
    check_names(entry, _OF_CAMERA)
    K, R, t = (matrix(entry, name, shape) for name, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,))))
    taken = image_size(entry.get("image_size"), stored)
    check_intrinsics(K, taken)
    check_rotation(R)
    mirrored = entry.get("mirrored", False)
    if not isinstance(mirrored, bool):
        raise ValueError(f"mirrored is {mirrored!r}; give true or false")
    flip = mirroring(taken[0]) if mirrored else np.eye(3)
    return (K, R, t), resizing(taken, stored) @ flip


def _from_pairs(
    entry: Mapping[str, Any], views: tuple[str, ...], sizes: Sizes
) -> Float[np.ndarray, "V V 3 3"]:
    """Return F of the file's matrices, zeros where it has none. Raises ValueError: what of it can't be."""
    convention = entry.get("convention")
    if convention not in ("ours", "opencv"):
        raise ValueError(f'"convention" is {convention!r}; say "ours" or "opencv"')
    F = np.zeros((len(views), len(views), 3, 3))
    for pair in entry["pairs"]:
        check_names(pair, _OF_PAIR)
        name_a, name_b = normal_form(pair["a"]), normal_form(pair["b"])
        if name_a not in views or name_b not in views:
            continue
        a, b = views.index(name_a), views.index(name_b)
        try:
            own = matrix(pair, "F", (3, 3))
        except ValueError as error:
            raise ValueError(f"{name_a}, {name_b}: {error}") from None
        own = from_opencv(own) if convention == "opencv" else own
        singular = np.linalg.svd(own, compute_uv=False)
        if singular[0] == 0 or singular[2] > 1e-3 * singular[1]:
            raise ValueError(f"F of {name_a}, {name_b} has not rank 2")
        if a < b or not F[b, a].any():
            F[min(a, b), max(a, b)] = own if a < b else own.T
    taken = {normal_form(name): size for name, size in entry.get("image_size", {}).items()}
    maps = []
    for view, size in zip(views, sizes, strict=True):
        try:
            maps.append(resizing(image_size(taken.get(view), size), size))
        except ValueError as error:
            raise ValueError(f"{view}: {error}") from None
    return between_new_images(F, np.stack(maps))
