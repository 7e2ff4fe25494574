"""Pass or fail of one sample, and why: from the image scores of the views that it has.

The decision and its guarantee are the sample's: of good samples at most the target share fails, on average
over held-out sets. The views' own p-values and thresholds explain a decision and make none: with five views
up to five times as many good samples have some view with p <= target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32

from mvead_jax.decision.calibration import Calibration
from mvead_jax.decision.conformal import allowed_above, p_value, threshold
from mvead_jax.postprocess.pooling import Pooling, pooled

OPTIMISTIC = "OPTIMISTIC, threshold from test labels"
BY_USER = "threshold set by the user"
Basis = Literal["held_out", "test_labels", "user"]
_FLAGS = {"held_out": "", "test_labels": f" ({OPTIMISTIC})", "user": f" ({BY_USER})"}


@dataclass(frozen=True)
class ViewScore:
    """A view of a sample beside the same view of the held-out ones.

    Attributes:
      view: the camera. score: of the image.
      p_value, threshold: for this view alone, at the same target; None where there is no calibration.
    """

    view: str
    score: float
    p_value: float | None = None
    threshold: float | None = None

    @property
    def ratio(self) -> float | None:
        """Score by threshold; None where that says nothing (standardised scores may be below 0)."""
        return self.score / self.threshold if self.threshold is not None and self.threshold > 0 else None


@dataclass(frozen=True)
class Decision:
    """The decision on one sample.

    Attributes:
      decision: "undecided" where no held-out sample was scored with these views.
      score: of samples.csv: from those of the views by the method's rule, as the highest (eq. 11).
      p_value: conformal, of the sample; None without calibration.
      threshold: what the score of a sample that fails lies above, or if the basis is not "held_out" is at
        least; None where there is none.
      false_alarms: the target; of a user's threshold the one that it amounts to. NaN where there is none.
      calibration: the number of held-out samples behind it.
      views: those that the sample has, in their order.
      blamed: the view with the smallest p-value (ties: the furthest beyond its own threshold). Not always the
        view with the highest score, for one camera's good images may score higher than another's bad ones.
      missing: views that the sample lacks.
      basis: of the threshold: "held_out"; "test_labels": chosen by the labels that it is measured by; "user".
      place: (x, y), centre of the blamed view's highest patch in pixels of the stored image, x right and
        y down from the corner; None until `located`.
    """

    decision: Literal["pass", "fail", "undecided"]
    score: float
    p_value: float | None
    threshold: float | None
    false_alarms: float
    calibration: int
    views: tuple[ViewScore, ...]
    blamed: str
    missing: tuple[str, ...] = ()
    basis: Basis = "held_out"
    place: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        """The sample's score by its threshold."""
        return ViewScore("", self.score, None, self.threshold).ratio

    def view(self, name: str) -> ViewScore:
        """One view's part."""
        return next(own for own in self.views if own.view == name)

    def reason(self) -> str:
        """Why, for people: "the sample scores 1.6 x its threshold; C3 2.1 x its view threshold, at (120, 88)"."""
        if self.decision == "undecided":
            lacking = f"without {', '.join(self.missing)}" if self.missing else "with all views"
            return f"{self.calibration} held-out samples scored {lacking}, too few for {self.false_alarms:g}"
        flag = _FLAGS[self.basis]
        whole = f"the sample scores {_beside(self.ratio, self.score, self.threshold, 'its threshold')}"
        if self.decision == "pass":
            return whole + flag
        own = self.view(self.blamed)
        if own.threshold is None:  # one threshold, of samples
            view = f"highest in {self.blamed}"
        else:
            view = f"{self.blamed} {_beside(own.ratio, own.score, own.threshold, 'its view threshold')}"
        place = "" if self.place is None else f", at ({self.place[0]:.0f}, {self.place[1]:.0f})"
        return f"{whole}; {view}{place}{flag}"

    def text(self) -> str:
        """ "defective: ", or "good: ", and the reason."""
        words = {"pass": "good", "fail": "defective", "undecided": "undecided"}
        return f"{words[self.decision]}: {self.reason()}"


