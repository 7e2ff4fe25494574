"""Family "terminal": a moulded five-pole terminal block with slotted screws, brass clamps and levers."""

from __future__ import annotations

from functools import cache

import numpy as np
from manifold3d import CrossSection, Manifold

from mvead_jax.rig.parts import Component, Part, box, component, slotted_screw, turn_z

_POLES = 5
_PITCH = 8.4
_WIDTH = _PITCH * _POLES + 2.0
_ROOF = ((-11.5, 9.5), (-6.0, 18.5))  # (y, z) ends of the sloping roof over the wire entries
_SCREW_Y = -0.6


def _pole(k: int) -> float:
    return _PITCH * (k - (_POLES - 1) / 2.0)


@cache
def _housing() -> Component:
    profile = CrossSection([[
        (-11.5, 0.0), (11.5, 0.0), (11.5, 11.2), (10.9, 11.8), (6.2, 11.8), (4.4, 18.0), (3.8, 18.5),
        _ROOF[1], _ROOF[0],
    ]])  # fmt: skip
    # Extruded along z, then laid down so that the profile's axes are world y and z and it runs along x.
    lay = np.array([[0.0, 0.0, 1.0, -_WIDTH / 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    body = Manifold.extrude(profile, _WIDTH).transform(lay)
    for k in range(_POLES + 1):
        x = _pole(k) - _PITCH / 2.0
        body = body + box((1.1, 2.4, 10.6), (x, -11.7, 5.3)) + box((0.9, 1.0, 10.0), (x, 11.7, 5.2))
    for side in (-1.0, 1.0):
        x = side * _WIDTH / 2.0
        body = body + box((1.6, 3.0, 12.0), (x, -5.0, 6.2)) + box((1.6, 3.0, 9.0), (x, 6.0, 4.7))
        mark = Manifold.cylinder(1.2, 2.3, circular_segments=32, center=True).rotate((0.0, 90.0, 0.0))
        body = body - mark.translate((x, 0.6, 7.0)) - mark.translate((x, -1.2, 13.6))
        body = body - box((0.9, 5.6, 0.9), (x, 0.6, 2.4))
    for k in range(_POLES):
        x = _pole(k)
        mouth = Manifold.batch_hull(
            [box((6.2, 0.2, 6.8), (x, -11.6, 5.0)), box((5.0, 0.2, 5.6), (x, -9.8, 5.0))]
        )
        entry = box((5.0, 8.0, 5.6), (x, -7.6, 5.0))
        well = Manifold.cylinder(6.0, 2.7, circular_segments=36).translate((x, _SCREW_Y, 15.2))
        nest = box((5.2, 3.2, 1.2), (x, 8.6, 11.9))
        probe = (
            Manifold.cylinder(6.0, 0.95, circular_segments=20)
            .rotate((90.0, 0.0, 0.0))
            .translate((x, 13.0, 7.6))
        )
        vent = box((4.6, 2.0, 0.9), (x, 11.6, 3.2))
        for cut in (mouth, entry, well, nest, probe, vent):
            body = body - cut
    return component(body, "green", "whitened")


@cache
def _screw() -> Component:
    return component(slotted_screw(2.45, 2.0, 0.6), "steel", "bare")


@cache
def _clamp() -> Component:
    """Brass cage that one sees through the wire entry; its opening faces -y."""
    cage = box((4.5, 4.0, 5.0), (0.0, 0.0, 0.0)) - Manifold.cylinder(
        9.0, 1.55, circular_segments=28, center=True
    ).rotate((90.0, 0.0, 0.0))
    return component(cage, "brass", "bare")


@cache
def _marker() -> Component:
    tile = box((4.9, 2.9, 1.5), (0.0, 0.0, 0.0)) - box((3.2, 0.5, 0.6), (0.0, 0.0, 0.75))
    return component(tile, "ivory", "black")


@cache
def _lever() -> Component:
    """Release lever, flat on z = 0, its nose along +x."""
    blade = Manifold.batch_hull(
        [box((5.6, 3.6, 0.6), (0.0, 0.0, 0.3)), box((4.4, 3.0, 1.3), (-0.4, 0.0, 0.65))]
    )
    groove = [box((0.5, 5.0, 0.5), (x, 0.0, 1.35)) for x in (-1.6, -0.5, 0.6)]
    for cut in groove:
        blade = blade - cut
    return component(blade, "orange", "whitened")


def build(rng: np.random.Generator) -> Part:
    """One block: screws at any angle, a little deeper or higher; clamps, markers and levers out of line."""
    components = {"housing": _housing()}
    (y0, z0), (y1, z1) = _ROOF
    slope = np.array([0.0, y1 - y0, z1 - z0]) / np.hypot(y1 - y0, z1 - z0)
    outward = np.array([0.0, -slope[2], slope[1]])
    lying = np.stack([slope, np.cross(outward, slope), outward], axis=1)
    for k in range(_POLES):
        x = _pole(k)
        components[f"screw {k}"] = _screw().placed(
            turn_z(rng.uniform(0.0, 180.0)), (x, _SCREW_Y, 15.25 + rng.uniform(0.0, 0.6))
        )
        components[f"clamp {k}"] = _clamp().placed(np.eye(3), (x, -8.0 + rng.uniform(-0.9, 0.9), 5.0))
        components[f"marker {k}"] = _marker().placed(
            turn_z(rng.uniform(-3.2, 3.2)),
            (x + rng.uniform(-0.3, 0.3), 8.6, 12.05 + rng.uniform(-0.1, 0.1)),
        )
        along = 0.5 + rng.uniform(-0.15, 0.15)
        components[f"lever {k}"] = _lever().placed(lying, (x, y0 + along * (y1 - y0), z0 + along * (z1 - z0)))
    removable = tuple(name for name in components if name.startswith(("screw", "clamp", "marker", "lever")))
    # Even plastic shows small defects that cast metal hides.
    return Part(components, removable, defect_scale=0.78)
