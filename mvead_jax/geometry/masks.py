"""The epipolar keys of a category: which patches of its views may attend to which, built once and kept."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float

from mvead_jax.config.schema import GeometryConfig
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

_mask = jax.jit(epipolar_mask, static_argnames=("grid", "patch_size", "threshold"))


@dataclass(frozen=True)
class EpipolarKeys:
    """Which patches a patch may attend to.

    Attributes:
      mask: mask[a, b, j, k]: patch j of view a may attend to patch k of view b.
      F: of every ordered pair, between the images as the backbone sees them; zero where there is none.
      patch_size: in pixels of those images.
      grid: (h, w) of the patches, N = h w.
    """

    mask: Bool[np.ndarray, "V V N N"]
    F: Float[np.ndarray, "V V 3 3"]
    patch_size: float
    grid: tuple[int, int]

    @property
    def digest(self) -> str:
        """By which a change of geometry is noticed."""
        return hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()


def all_keys(views: int, grid: tuple[int, int]) -> EpipolarKeys:
    """Return every patch of every other view: what there is without geometry."""
    pairs, patches = ~np.eye(views, dtype=bool)[..., None, None], grid[0] * grid[1]
    mask = np.broadcast_to(pairs, (views, views, patches, patches))
    return EpipolarKeys(mask, np.zeros((views, views, 3, 3)), 1.0, grid)


def category_keys(
    category: str,
    geometry: CategoryGeometry,
    views: tuple[str, ...],
    input_size: int,
    grid: tuple[int, int],
    config: GeometryConfig,
) -> EpipolarKeys:
    """The keys of a category by `epipolar_mask`, on the axis `views`, in which it may lack some cameras.

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
    F = geometry.fundamental(input_size)
    own = np.array(_mask(F, grid, input_size / grid[1], config.threshold, valid), bool)
    if config.on_failure == "unconstrained":
        own[~valid & ~np.eye(len(names), dtype=bool)] = True
    mask = np.zeros((len(views), len(views), *own.shape[2:]), bool)
    places = np.array([views.index(name) for name in names])
    mask[np.ix_(places, places)] = own
    wide = np.zeros((len(views), len(views), 3, 3))
    wide[np.ix_(places, places)] = F
    log.info(
        "geometry %s: %d of %d pairs trusted%s; %.1f keys a patch (of %d)",
        category,
        len(pairs) - len(failed),
        len(pairs),
        f" ({config.on_failure}: {', '.join(failed)})" if failed else "",
        own.sum((1, 3)).mean(),
        (len(names) - 1) * own.shape[2],
    )
    return EpipolarKeys(mask, wide, input_size / grid[1], grid)
