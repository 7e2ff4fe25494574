"""Five kinds of defect on a part: scratch, dent, stain, missing part, foreign object.

Scratch and dent are cut into the solid, so their triangles are known; a foreign object is one more solid; a
missing part is one component less; a stain is a predicate on the part's points. Sizes are mm, `severity` in
[0, 1] runs from subtle to clear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from manifold3d import CrossSection, Manifold, OpType

from mvead_jax.rig.cameras import Rig
from mvead_jax.rig.materials import MATERIALS, noise
from mvead_jax.rig.mesh import Scene, to_mesh
from mvead_jax.rig.parts import Component, Part
from mvead_jax.rig.placement import Anchor, find_anchor, set_on, surface_path

# Colour (linear RGB) and roughness of oil, rust, chalk and ink.
_BLOTS = (
    ((0.030, 0.022, 0.014), 0.16),
    ((0.170, 0.050, 0.014), 0.75),
    ((0.700, 0.690, 0.660), 0.80),
    ((0.025, 0.040, 0.140), 0.45),
)


@dataclass(frozen=True)
class Stain:
    """A blot of `radius` mm around `center` [3] (part frame) with a ragged rim."""

    center: np.ndarray
    radius: float
    opacity: float
    color: tuple[float, float, float]
    roughness: float
    seed: np.ndarray

    def coverage(self, points: np.ndarray) -> np.ndarray:
        """Opacity [n] of the blot at part points [n,3]; exactly 0 outside it."""
        distance = np.linalg.norm(points - np.float32(self.center), axis=1) / np.float32(self.radius)
        near = np.flatnonzero(distance < 1.5)
        ragged = distance[near] + np.float32(0.16) * noise(
            points[near] + np.float32(self.seed), 1.1 * self.radius
        )
        inside = ragged < 1.0
        amount = np.zeros(len(points), np.float32)
        body = 0.6 + 0.4 * np.clip((1.0 - ragged) / 0.3, 0.0, 1.0)
        amount[near] = np.where(inside, self.opacity * body, 0.0)
        return amount

    def apply(self, points, on_part, albedo, metallic, roughness) -> None:
        """Colour the surface values [n,...] in place where the blot lies on the part."""
        amount = self.coverage(points) * on_part
        albedo += amount[:, None] * (np.float32(self.color) - albedo)
        metallic *= 1.0 - amount
        roughness += amount * np.float32(self.roughness - roughness)


@dataclass(frozen=True)
class Defect:
    """The defective part: its components, or a stain on them."""

    components: dict[str, Component]
    stain: Stain | None = None


@dataclass(frozen=True)
class Dice:
    """Random numbers of one attempt, and how large they make a defect.

    severity: 0 subtle to 1 clear; scale: the part's defect scale.
    """

    rng: np.random.Generator
    severity: float
    scale: float

    def share(self, low: float, high: float) -> float:
        """A number that grows with severity from low to high on a logarithmic scale, with some scatter."""
        return float(low * (high / low) ** self.severity * np.exp(self.rng.uniform(-0.15, 0.15)))

    def size(self, low: float, high: float) -> float:
        """Likewise in mm, times the part's scale."""
        return self.scale * self.share(low, high)


def draw_defect(
    kind: str, part: Part, scene: Scene, rotation: np.ndarray, rig: Rig, view: int, dice: Dice
) -> Defect | None:
    """One defect, None if no place was found; all but a missing part lie where `view` sees the part well.

    Args:
      scene: the intact part in the world, component 0 the tray, the rest in the order of `part.components`.
      rotation: the part's rotation [3,3] in the world.
    """
    if kind == "missing":
        name = str(dice.rng.choice(part.removable))
        return Defect({k: c for k, c in part.components.items() if k != name})
    anchor = find_anchor(part, scene, rotation, rig, view, dice.rng)
    if anchor is None:
        return None
    if kind == "stain":
        return Defect(part.components, stain=_stain(anchor, part, dice))
    if kind == "foreign":
        return _foreign(anchor, part, scene, rotation, dice)
    target = part.components[anchor.component]
    cut = _dent(anchor, dice) if kind == "dent" else _scratch(anchor, part, scene, rotation, dice)
    if cut is None:
        return None
    laid_bare = dice.rng.random() < 0.65 + 0.35 * dice.severity
    return Defect(part.components | {anchor.component: _carve(target, cut, laid_bare)})


def _chain(points: np.ndarray, radius: float, segments: int) -> Manifold:
    """Tube of one radius through points [k,3], as one tool."""
    balls = [Manifold.sphere(radius, segments).translate(point) for point in points.tolist()]
    links = [Manifold.batch_hull(pair) for pair in pairwise(balls)]
    return Manifold.batch_boolean(links, OpType.Add).as_original()


