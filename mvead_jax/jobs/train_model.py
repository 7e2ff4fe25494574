"""The training of one model of a workdir: features -> state, what normal scores look like -> models/<name>/."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np

from mvead_jax.data.added import Added
from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import Ignored, ignored_patches, write_ignored
from mvead_jax.data.mirroring import open_view
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.jobs.events import FILE as EVENTS
from mvead_jax.jobs.events import forget, record
from mvead_jax.jobs.grow import first_new, grown
from mvead_jax.jobs.inputs import inputs_of, split_features
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.model_facts import model_facts
from mvead_jax.jobs.workdir import Job, model_folder
from mvead_jax.methods.base import (
    LeavesOneOut,
    Method,
    RunContext,
    State,
    TrainData,
    Trains,
    file_digests,
    foreground_tap,
    map_shape,
)
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.postprocess.statistics import MOST_SAMPLES, ScoreStatistics
from mvead_jax.report.foreground import draw_foreground
from mvead_jax.runtime.sharding import broadcast, is_first, same_in_all, shared_errors
from mvead_jax.scoring.model_store import read_facts, write_state
from mvead_jax.scoring.scorer import Inputs, Model, Scorer
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.training.tensorboard import TensorBoardWriter

log = logging.getLogger(__name__)


def train_model(
    job: Job,
    name: str,
    index: DatasetIndex,
    manifest: Manifest,
    writer: TensorBoardWriter | None,
    ignored: Mapping[str, Ignored],
    added: Sequence[Added],
) -> None:
    """Train one model, or find that it is there.

    Args: ignored: masks of its categories. added: further good parts.
    """
    config, workdir = job.config, job.workdir
    training = index.select(split="train")
    with shared_errors():
        method = job.method(name, index.views, index.categories)
        keys = job.keys(method, index.categories)
        _check_ignored(method, index, ignored)
        files = file_digests(method)
    facts = model_facts(job, training, keys, ignored, added, files)
    same_in_all(
        json.dumps(facts),
        f"{name}: the processes see different images, textures, weights or geometry; let all read one copy of each",
    )
    folder, done, earlier = model_folder(workdir, name), False, None
    with shared_errors():
        if is_first():
            earlier = read_facts(folder) if manifest.covers(folder) else None
            done = earlier == facts
    if broadcast(done):
        log.info("model %s: already trained", name)
        return
    first, checkpoints = first_new(job, method, training, facts, earlier), None
    if first is None and isinstance(method, Trains) and method.training:  # it may refuse: before features
        with shared_errors():
            place, metrics = workdir / "checkpoints" / name, workdir / EVENTS
            trained = bool(manifest.names(folder))
            checkpoints = Checkpoints(place, metrics, name, facts, writer, replace=trained)
    with shared_errors():
        if is_first():
            manifest.forget(workdir / "config.json")  # until all of it is trained again
            forget(workdir, {"stage": "model", "name": name})
    begin = time.monotonic()
    features = split_features(config, training, job.backbone, workdir)
    with shared_errors():
        inputs = inputs_of(config, method, training, features)
        if is_first():
            _draw_foreground(workdir, training, inputs)
    data = TrainData(training, features, keys, job.backbone, inputs.images, inputs.foreground, ignored)
    data = _without_ignored(method, data)
    with (
        closing(writer) if writer else nullcontext(),
        checkpoints.heeding_sigterm() if checkpoints else nullcontext(),
    ):
        if first is None:
            state = method.fit(data, RunContext(config.seed, checkpoints))
        else:
            state = grown(job, name, method, data, first, earlier)
    seconds = time.monotonic() - begin
    statistics = _statistics(job, method, state, data)
    with shared_errors():
        if is_first():
            rows = write_state(folder, state, facts)
            statistics.write(folder / STATISTICS, index.views)
            if ignored:
                write_ignored(folder / IGNORED, ignored)
            told = ", ".join(f"{bank} {count}" for bank, count in rows.items())
            log.info("model %s: trained in %.0f s%s", name, seconds, f"; rows of {told}" if rows else "")
            record(workdir, {"stage": "model", "name": name, "rows": rows, "seconds": seconds})
            manifest.record(folder)  # last: what the manifest covers is not made again


def _check_ignored(method: Method, index: DatasetIndex, ignored: Mapping[str, Ignored]) -> None:
    """Raise UserError, before anything is computed, if no patch of a view would count."""
    for category, masks in ignored.items():
        ignored_patches(masks, index.views, map_shape(method), category)


def _without_ignored(method: Method, data: TrainData) -> TrainData:
    """Return the data with ignored patches left out of the foreground, where the method's loss is of that alone.

    Raises:
      UserError: a mask of which no patch counts.
    """
    tap = foreground_tap(method.spec.maps)
    counted = data.counted(data.features[tap].shape[2:4])
    if counted is None or not method.requires.foreground:
        return data
    masks = data.foreground

    def of_samples(chosen: np.ndarray) -> np.ndarray:
        return counted[chosen] if masks is None else masks(chosen) & counted[chosen]

    return dataclasses.replace(data, foreground=of_samples)


def _draw_foreground(workdir: Path, index: DatasetIndex, inputs: Inputs) -> None:
    """Draw the masks of the first complete sample of each category, beside the images of the geometry."""
    if inputs.foreground is None:
        return
    for category in index.categories:
        views = index.select(category=category).views
        own = [at for at, one in enumerate(index.samples) if one.category == category]
        at = next((at for at in own if len(index.samples[at].views) == len(views)), own[0])
        masks, sample = inputs.foreground(np.array([at]))[0], index.samples[at]
        images = {view.name: open_view(index, view) for view in sample.views}
        of_views = {view: masks[index.views.index(view)] for view in images}
        draw_foreground(images, of_views, workdir / "geometry" / "pictures" / f"{category}_foreground.png")
        shares = ", ".join(f"{view} {own.mean():.0%}" for view, own in of_views.items())
        log.info("foreground %s: of %s", category, f"{sample.id} {shares}")


def _statistics(job: Job, method: Method, state: State, data: TrainData) -> ScoreStatistics:
    """Return what normal maps look like: of some training samples, left out of what was learned where the method can.

    All processes must call; what the others return does not count.
    """
    chosen = spread_evenly(len(data.index), MOST_SAMPLES)
    if isinstance(method, LeavesOneOut):
        normal = method.leave_one_out(state, data, chosen)
        return ScoreStatistics.of(_counted(data, normal, chosen)) if normal is not None else None
    model, maps = Model(method, state, None), []
    plain = job.config.score.without_other_views()
    inputs = Inputs(data.features, data.index.present(), data.images, data.foreground)
    for category in data.categories:
        own = [at for at in chosen if data.index.samples[at].category == category]
        scorer = Scorer(model, category, data.geometry[category], plain)
        found = [found.maps for found in scorer.score(inputs, np.array(own, int))] if own else []
        maps += [_counted(data, np.concatenate(found), np.array(own))] if found else []
    return ScoreStatistics.of(np.concatenate(maps))


def _counted(data: TrainData, maps: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return maps of some training samples with NaN, which counts as missing, where patches never count."""
    counted = data.counted(maps.shape[2:])
    return maps if counted is None else np.where(counted[chosen], maps, np.float32(np.nan))
