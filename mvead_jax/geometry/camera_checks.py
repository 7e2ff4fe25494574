"""Whether given cameras can be those of the images: what would be misread in silence is refused.

Each function raises ValueError with the words for the message; given.py says of which file and view.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

Size = tuple[float, float]  # (width, height)

_COMMENTS = ("comment", "description", "units")
_DISTORTION = (
    *("dist", "distortion", "dist_coeffs", "distcoeffs", "distortion_coefficients", "distortion_coeffs", "d"),
    *("distortion_model", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "xi", "radial", "tangential"),
)
_ALIKE = 1.02  # ratio of two aspects up to which images count as of one shape (data/shapes.py)
_ROUNDED = 1.0  # pixels by which a resize may round a side
_LEAST_FOCAL = 0.1  # of the larger side of the image: its field of view would be 157 degrees


def check_names(found: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError for a name that nothing reads, with the nearest that something does. Names that begin
    with "_" and comments are passed over."""
    known = tuple(known)
    for name in found:
        if name in known or name.startswith("_") or name.lower() in _COMMENTS:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{name!r} is unknown here; {hint}it may have {', '.join(known)}")


def without_distortion(camera: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a camera without distortion coefficients that are all zero.

    Raises:
      ValueError: others. Epipolar lines are straight between images without distortion only.
    """
    plain = {}
    for name, value in camera.items():
        if name.lower() not in _DISTORTION:
            plain[name] = value
        elif isinstance(value, str):
            if value.lower() not in ("", "none", "pinhole", "perspective"):
                raise ValueError(f"{name} is {value!r}: {_UNDISTORT}")
        elif np.any(np.asarray(value, np.float64) != 0):
            raise ValueError(f"{name} is {value}: {_UNDISTORT}")
    return plain


_UNDISTORT = (
    "lens distortion is not computed with, for epipolar lines would be curves; undistort the images "
    "(cv2.undistort, for training and at work), and give the K of these without coefficients"
)


def matrix(camera: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Float[np.ndarray, ...]:
    """Return a matrix of a camera, finite numbers in a shape.

    Raises:
      ValueError: it is missing, or something else.
    """
    if name not in camera:
        raise ValueError(f"lacks {name}")
    words = " x ".join(map(str, shape))
    try:
        found = np.asarray(camera[name], np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no matrix of numbers; give {words}") from None
    if found.size != np.prod(shape):
        vector = name == "R" and found.size == 3
        more = ": a rotation vector? cv2.Rodrigues makes a matrix of it" if vector else ""
        raise ValueError(f"{name} has shape {list(found.shape)}{more}; give {words}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} has a number that is not finite")
    return found.reshape(shape)


def image_size(given: Any, stored: Size) -> Size:
    """Return the (width, height) of the images that a camera describes.

    Args:
      given: "image_size" of the file, None if it has none: then they have the size of the stored ones.
      stored: (width, height) of these, which may be smaller or larger copies.

    Raises:
      ValueError: no size, or one of another shape than that of the stored images.
    """
    if given is None:
        return stored
    pair = given if isinstance(given, list | tuple) else ()
    numbers = [side for side in pair if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not all(0 < side < np.inf for side in numbers):
        raise ValueError(
            f"image_size is {given!r}; give [width, height] in pixels, as [{stored[0]}, {stored[1]}]"
        )
    (width, height), (w, h) = numbers, stored
    off = max(abs(w - h * width / height), abs(h - w * height / width))
    if max(width * h / (height * w), height * w / (width * h)) > _ALIKE and off > _ROUNDED:
        turned = "; are width and height swapped? " if (width > height) != (w > h) else "; "
        raise ValueError(
            f"image_size is {width:g} x {height:g}, and its images have {w} x {h} pixels, which is another shape"
            f"{turned}a crop moves the principal point: give K of the images as they are stored"
        )
    return width, height


def check_intrinsics(K: Float[np.ndarray, "3 3"], size: Size) -> None:
    """Raise ValueError unless K can be that of an image of this (width, height) in pixels."""
    if abs(np.linalg.det(K)) < 1e-12:
        raise ValueError("K cannot be inverted")
    if np.abs(K[2] / K[2, 2] - (0, 0, 1)).max() > 1e-6 if K[2, 2] else True:
        raise ValueError(f"the last row of K is {K[2].tolist()}; it is 0, 0, 1 (is K transposed?)")
    K = K / K[2, 2]
    (width, height), (x, y), focal = size, K[:2, 2], np.diag(K)[:2]
    if focal.min() <= 0:
        raise ValueError(f"the focal lengths of K are {focal[0]:g} and {focal[1]:g}; they are above 0")
    advice = (
        f"the images have {width:g} x {height:g} pixels; if K is of larger or smaller ones, say so by "
        '"image_size": [width, height]; K is in pixels, an image spans [0, W] x [0, H]'
    )
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"the principal point of K, ({x:g}, {y:g}), lies outside its image: {advice}")
    if focal.max() < _LEAST_FOCAL * max(size):
        raise ValueError(f"the focal length of K, {focal.max():g}, is too short for its image: {advice}")


def check_rotation(R: Float[np.ndarray, "3 3"]) -> None:
    """Raise ValueError unless R is a rotation."""
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise ValueError("R is no rotation")
