"""What several runs would still take, in hours and bytes, before any of it is done; nothing is written.

Hours are those of feature extraction, without decoding, and of training steps, both measured on this device. Geometry,
memory banks, scoring and the report come on top. What several runs share, the features of a split, counts in the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex
from mvead_jax.evaluation.markdown import ascii_text, markdown
from mvead_jax.features.cache import Extraction, feature_bytes
from mvead_jax.features.extraction import seconds_a_picture
from mvead_jax.jobs.checked_training import checked_training
from mvead_jax.jobs.decision import calibration_samples
from mvead_jax.jobs.inputs import load_method_backbone, models
from mvead_jax.jobs.plan import scoring_parts, training_parts
from mvead_jax.jobs.reproduce import Run, crash_words, is_finished, is_trained
from mvead_jax.jobs.step_time import seconds_a_step
from mvead_jax.methods.base import Spec, training_steps
from mvead_jax.runtime.disk import amount
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.host import computing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """What is left of one run.

    Attributes:
      state: "finished", "trained" or "to do".
      images: to go through the backbone. feature_seconds: of that.
      steps: of training. training_seconds: of them.
      bytes: to be written.
      error: why it could not be planned.
    """

    name: str
    state: str = "to do"
    images: int = 0
    feature_seconds: float = 0.0
    steps: int = 0
    training_seconds: float = 0.0
    bytes: int = 0
    error: str | None = None


@computing()
def budgets(runs: Sequence[Run], output: Path) -> list[Budget]:
    """Return what is left of each run; a run that cannot be planned has an error and no figures."""
    measured, found = _Measured(), []
    for number, run in enumerate(runs, 1):
        log.info("planning %d of %d: %s", number, len(runs), run.name)
        try:
            found.append(_budget(run, output, measured))
        except UserError as error:
            found.append(Budget(run.name, error=str(error).splitlines()[0]))
        except Exception as error:  # as in a run
            found.append(Budget(run.name, error=crash_words(error)))
            log.exception("%s: crashed", run.name)
    return found


def budget_text(found: Sequence[Budget]) -> str:
    """Return a line for each run and their sum."""
    known = [one for one in found if not one.error]
    total = Budget(
        f"sum of {len(known)} of {len(found)}",
        f"{sum(one.state == 'finished' for one in known)} finished",
        sum(one.images for one in known),
        sum(one.feature_seconds for one in known),
        sum(one.steps for one in known),
        sum(one.training_seconds for one in known),
        sum(one.bytes for one in known),
    )
    header = ["run", "state", "images", "h of features", "steps", "h of training", "to be written"]
    grid = markdown(header, [_line(one) for one in (*found, total)], left=2)
    hours = (total.feature_seconds + total.training_seconds) / 3600
    return ascii_text(
        f"{grid}\n\n{hours:.2f} hours on this device and {amount(total.bytes)} of disk. Features are measured on a "
        "batch of blank images and count where they are first needed, training on a few steps without geometry. "
        "Reading images, estimating geometry, filling memory banks and scoring come on top. Nothing was written.\n"
    )


def _line(one: Budget) -> list[str]:
    if one.error:
        return [one.name, "not planned", *["-"] * 5]
    features, training = (f"{seconds / 3600:.3f}" for seconds in (one.feature_seconds, one.training_seconds))
    return [one.name, one.state, f"{one.images:,}", features, f"{one.steps:,}", training, amount(one.bytes)]


def _budget(run: Run, output: Path, measured: _Measured) -> Budget:
    if is_finished(run, output):
        return Budget(run.name, "finished")
    workdir, trained = output / run.name, is_trained(run, output)
    config, index = checked_training(run.config, workdir)
    backbone = measured.backbone(config)
    method = config.build(Spec.of(index.views, index.categories, backbone))
    test = index.select(split="test")
    parts = scoring_parts(config, test, method, workdir, workdir / "scores")
    splits = [test]
    steps, seconds = 0, 0.0
    if not trained:
        parts += training_parts(config, index, method, workdir)
        splits += [index.select(split="train"), calibration_samples(index)]
        for _, part in models(config, index):
            own = part.select(split="train")
            count = _steps(config, own, backbone)
            steps += count
            seconds += count * measured.step(config, own, backbone) if count else 0.0
    images, feature_seconds, size = measured.features(config, splits, backbone, workdir)
    size += sum(part.missing for part in parts if part.what != "features")
    return Budget(run.name, "trained" if trained else "to do", images, feature_seconds, steps, seconds, size)


def _steps(config: Config, index: DatasetIndex, backbone: Backbone) -> int:
    """Return how many steps the training of a model has."""
    method = config.build(Spec.of(index.views, index.categories, backbone))
    return training_steps(method, len(index))


@dataclass
class _Measured:
    """What was loaded and measured, each once, and the features that earlier runs will have computed."""

    _backbone: dict[Any, Any] = field(default_factory=dict)
    _pictures: dict[Any, float] = field(default_factory=dict)
    _steps: dict[Any, Any] = field(default_factory=dict)
    _planned: set[Any] = field(default_factory=set)

    def backbone(self, config: Config) -> Backbone:
        """Return the backbone of a config. Raises UserError as `load_backbone`.

        The last one alone is kept: runs of one config follow each other, and all together may not fit.
        """
        key = config.backbone, config.data.image_size, config.requires().taps, config.seed
        if key not in self._backbone:
            self._backbone.clear()
        return _once(self._backbone, key, lambda: load_method_backbone(config))

    def step(self, config: Config, index: DatasetIndex, backbone: Backbone) -> float:
        """Return the seconds of a step; the same for all categories of so many views."""
        key = replace(config, data=replace(config.data, categories=())), len(index.views)
        return _once(self._steps, key, lambda: seconds_a_step(config, index, backbone)) or 0.0

    def features(
        self, config: Config, splits: Sequence[DatasetIndex], backbone: Backbone, workdir: Path
    ) -> tuple[int, float, int]:
        """Return images, seconds and bytes of the features that neither the cache nor an earlier run has."""
        images, seconds, size = 0, 0.0, 0
        for own in (part.select(category=category) for part in splits for category in part.categories):
            job = Extraction.of(config, own, backbone, workdir)
            names = tuple(sample.id for sample in own.samples)
            in_a_pass = job.images_in_a_pass
            kind = backbone.digest, in_a_pass
            key = (job.cache, kind, config.features.dtype, str(own.root), job.name, own.views, names)
            if key in self._planned:
                continue
            self._planned.add(key)
            left = len(own) - sum(len(chunk.samples) for chunk in job.cached())
            if left and kind not in self._pictures:
                self._pictures[kind] = seconds_a_picture(backbone, in_a_pass)
            images += left * len(own.views)
            seconds += left * len(own.views) * self._pictures.get(kind, 0.0)
            size += feature_bytes(left, len(own.views), backbone.shapes, config.features.dtype)
        return images, seconds, size


def _once(known: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` gave or raised when it was first asked."""
    if key not in known:
        try:
            known[key] = make()
        except Exception as error:
            known[key] = error
    if isinstance(known[key], Exception):
        raise known[key]
    return known[key]
