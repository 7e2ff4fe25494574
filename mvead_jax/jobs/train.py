"""The job that learns what good looks like: index -> features -> geometry -> model, into a workdir.

    config.json environment.json command.json metrics.jsonl manifest.json
    geometry/<category>.json            only where something uses it
    checkpoints/<category or all>/      states of a training
    models/<category or all>/           scoring/model_store.py has the files

With decision.held_out, some of the training samples are used for none of this but, at the end, to calibrate
the decision: models/<category or all>/decision.safetensors.

Run again with the same workdir, it resumes: what the manifest vouches for is not made again, and a training goes
on from its last state.

Where several processes run the job, all compute features and train; the first does everything else, and writes
all files but the others' features.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

import numpy as np

from mvead_jax.backbones.base import Backbone
from mvead_jax.bank.memory import check_views
from mvead_jax.config.io import differences, from_dict, to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.added import FILE as ADDED
from mvead_jax.data.added import Added, added_before, as_json, read_labels, without_added
from mvead_jax.data.file_check import check_files
from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import Ignored, ignored_patches, write_ignored
from mvead_jax.data.mirroring import open_view
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.data.sufficient import empty_metrics, too_few
from mvead_jax.decision.by_hand import check_before_training
from mvead_jax.features.cache import Extraction
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.jobs.calibrate_decision import calibrate_decision
from mvead_jax.jobs.decision import calibration_samples, check_held_out
from mvead_jax.jobs.estimate_geometry import cameras_path, estimate_geometries, geometry_path, uses_geometry
from mvead_jax.jobs.evaluate import protocols_of
from mvead_jax.jobs.events import FILE as EVENTS
from mvead_jax.jobs.events import forget, record
from mvead_jax.jobs.grow import first_new, grown
from mvead_jax.jobs.inputs import (
    check_same_run,
    check_shapes_of_others,
    ignored_regions,
    inputs_of,
    load_method_backbone,
    models,
    open_index,
    split_features,
)
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.model_facts import model_facts
from mvead_jax.jobs.plan import training_parts
from mvead_jax.jobs.trust import record_method, with_trust
from mvead_jax.jobs.workdir import Job, model_folder, refuse_artefact, refuse_version_1
from mvead_jax.methods.base import (
    LeavesOneOut,
    Method,
    RunContext,
    Spec,
    State,
    TrainData,
    Trains,
    foreground_tap,
    map_shape,
)
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.postprocess.statistics import MOST_SAMPLES, ScoreStatistics
from mvead_jax.report.foreground import draw_foreground
from mvead_jax.runtime.console import command
from mvead_jax.runtime.disk import Part, check_room, describe
from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import keep_lines, locked, make_folder, read_json, write_json
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.sharding import broadcast, is_first, same_in_all, shared_errors
from mvead_jax.scoring.model_store import read_facts, write_state
from mvead_jax.scoring.scorer import Inputs, Model, Scorer
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.training.tensorboard import FOLDER, TensorBoardWriter, check_tensorboard

log = logging.getLogger(__name__)


@computing()
def train(config: Config, workdir: Path, *, tensorboard: bool = False, add: Sequence[Path] = ()) -> None:
    """Train every category of `config` into `workdir`, or what is missing of it.

    Args:
      tensorboard: write the figures of a training for it too (training/tensorboard.py).
      add: lists of labels of the report's page, whose good parts are learned too, from now on (data/added.py).

    Raises:
      UserError: anything wrong with the config, the data, the weights or the workdir.
      Stopped: SIGTERM came during a training, whose state is saved.
    """
    with shared_errors():
        if tensorboard:
            check_tensorboard()
        added = _with_new(added_before(workdir), add)
        config, index = checked_training(config, workdir, added)
        ignored = ignored_regions(config, index)
        backbone = load_method_backbone(config)
        if is_first():
            check_files(index)
            check_shapes_of_others(index, config.data.strict)
        info = backbone.info
        log.debug("%s, %s weights: %s", info.name, info.weights, _shapes_words(backbone))
        parts = training_parts_of(config, index, backbone, workdir)  # what does not fit is said at once
        if is_first():
            log.debug("to be written: %s", describe(parts))
            check_room(parts)
    check_same_run(config, workdir)
    with ExitStack() as held:
        with shared_errors():
            if is_first():
                make_folder(workdir)
                held.enter_context(locked(workdir))
                _check_workdir(config, workdir, config.without_trust())  # another may have ended since
                if added:
                    write_json(workdir / ADDED, as_json(added))
                write_json(workdir / "environment.json", environment())
                write_json(workdir / "command.json", command())
                keep_lines(workdir / EVENTS, lambda event: True)  # a kill may have cut one short
                record(workdir, {"stage": "start", "environment": environment()})
        manifest = Manifest(workdir)
        geometries = _geometries(config, without_added(index, added), workdir, manifest)
        asked, config = config, with_trust(config, geometries)
        with shared_errors():
            if is_first():
                _check_workdir(config, workdir)
                write_json(workdir / "config.json", to_dict(config))
                record_method(asked, config, geometries, workdir)
            if config != asked:
                backbone = load_method_backbone(config)
                geometries = geometries if uses_geometry(config) else {}
        for name, part in models(config, index):
            job = Job(config, workdir, backbone, geometries)
            writer = TensorBoardWriter(workdir / FOLDER / name) if tensorboard else None
            masks = {category: ignored[category] for category in part.categories if category in ignored}
            _train_model(job, name, part, manifest, writer, masks, added)
            if config.decision.held_out:
                calibrate_decision(job, name, part, manifest)
        if is_first():
            manifest.record(workdir / "config.json")


def _geometries(
    config: Config, index: DatasetIndex, workdir: Path, manifest: Manifest
) -> dict[str, CategoryGeometry]:
    """Return how the views of each category see each other, estimated by the first process; empty where nothing asks.

    Args: index: the samples by which it is measured.
    """
    if not uses_geometry(config):
        return {}
    with shared_errors():
        if is_first():
            _check_geometry(config, index, workdir)
            geometries = estimate_geometries(config, index, workdir)
            for category in geometries:
                manifest.record(geometry_path(workdir, category))
    with shared_errors():
        if not is_first():
            paths = {category: geometry_path(workdir, category) for category in index.categories}
            geometries = {category: read_geometry(path) for category, path in paths.items()}
    return geometries


def _train_model(
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
    facts = model_facts(job, training, keys, ignored, added)
    same_in_all(
        json.dumps(facts),
        f"{name}: the processes see different images, weights or geometry; let all read one copy of each",
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
    """The data with ignored patches left out of the foreground, where the method's loss is of that alone.

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
    """What normal maps look like: of some training samples, left out of what was learned where the method can.

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
    """Maps of some training samples with NaN, which counts as missing, where patches never count."""
    counted = data.counted(maps.shape[2:])
    return maps if counted is None else np.where(counted[chosen], maps, np.float32(np.nan))


def _with_new(before: Sequence[Added], lists: Sequence[Path]) -> list[Added]:
    """What was added to a workdir, and behind it what lists name; each once."""
    return list(dict.fromkeys([*before, *(one for path in lists for one in read_labels(path))]))


def checked_training(
    config: Config, workdir: Path, added: Sequence[Added] | None = None
) -> tuple[Config, DatasetIndex]:
    """Return the config and the data set of a training, before weights and images are read.

    Args: added: further good parts; None: those that were added to the workdir before.

    Raises:
      UserError: what of the config, the data set or the workdir can't be trained.
    """
    _check_place(config, workdir)
    check_before_training(config.decision.threshold)
    index = open_index(config, added=added_before(workdir) if added is None else added)
    views = max(len(index.select(category=name).views) for name in index.categories)
    config = config.for_views(views)
    if views == 1 and (alone := config.score.without_other_views()) != config.score:
        log.warning("one view alone: there is no other view whose evidence could be added")
        config = dataclasses.replace(config, score=alone)
    _check_workdir(config, workdir, config.without_trust())  # which of them it is, the geometry tells
    check_held_out(config, index)
    if is_first():
        for words in (*too_few(index.samples), *empty_metrics(index.samples)):
            log.warning("%s", words)
    ignored_regions(config, index)  # which says at once what is wrong with a mask
    protocols_of(config)
    for _, part in models(config, index):
        check_views(part.select(split="train"))
    return config, index


def training_parts_of(config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> list[Part]:
    """Return what a training writes."""
    cached = 0
    for category in index.categories:
        of_category = index.select(category=category)
        for part in (of_category.select(split="train"), calibration_samples(of_category)):
            if len(part):
                cached += Extraction.of(config, part, backbone, workdir).cached_bytes()
    method = config.build(Spec.of(index.views, index.categories, backbone))
    return training_parts(config, index, method, workdir, cached)


def _shapes_words(backbone: Backbone) -> str:
    shapes = backbone.shapes.items()
    return ", ".join(f"{tap} {rows} x {columns}, {width} wide" for tap, (rows, columns, width) in shapes)


def _check_place(config: Config, workdir: Path) -> None:
    """Raise UserError if the workdir can't be one, or the cameras are not there."""
    refuse_version_1(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; name a folder")
    refuse_artefact(workdir)
    cameras = cameras_path(config)
    if config.geometry.cameras and not cameras.is_file():
        raise UserError(f"geometry.cameras {cameras}: no such file")


def _check_workdir(config: Config, workdir: Path, *others: Config) -> None:
    """Raise UserError if something in the workdir was trained with another config than this one, or those others."""
    path = workdir / "config.json"
    if not Manifest(workdir).names(workdir / "models"):
        return  # nothing is trained yet
    earlier = from_dict(read_json(path, "a config"), str(path))
    if earlier not in others and (changed := differences(earlier, config)):
        raise UserError(f"{path}: trained with another config ({'; '.join(changed)}); take another --workdir")


def _check_geometry(config: Config, index: DatasetIndex, workdir: Path) -> None:
    """Raise UserError if an estimate that this workdir was trained with is not what it was."""
    manifest = Manifest(workdir)
    for category in index.categories:
        path = geometry_path(workdir, category)
        if config.geometry.cameras or not path.exists() or not manifest.names(path) or manifest.covers(path):
            continue
        if read_geometry(path).origin is not None:  # else someone put it there, and may put another
            raise UserError(
                f"{path}: changed since it was estimated; delete it to estimate again, or take its "
                '"origin" out to use it as it is'
            )
