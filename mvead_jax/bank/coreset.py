"""Greedy k-centre coresets: few rows of a bank such that every row is near one of them, exactly and fast.

Each step takes the row that is farthest from all taken so far (Gonzalez 1985, Sener and Savarese 2018; the
subsampling of PatchCore, Roth et al. 2022). Step by step that is a pass over all points for each row taken.
Here a block of steps shares one pass:

  1. Candidates are the points with the largest distances. Steps are replayed among them alone, for as long as
     the best of them is at least as far as the worst was at first: the points outside only come nearer, so
     none of them can be the next.
  2. All points meet the rows taken by one matrix product, |x-c|^2 = |x|^2 + |c|^2 - 2 x.c, whose rounding is
     bounded. Only pairs whose lower bound is below the point's distance are compared, by direct float32
     differences: over a whole selection a point meets some ten rows that way.

So distances are those of direct differences, and the sequence is that of the plain greedy loop: the block
sizes decide the time only. Ties go to the lowest index.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from mvead_jax.bank.search.bounds import slack as slack_of
from mvead_jax.bank.search.projection import Slabs, origin_of, projected
from mvead_jax.bank.search.rows import Rows
from mvead_jax.runtime.progress import progress

log = logging.getLogger(__name__)

_CANDIDATES = 1024
_STEPS = (16, 256)  # the most steps of a block: the smaller one where steps soon leave the candidates
_TILE = 2048  # points in one matrix product
_COMPARED = 256  # points compared directly at a time
_TAKEN = -1.0  # distance of a row that was taken: below that of every other


def greedy_coreset(
    features: Rows, size: int, *, seed: int, projection_dim: int | None = 128
) -> Int[np.ndarray, " size"]:
    """Return the indices of a greedy k-centre coreset, in the order they were taken.

    Args:
      features: finite [n,D] of any float type: an array, a memory-mapped one, or what reads its slices. It is
        never copied as a whole.
      size: how many rows to take. All n, in their order, if it is n or more.
      seed: the first row (drawn evenly; it belongs to the selection) and the projection follow from it.
      projection_dim: distances are those of a random projection to so many dimensions, held as n x
        projection_dim float32 (9.3 million rows at 128: 4.8 GB). None, or a width no larger: of the features
        as they are, which are read again, slab by slab, for every block of up to 256 rows taken.
        The projection's selection leaves a somewhat larger radius in the features (tests: within 5 % on
        gaussians, 12 % on clusters); None takes several times as long.

    Returns:
      Distinct indices: copies of rows taken are taken last, the lowest index first. The first k are the
      selection for size k.

    Raises:
      ValueError: not [n,D] with a row, or size below 1.
      NotFinite: features that are not finite, or beyond 1e15; a ValueError that names the row.
    """
    if len(features.shape) != 2 or 0 in features.shape:
        raise ValueError(f"features {features.shape} must be [n,D] with at least one row")
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    if projection_dim is not None and projection_dim < 1:
        raise ValueError(f"projection_dim={projection_dim} must be at least 1, or None")
    rows, width = features.shape
    slabs = Slabs.of(features)
    if size >= rows:
        slabs.check()
        return np.arange(rows)
    dimension = width if projection_dim is None else min(projection_dim, width)
    held = 4e-6 * rows * dimension if dimension < width else 4e-6 * slabs.height * dimension
    log.info(
        "coreset: %d of %d rows, %d wide, compared in %d dimensions, %.1f MB",
        *(size, rows, width, dimension, held),
    )
    if dimension < width:
        points, origin = list(projected(slabs, dimension, seed)), np.zeros(dimension, np.float32)
    else:
        slabs.check()
        points, origin = slabs, origin_of(features)
    return select(points, rows, size, origin, first=first_row(rows, seed))


def first_row(rows: int, seed: int) -> int:
    """Return the row that a selection starts with."""
    return int(np.random.default_rng([seed, 0]).integers(rows))


def select(
    slabs: Sequence[Float32[Array, "height d"]],
    rows: int,
    size: int,
    origin: Float32[np.ndarray, " d"],
    first: int,
) -> Int[np.ndarray, " size"]:
    """Return the greedy selection among points in slabs of equal height.

    Args:
      slabs: finite points; those beyond `rows` are only there to fill the last slab.
      size: below `rows`.
      origin: what the matrix products subtract from points and rows; near the points, it makes bounds tight.
      first: the row to start with.
    """
    height = slabs[0].shape[0]
    candidates = min(_CANDIDATES, height)
    least = [_first_distances(height, min(rows - at * height, height)) for at in range(len(slabs))]
    centres, taken, chosen = slabs[first // height][first % height][None], np.array([first]), []
    seconds = _seconds_of_a_block(slabs[0], least[0], origin, candidates) * len(slabs)
    log.info("coreset: at least %.0f s", seconds * size / _STEPS[-1])
    with progress("coreset", size, "rows") as bar:
        while True:
            chosen.append(taken)
            bar.advance(len(taken))
            left = size - sum(map(len, chosen))
            if not left:
                return np.concatenate(chosen).astype(np.int64)
            found = []
            for number, points in enumerate(slabs):
                padded, places = _padded(centres, taken - number * height)
                least[number], *own = _advance(
                    points, least[number], padded, places, origin, len(taken), candidates
                )
                found.append(own)
                jax.block_until_ready(own)  # so that an interrupt is answered here
            values, index = _farthest(found, height, candidates)
            near = _gather(slabs, index)
            places = np.asarray(_replay(near, values, index, min(left, _STEPS[-1]), _STEPS[-1]))
            places = places[places >= 0]
            centres, taken = near[places], np.asarray(index)[places]


def _padded(
    centres: Float32[Array, "k d"], places: Int[np.ndarray, " k"]
) -> tuple[Float32[np.ndarray, "m d"], Int32[np.ndarray, " m"]]:
    """Return rows taken and their places, filled up to one of the numbers of steps that are compiled."""
    steps = next(steps for steps in _STEPS if len(places) <= steps)
    lacking = steps - len(places)
    filled = np.pad(np.asarray(centres), ((0, lacking), (0, 0)))
    return filled, np.pad(places, (0, lacking), constant_values=-1).astype(np.int32)


def _first_distances(height: int, rows: int) -> Float32[Array, " height"]:
    return jnp.where(jnp.arange(height) < rows, jnp.inf, _TAKEN).astype(jnp.float32)


def _seconds_of_a_block(points, least, origin, candidates) -> float:
    """Return the time that a block of steps takes on one slab, by doing it once.

    Compiles all numbers of steps before, so that nothing is left to compile when the selection is announced.
    """
    for steps in _STEPS:
        centres, places = np.zeros((steps, points.shape[1]), np.float32), np.full(steps, -1, np.int32)
        for _ in range(2):
            begin = time.monotonic()
            jax.block_until_ready(_advance(points, least, centres, places, origin, 0, candidates))
    return time.monotonic() - begin


@partial(jax.jit, static_argnames="candidates")
def _advance(points, least, centres, places, origin, used, candidates):
    """Return squared distances to the nearest row taken, after the first `used` of `centres` [m,d] too.

    Args:
      points: [height,d]. least: [height], before.
      places: [m] of the centres among the points; outside 0..height-1: in another slab.

    Returns:
      The distances, the largest `candidates` of them, and their places; the lowest places on ties.
    """
    least = _nearer(points, least, centres, origin, used)
    inside = (places >= 0) & (places < len(points)) & (jnp.arange(len(places)) < used)
    least = least.at[jnp.where(inside, places, len(points))].set(_TAKEN, mode="drop")
    return least, *jax.lax.top_k(least, candidates)


def _nearer(points, least, centres, origin, used):
    """Return `least` lowered by those centres that are nearer. Bounds leave out |x|^2 and are halved."""
    slack = slack_of(points.shape[1])
    centred = centres - origin[None]
    bias = (0.5 - slack) * jnp.sum(centred * centred, -1)
    bias = jnp.where(jnp.arange(len(centres)) < used, bias, jnp.inf)

    def bounds(x):  # [m,n]
        products = jax.lax.dot_general(centred, x, (((1,), (1,)), ((), ())), precision="highest")
        return bias[:, None] - products

    def limits(x, least):  # [n]: above it a pair can't be nearer
        return 0.5 * least * (1 + 2 * slack) - (0.5 - slack) * jnp.sum(x * x, -1)

    def compare(carry):
        at, least = carry
        few = jax.lax.dynamic_slice_in_dim(order, at, _COMPARED)
        x = points[few]
        shifted = x - origin[None]

        def is_open(carry):
            low = carry[0].min(0)
            return ((low <= limits(shifted, carry[1])) & (low < jnp.inf)).any()

        def compare_nearest(carry):  # once for most points
            low, own = carry
            which = low.argmin(0)
            difference = x - centres[which]
            own = jnp.minimum(own, jnp.sum(difference * difference, -1))
            return low.at[which, jnp.arange(_COMPARED)].set(jnp.inf), own

        start = bounds(shifted), least[few]
        _, own = jax.lax.while_loop(is_open, compare_nearest, start)
        return at + _COMPARED, least.at[few].min(own)

    tile = min(_TILE, len(points))
    tiles = -(-len(points) // tile)

    def is_near(_, number):  # the last tile overlaps the one before
        start = jnp.minimum(number * tile, len(points) - tile)
        x = jax.lax.dynamic_slice_in_dim(points, start, tile) - origin[None]
        own = jax.lax.dynamic_slice_in_dim(least, start, tile)
        return None, bounds(x).min(0) <= limits(x, own)

    _, near = jax.lax.scan(is_near, None, jnp.arange(tiles, dtype=jnp.int32))
    near = jnp.concatenate([near[:-1].ravel(), near[-1, tiles * tile - len(points) :]])
    # Filled with the first point: to compare it again changes nothing.
    (order,) = jnp.nonzero(near, size=len(points) + _COMPARED, fill_value=0)
    count = near.sum(dtype=jnp.int32)
    return jax.lax.while_loop(lambda carry: carry[0] < count, compare, (jnp.int32(0), least))[1]


@partial(jax.jit, static_argnames=("height", "candidates"))
def _farthest(found, height, candidates):
    """Return the farthest of the candidates of all slabs, and their rows; the lowest rows on ties."""
    values = jnp.concatenate([values for values, _ in found])
    rows = jnp.concatenate([places + number * height for number, (_, places) in enumerate(found)])
    values, at = jax.lax.top_k(values, candidates)
    return values, rows[at]


def _gather(slabs, index) -> Float32[Array, "candidates d"]:
    """Return the points of some rows."""
    near, height = None, slabs[0].shape[0]
    for number, points in enumerate(slabs):
        near = _gather_from(points, near, index - number * height)
    return near


@jax.jit
def _gather_from(points, near, places):
    own = points[jnp.clip(places, 0, len(points) - 1)]
    if near is None:
        return own
    return jnp.where(((places >= 0) & (places < len(points)))[:, None], own, near)


@partial(jax.jit, static_argnames="steps")
def _replay(near, values, index, most, steps):
    """Return the places of the rows taken among the candidates, -1 from where it is no longer sure.

    A point outside has at most the last candidate's distance, and at that distance a higher row.

    Args:
      near: [p,d]. values, index: [p] distances and rows of the candidates, the farthest first.
      most: how many steps to take, at most `steps`.
    """

    def best(values):
        top = values.max()
        return top, jnp.where(values == top, index, jnp.iinfo(jnp.int32).max).argmin().astype(jnp.int32)

    def is_sure(carry):
        own, _, step = carry
        top, at = best(own)
        return (step < most) & ((top > values[-1]) | ((top == values[-1]) & (index[at] <= index[-1])))

    def take(carry):
        own, taken, step = carry
        _, at = best(own)
        difference = near - near[at][None]
        own = jnp.minimum(own, jnp.sum(difference * difference, -1)).at[at].set(_TAKEN)
        return own, taken.at[step].set(at), step + 1

    start = values, jnp.full(steps, -1, jnp.int32), jnp.int32(0)
    return jax.lax.while_loop(is_sure, take, start)[1]
