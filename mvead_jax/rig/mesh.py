"""Triangles: CSG solids to meshes with normals and materials, and a scene that rays can hit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from manifold3d import Manifold

from mvead_jax.rig.materials import material_index

_SHARP = 32.0  # degrees: steeper edges keep one normal per side
_EDGE = 2.6  # mm: longer edges are split, because light is kept per vertex


@dataclass(frozen=True)
class Mesh:
    """Triangles of one component in the part frame (mm).

    vertices, normals float32 [n,3]; faces int32 [m,3]; material int16 [m] index into the material table;
    marked bool [m]: the face belongs to a defect.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    marked: np.ndarray


def refined(solid: Manifold) -> Manifold:
    """The same solid with no edge longer than light kept per vertex allows."""
    return solid.refine_to_length(_EDGE)


def to_mesh(
    solid: Manifold,
    material: str,
    tools: dict[int, str] | None = None,
    defect_tools: frozenset[int] = frozenset(),
) -> Mesh:
    """Mesh of a CSG solid; every triangle knows the tool it came from.

    Args:
      solid: the result of any booleans.
      material: name of the material of every face whose tool is not listed.
      tools: original id of a tool -> material of the surface that it left.
      defect_tools: original ids of tools that made a defect; their faces are marked.
    """
    mesh = refined(solid.calculate_normals(0, _SHARP)).to_mesh()
    values = np.asarray(mesh.vert_properties, dtype=np.float32)
    faces = np.asarray(mesh.tri_verts).astype(np.int32)
    runs = np.diff(np.asarray(mesh.run_index, dtype=np.int64)) // 3
    tool = np.repeat(np.asarray(mesh.run_original_id, dtype=np.int64), runs)
    indices = np.full(len(faces), material_index(material), np.int16)
    for identity, name in (tools or {}).items():
        indices[tool == identity] = material_index(name)
    marked = np.isin(tool, list(defect_tools)) if defect_tools else np.zeros(len(faces), bool)
    return Mesh(
        np.ascontiguousarray(values[:, :3]), np.ascontiguousarray(values[:, 3:6]), faces, indices, marked
    )


@dataclass(frozen=True)
class Hits:
    """First hits of n rays: face int32 (-1: nothing), barycentric u, v of corners 1 and 2."""

    face: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def at(self, rays: np.ndarray) -> Hits:
        """The hits of some rays: indices or a mask."""
        return Hits(self.face[rays], self.u[rays], self.v[rays])


class Scene:
    """Components placed in the world, one list of triangles, hit by rays.

    `part` [n,3] are vertex positions in their own frame (textures hang on them), `vertices`, `normals` [n,3]
    are in the world; `component` int16 [m] tells which mesh a face came from.
    """

    def __init__(self, meshes: list[Mesh], poses: list[tuple[np.ndarray, np.ndarray]]):
        starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
        self.part = np.concatenate([mesh.vertices for mesh in meshes])
        placed, turned = [], []
        for mesh, (rotation, translation) in zip(meshes, poses, strict=True):
            placed.append(_apply(rotation, mesh.vertices) + np.float32(translation))
            turned.append(_apply(rotation, mesh.normals))
        self.vertices = np.concatenate(placed).astype(np.float32)
        self.normals = np.concatenate(turned).astype(np.float32)
        self.faces = np.concatenate([m.faces + np.int32(s) for m, s in zip(meshes, starts[:-1], strict=True)])
        self.material = np.concatenate([mesh.material for mesh in meshes])
        self.marked = np.concatenate([mesh.marked for mesh in meshes])
        counts = [len(mesh.faces) for mesh in meshes]
        self.component = np.repeat(np.arange(len(meshes), dtype=np.int16), counts)
        self._embree = EmbreeScene(robust=True)
        self._mesh = TriangleMesh(self._embree, self.vertices, self.faces)

    def trace(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from origins [n,3] along directions [n,3]."""
        out = self._embree.run(_float32(origins), _float32(directions), output=1)
        return Hits(out["primID"], out["u"], out["v"])

    def occluded(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """bool [n]: does anything lie on the ray."""
        return self._embree.run(_float32(origins), _float32(directions), query="OCCLUDED") == 0

    def interpolate(self, hits: Hits, values: np.ndarray) -> np.ndarray:
        """Per-vertex values [vertices, ...] at the hits; every ray must have hit something."""
        corners = self.faces[hits.face]
        shape = (-1,) + (1,) * (values.ndim - 1)
        u, v = hits.u.reshape(shape), hits.v.reshape(shape)
        a, b, c = (values[corners[:, i]] for i in range(3))
        return a + u * (b - a) + v * (c - a)


def _apply(rotation: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("ij,nj->ni", np.float32(rotation), points)


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)
