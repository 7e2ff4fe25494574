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

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.added import added_before
from mvead_jax.data.file_check import check_files
from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import ignored_words, read_stored
from mvead_jax.data.mirroring import mirrored_table, with_mirrored
from mvead_jax.data.readers import open_pictures
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.trained_images import check_shapes
from mvead_jax.decision.by_hand import scores_digest
from mvead_jax.decision.calibration import Calibration
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.features.cache import Extraction
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.decision import Decider, check_labels, read_for_scoring
from mvead_jax.jobs.evaluate import evaluate, protocols_of
from mvead_jax.jobs.inputs import (
    check_same_run,
    inputs_of,
    load_method_backbone,
    models,
    split_features,
    test_split,
)
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.plan import scoring_parts
from mvead_jax.jobs.provenance import protocol
from mvead_jax.jobs.report_pages import Attend, keep_attended, write_images, write_page
from mvead_jax.jobs.scores_folder import begin, check_output, default_output, finish
from mvead_jax.jobs.trust import method_words
from mvead_jax.jobs.workdir import (
    OVERRIDDEN,
    Job,
    check_ignored,
    checked_facts,
    checked_keys,
    is_artefact,
    model_folder,
    model_names,
    reading,
    trained_config,
    trained_geometries,
    trained_images,
    trained_thresholds,
)
from mvead_jax.methods.base import Spec, TellsRange
from mvead_jax.runtime.disk import Part, check_room, describe
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


class Checked(NamedTuple):
    """A scoring that nothing speaks against.

    Attributes:
      output: folder of the result files. scored: what, in words. earlier: categories whose scores it holds.
      calibrations: of the categories, none where there is no decision by them.
      by_hand: a user's threshold of each category; none where there is none.
    """

    config: Config
    index: DatasetIndex
    output: Path
    scored: str
    earlier: list[str]
    calibrations: dict[str, Calibration]
    by_hand: dict[str, float]


def checked_scoring(
    workdir: Path,
    output: Path | None,
    images: Path | None,
    overrides: Mapping[str, str],
    protocols: Sequence[str] = (),
    from_test_labels: bool = False,
) -> Checked:
    """Return what is scored into where, before weights and images are read. Arguments as of `score`.

    Raises:
      UserError: what of the workdir, the data set or the output can't be scored.
    """
    config = trained_config(workdir, overrides, OVERRIDDEN)
    Manifest(workdir).verify(workdir / "config.json")  # a damaged one may still be a config
    check_ignored(config, workdir)
    protocols_of(config, protocols)
    index = samples_of(config, workdir, images)
    output = output or default_output(workdir, images)
    scored = "test split" if images is None else str(images.resolve())
    if from_test_labels:
        check_labels(index)
        if config.decision.threshold:
            raise UserError(
                "--threshold-from-test-labels: the run has a threshold of the user; leave out one of both, the "
                "user's by --config.decision.threshold="
            )
    earlier = check_output(output, scored)
    names = [name for name, _ in models(config, index)]
    calibrations = read_for_scoring(config, workdir, names, index.categories)
    by_hand = trained_thresholds(config, workdir, index.categories)
    return Checked(
        _with_cache(config, workdir, output), index, output, scored, earlier, calibrations, by_hand
    )


def samples_of(config: Config, workdir: Path, images: Path | None) -> DatasetIndex:
    """Return what is scored: the test split, or the images of a folder."""
    depth = trained_images(workdir).bit_depth
    if images is None:
        return test_split(config, depth, added_before(workdir))
    index = open_pictures(images, _trained(config, workdir), bit_depth=depth)
    return with_mirrored(index, mirrored_table(config.data.mirrored))


def check_images(config: Config, index: DatasetIndex, workdir: Path) -> None:
    """Look at every image and mask that is scored: whether it can be read, and has the shape of training.

    Raises:
      DataProblems: those that can't be read, or under data.strict have another shape.
    """
    check_files(index)
    check_shapes(index, trained_images(workdir), config.data.strict)


def _with_cache(config: Config, workdir: Path, output: Path) -> Config:
    """The config with a cache of features beside `output` if the workdir is an artefact, beside which nothing
    may be written."""
    if config.features.cache or not is_artefact(workdir):
        return config
    cache = str(output.absolute().parent / "feature_cache")
    return replace(config, features=replace(config.features, cache=cache))


def _trained(config: Config, workdir: Path) -> dict[str, list[str]]:
    """Views of each category that was trained, or of those that data.categories names."""
    found = {}
    for name in model_names(workdir):
        facts = read_facts(model_folder(workdir, name))
        found |= dict.fromkeys(facts["categories"], facts["views"])
    chosen = config.data.categories
    return {name: views for name, views in found.items() if not chosen or name in chosen}


def parts_of(
    config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path, output: Path
) -> list[Part]:
    """Return what a scoring writes."""
    parts = [index.select(category=category) for category in index.categories]
    cached = sum(Extraction.of(config, part, backbone, workdir).cached_bytes() for part in parts)
    method = config.build(Spec.of(index.views, index.categories, backbone))
    return scoring_parts(config, index, method, workdir, output, cached)


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
