"""Light: soft boxes over the tray, baked once per vertex for diffuse light, analytic for gloss.

The environment is a sum of spherical Gaussians a exp(k (d·l - 1)) (the soft boxes) and a dim dome. Diffuse
light does not depend on the view, so five views share one bake: rays from every vertex along one fixed set of
directions give soft shadow and ambient occlusion together, free of grain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvead_jax.rig.mesh import Hits, Scene

_DIRECTIONS = 96
_OFFSET = 2e-2  # mm off the surface, so that a ray does not hit its own triangle


def _sky_directions() -> np.ndarray:
    """Fixed directions [n,3] spread evenly over the upper half sphere (Fibonacci lattice)."""
    i = np.arange(_DIRECTIONS)
    z = (i + 0.5) / _DIRECTIONS
    angle = np.pi * (1.0 + np.sqrt(5.0)) * i
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1).astype(np.float32)


_SKY = _sky_directions()


@dataclass(frozen=True)
class Light:
    """Soft boxes (unit direction [n,3], sharpness [n], strength [n]), radiance of the dome, tint [3]."""

    direction: np.ndarray
    sharpness: np.ndarray
    strength: np.ndarray
    dome: float
    tint: np.ndarray


def draw_light(rng: np.random.Generator) -> Light:
    """Four soft boxes between the side cameras and one overhead, as they burn for one sample."""
    azimuth = np.deg2rad(np.array([45.0, 135.0, 225.0, 315.0, 60.0]) + rng.uniform(-8.0, 8.0, 5))
    elevation = np.deg2rad(np.array([48.0, 44.0, 40.0, 44.0, 82.0]) + rng.uniform(-5.0, 5.0, 5))
    direction = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=1
    )
    strength = np.array([5.2, 1.9, 0.9, 2.2, 1.1]) * np.exp(rng.uniform(-0.26, 0.26, 5))
    sharpness = np.array([14.0, 14.0, 12.0, 14.0, 10.0])
    dome = 0.20 * float(np.exp(rng.uniform(-0.17, 0.17)))
    tint = np.exp(rng.uniform(-0.04, 0.04, 3))
    return Light(
        *(np.float32(v) for v in (direction, sharpness, strength)), dome, np.float32(tint / tint.mean())
    )


def radiance(light: Light, directions: np.ndarray, roughness: np.ndarray | None = None) -> np.ndarray:
    """Light [n] that arrives along directions [n,3], blurred by a gloss lobe of the given roughness [n]."""
    up = directions[:, 2]
    total = np.float32(light.dome) * np.where(up > 0.0, 0.35 + 0.65 * up, 0.55 - 0.2 * up).astype(np.float32)
    lobe = None if roughness is None else 0.5 / np.maximum(roughness, 0.05) ** 4
    for direction, sharpness, strength in zip(light.direction, light.sharpness, light.strength, strict=True):
        wide = sharpness if lobe is None else sharpness * lobe / (sharpness + lobe)
        cosine = np.einsum("nj,j->n", directions, direction)
        total += strength * (wide / sharpness) * np.exp(wide * (cosine - 1.0))
    return total


class DiffuseLight:
    """Diffuse light and openness per vertex of a scene, found when a ray first needs them.

    light = (1/π) Σ visible · cosine · radiance · dω over directions of dω = 2π / their number, and a little
    that the surroundings throw back; openness = share of the cosine-weighted sky that is visible.
    """

    def __init__(self, scene: Scene, light: Light):
        self._scene, self._light = scene, light
        self._sky = radiance(light, _SKY)
        # Columns: light, openness. What stands on the tray must not start inside it.
        self._values = np.zeros((len(scene.vertices), 2), np.float32)
        self._known = np.zeros(len(scene.vertices), bool)
        self._start = scene.vertices + np.float32(_OFFSET) * scene.normals
        self._start[:, 2] = np.maximum(self._start[:, 2], np.float32(2.0 * _OFFSET))

    def at(self, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """Diffuse light and openness, both [n], at hits (every ray must have hit something)."""
        wanted = np.zeros(len(self._known), bool)
        wanted[self._scene.faces[hits.face].ravel()] = True
        self._bake(np.flatnonzero(wanted & ~self._known))
        values = self._scene.interpolate(hits, self._values)
        return values[:, 0], values[:, 1]

    def _bake(self, vertices: np.ndarray) -> None:
        normals = self._scene.normals[vertices]
        cosine = np.maximum(np.einsum("nj,dj->nd", normals, _SKY), 0.0)
        row, ray = np.nonzero(cosine > 0.02)
        weight = cosine[row, ray]
        seen = weight * ~self._scene.occluded(self._start[vertices[row]], _SKY[ray])
        count = len(vertices)
        diffuse = np.bincount(row, seen * self._sky[ray], count) * (2.0 / _DIRECTIONS)
        openness = np.bincount(row, seen, count) / np.maximum(np.bincount(row, weight, count), 1e-6)
        # Light thrown back by the tray and the neighbours reaches what faces down or lies in a recess.
        below = 0.5 * (1.0 - normals[:, 2])
        bounce = self._light.dome * (0.35 + 0.65 * openness) * (0.25 + 0.55 * below)
        self._values[vertices] = np.stack([diffuse + bounce, openness], axis=1)
        self._known[vertices] = True
