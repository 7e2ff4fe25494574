"""Materials and their solid (three-dimensional) textures.

A texture is a function of the hit point in the part's own frame, so it needs no unwrapping and five views see
the same grain. Noise comes from two periodic lattices made once per process: white noise, and fractal noise
whose power falls with frequency so that one look-up gives all octaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.ndimage import map_coordinates

_LATTICE = 64


@dataclass(frozen=True)
class Material:
    """How a surface answers light; colours are linear RGB.

    metallic in [0, 1], between them for coated or soiled metal; roughness in (0, 1]; mottle: relative
    brightness of the fractal texture, `scale` mm per lattice cell; bump: how much the normal wobbles,
    `bump_scale` mm; pattern: "", "turned" (rings around z), "brushed" (lines along x) or "wood".
    """

    color: tuple[float, float, float]
    metallic: float = 0.0
    roughness: float = 0.5
    mottle: float = 0.1
    scale: float = 0.8
    bump: float = 0.0
    bump_scale: float = 0.25
    pattern: str = ""
    accent: tuple[float, float, float] = (0.0, 0.0, 0.0)


MATERIALS: dict[str, Material] = {
    "mat": Material((0.105, 0.115, 0.125), roughness=0.9, mottle=0.05, scale=0.25),
    "cast": Material((0.42, 0.43, 0.45), 1.0, 0.52, 0.09, 0.5, bump=0.12, bump_scale=0.28),
    "anodised": Material((0.035, 0.105, 0.30), 0.85, 0.42, 0.10, 0.9, bump=0.05, bump_scale=0.2),
    "turned": Material((0.72, 0.72, 0.73), 1.0, 0.30, 0.06, 0.6, pattern="turned"),
    "steel": Material((0.58, 0.58, 0.60), 1.0, 0.26, 0.08, 0.5, pattern="brushed"),
    "blackened": Material((0.075, 0.075, 0.08), 0.6, 0.38, 0.12, 0.5, bump=0.03),
    "brass": Material((0.80, 0.56, 0.23), 1.0, 0.36, 0.10, 0.6, pattern="brushed"),
    "rubber": Material((0.42, 0.035, 0.025), roughness=0.45, mottle=0.06, scale=0.5),
    "green": Material(
        (0.060, 0.25, 0.105), roughness=0.42, mottle=0.07, scale=0.9, bump=0.07, bump_scale=0.22
    ),
    "orange": Material((0.62, 0.17, 0.02), roughness=0.4, mottle=0.06, scale=0.9, bump=0.04),
    "ivory": Material((0.62, 0.58, 0.47), roughness=0.45, mottle=0.05, scale=0.9, bump=0.04),
    "wood": Material(
        (0.60, 0.36, 0.175), roughness=0.5, mottle=0.07, scale=0.7, pattern="wood", accent=(0.36, 0.17, 0.065)
    ),
    "lacquer": Material((0.50, 0.035, 0.03), roughness=0.22, mottle=0.05, scale=0.8),
    "bare": Material((0.90, 0.88, 0.84), 0.5, 0.35, 0.15, 0.3),
    "whitened": Material((0.21, 0.33, 0.22), roughness=0.6, mottle=0.15, scale=0.3),
    "splinter": Material((0.80, 0.66, 0.46), roughness=0.7, mottle=0.15, scale=0.3),
    "bore": Material((0.16, 0.085, 0.04), roughness=0.8, mottle=0.15, scale=0.3),
    "swarf": Material((0.70, 0.70, 0.71), 1.0, 0.25, 0.1, 0.4),
    "black": Material((0.02, 0.02, 0.022), roughness=0.4, mottle=0.1),
    "fibre": Material((0.60, 0.60, 0.62), roughness=0.7, mottle=0.1),
}
_NAMES = tuple(MATERIALS)


def material_index(name: str) -> int:
    """Position of a material in the table, as faces keep it."""
    return _NAMES.index(name)


@dataclass(frozen=True)
class Finish:
    """Materials as they came out on one sample: the table with its jitter, and where the noise begins.

    offset [3] in mm; axis [3,3]: rotation of the wood's grain; pith [2]: where the tree's centre was (mm).
    """

    table: tuple[Material, ...]
    offset: np.ndarray
    axis: np.ndarray
    pith: np.ndarray


def draw_finish(rng: np.random.Generator) -> Finish:
    """Colour, gloss and texture of one sample.

    Bounded, as everything that varies here: a few dozen normal samples should span what is normal.
    """
    table = []
    for name in _NAMES:
        material = MATERIALS[name]
        brightness = np.exp(rng.uniform(-0.16, 0.16))
        tint = np.exp(rng.uniform(-0.035, 0.035, 3))
        rough = np.exp(rng.uniform(-0.2, 0.2))
        mottle = np.exp(rng.uniform(-0.3, 0.3))
        table.append(
            replace(
                material,
                color=tuple(np.clip(np.asarray(material.color) * brightness * tint, 0.0, 0.95)),
                accent=tuple(np.asarray(material.accent) * np.exp(rng.uniform(-0.18, 0.18)) * tint),
                roughness=float(np.clip(material.roughness * rough, 0.12, 1.0)),
                mottle=material.mottle * mottle,
                bump=material.bump * mottle,
            )
        )
    yaw, tilt = rng.uniform(-0.14, 0.14), rng.uniform(-0.07, 0.07)
    c, s = np.cos(yaw), np.sin(yaw)
    axis = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    axis = axis @ np.array(
        [[np.cos(tilt), 0.0, -np.sin(tilt)], [0.0, 1.0, 0.0], [np.sin(tilt), 0.0, np.cos(tilt)]]
    )
    angle, far = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(30.0, 44.0)
    pith = far * np.array([np.cos(angle), np.sin(angle)])
    return Finish(tuple(table), rng.uniform(0.0, 500.0, 3), axis, pith)


@cache
def _white() -> np.ndarray:
    return np.random.default_rng(20260101).normal(0.0, 1.0, (_LATTICE,) * 3).astype(np.float32)


@cache
def _fractal() -> np.ndarray:
    """Periodic noise [64,64,64] of unit variance whose amplitude falls as 1/f^1.7: clouds with grain."""
    frequency = np.fft.fftfreq(_LATTICE)
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(frequency, frequency, frequency, indexing="ij")))
    radius[0, 0, 0] = np.inf
    noise = np.fft.ifftn(np.fft.fftn(_white()) * radius**-1.7).real
    return (noise / noise.std()).astype(np.float32)


def noise(points: np.ndarray, scale: float | np.ndarray, fractal: bool = True) -> np.ndarray:
    """Noise of unit variance at points [n,3], `scale` mm per lattice cell (scalar or one per axis)."""
    coordinates = (points / np.asarray(scale, np.float32)).T
    lattice = _fractal() if fractal else _white()
    return map_coordinates(lattice, coordinates, np.float32, order=1, mode="grid-wrap")


def surface(
    points: np.ndarray, normals: np.ndarray, material: np.ndarray, finish: Finish
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Albedo [n,3], metallic [n], roughness [n] and textured unit normals [n,3] at part points [n,3]."""
    albedo = np.empty((len(points), 3), np.float32)
    metallic = np.empty(len(points), np.float32)
    roughness = np.empty(len(points), np.float32)
    bumped = normals.copy()
    for index in np.unique(material):
        here = np.flatnonzero(material == index)
        kind = finish.table[index]
        local = points[here] + np.float32(finish.offset)
        tone = 1.0 + kind.mottle * noise(local, kind.scale)
        color = np.asarray(kind.color, np.float32)[None, :]
        rough = np.full(len(here), kind.roughness, np.float32)
        if kind.pattern == "wood":
            mix, pores = _wood(points[here], finish)
            color = color + mix[:, None] * (np.asarray(kind.accent, np.float32) - color)
            tone = tone - 0.18 * pores
        elif kind.pattern == "turned":
            rings = _turned(points[here], finish)
            tone = tone + 0.10 * rings
            bumped[here] += (0.10 * rings)[:, None] * _radial(points[here])
        elif kind.pattern == "brushed":
            tone = tone + 0.09 * noise(local, (3.0, 0.16, 0.16), fractal=False)
        if kind.bump:
            for axis in range(3):
                shifted = local + np.float32(17.3 * (axis + 1))
                bumped[here, axis] += kind.bump * noise(shifted, kind.bump_scale, fractal=False)
        albedo[here] = np.clip(color * np.clip(tone, 0.15, 2.0)[:, None], 0.003, 0.97)
        metallic[here] = kind.metallic
        roughness[here] = np.clip(rough * (1.0 + 0.5 * (tone - 1.0)), 0.1, 1.0)
    bumped /= np.linalg.norm(bumped, axis=1, keepdims=True)
    return albedo, metallic, roughness, bumped


