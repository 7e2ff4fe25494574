"""The five fixed cameras of the rig: C1 from above, C2..C5 from the sides at about 45 degrees.

World frame in millimetres, z up, the tray is z = 0. x_cam = R X + t with x right, y down, z forward; an image
spans [0, W] x [0, H] and pixel (row i, column j) has its centre at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VIEWS = ("C1", "C2", "C3", "C4", "C5")

# Azimuth, elevation (degrees) and distance (mm) of each camera centre as seen from the target. No two side
# cameras sit at exactly opposite or equal angles, as in a rig that people have set up by hand.
_PLACES = (
    (0.0, 90.0, 250.0),
    (1.5, 44.0, 246.0),
    (91.0, 46.5, 252.0),
    (178.0, 45.5, 248.0),
    (271.5, 43.0, 250.0),
)
_TARGET = (0.0, 0.0, 8.0)
_FIELD = 60.0  # mm across the image at 250 mm
_PRINCIPAL = (
    (0.004, -0.003),
    (-0.006, 0.005),
    (0.003, 0.006),
    (0.005, -0.004),
    (-0.004, -0.006),
)  # of the size


@dataclass(frozen=True)
class Rig:
    """K [V,3,3], R [V,3,3], t [V,3] (float64) of images of size x size pixels before any mirroring."""

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    size: int

    @property
    def centers(self) -> np.ndarray:
        """Camera centres [V,3] in the world frame: -Rᵀ t."""
        return -np.einsum("vji,vj->vi", self.R, self.t)


def _look_at(center: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rotation [3,3] whose rows are the camera's right, down and forward axes."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def five_cameras(size: int) -> Rig:
    """The rig's cameras for size x size images; only K depends on the size."""
    intrinsics, rotations, translations = [], [], []
    for (azimuth, elevation, distance), offset in zip(np.asarray(_PLACES), _PRINCIPAL, strict=True):
        a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
        toward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        center = np.asarray(_TARGET) + distance * toward
        up = np.array([0.0, 1.0, 0.0]) if elevation == 90.0 else np.array([0.0, 0.0, 1.0])
        rotation = _look_at(center, np.asarray(_TARGET), up)
        focal = size * 250.0 / _FIELD
        cx, cy = size * (0.5 + offset[0]), size * (0.5 + offset[1])
        intrinsics.append([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
        rotations.append(rotation)
        translations.append(-rotation @ center)
    return Rig(np.asarray(intrinsics), np.stack(rotations), np.stack(translations), size)


def project(points: np.ndarray, K: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Image points [n,2] of world points [n,3] in one camera, before any mirroring."""
    camera = np.einsum("ij,nj->ni", R, points) + t
    image = np.einsum("ij,nj->ni", K, camera)
    return image[:, :2] / image[:, 2:]


def rays(pixels: np.ndarray, K: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Unit directions [n,3] in the world frame through image points [n,2] of one camera."""
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    directions = np.einsum("ij,nj->ni", R.T @ np.linalg.inv(K), homogeneous)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def mirror(points: np.ndarray, width: float) -> np.ndarray:
    """Image points [n,2] after a left-right flip of an image that is `width` pixels wide; its own inverse."""
    return np.stack([width - points[:, 0], points[:, 1]], axis=1)
