"""The job that scores a test split with views left out: what a line loses where cameras fail.

Of each sample views are drawn at random and left out, one, two and so on; with one more left out, those of the
step before are left out too. The sample's label stays what it is, so that a defect that only a lost view shows
counts as one that is not found; beside it stands the AUROC of the defects that a view still shows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.evaluation.ranking import auroc
from mvead_jax.jobs.checked_scoring import check_images, checked_scoring
from mvead_jax.jobs.inputs import load_method_backbone, models
from mvead_jax.jobs.score import OpenedModel, opened_model
from mvead_jax.jobs.workdir import Job, reading, trained_geometries
from mvead_jax.postprocess.pooling import pooled
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.progress import progress
from mvead_jax.scoring.scorer import Scorer

log = logging.getLogger(__name__)


class Left(NamedTuple):
    """Sample AUROC of a category with some views left out; NaN unless both labels occur.

    Attributes:
      missing: how many views were left out. draw: the number of the draw.
      auroc: over all samples. seen: without the defects that no view shows that is left.
    """

    category: str
    missing: int
    draw: int
    auroc: float
    seen: float


@computing()
def score_with_missing_views(workdir: Path, draws: int = 3, seed: int = 0) -> list[Left]:
    """Score the test split of a finished training with no view left out, with one, and so on.

    Args:
      workdir: of `train`; nothing is written into it but the features that its cache lacks.
      draws: how often the views to leave out are drawn.
      seed: of the draws; the same views for every run on the same samples.

    Returns:
      A line for each category, number of missing views and draw; with none missing one draw.

    Raises:
      UserError: anything wrong with the workdir or the data; too few views to leave one out.
    """
    with reading(workdir):
        config, index, *_ = checked_scoring(workdir, None, None, {})
        check_images(config, index, workdir)
        backbone = load_method_backbone(config)
        job = Job(config, workdir, backbone, trained_geometries(config, workdir, index.categories))
        found = []
        for name, part in models(config, index):
            found += _of_model(opened_model(job, name, part), job, name, draws, seed)
    return found


def _of_model(opened: OpenedModel, job: Job, name: str, draws: int, seed: int) -> list[Left]:
    index, method = opened.index, opened.model.method
    least = max(1, method.requires.min_views)
    most = int(index.present().sum(1).min()) - least
    if most < 1:
        raise UserError(
            f"{job.workdir}: {name} has samples of {most + least} views, and {job.config.method} needs "
            f"{least}: none can be left out"
        )
    steps = [(0, 0), *((missing, draw) for missing in range(1, most + 1) for draw in range(draws))]
    found = []
    with progress(f"missing views {name}", len(index) * len(steps), "samples") as bar:
        for missing, draw in steps:
            present = left(index, missing, (seed, draw))
            inputs = opened.inputs.only(present)
            for category in index.categories:
                rows = np.array([at for at, own in enumerate(index.samples) if own.category == category])
                scorer = Scorer(opened.model, category, opened.keys[category], job.config.score)
                scores = np.zeros(len(rows), np.float32)
                for scored in scorer.score(inputs, rows):
                    own = np.searchsorted(rows, scored.rows)
                    for at, row, views in zip(own, scored.rows, scored.views, strict=True):
                        scores[at] = pooled(views[None, present[row]], method.requires.sample_score)[0]
                    bar.advance(len(scored.rows))
                samples = [index.samples[row] for row in rows]
                found.append(Left(category, missing, draw, *_aurocs(samples, index, present[rows], scores)))
    return found


def left(index: DatasetIndex, missing: int, seed: Sequence[int]) -> Bool[np.ndarray, "S V"]:
    """Return which views of each sample remain when so many of those that it has are left out at random."""
    present = index.present()
    for row, sample in zip(present, index.samples, strict=True):
        # By the sample's name: what is drawn for it does not depend on which others are scored.
        order = np.random.default_rng([*seed, *f"{sample.category}/{sample.id}".encode()])
        row[order.permutation(np.flatnonzero(row))[:missing]] = False
    return present


def _aurocs(
    samples: Sequence[Sample],
    index: DatasetIndex,
    present: Bool[np.ndarray, "n V"],
    scores: Float32[np.ndarray, " n"],
) -> tuple[float, float]:
    known = np.array([sample.label is not None for sample in samples])
    labels = np.array([sample.label or 0 for sample in samples])
    kept = [dict(zip(index.views, row, strict=True)) for row in present]
    shown = [
        any(view.label == 1 and own[view.name] for view in sample.views)
        for sample, own in zip(samples, kept, strict=True)
    ]
    seen = known & ((labels == 0) | np.array(shown))
    return auroc(scores[known], labels[known]), auroc(scores[seen], labels[seen])
