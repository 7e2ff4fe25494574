"""Window attention over views: MVAD's multi-view adaptive selection (MVAS, seed 003 eq. 2-5).

Each view's feature map is cut into n x n windows. A window of one view attends to all pixels of the K windows
of the other views whose mean features have the largest products with its own mean feature. Facts as in the
released code: the map is padded with zeros at the right and at the bottom until n divides it, the padding
counts in the means and is not masked in the attention, and the logits are scaled by the whole width.

Everything is for one sample and has no parameters; projections, if any, are applied by the caller.
Letters: V views, H x W pixels of a feature map, C width, n windows a side, M = V n² windows of a sample,
P pixels of a window, K chosen windows, h heads, d = C / h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.window_attention import Selection, attend_windows


def mvas(
    query: Float[Array, "V H W C"],
    keys: Float[Array, "V H W C"],
    values: Float[Array, "V H W C"] | None = None,
    present: Bool[Array, " V"] | None = None,
    *,
    windows: int,
    top: int,
    heads: int = 8,
    scale: float | None = None,
    selection: Selection | None = None,
    own_view: bool = False,
) -> Float[Array, "V H W C"]:
    """Return for each pixel what it attends to in the chosen windows of the other views.

    Args:
      query: the feature maps of the queries, with the position map added or a projection applied.
      keys: the feature maps of the keys, without position map.
      values: the feature maps of the values; None: the keys, as in the released code.
      present: the views that the sample has; windows of the others are never chosen. None: all.
      windows: n. top: K, of all other views together.
      heads: h; divides C.
      scale: the factor of the logits; None: C**-0.5 of the whole width, as in the released code.
      selection: the chosen windows; None: `select_windows` of query and keys.
      own_view: windows are chosen from the query's own view instead: a control, which learns nothing of the others.

    Returns:
      The attended features. A window that has no window to choose from gives 0. What a missing view itself
      gives has no meaning.
    """
    views, height, width, channels = query.shape
    if views < 2:
        raise ValueError(f"MVAS needs at least two views, not {views}")
    if channels % heads:
        raise ValueError(f"heads={heads} must divide the width {channels}")
    if present is not None:  # whatever stands in a missing view, also NaN, must not reach another one
        there = jnp.asarray(present)[:, None, None, None]
        query, keys = jnp.where(there, query, 0), jnp.where(there, keys, 0)
        values = None if values is None else jnp.where(there, values, 0)
    if selection is None:
        selection = select_windows(query, keys, present, windows=windows, top=top, own_view=own_view)
    cut = [None if x is None else _all_windows(x, windows) for x in (query, keys, values)]
    scale = channels**-0.5 if scale is None else scale
    mixed = attend_windows(cut[0] * scale, cut[1], cut[2], selection, heads)
    return unpartition(mixed.reshape(views, windows**2, *mixed.shape[1:]), windows, (height, width))


def select_windows(
    query: Float[Array, "V H W C"],
    keys: Float[Array, "V H W C"],
    present: Bool[Array, " V"] | None = None,
    *,
    windows: int,
    top: int,
    own_view: bool = False,
) -> Selection:
    """Return the windows of the other views that are most like each window (seed 003 eq. 3-4).

    No gradient flows through the choice. Of equal scores the lower window number wins.

    Args:
      query, keys, present, own_view: as in `mvas`.
      windows: n. top: K; there are at most n² (V - 1) windows to choose from.
    """
    views, channels = query.shape[0], query.shape[-1]
    score = routing_scores(query, keys, windows) * channels**-0.5
    allowed = jnp.eye(views, dtype=bool) == own_view
    if present is not None:
        allowed = allowed & jnp.asarray(present)[None, :]
    score = jnp.where(allowed[:, None, :, None], score, -jnp.inf).reshape(views * windows**2, -1)
    score, window = jax.lax.top_k(score, min(top, (1 if own_view else views - 1) * windows**2))
    return Selection(window, score > -jnp.inf)


def routing_scores(
    query: Float[Array, "V H W C"], keys: Float[Array, "V H W C"], windows: int
) -> Float[Array, "V n² V n²"]:
    """Return the products of the windows' mean features, of all pairs of views, without gradient."""
    query, keys = jax.lax.stop_gradient((query, keys))
    query, keys = (partition(x, windows).mean(2) for x in (query, keys))
    return jnp.einsum("amc,bnc->ambn", query, keys, precision="highest")


def partition(x: Float[Array, "V H W C"], windows: int) -> Float[Array, "V n² P C"]:
    """Return the pixels of each window; windows and their pixels are numbered row by row.

    The map is padded with zeros at the bottom and at the right until n divides its sides.
    """
    views, height, width, channels = x.shape
    below, right = -height % windows, -width % windows
    x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
    tall, wide = (height + below) // windows, (width + right) // windows
    x = x.reshape(views, windows, tall, windows, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(views, windows**2, tall * wide, channels)


def unpartition(x: Float[Array, "V n² P C"], windows: int, size: tuple[int, int]) -> Float[Array, "V H W C"]:
    """Return the map of this size whose `partition` gave the windows; the padding is cut off."""
    views, channels = x.shape[0], x.shape[-1]
    tall, wide = (-(-side // windows) for side in size)
    x = x.reshape(views, windows, windows, tall, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(views, windows * tall, windows * wide, channels)[:, : size[0], : size[1]]


def _all_windows(x: Float[Array, "V H W C"], windows: int) -> Float[Array, "M P C"]:
    cut = partition(x, windows)
    return cut.reshape(-1, *cut.shape[2:])
