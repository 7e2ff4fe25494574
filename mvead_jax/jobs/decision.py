"""The decision in the jobs: held-out samples scored after training, and later ones decided by them.

train.py scores the held-out samples with the model as it is read back from the workdir, so that they and
later samples take the same path to their scores.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from mvead_jax.config.schema import Config
from mvead_jax.data.images import image_size
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.decision.calibration import (
    FILE,
    Calibration,
    check_size,
    pattern_name,
    patterns,
    read_calibrations,
)
from mvead_jax.decision.conformal import p_value
from mvead_jax.decision.decide import Decision, decide, decide_by, located
from mvead_jax.evaluation.ranking import f1_max_threshold
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.workdir import model_folder
from mvead_jax.postprocess.pooling import Pooling
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress
from mvead_jax.scoring.scorer import Inputs, Model, Scorer

log = logging.getLogger(__name__)


def calibration_path(workdir: Path, name: str) -> Path:
    """Return where a workdir keeps the calibrations of a model's categories."""
    return model_folder(workdir, name) / FILE


def calibration_samples(index: DatasetIndex) -> DatasetIndex:
    """Return the held-out samples that are not labelled defective, on the index's axis of views."""
    samples = tuple(one for one in index.samples if one.split == "held_out" and one.label != 1)
    return replace(index, samples=samples)


def check_held_out(config: Config, index: DatasetIndex) -> None:
    """Say in the log what is held out of each category.

    Raises:
      UserError: too few to decide at decision.false_alarms, or one model for categories of other cameras.
    """
    if not config.decision.held_out:
        return
    for category in index.categories:
        own = index.select(category=category)
        if config.setting == "multi" and own.views != index.views:
            raise UserError(
                f"{category}: its views are {', '.join(own.views)}, those of one model for all "
                f"{', '.join(index.views)}, so none of its samples could calibrate the decision; take "
                "setting=single or decision.held_out=0"
            )
        held_out, learned = own.select(split="held_out"), own.select(split="train")
        good = calibration_samples(own)
        complete = int(good.present().all(1).sum()) if len(good) else 0
        if len(held_out) and not len(learned):
            raise UserError(
                f"{category}: decision.held_out={config.decision.held_out:g} leaves no training sample of "
                f"{len(held_out)}; hold out less"
            )
        check_size(category, complete, config.decision.false_alarms, len(held_out) + len(learned))
        if len(good) < len(held_out):
            log.warning(
                "%s: %d of %d held-out samples are labelled defective and calibrate nothing; the false-alarm "
                "rate is kept only if the others are good",
                *(category, len(held_out) - len(good), len(held_out)),
            )
        log.info("%s: %d samples to learn from, %d held out", category, len(learned), len(held_out))


def score_held_out(
    config: Config,
    model: Model,
    index: DatasetIndex,
    inputs: Inputs,
    keys: Mapping[str, EpipolarKeys],
    defective: Mapping[str, int],
) -> dict[str, Calibration]:
    """Return what the held-out samples of each category of a model score. All processes must call.

    Where a view's score does not depend on the other views they are scored once; else with every pattern of
    present views, as if the other images did not exist.

    Args:
      index, inputs: of the held-out samples that calibrate, on the model's axis of views.
      keys: of each category.
      defective: how many more of each category are labelled defective.
    """
    independent = not model.method.requires.joint_views and config.score.evidence == "none"
    views, present = len(index.views), inputs.present
    wanted = patterns(views)[: 1 if independent else None]
    found = {}
    with progress(f"held out {'+'.join(index.categories)}", len(index) * len(wanted), "samples") as bar:
        for category in index.categories:
            rows = np.array([at for at, own in enumerate(index.samples) if own.category == category])
            scorer = Scorer(model, category, keys[category], config.score)
            scores = {}
            for pattern in wanted:
                # A sample says something of a pattern if it has its views; of single views always.
                able = rows if independent else rows[present[rows][:, pattern].all(1)]
                own = np.full((len(index), views), np.nan, np.float32)
                for scored in scorer.score(replace(inputs, present=present & pattern), able):
                    own[scored.rows] = scored.views
                scores[pattern_name(pattern)] = own[rows]
                bar.advance(len(rows))
            ids = tuple(index.samples[row].id for row in rows)
            pooling = model.method.requires.sample_score
            found[category] = Calibration(index.views, ids, scores, independent, defective[category], pooling)
    return found


def read_for_scoring(
    config: Config, workdir: Path, names: Iterable[str], categories: Sequence[str]
) -> dict[str, Calibration]:
    """Return the calibrations of categories; none where the run has no decision, or the scores are made otherwise.

    Args:
      names: of the models that score them.

    Raises:
      UserError: a file that has changed, or too few samples for decision.false_alarms.
    """
    found: dict[str, Calibration] = {}
    for name in names if config.decision.held_out else ():
        path = calibration_path(workdir, name)
        if not path.parent.is_dir():
            continue  # not trained, which is said where the model is read
        Manifest(workdir).verify(path)
        own, by, _ = read_calibrations(path)
        if by != (deciding := config.score.deciding()):
            log.warning(
                "no decision: the held-out samples were scored with %s, these with %s; train with that",
                *(_settings(by), _settings(deciding)),
            )
            return {}
        found |= own
    found = {category: own for category, own in found.items() if category in categories}
    for category, own in found.items():
        own.check(category, config.decision.false_alarms)
    return found


def _settings(scored: Mapping[str, Any]) -> str:
    return " ".join(f"score.{key}={value}" for key, value in scored.items())


# Of a category in metrics.json, beside the rates. held_out_scores: of samples with all views, where any were
# held out; held_out_threshold: theirs, where the user's decides.
FACTS = ("basis", "target", "threshold", "held_out", "held_out_scores", "held_out_threshold")