def _scratch(anchor: Anchor, part: Part, scene: Scene, rotation: np.ndarray, dice: Dice) -> Manifold | None:
    """A groove along a line on the surface that thins out at both ends."""
    length = dice.share(8.0, 20.0)
    width = dice.size(0.6, 1.1)
    depth = dice.size(0.16, 0.36)
    path = surface_path(anchor, part, scene, rotation, length, dice.rng)
    if path is None:
        return None
    points, normals = path
    radius = (0.25 * width**2 + depth**2) / (2.0 * depth)
    taper = 0.35 + 0.65 * np.sin(np.pi * (np.arange(len(points)) + 0.5) / len(points))
    return _chain(points + (radius - depth * taper)[:, None] * normals, radius, 16)


def _dent(anchor: Anchor, dice: Dice) -> Manifold:
    """A round or oval pit with a spherical floor."""
    radius = dice.size(1.5, 3.4)
    depth = dice.share(0.28, 0.48) * radius
    curve = (radius**2 + depth**2) / (2.0 * depth)
    x = radius * np.linspace(0.0, 1.0, 11)
    floor = curve - depth - np.sqrt(curve**2 - x**2)
    outline = [(float(a), float(b)) for a, b in zip(x, floor, strict=True)]
    outline += [(1.15 * radius, 1.5), (0.0, 1.5)]
    pit = Manifold.revolve(CrossSection([outline]), 32).scale((1.0, float(dice.rng.uniform(0.65, 1.0)), 1.0))
    return set_on(pit, anchor, dice.rng).as_original()


def _carve(target: Component, cut: Manifold, laid_bare: bool) -> Component:
    """`target` with `cut` taken away; the faces that the cut leaves are marked."""
    identity = cut.original_id()
    tools = dict(target.tools) | {identity: target.under if laid_bare else target.material}
    solid = target.solid - cut
    return replace(target, solid=solid, mesh=to_mesh(solid, target.material, tools, frozenset({identity})))


def _stain(anchor: Anchor, part: Part, dice: Dice) -> Stain:
    """Oil, rust, chalk or ink: one that stands out from the material under it and from the part's body."""
    body = next(iter(part.components.values())).material
    under = part.components[anchor.component].material
    tones = np.log([np.mean(MATERIALS[material].color) for material in (body, under)])
    apart = [i for i, (color, _) in enumerate(_BLOTS) if np.abs(np.log(np.mean(color)) - tones).min() > 0.8]
    color, roughness = _BLOTS[dice.rng.choice(apart)]
    radius = dice.size(1.6, 4.2)
    opacity = min(dice.share(0.7, 0.95), 0.97)
    return Stain(anchor.point, radius, opacity, color, roughness, dice.rng.uniform(0.0, 300.0, 3))


def _foreign(anchor: Anchor, part: Part, scene: Scene, rotation: np.ndarray, dice: Dice) -> Defect | None:
    """A bead, a chip, a curl of swarf or a fibre lying on the part."""
    rng = dice.rng
    shape = str(rng.choice(["bead", "chip", "swarf", "fibre"]))
    if shape == "bead":
        radius = dice.size(0.7, 1.8)
        solid, material = set_on(Manifold.sphere(radius, 28), anchor, rng, 0.85 * radius), ("steel", "black")
    elif shape == "chip":
        size = dice.size(1.1, 3.0)
        cloud = rng.normal(0.0, 1.0, (14, 3))
        cloud *= size * np.array([1.0, 0.75, 0.28]) / np.linalg.norm(cloud, axis=1, keepdims=True)
        solid, material = (
            set_on(Manifold.hull_points(cloud), anchor, rng, 0.2 * size),
            ("ivory", "black", "swarf"),
        )
    elif shape == "swarf":
        radius = dice.size(0.7, 1.5)
        turn = np.linspace(0.0, 2.0 * np.pi * rng.uniform(1.2, 2.6), 26)
        coil = np.stack([0.36 * radius * turn, radius * np.cos(turn), radius * np.sin(turn)], axis=1)
        coil -= coil.mean(axis=0)
        tube = _chain(coil, 0.20 * radius, 8)
        solid, material = set_on(tube, anchor, rng, 1.15 * radius), ("swarf", "brass")
    else:
        path = surface_path(anchor, part, scene, rotation, dice.size(6.0, 18.0), rng)
        if path is None:
            return None
        radius = dice.size(0.2, 0.42)
        points = path[0] + radius * path[1]
        solid, material = _chain(points, radius, 8), ("fibre", "black", "lacquer")
    name = str(rng.choice(material))
    mesh = to_mesh(solid, name)
    mesh = replace(mesh, marked=np.ones(len(mesh.faces), bool))
    return Defect(part.components | {"foreign": Component(solid, name, name, mesh)})
