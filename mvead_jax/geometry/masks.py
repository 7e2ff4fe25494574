"""The epipolar mask of a category: which patches of its views may attend to which, built once and kept."""

from __future__ import annotations

import logging

import jax
import numpy as np
from jaxtyping import Bool

from mvead_jax.config import GeometryConfig
from mvead_jax.errors import UserError
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.geometry.epipolar import epipolar_mask

log = logging.getLogger(__name__)

_mask = jax.jit(epipolar_mask, static_argnames=("grid", "patch_size", "threshold"))


def category_mask(
    category: str,
    geometry: CategoryGeometry,
    views: tuple[str, ...],
    input_size: int,
    grid: tuple[int, int],
    config: GeometryConfig,
) -> Bool[np.ndarray, "V V N N"]:
    """`epipolar_mask` of a category on the axis `views`, which may name cameras that the category lacks.

    What an untrusted pair of views may do follows geometry.on_failure (decision D2). The log says how many
    pairs are trusted and how many keys a patch has.

    Raises:
      UserError: an untrusted pair, and geometry.on_failure=error.
    """
    valid = geometry.valid()
    names, pairs = geometry.views, sorted(geometry.pairs.items())
    failed = [f"{names[a]} {names[b]}" for (a, b), pair in pairs if not pair.ok]
    if failed and config.on_failure == "error":
        raise UserError(
            f"geometry {category}: no trusted geometry for {', '.join(failed)}, and "
            "geometry.on_failure=error; give geometry.cameras, or take exclude"
        )
    own = np.array(
        _mask(geometry.fundamental(input_size), grid, input_size / grid[1], config.threshold, valid), bool
    )
    if config.on_failure == "unconstrained":
        own[~valid & ~np.eye(len(names), dtype=bool)] = True
    mask = np.zeros((len(views), len(views), *own.shape[2:]), bool)
    places = np.array([views.index(name) for name in names])
    mask[np.ix_(places, places)] = own
    log.info(
        "geometry %s: %d of %d pairs trusted%s; %.1f keys a patch (of %d)",
        category,
        len(pairs) - len(failed),
        len(pairs),
        f" ({config.on_failure}: {', '.join(failed)})" if failed else "",
        own.sum((1, 3)).mean(),
        (len(names) - 1) * own.shape[2],
    )
    return mask
