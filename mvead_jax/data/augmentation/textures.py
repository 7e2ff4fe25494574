"""Textures that stand for foreign material: drawn by formulas, so that nothing is downloaded, or from a folder.

A source of textures is a function (size, generator) -> float32 [size,size,3] of 0 to 1, RGB. Both sources can be handed
to worker processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float32
from scipy.spatial import cKDTree

from mvead_jax.data.augmentation.perlin import perlin_noise
from mvead_jax.data.bit_depth import own_bit_depth
from mvead_jax.data.digests import read_digests
from mvead_jax.data.images import open_image
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Source(Protocol):
    """Gives a texture of a size."""

    def __call__(self, size: int, generator: np.random.Generator) -> Float32[np.ndarray, "size size 3"]: ...


def procedural(size: int, generator: np.random.Generator) -> Float32[np.ndarray, "size size 3"]:
    """Return stripes, tiles, marble, cells or grain in two random colours, a little uneven."""
    kind = _FIELDS[generator.integers(len(_FIELDS))]
    field = np.clip(kind(size, generator), 0, 1)[..., None]
    colours = generator.uniform(0, 1, (2, 3))
    texture = colours[0] * (1 - field) + colours[1] * field
    texture += generator.normal(0, generator.uniform(0.01, 0.08), (size, size, 1))
    return np.clip(texture, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Folder:
    """Textures from images, each resized to the size that is asked for. Attributes: paths: of the images."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> Folder:
        """Return the images in a folder and below it, by name. Raises UserError: no such folder, or no image there."""
        fix = f"give a folder of textures ({', '.join(_SUFFIXES)})"
        if not folder.is_dir():
            raise UserError(f"{folder}: {'not a' if folder.exists() else 'no such'} folder; {fix}")
        found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        paths = sorted(path for path in found if path.is_file())
        if not paths:
            raise UserError(f"{folder}: no image there; {fix}")
        return cls(tuple(paths))

    def digest(self, folder: Path) -> str:
        """Return a SHA-256 of names and bytes. Raises DataProblems: files that cannot be read.

        Args: folder: that was given to `of`.
        """
        names = [path.relative_to(folder).as_posix() for path in self.paths]
        pairs = list(zip(names, read_digests(folder, names), strict=True))
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    def __call__(self, size: int, generator: np.random.Generator) -> Float32[np.ndarray, "size size 3"]:
        """Return one of the images at random. Raises UserError: it cannot be read."""
        path = self.paths[generator.integers(len(self.paths))]
        levels = np.asarray(open_image(path, own_bit_depth(path)), np.float32)
        return np.clip(cv2.resize(levels / 255, (size, size), interpolation=cv2.INTER_AREA), 0, 1)


def source_of(folder: str) -> Source:
    """Return the source that a config names: the images of a folder, or formulas where it names none."""
    return Folder.of(expanded(folder)) if folder else procedural


def digest_of(folder: str) -> str | None:
    """Return the digest of the source that a config names; None of formulas. Raises UserError as `Folder`."""
    return Folder.of(path := expanded(folder)).digest(path) if folder else None


# ---- fields of about 0 to 1


def _turned(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixel places along two axes at right angles, turned at random."""
    angle = generator.uniform(0, np.pi)
    row, column = np.mgrid[0:size, 0:size] / size
    return row * np.cos(angle) + column * np.sin(angle), column * np.cos(angle) - row * np.sin(angle)


def _stripes(size: int, generator: np.random.Generator) -> np.ndarray:
    along, across = _turned(size, generator)
    waves = generator.uniform(3, 30)
    bend = generator.uniform(0, 0.1) * np.sin(2 * np.pi * generator.uniform(1, 4) * across)
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves * (along + bend))


def _tiles(size: int, generator: np.random.Generator) -> np.ndarray:
    along, across = _turned(size, generator)
    down, right = generator.uniform(3, 20, 2)
    return ((np.floor(along * down) + np.floor(across * right)) % 2).astype(float)


def _marble(size: int, generator: np.random.Generator) -> np.ndarray:
    field = np.zeros((size, size))
    for octave in range(1, 6):
        field += perlin_noise(size, (2**octave, 2**octave), generator) / 2**octave
    return 0.5 + 0.5 * np.sin(generator.uniform(4, 16) * field)


def _cells(size: int, generator: np.random.Generator) -> np.ndarray:
    centres = generator.uniform(0, size, (int(generator.integers(10, 120)), 2))
    places = np.stack(np.mgrid[0:size, 0:size], -1).reshape(-1, 2)
    near = cKDTree(centres).query(places, 2)[0]
    edge = (near[:, 1] - near[:, 0]) / (near[:, 1] + near[:, 0] + 1e-9)
    return np.sqrt(edge).reshape(size, size)


def _grain(size: int, generator: np.random.Generator) -> np.ndarray:
    field = cv2.GaussianBlur(
        generator.standard_normal((size, size)), (0, 0), float(generator.uniform(0.6, 3))
    )
    return 0.5 + 0.25 * field / field.std()


_FIELDS = (_stripes, _tiles, _marble, _cells, _grain)
