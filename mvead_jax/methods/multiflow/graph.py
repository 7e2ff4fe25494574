"""Which views send messages to which: the graph of Multi-Flow, as data.

A view takes its own prediction plus the mean of the messages that arrive from other views (released code:
for the camera above 1/4 of the sum over four sides, for a side camera 1/3 of the sum over the camera above
and its two neighbours on the ring). When a view is missing, its messages are left out of that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mvead_jax.runtime.errors import UserError

NAMES = ("auto", "top-ring", "complete", "chain", "none")
_LEAST_TOP = 80.0  # degrees of elevation from which on a camera looks from above


@dataclass(frozen=True)
class Graph:
    """Directed edges between views.

    Attributes:
      views: how many views there are, numbered from 0.
      edges: (source, target) of each message, sorted; no view sends a message to itself.
    """

    views: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self):
        if self.views < 1:
            raise ValueError(f"a graph of {self.views} views")
        if self.edges != tuple(sorted(set(self.edges))):
            raise ValueError(f"edges {self.edges} are not sorted, or one stands there twice")
        for source, target in self.edges:
            if source == target or not {source, target} <= set(range(self.views)):
                raise ValueError(f"edge {source}>{target} in a graph of {self.views} views")

    def incoming(self, view: int) -> tuple[int, ...]:
        """Return the positions in `edges` of the messages that arrive at a view."""
        return tuple(at for at, (_, target) in enumerate(self.edges) if target == view)


def message_weights(
    graph: Graph, present: Bool[Array, " V"] | None = None, dtype: jnp.dtype = jnp.float32
) -> Float[Array, " E"]:
    """Return the factor of each edge's message: 1 over the number of messages that arrive at its target.

    Args:
      present: views that the sample has; the messages of the others get 0 and are not counted. None: all.
      dtype: of the result.
    """
    sources, targets = np.array(graph.edges, int).reshape(-1, 2).T
    sent = jnp.ones(len(sources), bool) if present is None else jnp.asarray(present)[sources]
    sent = sent.astype(dtype)
    arriving = jnp.zeros(graph.views, dtype).at[targets].add(sent)
    return sent / jnp.maximum(arriving[targets], 1)


def complete(views: int) -> Graph:
    """Return the graph in which every view sends a message to every other view."""
    return _both_ways(views, ((a, b) for a in range(views) for b in range(a)))


def chain(views: int) -> Graph:
    """Return the graph in which every view exchanges messages with the views before and after it."""
    return _both_ways(views, ((view - 1, view) for view in range(1, views)))


def unconnected(views: int) -> Graph:
    """Return the graph without messages: an independent flow for every view."""
    return Graph(views, ())


def top_ring(views: int, top: int = 0, ring: Sequence[int] | None = None) -> Graph:
    """Return the paper's graph: one camera above, which exchanges messages with all others, and a ring.

    Args:
      views: how many views there are.
      top: the view from above.
      ring: the other views in their order around the part; None: in their own order. The last one is the
        neighbour of the first one.
    """
    ring = [view for view in range(views) if view != top] if ring is None else list(ring)
    if sorted([top, *ring]) != list(range(views)):
        raise ValueError(f"top {top} and ring {ring} are not the {views} views, each once")
    around = [(ring[at - 1], ring[at]) for at in range(len(ring)) if len(ring) > 1]
    return _both_ways(views, [*((top, side) for side in ring), *around])


def nominal_graph(elevations: Sequence[float], azimuths: Sequence[float]) -> Graph:
    """Return the graph that fits a rig: `top_ring` if exactly one camera looks from above, else `complete`.

    Args:
      elevations: of each camera as seen from the part, in degrees; a camera above the part has 90.
      azimuths: of each camera, in degrees; they order the cameras of the ring.
    """
    above = [view for view, angle in enumerate(elevations) if angle >= _LEAST_TOP]
    if len(above) != 1:
        return complete(len(elevations))
    others = [view for view in range(len(elevations)) if view != above[0]]
    # Sorted by the angle in one turn; of equal angles the lower view comes first.
    return top_ring(len(elevations), above[0], sorted(others, key=lambda view: (azimuths[view] % 360, view)))


def named_graph(
    name: str,
    views: Sequence[str],
    elevations: Sequence[float] | None = None,
    azimuths: Sequence[float] | None = None,
) -> Graph:
    """Return the graph that a config names.

    Args:
      name: one of `NAMES`, or edges between views by their names, separated by commas: "C1>C2,C2<>C3"
        (C1 sends a message to C2; C2 and C3 send one to each other). `auto` is `nominal_graph` where
        angles are given and `complete` where they are not; `top-ring` takes the ring's order from the angles
        where they are given, else the first view is the one from above.
      views: names of the views, in the order of the arrays' axis.
      elevations, azimuths: of the rig's nominal cameras in degrees, or None.

    Raises:
      UserError: no such graph, no such view, or angles that do not fit `top-ring`.
    """
    count = len(views)
    simple = {"complete": complete, "chain": chain, "none": unconnected}
    if name in simple:
        return simple[name](count)
    if name in ("auto", "top-ring"):
        known = elevations is not None and azimuths is not None
        if not known:
            return complete(count) if name == "auto" else top_ring(count)
        above = sum(angle >= _LEAST_TOP for angle in elevations)
        if name == "top-ring" and above != 1:
            raise UserError(
                f"config multiflow.graph='top-ring': {above} of {count} cameras have an elevation of at "
                f"least {_LEAST_TOP:g} degrees and one should; take complete or list the edges"
            )
        return nominal_graph(elevations, azimuths)
    return _listed(name, views)


def _listed(text: str, views: Sequence[str]) -> Graph:
    """Return the graph of a list of edges, as `named_graph` takes it."""
    problem = f"config multiflow.graph={text!r}:"
    if ">" not in text:
        raise UserError(f"{problem} expected one of {', '.join(NAMES)}, or edges such as C1>C2,C2<>C3")
    edges = set()
    for part in (part.strip() for part in text.split(",")):
        both = "<>" in part
        ends = [end.strip() for end in part.split("<>" if both else ">")]
        if len(ends) != 2:
            raise UserError(f"{problem} {part!r} is no edge; write C1>C2 or C1<>C2")
        for end in ends:
            if end not in views:
                raise UserError(f"{problem} there is no view {end!r}; the views are {', '.join(views)}")
        source, target = map(list(views).index, ends)
        if source == target:
            raise UserError(f"{problem} {part!r} is a message of a view to itself; leave it out")
        edges |= {(source, target), (target, source)} if both else {(source, target)}
    return Graph(len(views), tuple(sorted(edges)))


def _both_ways(views: int, pairs) -> Graph:
    return Graph(views, tuple(sorted({edge for a, b in pairs for edge in ((a, b), (b, a))})))