def _wood(points: np.ndarray, finish: Finish) -> tuple[np.ndarray, np.ndarray]:
    """Latewood share [n] in [0,1] and pores [n] in [0,1] of solid wood whose grain runs along x."""
    grain = np.einsum("ij,nj->ni", np.float32(finish.axis), points)
    shift = np.float32(finish.offset)
    wander = noise(grain + shift, (14.0, 3.2, 3.2))
    radius = np.hypot(grain[:, 1] - np.float32(finish.pith[0]), grain[:, 2] - np.float32(finish.pith[1]))
    phase = np.mod((radius + np.float32(0.55) * wander) / np.float32(1.9), 1.0)
    late = np.clip((phase - 0.25) / 0.6, 0.0, 1.0) ** 2 * np.clip((1.0 - phase) / 0.12, 0.0, 1.0)
    fibre = noise(grain + shift, (4.5, 0.28, 0.28), fractal=False)
    return np.float32(0.5) * late, np.clip(fibre - 1.2, 0.0, 1.0)


def _turned(points: np.ndarray, finish: Finish) -> np.ndarray:
    """Feed marks of a lathe [n], about unit variance: noise that depends on radius and height only."""
    radius = np.hypot(points[:, 0], points[:, 1])
    line = np.stack([radius, points[:, 2], np.zeros_like(radius)], axis=1) + np.float32(finish.offset)
    return noise(line, (0.22, 0.22, 1.0), fractal=False)


def _radial(points: np.ndarray) -> np.ndarray:
    planar = points * np.array([1.0, 1.0, 0.0], np.float32)
    return planar / np.maximum(np.linalg.norm(planar, axis=1, keepdims=True), 1e-3)
