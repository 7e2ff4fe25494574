"""Family "flange": a cast aluminium bearing flange with an anodised collar, cap screws and brass plugs."""

from __future__ import annotations

from functools import cache

import numpy as np
from manifold3d import CrossSection, Manifold

from mvead_jax.rig.parts import (
    Component,
    Part,
    box,
    chamfered_cylinder,
    chamfered_prism,
    component,
    facing,
    slotted_screw,
    socket_screw,
    tool,
    turn_z,
)

_SCREW_RADIUS = 17.8  # mm, pitch circle of the four cap screws
_PLUG_HEIGHT = 16.5


@cache
def _body() -> Component:
    tools: dict[int, str] = {}
    lug = CrossSection.circle(6.2, 40)
    bar = CrossSection.batch_hull([lug.translate((_SCREW_RADIUS, 0.0)), lug.translate((-_SCREW_RADIUS, 0.0))])
    plate = chamfered_prism(CrossSection.circle(17.0, 72), 6.5, 0.8)
    for angle in (0.0, 90.0):
        plate = plate + chamfered_prism(bar, 6.5, 0.8).rotate((0.0, 0.0, angle))
    boss = Manifold.cylinder(18.0, 11.6, 10.0, 72).translate((0.0, 0.0, 5.0))
    ribs = [
        Manifold.hull_points(
            np.array(
                [[9.0, y, z] for y in (-1.1, 1.1) for z in (4.0, 17.0)]
                + [[17.4, y, 4.0] for y in (-1.1, 1.1)]
                + [[16.6, y, 7.5] for y in (-1.1, 1.1)]
            )
        ).rotate((0.0, 0.0, 45.0 + 90.0 * k))
        for k in range(4)
    ]
    body = plate + boss
    for rib in ribs:
        body = body + rib
    for k in range(4):
        seat = Manifold.cylinder(4.0, 4.0, circular_segments=40).translate((_SCREW_RADIUS, 0.0, 5.2))
        hole = Manifold.cylinder(20.0, 1.6, circular_segments=24).translate((_SCREW_RADIUS, 0.0, -1.0))
        plug = Manifold.cylinder(6.0, 2.3, circular_segments=32).rotate((0.0, 90.0, 0.0))
        plug = plug.translate((7.0, 0.0, _PLUG_HEIGHT))
        drill = Manifold.cylinder(5.0, 1.7, circular_segments=28).rotate((0.0, 90.0, 0.0))
        drill = drill.translate((14.0, 0.0, 3.0)).rotate((0.0, 0.0, 45.0))
        for cut, material in ((seat, "turned"), (hole, "turned"), (plug, "turned"), (drill, "blackened")):
            body = body - tool(cut.rotate((0.0, 0.0, 90.0 * k)), material, tools)
    face = box((40.0, 40.0, 6.0), (0.0, 0.0, 25.6))
    bore = Manifold.cylinder(60.0, 5.6, circular_segments=64).translate((0.0, 0.0, -1.0))
    step = Manifold.cylinder(20.0, 7.4, circular_segments=64).translate((0.0, 0.0, 19.2))
    for cut in (face, bore, step):
        body = body - tool(cut, "turned", tools)
    return component(body, "cast", "bare", tools)


@cache
def _collar() -> Component:
    """A knurled anodised ring around the foot of the boss."""
    ring = chamfered_cylinder(12.9, 3.4, 0.5, 96) - Manifold.cylinder(
        9.0, 11.5, circular_segments=72
    ).translate((0, 0, -1))
    cuts = [
        Manifold.cylinder(9.0, 0.42, circular_segments=8)
        .translate((13.0, 0.0, -1.0))
        .rotate((0.0, 0.0, 10.0 * k))
        for k in range(36)
    ]
    for cut in cuts:
        ring = ring - cut
    return component(ring, "anodised", "bare")


@cache
def _gasket() -> Component:
    ring = Manifold.revolve(CrossSection.circle(0.95, 16).translate((6.5, 0.0)), 64)
    return component(ring.translate((0.0, 0.0, 20.1)), "rubber", "black")


@cache
def _cap_screw() -> Component:
    return component(socket_screw(2.9, 2.6), "blackened", "bare")


@cache
def _plug() -> Component:
    return component(slotted_screw(2.15, 1.8, 0.55), "brass", "bare")


def build(rng: np.random.Generator) -> Part:
    """One flange: screws and plugs stand at any angle and a little deeper or higher, the collar is turned."""
    components = {"body": _body(), "gasket": _gasket()}
    components["collar"] = _collar().placed(turn_z(rng.uniform(0.0, 10.0)), (0.0, 0.0, 6.4))
    for k in range(4):
        angle = np.deg2rad(90.0 * k)
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        place = outward * _SCREW_RADIUS
        components[f"screw {k}"] = _cap_screw().placed(
            turn_z(rng.uniform(0.0, 60.0)), (place[0], place[1], 5.25 + rng.uniform(-0.1, 0.15))
        )
        start = outward * (9.1 + rng.uniform(-0.2, 0.2))
        components[f"plug {k}"] = _plug().placed(
            facing(outward, rng.uniform(-60.0, 60.0)), (start[0], start[1], _PLUG_HEIGHT)
        )
    removable = tuple(name for name in components if name.startswith(("screw", "plug")))
    return Part(components, removable)
