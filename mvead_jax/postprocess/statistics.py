"""What normal anomaly maps look like in each view, so that maps of different views can be compared and added.

models/<model>/score_statistics.json holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json

FILE = "score_statistics.json"  # in the folder of a model
MOST_SAMPLES = 64  # training samples whose scores tell what is normal


@dataclass(frozen=True)
class ScoreStatistics:
    """Mean and standard deviation [V] of the scores of normal patches in each view."""

    mean: Float[np.ndarray, " V"]
    deviation: Float[np.ndarray, " V"]

    @classmethod
    def of(cls, normal: Float[np.ndarray, "n V h w"]) -> ScoreStatistics:
        """Return the statistics of the maps of normal samples; NaN counts as missing.

        A view without two scores takes the figures of all views together; no deviation is below 1e-6 of the
        mean.
        """
        flat = np.asarray(normal, np.float64).swapaxes(0, 1).reshape(normal.shape[1], -1)
        everything = flat[np.isfinite(flat)]
        if not len(everything):
            return cls(np.zeros(len(flat)), np.ones(len(flat)))
        rows = [row[np.isfinite(row)] for row in flat]
        rows = [row if len(row) > 1 else everything for row in rows]
        mean = np.array([row.mean() for row in rows])
        deviation = np.array([row.std() for row in rows])
        return cls(mean, np.maximum(deviation, np.maximum(1e-6 * np.abs(mean), 1e-12)))

    def write(self, path: Path, views: tuple[str, ...]) -> None:
        """Write the statistics of views by these names."""
        values = {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}
        write_json(path, {"views": list(views)} | values)

    @classmethod
    def read(cls, path: Path, views: tuple[str, ...]) -> ScoreStatistics:
        """Return what `write` wrote.

        Raises:
          UserError: missing, or of other views.
        """
        values = read_json(path, "the score statistics of a trained model")
        try:
            found = cls(np.array(values["mean"], np.float64), np.array(values["deviation"], np.float64))
            if tuple(values["views"]) != views or not found.mean.shape == found.deviation.shape == (
                len(views),
            ):
                raise ValueError("they are of other views")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not the statistics of this model's scores ({error!r}); train again"
            ) from error
        return found


def standardise(maps: Float[Array, "*B V h w"], statistics: ScoreStatistics) -> Float[Array, "*B V h w"]:
    """Return how many standard deviations above the normal mean of its view each score lies."""
    mean = jnp.asarray(statistics.mean, maps.dtype)[:, None, None]
    deviation = jnp.asarray(statistics.deviation, maps.dtype)[:, None, None]
    shape = (1,) * (maps.ndim - 3) + mean.shape
    return (maps - mean.reshape(shape)) / deviation.reshape(shape)
