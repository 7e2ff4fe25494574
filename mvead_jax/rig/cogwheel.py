"""Family "cogwheel": a wooden gear with a brass bush, lacquered pegs and dowels in its teeth."""

from __future__ import annotations

from functools import cache

import numpy as np
from manifold3d import CrossSection, Manifold

from mvead_jax.rig.parts import Component, Part, chamfered_cylinder, component, facing, tool, turn_z

_TEETH = 12
_THICKNESS = 10.5
_TIP = 22.6  # mm, outer radius
_PEG_RADIUS = 13.4


def _outline() -> CrossSection:
    tooth = CrossSection([[(16.0, -3.6), (_TIP, -2.1), (_TIP, 2.1), (16.0, 3.6)]])
    section = CrossSection.circle(18.2, 96)
    for k in range(_TEETH):
        section = section + tooth.rotate(360.0 / _TEETH * k)
    return (
        section.offset(-0.7, circular_segments=24)
        .offset(1.4, circular_segments=24)
        .offset(-0.7, circular_segments=24)
    )


@cache
def _wheel() -> Component:
    tools: dict[int, str] = {}
    outline = _outline()
    wheel = Manifold.extrude(outline, _THICKNESS - 1.8).translate((0.0, 0.0, 0.9))
    wheel = wheel + Manifold.extrude(outline, 0.9, scale_top=(0.96, 0.96)).translate(
        (0.0, 0.0, _THICKNESS - 0.9)
    )
    wheel = wheel + Manifold.extrude(outline, 0.9, scale_top=(0.96, 0.96)).rotate(
        (180.0, 0.0, 0.0)
    ).translate((0.0, 0.0, 0.9))
    hub = [(0.0, 0.0), (8.6, 0.0), (8.2, 4.0), (7.2, 10.0), (6.4, 11.6), (5.2, 12.4), (0.0, 12.4)]
    wheel = wheel + Manifold.revolve(CrossSection([hub]), 64).translate((0.0, 0.0, _THICKNESS - 0.5))
    ring = Manifold.revolve(CrossSection.square((0.9, 1.4), True).translate((17.2, _THICKNESS)), 96)
    wheel = wheel - ring
    wheel = wheel - Manifold.cylinder(60.0, 3.9, circular_segments=48).translate((0.0, 0.0, -1.0))
    for k in range(6):
        hole = Manifold.cylinder(30.0, 2.7, circular_segments=32).translate((_PEG_RADIUS, 0.0, -1.0))
        wheel = wheel - hole.rotate((0.0, 0.0, 60.0 * k + 30.0))
        socket = Manifold.cylinder(3.0, 1.75, circular_segments=28).translate(
            (_PEG_RADIUS, 0.0, _THICKNESS - 2.6)
        )
        wheel = wheel - tool(socket.rotate((0.0, 0.0, 60.0 * k)), "bore", tools)
    for k in range(_TEETH):
        drill = (
            Manifold.cylinder(3.2, 1.65, circular_segments=24)
            .rotate((0.0, 90.0, 0.0))
            .translate((_TIP - 3.0, 0.0, 5.2))
        )
        wheel = wheel - tool(drill.rotate((0.0, 0.0, 360.0 / _TEETH * k)), "bore", tools)
    return component(wheel, "wood", "bore", tools)


@cache
def _bush() -> Component:
    tools: dict[int, str] = {}
    bush = chamfered_cylinder(3.8, 23.4, 0.4, 48)
    bush = bush - tool(
        Manifold.cylinder(60.0, 2.3, circular_segments=36).translate((0.0, 0.0, -1.0)), "turned", tools
    )
    return component(bush, "brass", "bare", tools)


@cache
def _peg() -> Component:
    outline = [
        (0.0, 0.0),
        (1.65, 0.0),
        (1.65, 3.4),
        (2.2, 3.6),
        (2.2, 4.4),
        (1.6, 5.3),
        (0.7, 5.7),
        (0.0, 5.75),
    ]
    return component(Manifold.revolve(CrossSection([outline]), 32), "lacquer", "splinter")


@cache
def _dowel() -> Component:
    return component(chamfered_cylinder(1.6, 3.2, 0.3, 28), "lacquer", "splinter")


def build(rng: np.random.Generator) -> Part:
    """One wheel: the bush is pressed in more or less, pegs and dowels stand out by a few tenths."""
    components = {"wheel": _wheel(), "bush": _bush().placed(np.eye(3), (0.0, 0.0, rng.uniform(-0.25, 0.25)))}
    for k in range(6):
        angle = np.deg2rad(60.0 * k)
        place = _PEG_RADIUS * np.array([np.cos(angle), np.sin(angle)])
        components[f"peg {k}"] = _peg().placed(
            turn_z(rng.uniform(0.0, 360.0)), (place[0], place[1], _THICKNESS - 2.3 + rng.uniform(-0.3, 0.3))
        )
    for k in range(_TEETH):
        angle = np.deg2rad(360.0 / _TEETH * k)
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        start = outward * (_TIP - 2.75 + rng.uniform(-0.25, 0.25))
        components[f"dowel {k}"] = _dowel().placed(facing(outward), (start[0], start[1], 5.2))
    removable = tuple(name for name in components if name.startswith(("peg", "dowel")))
    # Grain hides what would stand out on metal or plastic.
    return Part(components, removable, defect_scale=1.5)
