"""A bank whose rows are split over the devices of a mesh, each of which searches its own share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32

from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.search.exact import Neighbours, search
from mvead_jax.bank.search.found import NO_ROW, ranked
from mvead_jax.bank.search.rows import check_rows
from mvead_jax.runtime.sharding import arrived


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
    """Split a bank; of an array on disk (np.memmap) each process reads only the rows of its own devices.

    Raises:
      ValueError: not [M,D], empty, or with a row that is not finite (NotFinite).
    """
    if bank.ndim != 2 or bank.shape[0] == 0:
        raise ValueError(f"bank {bank.shape} must be [M,D] with at least one row")
    count, width = bank.shape
    rows = -(-count // mesh.shape[axis]) * mesh.shape[axis]

    def share(place: tuple[slice, ...]) -> np.ndarray:
        begin, end, _ = place[0].indices(rows)
        own = np.asarray(bank[begin : min(end, count)], np.float32)
        check_rows(own, begin)
        return np.pad(own, ((0, end - begin - len(own)), (0, 0)))

    values = jax.make_array_from_callback((rows, width), jax.NamedSharding(mesh, P(axis)), share)
    return ShardedRows(values, _split(np.arange(rows) < count, mesh, axis), count, mesh, axis)


def allowed(rows: ShardedRows, where: Bool[Array, " M"] | None) -> Bool[Array, "1 rows"]:
    """Return which rows may be found, over the devices that hold them."""
    if where is None:
        return rows.real
    padded = np.pad(np.asarray(where, bool), (0, len(rows.values) - rows.count))
    return _split(padded, rows.mesh, rows.axis)


def _split(mask: Bool[np.ndarray, " rows"], mesh: Mesh, axis: str) -> Bool[Array, "1 rows"]:
    place = jax.NamedSharding(mesh, P(None, axis))
    return jax.make_array_from_callback((1, len(mask)), place, lambda index: mask[None][index])


def over(mesh: Mesh, queries: Float[Array, "Q D"]) -> Float32[Array, "Q D"]:
    """Return queries as an array over the mesh: as they are, if they lie there already or are only traced."""
    if isinstance(queries, jax.core.Tracer):
        return queries.astype(jnp.float32)
    if isinstance(queries, jax.Array) and queries.sharding.device_set == set(mesh.devices.flat):
        return queries.astype(jnp.float32)
    everywhere = jax.NamedSharding(mesh, P())
    return jax.make_array_from_process_local_data(everywhere, np.asarray(queries, np.float32))


def search_shares(
    queries: Float[Array, "Q D"],
    rows: ShardedRows,
    allowed: Bool[Array, "1 rows"],
    k: int,
    block_size: int | None,
    precision: Precision,
) -> Neighbours:
    """Return what `search` does: each device searches its share, and the k lowest of all are kept."""
    queries = over(rows.mesh, queries)
    return arrived(
        _search_shares(queries, rows.values, allowed, rows.mesh, rows.axis, k, block_size, precision)
    )


@partial(jax.jit, static_argnames=("mesh", "axis", "k", "block_size", "precision"))
def _search_shares(queries, bank, allowed, mesh, axis, k, block_size, precision) -> Neighbours:
    # The search branches on its data, with no exchange between devices inside: no check of what varies.
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(axis), P(None, axis)),
        out_specs=P(),
        check_vma=False,
    )
    def of_share(queries, share, allowed):
        found = search(queries, share, allowed, k=k, block_size=block_size, precision=precision)
        first = jax.lax.axis_index(axis).astype(jnp.int32) * share.shape[0]
        index = jnp.where(found.index < 0, NO_ROW, found.index + first)
        squared, index = (jax.lax.all_gather(x.T, axis, tiled=True) for x in (found.squared, index))
        is_number = ~jnp.isnan(found.squared[:, 0])  # of the query, so on every device the same
        squared, index = ranked(squared, index, k)
        squared = jnp.where(is_number[None], squared, jnp.nan)
        index = jnp.where(index == NO_ROW, -1, index)
        return Neighbours(squared.T, index.T, jax.lax.psum(found.compared, axis))

    return of_share(queries, bank, allowed)
