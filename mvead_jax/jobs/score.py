"""The job that says how abnormal new parts are: a trained workdir and images -> scores, maps, metrics.

    scores/samples.csv      category,sample,label,score,worst_view, and of a run with decision.held_out
                            p_value,decision,reason
    scores/images.csv       category,sample,view,image_path,label,score, and with decision.held_out p_value
    scores/maps/<category>.npz   "maps": float16 [n,h,w], patch scores in the order of images.csv
    scores/environment.json what the scores were computed on; command.json: by which command
    scores/attended/<category>.npz   where a method shows it: what the patches of a few samples attended to
    scores/report/index.html   all of it to look at (report/page.py), written last; overlays/ if asked for
    scores/metrics*.json    metrics with their protocol, regions*.csv and bootstrap.npz: see evaluate.py
    scores/unfinished.json  of what, while it is scored

A category is written as soon as it is scored, so that no two are held; metrics.json comes last of what
counts, and without it the folder is not finished. What is only to look at may fail: that is said, and nothing
is lost.

Where several processes run the job, all compute features and maps; the first writes all files.

Scores are raw distances (with score.evidence, sums of standardised ones): higher is more abnormal. Thresholds
come from held-out training samples (decision.held_out) or from the user (decision.threshold), never from test
labels unless that is asked for.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import ignored_words, read_stored
from mvead_jax.data.records import DatasetIndex
from mvead_jax.decision.by_hand import scores_digest
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.checked_scoring import check_images, checked_scoring, parts_of
from mvead_jax.jobs.decision import Decider
from mvead_jax.jobs.evaluate import evaluate
from mvead_jax.jobs.inputs import (
    check_same_run,
    inputs_of,
    load_method_backbone,
    models,
    split_features,
)
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.provenance import protocol
from mvead_jax.jobs.report_pages import Attend, keep_attended, write_images, write_page
from mvead_jax.jobs.scores_folder import begin, check_output, finish
from mvead_jax.jobs.trust import method_words
from mvead_jax.jobs.workdir import (
    Job,
    checked_facts,
    checked_keys,
    model_folder,
    reading,
    trained_geometries,
)
from mvead_jax.methods.base import TellsRange
from mvead_jax.runtime.disk import check_room, describe
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked, make_folder
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.progress import progress
from mvead_jax.runtime.sharding import is_first, shared_errors
from mvead_jax.scoring.model_store import read_facts
from mvead_jax.scoring.scorer import Inputs, Model, Scorer

log = logging.getLogger(__name__)

_ATTENDED = 8  # patches of the others that are kept for each patch


@computing()
def score(
    workdir: Path,
    output: Path | None = None,
    *,
    images: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    from_test_labels: bool = False,
    report: bool = True,
    overlays: bool = False,
) -> dict[str, Any] | None:
    """Score the test split of a workdir's data set, or the images of a folder.

    Args:
      workdir: of `train`.
      output: folder of the result files; None = `default_output`.
      images: a folder of new images, <sample>/<view>.<ext> or named as in Real-IAD; their labels are
        unknown.
      overrides: config fields to change, such as data.root when the data set has moved.
      protocols: names of evaluation protocols that get a metrics_<name>.json of their own.
      from_test_labels: thresholds by the best F1 of the test labels: optimistic, and flagged everywhere.
      report: write report/index.html. overlays: write heat over every image too, as files.

    Returns:
      The content of metrics.json, beside which all other files lie; None in all processes but the first.

    Raises:
      UserError: anything wrong with the workdir, the data or the weights.
    """
    with ExitStack() as held:
        with shared_errors():
            if is_first():
                held.enter_context(reading(workdir))  # before anything of the model is read
        with shared_errors():
            checked = checked_scoring(workdir, output, images, overrides or {}, protocols, from_test_labels)
            config, index, output, scored, _, calibrations, by_hand = checked
            decider = Decider(calibrations, config.decision.false_alarms, from_test_labels, by_hand)
            backbone = load_method_backbone(config)
            if is_first():
                check_images(config, index, workdir)
            geometries = trained_geometries(config, workdir, index.categories)
        check_same_run(config, workdir)
        job, metrics = Job(config, workdir, backbone, geometries), None
        earlier: list[str] = []
        with shared_errors():
            if is_first():
                make_folder(output)
                held.enter_context(locked(output))
                earlier = check_output(output, scored)  # another scoring may have ended since
                planned = parts_of(config, index, backbone, workdir, output)
                log.debug("to be written: %s", describe(planned))
                check_room(planned)
        decided, ranges = _write_scores(job, index, output, scored, earlier, decider, report)
        with shared_errors():
            if is_first():
                words = _words(job, index, scored, decider)
                words |= {"map_ranges": ranges} if ranges else {}
                metrics = evaluate(output, index, words, config, protocols, decided)
                finish(output)
                usual = workdir / "scores" if images is not None else None
                if report:
                    write_page(output, index, workdir, usual)
                if overlays:
                    write_images(output, index, workdir, usual)
    return metrics


def _write_scores(
    job: Job,
    index: DatasetIndex,
    output: Path,
    scored: str,
    earlier: Sequence[str],
    decider: Decider,
    report: bool,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Scores and keeps one category after the other; returns how the decisions of each came about, and the
    range of maps in training, where the method tells one.

    Args:
      scored: what, in words. earlier: categories whose scores `output` holds; they go.
      report: keep what patches attended to.
    """
    files, decided, ranges = None, {}, {}
    for category, found, attend, bounds in _scored(job, index):
        with shared_errors():
            if is_first():
                files = files or begin(output, scored, [*earlier, *index.categories], bool(decider))
                decisions = None
                if decider:
                    decisions, decided[category] = decider.decide(index, category, found)
                files.add(category, found, decisions)
                if report:
                    keep_attended(output, category, found, attend)
        del found  # or it would be held until the next is there
        if bounds is not None and bounds[0] < bounds[1]:
            ranges[category] = list(bounds)
    return decided, ranges


