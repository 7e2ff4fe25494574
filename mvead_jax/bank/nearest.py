"""Nearest neighbours in a memory bank: exact, at any size, on any number of devices.

    nearest          the nearest row (eq. 1 of seed 001)
    k_nearest        the k nearest, with the count of direct comparisons
    sharded_nearest  the bank's rows split over the devices of a mesh
    nearest_on_disk  a bank that is read from disk piece by piece

k neighbours are found on one device only. All four give the same answer: that of direct float32 differences,
the lowest row on ties. How, is in search.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from mvead_jax.bank.search.bounds import GROUP, Precision
from mvead_jax.bank.search.exact import search

MOST_NEIGHBOURS = 16
_PRODUCTS = 2**22  # bank rows x queries in one product: 16 MiB
_FEWEST_ROWS, _MOST_ROWS = 256, 8192  # of the bank in one product
_QUERIES = 8192  # searched at once; more are searched one part after the other
_PIECE = 2**25  # numbers in a piece of a bank on disk: 128 MiB


def nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"],
    *,
    block_size: int | None = None,
    where: Bool[Array, " M"] | Bool[Array, "Q M"] | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, " Q"], Int32[Array, " Q"]]:
    """Distance to, and index of, the nearest bank row of every query (eq. 1 of seed 001).

    Args:
      queries: finite features, of norms below 1e18.
      bank: the same, at least one row.
      block_size: bank rows in one matrix product, rounded up to whole groups of 8; by default as many as fit
        16 MiB of products, and at least 256; four times that holds bounds. The answer does not depend on it.
      where: rows that may be found, the same for all queries [M] or for each query [Q,M].
      precision: of the products that rule rows out. The answer does not depend on it; bfloat16 is faster
        where the device multiplies it faster.

    Returns:
      Euclidean (not squared) distances, and indices, the lowest on ties. Distances are those of direct
      float32 differences, so that a query that is itself a bank row has distance 0. A query that may find
      no row has distance inf and index -1; so has one whose squares leave float32.

    Raises:
      ValueError: shapes that don't fit, an empty bank, or an unknown precision.
    """
    distance, index, _ = k_nearest(queries, bank, 1, block_size=block_size, where=where, precision=precision)
    return distance[:, 0], index[:, 0]


def k_nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"],
    k: int,
    *,
    block_size: int | None = None,
    where: Bool[Array, " M"] | Bool[Array, "Q M"] | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, "Q k"], Int32[Array, "Q k"], Int32[Array, " Q"]]:
    """As `nearest`, the k nearest rows by (distance, row), k <= 16.

    Returns:
      Distances and indices [Q,k], inf and -1 where fewer than k rows may be found; and with how many rows
      each query was compared by direct differences [Q]: of M it should be few.

    Raises:
      ValueError: as `nearest`, or a k that is not 1 to 16.
    """
    queries, bank = jnp.asarray(queries, jnp.float32), jnp.asarray(bank, jnp.float32)
    where = None if where is None else jnp.asarray(where, bool)
    _check(queries.shape, bank.shape, bank.shape[:1] if where is None else where.shape, k, precision)
    where = None if where is None else jnp.atleast_2d(where)
    found = []
    for part in _parts(len(queries)):
        own = where if where is None or where.shape[0] == 1 else where[part]
        rows = block_rows(block_size, len(queries[part]))
        found.append(search(queries[part], bank, own, k=k, block_rows=rows, precision=precision))
    if not found:
        return jnp.zeros((0, k), jnp.float32), jnp.zeros((0, k), jnp.int32), jnp.zeros(0, jnp.int32)
    squared, index, compared = found[0] if len(found) == 1 else map(jnp.concatenate, zip(*found, strict=True))
    return jnp.sqrt(squared), index, compared


@dataclass(frozen=True)
class ShardedRows:
    """A bank whose rows are split over the devices of a mesh.

    Attributes:
      values: [M',D], M rows and as many zeros behind them as make equal shares.
      real: [1,M'], which are rows and no filling.
      count: M. mesh, axis: over which they are split.
    """

    values: Float32[Array, "rows D"]
    real: Bool[Array, "1 rows"]
    count: int
    mesh: Mesh
    axis: str


def shard_rows(bank: Float[np.ndarray, "M D"], mesh: Mesh, *, axis: str = "data") -> ShardedRows:
    """Splits a bank; of an array on disk (np.memmap) each process reads only the rows of its own devices.

    Raises:
      ValueError: not [M,D], or empty.
    """
    if bank.ndim != 2 or bank.shape[0] == 0:
        raise ValueError(f"bank {bank.shape} must be [M,D] with at least one row")
    count, width = bank.shape
    rows = -(-count // mesh.shape[axis]) * mesh.shape[axis]

    def share(place: tuple[slice, ...]) -> np.ndarray:
        begin, end, _ = place[0].indices(rows)
        own = np.asarray(bank[begin : min(end, count)], np.float32)
        return np.pad(own, ((0, end - begin - len(own)), (0, 0)))

    values = jax.make_array_from_callback((rows, width), jax.NamedSharding(mesh, P(axis)), share)
    return ShardedRows(values, _split(np.arange(rows) < count, mesh, axis), count, mesh, axis)


def _split(allowed: Bool[np.ndarray, " rows"], mesh: Mesh, axis: str) -> Bool[Array, "1 rows"]:
    """A mask of rows over the devices that hold them."""
    place = jax.NamedSharding(mesh, P(None, axis))
    return jax.make_array_from_callback((1, len(allowed)), place, lambda index: allowed[None][index])


def sharded_nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"] | ShardedRows,
    *,
    mesh: Mesh,
    axis: str = "data",
    block_size: int | None = None,
    where: Bool[Array, " M"] | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, " Q"], Int32[Array, " Q"]]:
    """As `nearest`, with the bank's rows split over the devices of one axis of a mesh.

    Args:
      queries: the same in every process; or an array over the mesh, however it is divided.
      bank: an array, the same in every process; or what `shard_rows` made of one.
      mesh, axis: over which the rows are split; not looked at if they are split already.
      where: rows that may be found [M].

    Returns:
      As `nearest`, the same on every device and in every process.

    Raises:
      ValueError: as `nearest`.
    """
    rows = bank if isinstance(bank, ShardedRows) else shard_rows(np.asarray(bank), mesh, axis=axis)
    shape = (rows.count,) if where is None else np.shape(where)
    _check(queries.shape, (rows.count, rows.values.shape[1]), shape, 1, precision)
    if len(shape) != 1:
        raise ValueError(f"where {shape} must be [M]")
    allowed = rows.real
    if where is not None:
        padded = np.pad(np.asarray(where, bool), (0, len(rows.values) - rows.count))
        allowed = _split(padded, rows.mesh, rows.axis)
    found = []
    for part in _parts(len(queries)):
        own = _over(rows.mesh, queries[part])
        size = block_rows(block_size, len(queries[part]))
        found.append(_search_shares(own, rows.values, allowed, rows.mesh, rows.axis, size, precision))
    if not found:
        return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.int32)
    squared, index = found[0] if len(found) == 1 else map(jnp.concatenate, zip(*found, strict=True))
    return jnp.sqrt(squared), index


def _over(mesh: Mesh, queries: Float[Array, "Q D"]) -> Float32[Array, "Q D"]:
    """Queries as an array over the mesh: as they are, if they lie there already."""
    if isinstance(queries, jax.Array) and queries.sharding.device_set == set(mesh.devices.flat):
        return queries.astype(jnp.float32)
    everywhere = jax.NamedSharding(mesh, P())
    return jax.make_array_from_process_local_data(everywhere, np.asarray(queries, np.float32))


@partial(jax.jit, static_argnames=("mesh", "axis", "block_rows", "precision"))
def _search_shares(queries, bank, allowed, mesh, axis, block_rows, precision):
    """Each device searches its share; of what they found, the lowest by (distance, row)."""

    # The search branches on its data, with no exchange between devices inside: no check of what varies.
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(axis), P(None, axis)),
        out_specs=(P(), P()),
        check_vma=False,
    )
    def of_share(queries, share, allowed):
        found = search(queries, share, allowed, k=1, block_rows=block_rows, precision=precision)
        first = jax.lax.axis_index(axis).astype(jnp.int32) * share.shape[0]
        index = jnp.where(found.index[:, 0] < 0, -1, found.index[:, 0] + first)
        squared, index = (jax.lax.all_gather(x, axis) for x in (found.squared[:, 0], index))
        best = squared.argmin(0)  # of equals the first device, which has the lower rows
        return squared.min(0), jnp.take_along_axis(index, best[None], 0)[0]

    return of_share(queries, bank, allowed)


def nearest_on_disk(
    queries: Float[Array, "Q D"],
    bank: Float[np.ndarray, "M D"],
    *,
    piece_rows: int | None = None,
    precision: Precision = "float32",
    on_piece: Callable[[int], None] = lambda rows: None,
) -> tuple[Float32[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """As `nearest`, of a bank that need not fit in memory.

    Args:
      bank: such as a np.memmap; read once from its first row to its last, a piece ahead.
      piece_rows: rows in memory at a time; by default 128 MiB of float32, of which there are up to four.
      on_piece: is told after each piece how many rows were new.

    Raises:
      ValueError: as `nearest`.
    """
    _check(np.shape(queries), bank.shape, (len(bank),), 1, precision)
    if piece_rows is not None and piece_rows < 1:
        raise ValueError(f"piece_rows={piece_rows} must be at least 1")
    rows = min(piece_rows or max(1, _PIECE // bank.shape[1]), len(bank))
    queries = jnp.asarray(queries, jnp.float32)
    distance = np.full(len(queries), np.inf, np.float32)
    index = np.full(len(queries), -1, np.int64)
    # The last piece starts earlier, so that one size is compiled; a row that is seen twice changes nothing.
    starts = [min(at, len(bank) - rows) for at in range(0, len(bank), rows)]
    seen = 0

    def read(start: int) -> Float32[np.ndarray, "rows D"]:
        return np.array(bank[start : start + rows], np.float32, order="C")

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, starts[0])
        for number, start in enumerate(starts):
            piece = ahead.result()
            if number + 1 < len(starts):
                ahead = reader.submit(read, starts[number + 1])
            own, row = map(np.asarray, nearest(queries, piece, precision=precision))
            nearer = own < distance  # a tie keeps the lower row
            distance = np.where(nearer, own, distance)
            index = np.where(nearer, row + start, index)
            on_piece(start + rows - seen)
            seen = start + rows
    return distance, index


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _QUERIES) for start in range(0, count, _QUERIES))


def block_rows(block_size: int | None, queries: int) -> int:
    """Rows in one product, whole groups of them."""
    if block_size is None:
        block_size = min(max(_PRODUCTS // queries, _FEWEST_ROWS), _MOST_ROWS)
    elif block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    return -(-block_size // GROUP) * GROUP


def _check(queries: tuple, bank: tuple, where: tuple, k: int, precision: str) -> None:
    if len(queries) != 2 or len(bank) != 2 or queries[1] != bank[1]:
        raise ValueError(f"queries {queries} and bank {bank} must be [Q,D] and [M,D]")
    if bank[0] == 0:
        raise ValueError("the bank is empty")
    if where not in ((bank[0],), (queries[0], bank[0])):
        raise ValueError(f"where {where} must be [M] or [Q,M] for {queries[0]} x {bank[0]}")
    if not 1 <= k <= MOST_NEIGHBOURS:
        raise ValueError(f"k={k} must be 1 to {MOST_NEIGHBOURS}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r} must be one of {', '.join(get_args(Precision))}")
