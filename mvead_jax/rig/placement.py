"""Where a defect goes: points of a part's surface that some cameras see, lines along it, objects on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from manifold3d import Manifold

from mvead_jax.rig.cameras import Rig
from mvead_jax.rig.mesh import Hits, Scene
from mvead_jax.rig.parts import Part, facing

_TRIES = 256  # random points of which the first good one is taken
_STEP = 0.5  # mm between points of a path on the surface


@dataclass(frozen=True)
class Anchor:
    """A point on the intact part: part-frame point and normal, world point and normal [3], component name."""

    point: np.ndarray
    normal: np.ndarray
    world_point: np.ndarray
    world_normal: np.ndarray
    component: str


def find_anchor(
    part: Part,
    scene: Scene,
    rotation: np.ndarray,
    rig: Rig,
    view: int,
    rng: np.random.Generator,
) -> Anchor | None:
    """A random point that `view` sees well and at least one other camera does not, with nothing facing it."""
    corners = scene.vertices[scene.faces]
    area = 0.5 * np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    area = np.where(scene.component > 0, area, 0.0).astype(np.float64)
    faces = rng.choice(len(area), _TRIES, p=area / area.sum()).astype(np.int32)
    u, v = rng.random((2, _TRIES)).astype(np.float32)
    flip = u + v > 1.0
    hits = Hits(faces, np.where(flip, 1 - u, u), np.where(flip, 1 - v, v))
    points = scene.interpolate(hits, scene.vertices)
    normals = scene.interpolate(hits, scene.normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    toward = np.float32(rig.centers)[None] - points[:, None]  # [tries, V, 3]
    toward /= np.linalg.norm(toward, axis=2, keepdims=True)
    slant = np.einsum("nvj,nj->nv", toward, normals)
    start = np.repeat(points + np.float32(0.05) * normals, len(rig.centers), axis=0)
    hidden = scene.occluded(start, toward.reshape(-1, 3)).reshape(slant.shape)
    sees = (slant > 0.05) & ~hidden
    in_the_open = ~scene.occluded(points + np.float32(0.05) * normals, normals)
    good = sees[:, view] & (slant[:, view] > 0.4) & ~sees.all(axis=1) & (points[:, 2] > 1.0) & in_the_open
    if not good.any():
        return None
    i = int(np.argmax(good))
    names = list(part.components)
    local = scene.interpolate(hits.at(np.array([i])), scene.part)[0]
    name = names[int(scene.component[hits.face[i]]) - 1]
    return Anchor(local, rotation.T @ normals[i], points[i], normals[i], name)


def surface_path(
    anchor: Anchor, part: Part, scene: Scene, rotation: np.ndarray, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and normals [k,3] (part frame) of a slightly bent line on the anchor's component.

    Found by rays cast back onto the surface; the line ends where the surface does. None if under half of
    `length` is left.
    """
    frame = facing(anchor.world_normal, rng.uniform(0.0, 360.0))
    along = np.arange(-0.5 * length, 0.5 * length + 1e-6, _STEP)
    bend = rng.normal(0.0, 0.035) * along**2
    origins = (
        anchor.world_point
        + along[:, None] * frame[:, 0]
        + bend[:, None] * frame[:, 1]
        + 4.0 * anchor.world_normal
    )
    hits = scene.trace(origins, np.broadcast_to(-anchor.world_normal, origins.shape))
    index = list(part.components).index(anchor.component) + 1
    on = (hits.face >= 0) & (scene.component[hits.face] == index)
    safe = Hits(np.where(on, hits.face, 0), hits.u, hits.v)
    points = scene.interpolate(safe, scene.part)
    normals = scene.interpolate(safe, scene.normals)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    on &= np.einsum("nj,j->n", normals, np.float32(anchor.world_normal)) > 0.5
    gap = np.linalg.norm(np.diff(points, axis=0), axis=1) > 2.2 * _STEP
    middle = len(along) // 2
    first = last = middle
    while first > 0 and on[first - 1] and not gap[first - 1]:
        first -= 1
    while last < len(along) - 1 and on[last + 1] and not gap[last]:
        last += 1
    if not on[middle] or (last - first) * _STEP < 0.5 * length:
        return None
    return points[first : last + 1], np.einsum("ij,nj->ni", rotation.T, normals[first : last + 1])


def set_on(solid: Manifold, anchor: Anchor, rng: np.random.Generator, lift: float = 0.0) -> Manifold:
    """`solid` with its z axis along the anchor's normal and its origin `lift` mm over the anchor."""
    place = anchor.point + lift * anchor.normal
    frame = facing(anchor.normal / np.linalg.norm(anchor.normal), rng.uniform(0.0, 360.0))
    return solid.transform(np.concatenate([frame, place[:, None]], axis=1).astype(np.float64))
