"""Nearest neighbours in a memory bank: exact, at any size, on any number of devices.

    nearest, k_nearest                     the nearest row (eq. 1 of seed 001), or the k nearest
    sharded_nearest, sharded_k_nearest     the bank's rows split over the devices of a mesh (`shard_rows`)
    nearest_on_disk, k_nearest_on_disk     a bank that is read from disk piece by piece
    check_finite                           refuses a bank with rows that are no numbers, when it is loaded

All give the same answer: that of direct float32 differences, the lowest row on ties. How, is in `search`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from mvead_jax.bank.search import sharded
from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.search.exact import MOST_NEIGHBOURS, Neighbours, in_parts, search
from mvead_jax.bank.search.plain import plain_k_nearest
from mvead_jax.bank.search.rows import check_finite, check_rows
from mvead_jax.bank.search.sharded import ShardedRows, shard_rows
from mvead_jax.runtime.device_memory import device_bytes, power_of_two
from mvead_jax.runtime.plain import is_plain

__all__ = [
    "MOST_NEIGHBOURS",
    "ShardedRows",
    "check_finite",
    "k_nearest",
    "k_nearest_on_disk",
    "nearest",
    "nearest_on_disk",
    "shard_rows",
    "sharded_k_nearest",
    "sharded_nearest",
]

_PIECE_SHARE = 128  # the part of a device's memory, 1 / _PIECE_SHARE, that a piece of a bank on disk takes
_SMALLEST_PIECE, _LARGEST_PIECE = 2**22, 2**27  # bytes of a piece: 4 MiB, 128 MiB


def nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"],
    *,
    block_size: int | None = None,
    where: Bool[Array, " M"] | Bool[Array, "Q M"] | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, " Q"], Int32[Array, " Q"]]:
    """Return the distance to, and the index of, the nearest bank row of every query (eq. 1 of seed 001).

    Args:
      queries: features, of norms below 1e18.
      bank: finite features, of norms below 1e18, at least one row. A NumPy array is checked; an array of JAX
        should have been by `check_finite` when it was loaded, for nothing can be refused under `jit`.
      block_size: bank rows in one matrix product; by default as many as make 16 MiB of products with 256
        queries and 32 MiB of rows. The answer does not depend on it.
      where: rows that may be found, the same for all queries [M] or for each query [Q,M].
      precision: of the products that rule rows out. The answer does not depend on it; bfloat16 is faster
        where the device multiplies it faster.

    Returns:
      Euclidean (not squared) distances, and indices, the lowest on ties. Distances are those of direct
      float32 differences, so that a query that is itself a bank row has distance 0. A query that may find
      no row has distance inf and index -1; so has one whose squares leave float32. One that is not finite
      has distance NaN and index -1.

    Raises:
      ValueError: shapes that don't fit, an empty bank, an unknown precision, or a NumPy bank with a row that
        is not finite (NotFinite).
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
    """Return the k nearest rows by (distance, row); otherwise as `nearest`, which see. k <= 64.

    Returns:
      Distances and indices [Q,k], inf and -1 where fewer than k rows may be found; and with how many rows
      each query was compared by direct differences [Q]: of M it should be few.

    Raises:
      ValueError: as `nearest`, or a k that is not 1 to 64.
    """
    if isinstance(bank, np.ndarray):
        check_rows(bank)
    queries, bank = jnp.asarray(queries, jnp.float32), jnp.asarray(bank, jnp.float32)
    where = None if where is None else jnp.asarray(where, bool)
    _check(queries.shape, bank.shape, bank.shape[:1] if where is None else where.shape, k, precision)
    where = None if where is None else jnp.atleast_2d(where)
    if is_plain() and k <= bank.shape[0]:
        distance, index = plain_k_nearest(queries, bank, where, k)
        return distance, index, jnp.full(len(queries), bank.shape[0], jnp.int32)

    def of_part(part: slice) -> Neighbours:
        own = where if where is None or where.shape[0] == 1 else where[part]
        return search(queries[part], bank, own, k=k, block_size=block_size, precision=precision)

    found = in_parts(len(queries), k, of_part)
    return jnp.sqrt(found.squared), found.index, found.compared


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
    """Return what `nearest` does, with the bank's rows split over the devices of one axis of a mesh.

    Args, Returns, Raises: as `sharded_k_nearest` with k = 1; shapes [Q].
    """
    distance, index = sharded_k_nearest(
        queries, bank, 1, mesh=mesh, axis=axis, block_size=block_size, where=where, precision=precision
    )
    return distance[:, 0], index[:, 0]