def decide(
    calibration: Calibration,
    scores: Float32[np.ndarray, " V"],
    present: Bool[np.ndarray, " V"],
    false_alarms: float,
) -> Decision:
    """The decision on a sample, with the guarantee of conformal.py at the level of samples.

    Args:
      calibration: of the sample's category.
      scores: of each view, on the calibration's axis; not read where none is present.
      present: the views that the sample has, at least one.
      false_alarms: the target.

    Raises:
      ValueError: no view, or a score that is not finite.
    """
    present = np.asarray(present, bool)
    scores = np.asarray(scores, np.float32)
    if not present.any() or not np.isfinite(scores[present]).all():
        raise ValueError(f"scores {scores} of views {present}")
    places = np.flatnonzero(present)
    missing = tuple(view for view, has in zip(calibration.views, present, strict=True) if not has)
    score = float(pooled(scores[None, present], calibration.pooling)[0])
    own = calibration.of(present)
    if not allowed_above(len(own), false_alarms):
        views = tuple(ViewScore(calibration.views[at], float(scores[at])) for at in places)
        blamed = max(views, key=lambda view: view.score).view
        return Decision("undecided", score, None, None, false_alarms, len(own), views, blamed, missing)
    of_samples = pooled(own[:, present], calibration.pooling)
    limit = threshold(of_samples, false_alarms)
    views = tuple(
        ViewScore(
            calibration.views[at],
            float(scores[at]),
            p_value(own[:, at], scores[at]),
            threshold(own[:, at], false_alarms),
        )
        for at in places
    )
    return Decision(
        "fail" if score > limit else "pass",
        score,
        p_value(of_samples, score),
        limit,
        false_alarms,
        len(own),
        views,
        _blamed(views),
        missing,
    )


def decide_by(
    views: tuple[str, ...],
    scores: Float32[np.ndarray, " V"],
    present: Bool[np.ndarray, " V"],
    lowest: float,
    pooling: Pooling = "max",
    basis: Basis = "test_labels",
    calibration: Calibration | None = None,
) -> Decision:
    """The decision by a threshold that no calibration made: a sample fails whose score is at least `lowest`.

    It has no guarantee. A threshold that test labels chose is optimistic on these samples.

    Args:
      calibration: of the category, which tells p-values, and the target that the threshold amounts to.
    """
    scores, places = np.asarray(scores), np.flatnonzero(present)
    held_out = np.zeros((0, len(views)), np.float32) if calibration is None else calibration.of(present)
    of_views = [p_value(held_out[:, at], scores[at]) if len(held_out) else None for at in places]
    own = tuple(ViewScore(views[at], float(scores[at]), p) for at, p in zip(places, of_views, strict=True))
    worst = max(own, key=lambda view: view.score)
    score = float(pooled(scores[None, present], pooling)[0])
    p, target = None, math.nan
    if len(held_out):
        of_samples = pooled(held_out[:, present], pooling)
        p, target = p_value(of_samples, score), p_value(of_samples, lowest)
    decision = "fail" if score >= lowest else "pass"
    missing = tuple(view for view, has in zip(views, present, strict=True) if not has)
    return Decision(decision, score, p, lowest, target, len(held_out), own, worst.view, missing, basis)


def located(
    decision: Decision, maps: Mapping[str, Float32[np.ndarray, "h w"]], sizes: Mapping[str, tuple[int, int]]
) -> Decision:
    """The decision with its place.

    Args:
      maps: patch scores of at least the blamed view. sizes: (W, H) of its stored image in pixels.
    """
    own = maps[decision.blamed]
    row, column = np.unravel_index(int(own.argmax()), own.shape)
    width, height = sizes[decision.blamed]
    place = (float((column + 0.5) * width / own.shape[1]), float((row + 0.5) * height / own.shape[0]))
    return replace(decision, place=place)


def _blamed(views: tuple[ViewScore, ...]) -> str:
    """The view with the smallest p-value; of several the one that is furthest beyond its own threshold."""
    by_ratio = all(view.ratio is not None for view in views)

    def rank(view: ViewScore) -> tuple[float, float]:
        return view.p_value, -(view.ratio if by_ratio else view.score - view.threshold)

    return min(views, key=rank).view


def _beside(ratio: float | None, score: float, limit: float, name: str) -> str:
    return f"{score:.3g}, {name} is {limit:.3g}" if ratio is None else f"{_rounded(ratio)} x {name}"


def _rounded(ratio: float) -> str:
    """Two digits that do not round away on which side of 1 it lies."""
    for digits in (1, 2, 3, 4):
        text = f"{ratio:.{digits}f}"
        if (float(text) > 1) == (ratio > 1) and float(text) != 1:
            return text
    return "just above 1" if ratio > 1 else "1.0"
