"""A small data set of one's own, drawn with NumPy: folders as docs/own_data.md says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Three cameras: names with letters of many languages and a space, formats and sizes of their own.
CAMERAS = {
    "Kamera links": (".png", (48, 40)),
    "обзор-ü": (".JPG", (40, 40)),
    "上 2": (".bmp", (56, 32)),
}


def write_folders(
    root: Path,
    cameras: Mapping[str, tuple[str, tuple[int, int]]] = CAMERAS,
    *,
    train: int = 6,
    good: int = 3,
    defects: Sequence[str] = ("Kratzer ß",),
    defective: int = 3,
    masks: bool = True,
    seed: int = 0,
) -> Path:
    """Noise on a ramp; a defect is a dark square, seen and marked in the first half of the views only."""
    rng = np.random.default_rng(seed)
    for split, kind, count in (("train", "good", train), ("test", "good", good)):
        for number in range(count):
            _write(root, f"{split}/{kind}/teil {number:02d}", cameras, rng)
    for kind in defects:
        for number in range(defective):
            _write(root, f"test/{kind}/teil {number:02d}", cameras, rng, kind, masks)
    return root


def write_picture(path: Path, size: tuple[int, int], rng: np.random.Generator, dark=None) -> None:
    width, height = size
    pixels = np.linspace(80, 170, width)[None, :, None] + rng.normal(0, 6, (height, width, 3))
    if dark is not None:
        pixels[dark] *= 0.2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def _write(root: Path, folder: str, cameras, rng, kind: str | None = None, masks: bool = True) -> None:
    for number, (view, (suffix, (width, height))) in enumerate(cameras.items()):
        shown = kind is not None and number < (len(cameras) + 1) // 2
        dark = np.zeros((height, width), bool)
        if shown:
            y, x = rng.integers(2, height // 2), rng.integers(2, width // 2)
            dark[y : y + height // 3, x : x + width // 3] = True
        write_picture(root / folder / f"{view}{suffix}", (width, height), rng, dark)
        if shown and masks:
            path = root / folder.replace("test/", "ground_truth/") / f"{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dark.astype(np.uint8) * 255).save(path)
