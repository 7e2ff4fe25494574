"""Where the cameras roughly stand, as a config says it: elevation:azimuth in degrees for each view."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mvead_jax.geometry.rig_fit import Nominal
from mvead_jax.runtime.errors import UserError


def parse_nominal(views: Sequence[str]) -> Nominal:
    """Return the nominal rig of geometry.nominal.

    Raises:
      UserError: an entry is not elevation:azimuth, or two views stand in one place.
    """
    try:
        pairs = [tuple(float(number) for number in view.split(":")) for view in views]
        if not all(math.isfinite(number) for pair in pairs for number in pair):
            raise ValueError("not finite")
        if len({pair for pair in pairs if pair[0] < 90}) + any(pair[0] >= 90 for pair in pairs) < len(pairs):
            raise ValueError("two views in one place")
        return Nominal(tuple(elevation for elevation, _ in pairs), tuple(azimuth for _, azimuth in pairs))
    except ValueError:
        raise UserError(
            f"geometry.nominal {','.join(views)}: give elevation:azimuth in degrees for each view, "
            "each in its own place, as 90:0,45:0,45:90,45:180,45:270"
        ) from None