@dataclass(frozen=True)
class Decider:
    """Decisions on all samples of a category.

    Attributes:
      calibrations: of the categories; none: no decision, unless one of the others decides.
      false_alarms: the target.
      from_test_labels: a threshold for each category by the best F1 of its own labels instead.
      by_hand: a user's threshold of each category instead; none: there is none.
    """

    calibrations: Mapping[str, Calibration]
    false_alarms: float
    from_test_labels: bool = False
    by_hand: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.calibrations) or self.from_test_labels or bool(self.by_hand)

    def decide(
        self, index: DatasetIndex, category: str, found: Sequence[ScoredSample]
    ) -> tuple[list[Decision], dict[str, Any]]:
        """The decisions on the samples of one category, and how they came about, for metrics.json."""
        lowest = _best_f1(found) if self.from_test_labels else None
        made = []
        for one in found:
            present = _present(one.sample, one.views)
            if lowest is None:
                own = self.one(category, one.views, one.view_scores, present, one.pooling)
            else:
                own = decide_by(one.views, one.view_scores, present, lowest, one.pooling)
            made.append(located_in(own, one, index) if own.decision == "fail" else own)
        if lowest is not None:
            return made, {"basis": "test_labels", "target": None, "threshold": lowest, "held_out": 0}
        return made, self._facts(category)

    def decides(self, category: str) -> bool:
        """Whether a threshold or held-out samples of a category are known."""
        return category in self.by_hand or category in self.calibrations

    def one(
        self,
        category: str,
        views: tuple[str, ...],
        scores: Float32[np.ndarray, " V"],
        present: Bool[np.ndarray, " V"],
        pooling: Pooling,
    ) -> Decision:
        """The decision on one sample by a user's threshold, or else by the held-out samples."""
        calibration = self.calibrations.get(category)
        if category in self.by_hand:
            return decide_by(views, scores, present, self.by_hand[category], pooling, "user", calibration)
        return decide(calibration, scores, present, self.false_alarms)

    def _facts(self, category: str) -> dict[str, Any]:
        """How decisions came about that no test labels made: those of FACTS."""
        own, found = self.calibrations.get(category), {"held_out": 0}
        if own is not None:
            scores = np.sort(own.sample_scores(np.ones(len(own.views), bool)))
            found = {"held_out": len(own.samples), "held_out_scores": [float(f"{x:.9g}") for x in scores]}
            found["held_out_threshold"] = own.threshold(self.false_alarms)
        if category in self.by_hand:
            target, limit = self._amounts_to(category), self.by_hand[category]
            found |= {"basis": "user", "target": target, "threshold": limit}
        else:
            limit = found.pop("held_out_threshold")
            found |= {"basis": "held_out", "target": self.false_alarms, "threshold": limit}
        return {key: found[key] for key in FACTS if key in found}

    def _amounts_to(self, category: str) -> float | None:
        """The target at which the held-out samples would make no lower threshold than the user's."""
        if (own := self.calibrations.get(category)) is None:
            return None
        return p_value(own.sample_scores(np.ones(len(own.views), bool)), self.by_hand[category])

    def _words_by_hand(self) -> str:
        parts = []
        for name, threshold in self.by_hand.items():
            target = self._amounts_to(name)
            told = "" if target is None else f", which amounts to a target of {100 * target:.3g} %"
            parts.append(f"{name} {threshold:.6g}{told}")
        return (
            f"set by the user: a sample fails if its score is at least {'; '.join(parts)}; no false-alarm rate is "
            "promised, for who sets a threshold may have seen the scores; p-values decide nothing"
        )

    def words(self) -> str:
        """For the protocol."""
        if self.by_hand:
            return self._words_by_hand()
        if self.from_test_labels:
            return (
                "OPTIMISTIC: for each category the threshold of the best F1 on the labels of these samples; "
                "no false-alarm rate is promised, and on new samples the rates will be worse"
            )
        counts = ", ".join(f"{name} {len(own.samples)}" for name, own in self.calibrations.items())
        words = (
            f"a sample fails if its conformal p-value is at most {self.false_alarms:g}; calibrated by "
            f"held-out training samples ({counts}) that geometry, pre-training and banks did not see; on "
            f"average over held-out sets at most {100 * self.false_alarms:g} % of good samples fail, if they "
            "are made like these; p-values of views explain and decide nothing"
        )
        if defective := sum(own.defective for own in self.calibrations.values()):
            words += (
                f"; the training lists are contaminated: {defective} held-out samples labelled defective "
                "were left out, and if others are defective too the rate is not kept"
            )
        return words


def located_in(decision: Decision, scored: ScoredSample, index: DatasetIndex) -> Decision:
    """The decision with its place in the stored image, whose header is read."""
    view = next(one for one in scored.sample.views if one.name == decision.blamed)
    maps = {view.name: scored.maps[scored.views.index(view.name)]}
    return located(decision, maps, {view.name: image_size(index.root / view.image)})


def check_labels(index: DatasetIndex) -> None:
    """Raises UserError unless every category has labelled samples, good and defective, to choose a threshold
    by."""
    for category in index.categories:
        labels = {one.label for one in index.samples if one.category == category}
        if not {0, 1} <= labels:
            raise UserError(
                f"{category}: a threshold from test labels needs good and defective samples; leave out "
                "--threshold-from-test-labels"
            )


def _best_f1(found: Sequence[ScoredSample]) -> float:
    known = [one for one in found if one.sample.label is not None]
    labels = np.array([one.sample.label for one in known])
    return f1_max_threshold(np.array([one.score for one in known]), labels)


def _present(sample: Sample, views: tuple[str, ...]) -> Bool[np.ndarray, " V"]:
    names = {view.name for view in sample.views}
    return np.array([view in names for view in views])
