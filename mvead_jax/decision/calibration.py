"""Image scores of the held-out samples by the views that are present, and their file.

models/<model>/decision.safetensors: "<category>/<pattern>" float32 [n,V], NaN where a sample says nothing; a
pattern is a letter for each view, 1 for present and 0 for missing. The header holds the rest as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mvead_jax.decision.conformal import samples_needed, threshold
from mvead_jax.postprocess.pooling import Pooling, pooled
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import whole

FILE = "decision.safetensors"  # in the folder of a model
_ALL_PATTERNS = 5  # views, up to which every pattern is calibrated


@dataclass(frozen=True)
class Calibration:
    """What good samples of one category score.

    Attributes:
      views: names of the cameras, axis V.
      samples: ids of the held-out samples, axis n.
      scores: of each pattern of present views; NaN for a view that is not present, in all views for a sample
        that lacks one of them.
      independent: a view's scores do not depend on which others there are: the pattern of all views stands
        for every other one.
      defective: held-out samples that are labelled defective: they are not among `samples`.
      pooling: how the scores of a sample's views become its own.
    """

    views: tuple[str, ...]
    samples: tuple[str, ...]
    scores: Mapping[str, Float32[np.ndarray, "n V"]]
    independent: bool
    defective: int = 0
    pooling: Pooling = "max"

    def of(self, present: Bool[np.ndarray, " V"]) -> Float32[np.ndarray, "m V"]:
        """Scores of the samples that have all views of a pattern, scored without the others; none for a
        pattern that was not calibrated."""
        key = pattern_name(np.ones_like(present) if self.independent else present)
        scores = self.scores.get(key, np.zeros((0, len(self.views)), np.float32))
        complete = np.isfinite(scores[:, present]).all(1)
        return np.where(present, scores[complete], np.float32(np.nan))

    def sample_scores(self, present: Bool[np.ndarray, " V"]) -> Float32[np.ndarray, " m"]:
        """Return the score of each sample by the views of a pattern."""
        return pooled(self.of(present)[:, present], self.pooling)

    def threshold(self, false_alarms: float) -> float:
        """Of samples with all views."""
        return threshold(self.sample_scores(np.ones(len(self.views), bool)), false_alarms)

    def check(self, category: str, false_alarms: float) -> None:
        """Raises UserError if complete samples could not fail at this target."""
        check_size(category, len(self.sample_scores(np.ones(len(self.views), bool))), false_alarms)


def check_size(category: str, count: int, false_alarms: float, training: int | None = None) -> None:
    """Raises UserError if `count` held-out samples are too few for this target.

    Args:
      training: samples that the lists name for training, if more of them can still be held out.
    """
    needed = samples_needed(false_alarms)
    if count >= needed:
        return
    fixes = []
    if training is None:
        fixes.append("train with a larger decision.held_out")
    elif needed < training:
        fixes.append(f"hold out more of the {training} by decision.held_out={_up(needed / training):g}")
    else:
        fixes.append(f"take more than the {training} training samples")
    if count:
        fixes.append(f"accept decision.false_alarms={_up(1 / (count + 1)):g}")
    raise UserError(
        f"{category}: decision.false_alarms={false_alarms:g} needs {needed} good held-out samples "
        f"with all views, there are {count}; {' or '.join(fixes)}"
    )


def _up(share: float) -> float:
    """Rounded up to four digits, so that it is enough."""
    return math.ceil(1e4 * share - 1e-6) / 1e4


def pattern_name(present: Bool[np.ndarray, " V"]) -> str:
    """ "10111": the second view is missing."""
    return "".join("1" if one else "0" for one in present)


def patterns(views: int) -> list[Bool[np.ndarray, " V"]]:
    """The patterns of present views that are calibrated: all, beyond five views the full one and those with
    one missing. The full one comes first."""
    full = np.ones(views, bool)
    if views > _ALL_PATTERNS:
        return [full, *(~np.eye(views, dtype=bool))]
    numbers = range(2**views - 1, 0, -1)
    return [np.array([number >> (views - 1 - at) & 1 for at in range(views)], bool) for number in numbers]


def write_calibrations(
    path: Path, calibrations: Mapping[str, Calibration], scored: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Writes those of the categories of a model.

    Args:
      scored: by what settings, as `ScoreConfig.deciding`. facts: JSON of what they were made from.
    """
    header = {"scored_by": scored, "facts": facts, "categories": {}}
    tensors = {}
    for category, own in calibrations.items():
        header["categories"][category] = {
            "views": own.views,
            "samples": own.samples,
            "independent": own.independent,
            "defective": own.defective,
            "pooling": own.pooling,
        }
        tensors |= {f"{category}/{name}": np.ascontiguousarray(rows) for name, rows in own.scores.items()}
    with whole(path) as temporary:
        save_file(tensors, temporary, {"decision": json.dumps(header, sort_keys=True)})


def read_calibrations(path: Path) -> tuple[dict[str, Calibration], dict[str, Any], dict[str, Any]]:
    """The calibrations by category, the settings they were scored by, and the facts that were written.

    Raises:
      UserError: missing, or another file.
    """
    found = {}
    try:
        with safe_open(path, framework="numpy") as file:
            header, keys = json.loads(file.metadata()["decision"]), list(file.keys())
            for category, own in header["categories"].items():
                views, samples = tuple(own["views"]), tuple(own["samples"])
                names = [name for name in keys if name.rpartition("/")[0] == category]
                scores = {name.rpartition("/")[2]: file.get_tensor(name) for name in names}
                if any(rows.shape != (len(samples), len(views)) for rows in scores.values()):
                    raise ValueError(f"scores of {category} have another shape than its views and samples")
                found[category] = Calibration(
                    views, samples, scores, bool(own["independent"]), int(own["defective"]), own["pooling"]
                )
            return found, header["scored_by"], header["facts"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the calibration of a decision ({error}); train again") from None