def _words(job: Job, index: DatasetIndex, scored: str, decider: Decider) -> dict[str, Any]:
    """How the scores came about."""
    config, workdir = job.config, job.workdir
    facts = [read_facts(model_folder(workdir, name)) for name, _ in models(config, index)]
    method = job.method("", index.views, index.categories)
    training = [own["training"] for own in facts]
    if scored != "test split":  # new images are of no list: the views of training tell which one was learned
        index = replace(index, views=tuple(dict.fromkeys(view for own in facts for view in own["views"])))
    words = protocol(config, job.backbone, method, training, scored, job.geometries, index)
    words |= method_words(workdir)
    own = [read_stored(model_folder(workdir, name) / IGNORED) for name, _ in models(config, index)]
    words["ignored"] = ignored_words({category: masks for one in own for category, masks in one.items()})
    if parts := [one for each in facts for one in each.get("added", ())]:
        counts = Counter(category for _, category, _ in parts)
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        words["added"] = (
            f"{told}: parts that a person labelled good; they are learned from and not scored any more"
        )
    words["models_digest"] = Manifest(workdir).digest(workdir / "models")
    words["scores_digest"] = scores_digest(words["models_digest"], config.score.deciding())
    return words | ({"decision": decider.words()} if decider else {})


class ScoredCategory(NamedTuple):
    """What a model says of a category; without samples in all processes but the first.

    Attributes:
      attend: what tells what some of its samples attended to (Scorer.attended).
      bounds: of the maps in training, where the method tells them.
    """

    category: str
    samples: list[ScoredSample]
    attend: Attend
    bounds: tuple[float, float] | None


def _scored(job: Job, index: DatasetIndex) -> Iterator[ScoredCategory]:
    """`_score_model` of each model."""
    for name, part in models(job.config, index):
        yield from _score_model(job, name, part)


def _score_model(job: Job, name: str, index: DatasetIndex) -> Iterator[ScoredCategory]:
    """Each category of the model, once all of it is scored."""
    config, opened = job.config, opened_model(job, name, index)
    model, index, inputs = opened.model, opened.index, opened.inputs
    bounds = model.method.map_range(model.state) if isinstance(model.method, TellsRange) else None
    with progress(f"scores {name}", len(index), "samples") as bar:
        for category in index.categories:
            found = []
            scorer = Scorer(model, category, opened.keys[category], config.score)
            chosen = np.array([at for at, own in enumerate(index.samples) if own.category == category])
            pooling = model.method.requires.sample_score
            for scored in scorer.score(inputs, chosen):
                bar.advance(len(scored.rows))
                if not is_first():
                    continue
                found += [
                    ScoredSample(index.samples[row], index.views, *own, pooling)
                    for row, *own in zip(*scored, strict=True)
                ]

            def attend(places, scorer=scorer, chosen=chosen):
                return scorer.attended(inputs, chosen[places], _ATTENDED)

            yield ScoredCategory(category, found, attend, bounds)


class OpenedModel(NamedTuple):
    """A model with the samples that it is to score.

    Attributes:
      index: the samples, on the model's axis of views. keys: of their categories. inputs: what is read of them.
    """

    model: Model
    index: DatasetIndex
    keys: dict[str, EpipolarKeys]
    inputs: Inputs


def opened_model(job: Job, name: str, index: DatasetIndex) -> OpenedModel:
    """Return the model `name` of a run with some samples, whose features are computed where the cache has none.

    Raises:
      UserError: the model was not trained, or with anything else than these samples have.
    """
    with shared_errors():
        facts, index, keys = _check_model(job, name, index)
    features = split_features(job.config, index, job.backbone, job.workdir)
    with shared_errors():
        model = job.load(name, facts)
    return OpenedModel(model, index, keys, inputs_of(job.config, model.method, index, features))


def _check_model(
    job: Job, name: str, index: DatasetIndex
) -> tuple[dict[str, Any], DatasetIndex, dict[str, EpipolarKeys]]:
    """What the model was trained with, the samples on its axis of views, and the keys of their categories.

    Raises:
      UserError: the model was not trained, or with anything else than these samples have.
    """
    facts = checked_facts(job.workdir, name, job.backbone)
    if new := sorted(set(index.categories) - set(facts["categories"])):
        learned = ", ".join(facts["categories"])
        raise UserError(f"{', '.join(new)}: not trained; {model_folder(job.workdir, name)} learned {learned}")
    views = tuple(facts["views"])
    if unknown := [view for view in index.views if view not in views]:
        raise UserError(
            f"{index.root}: {name} has view {', '.join(unknown)}; training saw {', '.join(views)}"
        )
    index = replace(index, views=views)
    if lacking := int((~index.present().all(1)).sum()):
        log.warning(
            "%s: %d of %d samples lack a view; they are scored by the others", name, lacking, len(index)
        )
    return facts, index, checked_keys(job, name, facts, index.categories)
