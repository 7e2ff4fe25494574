"""The distance of a feature to the affine hull of its nearest rows: a score that interpolates between rows.

With few normal samples a bank has gaps: pose and light move normal patches smoothly, and the nearest row may
be far although the part is good. The K-local-hyperplane distance (Vincent and Bengio, "K-local hyperplane and
convex distance nearest neighbor algorithms", NIPS 2001) measures how far a query x is from the affine hull of
its k nearest rows b_1..b_k. With C_i = b_i - x and a ridge lambda

    G = C C^T + lambda mean(diag C C^T) I,    G u = 1,    u <- u / sum(u),    h(x) = |sum_i u_i C_i|.

u minimises |sum_i u_i C_i|^2 + lambda mean(diag C C^T) |u|^2 among weights that sum to one. Weights may be
negative: it is the affine hull with a ridge, not the convex hull. The ridge makes rows harmless that are
copies of each other or span less than they could: the condition number of G is at most 1 + k / lambda.

Error. The differences C are those of the float32 features, correctly rounded, so that an offset common to all
features costs nothing. What float32 changes in h is below 2e-6 of the largest |C_i|, for lambda = 0.1 and all
k (tests/bank/test_hull.py against float64: copies, few rows, rank deficiency, an offset, scales 1e-4 and 1e4;
3e-7 was the most seen).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32

from mvead_jax.bank.nearest import ShardedRows, k_nearest, shard_rows, sharded_k_nearest
from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.search.sharded import over
from mvead_jax.runtime.plain import is_plain
from mvead_jax.runtime.sharding import arrived

_NUMBERS = 2**22  # of differences at a time: 16 MiB
_QUERIES = 256  # at a time: their matrices G fit a cache


def hull_distance(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"],
    *,
    k: int = 20,
    ridge: float = 0.1,
    where: Bool[Array, " M"] | Bool[Array, "Q M"] | None = None,
    precision: Precision = "float32",
    block_size: int | None = None,
    memory: int = 4 * _NUMBERS,
) -> Float32[Array, " Q"]:
    """Return the distance h of every query to the affine hull of its k nearest rows, with a ridge.

    Args:
      queries, bank, where, precision, block_size: as of `mvead_jax.bank.nearest.k_nearest`. With `where` a
        sample is scored without its own rows.
      k: how many rows span the hull, 1 to 64. Where fewer may be found, those that may.
      ridge: lambda, above 0. Without bound h tends to the distance to the mean of the k rows.
      memory: bytes of differences held at a time, beside what the search holds.

    Returns:
      h, not squared; inf for a query that may find no row, NaN for one that is not finite. It is 0 where all
      k rows equal the query; at a query that is one row of several it is small, but the ridge keeps it above
      0. h of features times a constant is h times the constant, as long as the squares of the differences
      lie within float32.

    Raises:
      ValueError: as `k_nearest`, or a ridge or memory that is not above 0.
    """
    _check(ridge, memory)
    index = k_nearest(queries, bank, k, where=where, precision=precision, block_size=block_size)[1]
    queries, bank = jnp.asarray(queries, jnp.float32), jnp.asarray(bank, jnp.float32)
    if not len(queries):
        return jnp.zeros(0, jnp.float32)
    return _in_chunks(queries, bank, index, ridge, _chunk(len(queries), k, bank.shape[1], memory))


def sharded_hull_distance(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"] | ShardedRows,
    *,
    mesh: Mesh,
    axis: str = "data",
    k: int = 20,
    ridge: float = 0.1,
    where: Bool[Array, " M"] | None = None,
    precision: Precision = "float32",
    block_size: int | None = None,
    memory: int = 4 * _NUMBERS,
) -> Float32[Array, " Q"]:
    """Return what `hull_distance` does, with the bank's rows split over the devices of one axis of a mesh.

    Args:
      mesh, axis, bank, where: as of `mvead_jax.bank.nearest.sharded_k_nearest`; the rest as `hull_distance`.

    Returns:
      h, the same on every device and in every process; of one device to the rounding stated above.

    Raises:
      ValueError: as `hull_distance`.
    """
    _check(ridge, memory)
    rows = bank if isinstance(bank, ShardedRows) else shard_rows(np.asarray(bank), mesh, axis=axis)
    index = sharded_k_nearest(
        queries, rows, k, mesh=mesh, where=where, precision=precision, block_size=block_size
    )[1]
    if not len(queries):
        return jnp.zeros(0, jnp.float32)
    chunk = _chunk(len(queries), k, rows.values.shape[1], memory)
    return arrived(
        _of_shares(over(rows.mesh, queries), rows.values, index, rows.mesh, rows.axis, ridge, chunk)
    )


def distance_to_hull(
    differences: Float32[Array, "n k D"], exists: Bool[Array, "n k"], ridge: float
) -> Float32[Array, " n"]:
    """Return h of n queries from the differences C_i = b_i - x to rows of which some may not exist.

    Differences to a row that does not exist are not looked at.
    """
    differences = jnp.where(exists[..., None], differences, 0)
    gram = jnp.einsum("nid,njd->ijn", differences, differences, precision="highest")
    exists = exists.T  # [k,n], as all that follows: queries last, so that steps over k run in SIMD
    count = exists.sum(0, dtype=jnp.int32)
    diagonal = jnp.diagonal(gram).T
    mean = diagonal.sum(0) / jnp.maximum(count, 1).astype(jnp.float32)
    scaled = gram / jnp.where(mean > 0, mean, 1)[None, None]
    # A row that does not exist has a row and a column of the identity, and no weight.
    one = jnp.eye(len(exists), dtype=jnp.float32)[..., None]
    weight = jnp.where(exists, _solve(scaled + one * jnp.where(exists, ridge, 1)[None], exists), 0)
    weight = weight / jnp.maximum(weight.sum(0), jnp.finfo(jnp.float32).tiny)[None]
    to_hull = jnp.einsum("in,nid->nd", weight, differences, precision="highest")
    distance = jnp.sqrt(jnp.sum(to_hull * to_hull, -1))
    return jnp.where(count > 0, jnp.where(mean > 0, distance, 0), jnp.inf)


def _solve(matrix: Float32[Array, "k k n"], right: Bool[Array, "k n"]) -> Float32[Array, "k n"]:
    """The solutions of n symmetric positive definite systems, by elimination, which needs no pivots for them.

    LAPACK on CPUs and cuSOLVER take such small systems one by one, and an exported program would need them.
    """
    if is_plain():
        raise NotImplementedError(
            "score.distance=hull solves systems of equations in a loop; nearest does not"
        )
    k = len(matrix)
    numbers = jnp.arange(k, dtype=jnp.int32)[:, None]

    def row_of(x, number):
        return jax.lax.dynamic_index_in_dim(x, number, 0, keepdims=False)

    def eliminate(step, carry):
        matrix, right = carry
        row = row_of(matrix, step)
        column = jax.lax.dynamic_index_in_dim(matrix, step, 1, keepdims=False)
        factor = jnp.where(numbers > step, column / row_of(row, step)[None], 0)
        return matrix - factor[:, None] * row[None], right - factor * row_of(right, step)[None]

    def substitute(step, solution):
        at = k - 1 - step
        row = row_of(matrix, at)
        known = jnp.where(numbers > at, row * solution, 0).sum(0)
        own = (row_of(right, at) - known) / row_of(row, at)
        return jax.lax.dynamic_update_index_in_dim(solution, own, at, 0)

    start = matrix, right.astype(matrix.dtype)
    matrix, right = jax.lax.fori_loop(jnp.int32(0), jnp.int32(k), eliminate, start)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(k), substitute, jnp.zeros_like(right))


@partial(jax.jit, static_argnames=("ridge", "chunk"))
def _in_chunks(queries, bank, index, ridge: float, chunk: int) -> Float32[Array, " Q"]:
    """h of all queries, `chunk` of them at a time."""

    def some(part):
        queries, index = part
        rows = bank[jnp.maximum(index, 0).reshape(-1)].reshape(*index.shape, -1)
        return distance_to_hull(rows - queries[:, None], index >= 0, ridge)

    distance = jax.lax.map(some, (_split(queries, chunk), _split(index, chunk)))
    return _only_numbers(queries, distance)


@partial(jax.jit, static_argnames=("mesh", "axis", "ridge", "chunk"))
def _of_shares(queries, bank, index, mesh, axis, ridge: float, chunk: int) -> Float32[Array, " Q"]:
    """Each device gives the rows that it holds, and computes h of an equal part of every chunk."""
    devices = mesh.shape[axis]
    chunk = -(-chunk // devices) * devices

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(axis), P()), out_specs=P(), check_vma=False)
    def of_share(queries, share, index):
        first = jax.lax.axis_index(axis).astype(jnp.int32) * share.shape[0]

        def some(part):
            queries, index = part
            place = (index - first).reshape(-1)
            is_here = (index.reshape(-1) >= 0) & (place >= 0) & (place < len(share))
            rows = jnp.where(is_here[:, None], share[jnp.clip(place, 0, len(share) - 1)], 0)
            rows = rows.reshape(*index.shape, -1)
            rows = jax.lax.psum_scatter(rows, axis, scatter_dimension=0, tiled=True)
            queries, exists = (
                jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * len(rows), len(rows))
                for x in (queries, index >= 0)
            )
            own = distance_to_hull(rows - queries[:, None], exists, ridge)
            return jax.lax.all_gather(own, axis, tiled=True)

        return jax.lax.map(some, (_split(queries, chunk), _split(index, chunk)))

    return _only_numbers(queries, of_share(queries, bank, index))


def _split(x: Array, chunk: int) -> Array:
    """Queries in equal parts, the last one filled up with its last query."""
    x = jnp.pad(x, [(0, -len(x) % chunk)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return x.reshape(-1, chunk, *x.shape[1:])


def _only_numbers(queries: Float32[Array, "Q D"], distance: Float32[Array, "parts chunk"]) -> Array:
    return jnp.where(jnp.isfinite(queries).all(1), distance.reshape(-1)[: len(queries)], jnp.nan)


def _chunk(queries: int, k: int, width: int, memory: int) -> int:
    """Queries at a time: equal parts of all of them within the memory."""
    most = max(1, min(_QUERIES, memory // (4 * k * width)))
    return -(-queries // -(-queries // most))


def _check(ridge: float, memory: int) -> None:
    if not 0 < ridge < np.inf:
        raise ValueError(f"ridge={ridge} must be above 0")
    if memory < 1:
        raise ValueError(f"memory={memory} must be above 0 bytes")
