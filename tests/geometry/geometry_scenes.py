"""Scenes with known geometry, and where real photographs lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mvead_jax.geometry.cameras import fundamental_from_cameras


def match_scene(seed, noise, outliers, right=150):
    """Points [n,2] of two views 30 degrees apart, the right matches first, and their F."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-30, 30, (right, 3))
    angle = np.deg2rad(30)
    c, s = np.cos(angle), np.sin(angle)
    K = np.stack(
        [[[900.0, 0, 128], [0, 900.0, 120], [0, 0, 1]], [[850.0, 0, 125], [0, 850.0, 130], [0, 0, 1]]]
    )
    R = np.stack([np.eye(3), [[c, 0, s], [0, 1, 0], [-s, 0, c]]])
    t = np.array([[0.0, 0, 300], [4.0, -6, 310]])
    x = np.einsum("vij,vnj->vni", K, np.einsum("vij,nj->vni", R, points) + t[:, None])
    x = x[..., :2] / x[..., 2:] + rng.normal(0, noise, (2, right, 2)) if noise else x[..., :2] / x[..., 2:]
    wrong = rng.uniform(0, 256, (2, outliers, 2))
    a, b = np.concatenate([x, wrong], axis=1)
    return a, b, fundamental_from_cameras(K, R, t)[0, 1]


def real_photos(name: str) -> Path:
    """Folder of real photographs beside the checkout or in $MVEAD_PHOTOS; without it the test is skipped."""
    root = Path(os.environ.get("MVEAD_PHOTOS", Path(__file__).parents[3] / "shared" / "real"))
    if not (root / name).is_dir():
        pytest.skip(f"needs the photographs of {name} in {root} (set MVEAD_PHOTOS)")
    return root / name