def sharded_k_nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"] | ShardedRows,
    k: int,
    *,
    mesh: Mesh,
    axis: str = "data",
    block_size: int | None = None,
    where: Bool[Array, " M"] | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, "Q k"], Int32[Array, "Q k"]]:
    """Return what `k_nearest` does, with the bank's rows split over the devices of one axis of a mesh.

    Args:
      queries: the same in every process; or an array over the mesh, however it is divided.
      bank: an array, the same in every process; or what `shard_rows` made of one.
      mesh, axis: over which the rows are split; not looked at if they are split already.
      where: rows that may be found [M].

    Returns:
      Distances and indices as of `k_nearest`, the same on every device and in every process.

    Raises:
      ValueError: as `k_nearest`.
    """
    rows = bank if isinstance(bank, ShardedRows) else shard_rows(np.asarray(bank), mesh, axis=axis)
    shape = (rows.count,) if where is None else np.shape(where)
    _check(queries.shape, (rows.count, rows.values.shape[1]), shape, k, precision)
    if len(shape) != 1:
        raise ValueError(f"where {shape} must be [M]")
    allowed = sharded.allowed(rows, where)

    def of_part(part: slice) -> Neighbours:
        return sharded.search_shares(queries[part], rows, allowed, k, block_size, precision)

    found = in_parts(len(queries), k, of_part)
    return jnp.sqrt(found.squared), found.index


def nearest_on_disk(
    queries: Float[Array, "Q D"],
    bank: Float[np.ndarray, "M D"],
    *,
    piece_rows: int | None = None,
    precision: Precision = "float32",
    on_piece: Callable[[int], None] = lambda rows: None,
) -> tuple[Float32[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Return what `nearest` does, of a bank that need not fit in memory.

    Args, Returns, Raises: as `k_nearest_on_disk` with k = 1; shapes [Q].
    """
    distance, index = k_nearest_on_disk(
        queries, bank, 1, piece_rows=piece_rows, precision=precision, on_piece=on_piece
    )
    return distance[:, 0], index[:, 0]


def k_nearest_on_disk(
    queries: Float[Array, "Q D"],
    bank: Float[np.ndarray, "M D"],
    k: int,
    *,
    piece_rows: int | None = None,
    precision: Precision = "float32",
    on_piece: Callable[[int], None] = lambda rows: None,
) -> tuple[Float32[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """Return what `k_nearest` does, of a bank that need not fit in memory.

    Args:
      bank: such as a np.memmap; read once from its first row to its last, a piece ahead, and checked.
      piece_rows: rows that are read at a time; memory holds up to four times as many. By default 128 MiB of float32,
        or less where a device has less than 16 GiB.
      on_piece: is told after each piece how many rows were new.

    Raises:
      ValueError: as `k_nearest`; a row that is not finite is a NotFinite.
    """
    _check(np.shape(queries), bank.shape, (len(bank),), k, precision)
    if piece_rows is not None and piece_rows < 1:
        raise ValueError(f"piece_rows={piece_rows} must be at least 1")
    rows = min(piece_rows or max(1, _piece_bytes() // (4 * bank.shape[1])), len(bank))
    queries = jnp.asarray(queries, jnp.float32)
    squared = np.full((len(queries), k), np.inf, np.float32)
    index = np.full((len(queries), k), -1, np.int64)
    # The last piece starts earlier, so that one size is compiled.
    starts = [min(at, len(bank) - rows) for at in range(0, len(bank), rows)]
    seen = 0

    def read(start: int) -> Float32[np.ndarray, "rows D"]:
        piece = np.array(bank[start : start + rows], np.float32, order="C")
        check_rows(piece, start)
        return piece

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, starts[0])
        for number, start in enumerate(starts):
            piece = jax.device_put(ahead.result())
            if number + 1 < len(starts):
                ahead = reader.submit(read, starts[number + 1])

            def of_part(part: slice, piece: Array = piece) -> Neighbours:
                return search(queries[part], piece, None, k=k, block_size=None, precision=precision)

            found = in_parts(len(queries), k, of_part)
            squared, index = _merged(squared, index, found, start, seen)
            on_piece(start + rows - seen)
            seen = start + rows
    return np.sqrt(squared), index


def _piece_bytes() -> int:
    return power_of_two(device_bytes() / _PIECE_SHARE, _SMALLEST_PIECE, _LARGEST_PIECE)


def _merged(squared, index, found: Neighbours, start: int, seen: int):
    """The k lowest by (squared, index) of those found before, among rows below `seen`, and in a piece."""
    row = np.asarray(found.index, np.int64) + start
    # What the piece shows for a second time was found before, or is not among the k.
    is_new = (np.asarray(found.index) >= 0) & (row >= seen)
    squared = np.concatenate([squared, np.where(is_new, found.squared, np.float32(np.inf))], 1)
    index = np.concatenate([index, np.where(is_new, row, -1)], 1)
    last = np.where(index < 0, np.iinfo(np.int64).max, index)
    order = np.lexsort((last, squared), axis=-1)[:, : found.index.shape[1]]
    return np.take_along_axis(squared, order, 1), np.take_along_axis(index, order, 1)


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
