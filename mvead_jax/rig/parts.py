"""What a part is: named components, each a CSG solid with its mesh, and the shapes that parts share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from manifold3d import CrossSection, Manifold

from mvead_jax.rig.mesh import Mesh, refined, to_mesh


@dataclass(frozen=True)
class Component:
    """One solid of a part, in the part frame (mm).

    solid: for further booleans; material: of faces whose tool is not in `tools` (original id -> material);
    under: the material that a scratch lays bare; mesh: triangles of `solid`.
    """

    solid: Manifold
    material: str
    under: str
    mesh: Mesh
    tools: tuple[tuple[int, str], ...] = ()

    def placed(self, rotation: np.ndarray, translation: tuple[float, float, float]) -> Component:
        """The same component turned by `rotation` [3,3] and then moved."""
        matrix = np.concatenate([rotation, np.asarray(translation, np.float64)[:, None]], axis=1)
        turn, move = np.float32(rotation), np.float32(translation)
        mesh = replace(
            self.mesh,
            vertices=np.einsum("ij,nj->ni", turn, self.mesh.vertices) + move,
            normals=np.einsum("ij,nj->ni", turn, self.mesh.normals),
        )
        return replace(self, solid=self.solid.transform(matrix), mesh=mesh)


@dataclass(frozen=True)
class Part:
    """One sample's intact part.

    removable: components whose absence is the defect "missing part"; defect_scale: how much larger than usual
    its defects are.
    """

    components: dict[str, Component]
    removable: tuple[str, ...]
    defect_scale: float = 1.0


def component(solid: Manifold, material: str, under: str, tools: dict[int, str] | None = None) -> Component:
    """Component of a solid, meshed once.

    The solid is kept refined: a later cut then changes the triangles that it touches and no others, and with
    them the light that is kept per vertex.
    """
    tools = tools or {}
    solid = refined(solid)
    return Component(solid, material, under, to_mesh(solid, material, tools), tuple(tools.items()))


def tool(solid: Manifold, material: str, tools: dict[int, str]) -> Manifold:
    """`solid` as one tool whose surface, wherever a boolean leaves it, has `material`; noted in `tools`."""
    single = solid.as_original()
    tools[single.original_id()] = material
    return single


def chamfered_cylinder(radius: float, height: float, chamfer: float, segments: int) -> Manifold:
    """Cylinder on z = 0 with both rims chamfered at 45 degrees."""
    outline = [
        (0.0, 0.0),
        (radius - chamfer, 0.0),
        (radius, chamfer),
        (radius, height - chamfer),
        (radius - chamfer, height),
        (0.0, height),
    ]
    return Manifold.revolve(CrossSection([outline]), segments)


def chamfered_prism(section: CrossSection, height: float, chamfer: float) -> Manifold:
    """Prism of a convex section on z = 0 with its top rim chamfered at 45 degrees."""
    low = Manifold.extrude(section, height - chamfer)
    return Manifold.batch_hull([low, Manifold.extrude(section.offset(-chamfer), height)])


def box(size: tuple[float, float, float], center: tuple[float, float, float]) -> Manifold:
    """Axis-aligned box."""
    return Manifold.cube(size, True).translate(center)


def slotted_screw(radius: float, height: float, slot: float) -> Manifold:
    """Screw head on z = 0 with one straight slot along x."""
    head = chamfered_cylinder(radius, height, 0.12 * radius, 32)
    return head - box((3.0 * radius, slot, 0.8 * height), (0.0, 0.0, height))


def socket_screw(radius: float, height: float) -> Manifold:
    """Cap screw head on z = 0 with a hexagon socket."""
    head = chamfered_cylinder(radius, height, 0.12 * radius, 40)
    return head - Manifold.cylinder(height, 0.55 * radius, circular_segments=6).translate(
        (0.0, 0.0, 0.4 * height)
    )


def turn_z(degrees: float) -> np.ndarray:
    """Rotation [3,3] about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def facing(axis: np.ndarray, spin: float = 0.0) -> np.ndarray:
    """Rotation [3,3] that takes z to the unit vector `axis`, after a turn of `spin` degrees about z."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    side = np.cross(helper, axis)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(axis, side), axis], axis=1) @ turn_z(spin)
