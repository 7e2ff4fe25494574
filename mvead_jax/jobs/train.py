"""The job that learns what good looks like: index -> features -> geometry -> fusion -> banks, into a workdir.

    config.json environment.json command.json metrics.jsonl manifest.json
    geometry/<category>.json            only for a method that uses it
    checkpoints/<category or all>/      states of the pre-training
    models/<category or all>/ banks/<category or all>/C<v>.safetensors

With decision.held_out, some of the training samples are used for none of this but, at the end, to calibrate
the decision: models/<category or all>/decision.safetensors.

Run again with the same workdir, it resumes: what the manifest vouches for is not made again, and a
pre-training goes on from its last state.

Where several processes run the job, all compute features and pre-train; the first does everything else, and
writes all files but the others' features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import Counter
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import jax

from mvead_jax.backbones.base import Backbone, load_backbone
from mvead_jax.features.cache import Extraction, cache_folder
from mvead_jax.features.store import FeatureStore
from mvead_jax.features.extraction import extract
from mvead_jax.bank.store import Manifest, read_facts
from mvead_jax.training.tensorboard import FOLDER, Board, check_board
from mvead_jax.jobs.estimate_geometry import calibrate, geometry_path, keys_of, uses_geometry
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.config.schema import Config
from mvead_jax.config.io import differences, from_dict, to_dict
from mvead_jax.runtime.console import command
from mvead_jax.data.file_check import check_files
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.data.readers import data_folder, open_configured
from mvead_jax.data.sample_rules import defective_without_view
from mvead_jax.decision.calibration import read_calibrations, scored_by, write_calibrations
from mvead_jax.decision.split import hold_out
from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.errors import UserError
from mvead_jax.jobs.evaluate import protocols_of
from mvead_jax.runtime.files import append_line, keep_lines, locked, make_folder, read_json, write_json
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.jobs.decision import calibrating, calibration_path, check_held_out, score_held_out
from mvead_jax.postprocess.evidence import CALIBRATED, calibrate_scores
from mvead_jax.methods.patchcore.method import check_views
from mvead_jax.scoring.model_store import build_method, fuses, of_one_view, parameter_count, write_model
from mvead_jax.jobs.plan import Part, check_room, describe, training_parts
from mvead_jax.scoring.scorer import load_model
from mvead_jax.runtime.sharding import check_shared, from_first, is_first, same_in_all, together
from mvead_jax.jobs.workdir import Job, refuse_artefact

log = logging.getLogger(__name__)

ALL = "all"  # the folder of banks in the multi-class setting


def train(config: Config, workdir: Path, *, tensorboard: bool = False) -> None:
    """Trains every category of `config` into `workdir`, or what is missing of it.

    Args:
      tensorboard: write the losses of the pre-training for it too (board.py).

    Raises:
      UserError: anything wrong with the config, the data, the weights or the workdir.
      Stopped: SIGTERM came during a pre-training, whose state is saved.
    """
    with together():
        if tensorboard:
            check_board()
        config, index = checked_training(config, workdir)
        backbone = load_backbone(config.backbone, config.data.image_size, config.seed)
        if is_first():
            check_files(index)
        log.info(
            "%s, %s weights: %d x %d patches of %d pixels, %d wide",
            *(backbone.name, backbone.weights, *backbone.grid, backbone.patch_size, backbone.width),
        )
        method = build_method(config, index.views, backbone)  # so that what does not fit is said at once
        if is_first():
            parts = training_parts_of(config, index, backbone, parameter_count(method), workdir)
            log.info("to be written: %s", describe(parts))
            check_room(parts)
    check_same_run(config, workdir)
    with ExitStack() as held:
        geometries: dict[str, CategoryGeometry] = {}
        with together():
            if is_first():
                make_folder(workdir)
                held.enter_context(locked(workdir))
                _check_workdir(config, workdir)  # another training may have ended since
                write_json(workdir / "config.json", to_dict(config))
                write_json(workdir / "environment.json", environment())
                write_json(workdir / "command.json", command())
                keep_lines(workdir / "metrics.jsonl", lambda event: True)  # a kill may have cut one short
                _record(workdir, {"stage": "start", "environment": environment()})
                if uses_geometry(config):
                    _check_geometry(config, index, workdir)
                    geometries = calibrate(config, index, workdir)
        manifest = Manifest(workdir)
        with together():
            if is_first():
                for category in geometries:
                    manifest.record(geometry_path(workdir, category))
            elif uses_geometry(config):
                paths = {category: geometry_path(workdir, category) for category in index.categories}
                geometries = {category: read_geometry(path) for category, path in paths.items()}
        for name, part in models(config, index):
            job = Job(config, workdir, backbone, geometries)
            board = Board(workdir / FOLDER / name) if tensorboard else None
            _train_model(job, name, part, manifest, board)
            if config.decision.held_out:
                _calibrate_decision(job, name, part, manifest)
        if is_first():
            manifest.record(workdir / "config.json")
    log.info("trained; now scripts/score.py --workdir %s", workdir)


def _train_model(job: Job, name: str, index: DatasetIndex, manifest: Manifest, board: Board | None) -> None:
    """Trains one model, or finds that it is there."""
    config, workdir, backbone = job.config, job.workdir, job.backbone
    training = index.select(split="train")
    with together():
        keys = keys_of(config, job.geometries, index.categories, index.views, backbone)
    for category, own in keys.items():
        if fuses(config) and not own.mask.any():
            log.warning("%s: no pair of views is trusted, so nothing is fused: this is PatchCore", category)
    facts = {
        "views": list(index.views),
        "categories": list(index.categories),
        "backbone": backbone.digest,
        "per_view": config.bank.per_view,
        "kept": _kept(config),
        "unfused": config.bank.unfused,
        "training": _training_summary(training),
        "features": _fingerprint(config, training, backbone, workdir),
        "geometry": {category: own.digest for category, own in keys.items()},
    }
    same_in_all(
        json.dumps(facts),
        f"{name}: the processes see different pictures, weights or geometry; let all read one copy of each",
    )
    folder = workdir / "banks" / name
    done = False
    with together():
        if is_first():
            places = (folder, workdir / "models" / name)
            done = all(manifest.covers(place) for place in places) and read_facts(folder) == facts
    if from_first(done):
        log.info("model %s: already trained", name)
        return
    keeper = None
    if fuses(config):  # before the features, for it may refuse
        sections = {"fusion": dataclasses.asdict(config.fusion), "train": dataclasses.asdict(config.train)}
        decides = facts | sections | {"seed": config.seed}
        with together():
            place, metrics = workdir / "checkpoints" / name, workdir / "metrics.jsonl"
            trained = bool(manifest.names(folder))
            keeper = Checkpoints(place, metrics, name, decides, board, replace=trained)
    with together():
        if is_first():
            manifest.forget(workdir / "config.json")  # until all of it is trained again
            _forget(workdir, {"stage": "banks", "name": name})
    begin = time.monotonic()
    features = split_features(config, training, backbone, workdir)
    method = build_method(config, index.views, backbone, keeper=keeper, name=name)
    state = normal = None
    # A method that fuses does so on all devices; without, there is little to do.
    if fuses(config) or is_first():
        with (
            closing(board) if board else nullcontext(),
            keeper.heeding_sigterm() if keeper else nullcontext(),
        ):
            state = method.fit(training, features, keys, jax.random.key(config.seed))
        seconds = time.monotonic() - begin
        chosen = spread_evenly(len(training), CALIBRATED)
        normal = method.leave_one_out(state, training, features, keys, chosen)
    with together():
        if is_first():
            rows = write_model(workdir, name, method, state, calibrate_scores(normal), facts)
            log.info(
                "banks %s: %s patches", name, ", ".join(f"{bank} {count}" for bank, count in rows.items())
            )
            _record(workdir, {"stage": "banks", "name": name, "rows": rows, "seconds": seconds})
            for place in ("models", "banks"):  # last: what the manifest covers is not made again
                manifest.record(workdir / place / name)


def checked_training(config: Config, workdir: Path) -> tuple[Config, DatasetIndex]:
    """The config and the data set of a training, before weights and pictures are read.

    Raises:
      UserError: what of the config, the data set or the workdir can't be trained.
    """
    _check_place(config, workdir)
    index = open_index(config)
    config = of_one_view(config, index)
    _check_workdir(config, workdir)
    check_held_out(config, index)
    protocols_of(config)
    for _, part in models(config, index):
        check_views(part.select(split="train"))
    return config, index


def training_parts_of(
    config: Config, index: DatasetIndex, backbone: Backbone, parameters: int, workdir: Path
) -> list[Part]:
    """What a training writes."""
    cached = 0
    for category in index.categories:
        of_category = index.select(category=category)
        for part in (of_category.select(split="train"), calibrating(of_category)):
            if len(part):
                cached += Extraction.of(config, part, backbone, workdir).cached_bytes()
    patches, cache = backbone.grid[0] * backbone.grid[1], cache_folder(config, workdir)
    return training_parts(config, index, patches, backbone.width, parameters, cache, workdir, cached)


def _calibrate_decision(job: Job, name: str, index: DatasetIndex, manifest: Manifest) -> None:
    """Scores the held-out samples by the model that is in the workdir, or finds that it is done."""
    config, workdir = job.config, job.workdir
    held_out, own = index.select(split="held_out"), calibrating(index)
    folder, path = workdir / "models" / name, calibration_path(workdir, name)
    learned = (workdir / "banks" / name, folder / "calibration.json", folder / "fusion.safetensors")
    facts = {
        "features": _fingerprint(config, own, job.backbone, workdir),
        "defective": [sample.id for sample in held_out.samples if sample.label == 1],
    }
    done = False
    with together():
        if is_first():
            facts["model"] = manifest.digest(*learned)
            wanted = (scored_by(config.score), facts)
            done = manifest.covers(path) and read_calibrations(path)[1:] == wanted
    if from_first(done):
        return
    with together():
        if is_first():
            manifest.forget(workdir / "config.json")
            _forget(workdir, {"stage": "decision", "name": name})
    features = split_features(config, own, job.backbone, workdir)
    with together():
        keys = keys_of(config, job.geometries, index.categories, index.views, job.backbone)
        model = load_model(config, workdir, name, index.views, job.backbone)
    defective = Counter(sample.category for sample in held_out.samples if sample.label == 1)
    found = score_held_out(config, model, own, features, keys, defective)
    with together():
        if is_first():
            write_calibrations(path, found, scored_by(config.score), facts)
            target = config.decision.false_alarms
            for category, calibration in found.items():
                calibration.check(category, target)
                threshold, count = calibration.threshold(target), len(calibration.samples)
                log.info("decision %s: fails above %.4g, by %d held-out samples", category, threshold, count)
                event = {"stage": "decision", "name": name, "category": category}
                _record(workdir, event | {"held_out": count, "target": target, "threshold": threshold})
            manifest.record(path)  # last, as of a model


def open_index(config: Config) -> DatasetIndex:
    """The data set that `config` names, with what it holds out; its notes go to the log."""
    index = open_configured(config.data)
    for note in index.notes:
        log.warning("%s", note)
    return hold_out(index, config.decision.held_out, config.seed)


def models(config: Config, index: DatasetIndex) -> list[tuple[str, DatasetIndex]]:
    """Each model's name and the part of the data set that belongs to it."""
    if config.setting == "multi":
        return [(ALL, index)]
    return [(category, index.select(category=category)) for category in index.categories]


def check_same_run(config: Config, workdir: Path) -> None:
    """Raises UserError in all processes unless they have the same config, workdir and cache."""
    same_in_all(
        json.dumps([to_dict(config), str(workdir)]),
        "the processes were started with different configs or workdirs; start all with the same command but "
        "for --process",
    )
    for folder in (workdir, cache_folder(config, workdir)):
        check_shared(folder)


def split_features(config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> FeatureStore:
    """Features of one split's samples, in their order, on the index's axis of views.

    All processes must call.
    """
    parts = [index.select(category=category) for category in index.categories]
    stores = [extract(Extraction.of(config, part, backbone, workdir)) for part in parts]
    return FeatureStore.concatenate(stores, index.views)


def _check_place(config: Config, workdir: Path) -> None:
    """Raises UserError if the workdir can't be one, or the cameras are not there."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; name a folder")
    refuse_artefact(workdir)
    cameras = data_folder(config.data.root) / config.geometry.cameras
    if config.geometry.cameras and not cameras.is_file():
        raise UserError(f"geometry.cameras {cameras}: no such file")


def _check_workdir(config: Config, workdir: Path) -> None:
    """Raises UserError if something in the workdir was trained with another config."""
    path = workdir / "config.json"
    if not Manifest(workdir).names(workdir / "banks"):
        return  # nothing is trained yet
    earlier = from_dict(read_json(path, "a config"), str(path))
    if changed := differences(earlier, config):
        raise UserError(f"{path}: trained with another config ({'; '.join(changed)}); take another --workdir")


def _check_geometry(config: Config, index: DatasetIndex, workdir: Path) -> None:
    """Raises UserError if an estimate that this workdir was trained with is not what it was."""
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


def _kept(config: Config) -> dict[str, Any]:
    """What the rows of a bank were chosen by."""
    own = config.bank
    chosen = {"share": own.share, "projection": own.projection, "seed": config.seed}
    return {"kind": own.kind} | (chosen if own.kind != "full" else {})


def _training_summary(index: DatasetIndex) -> dict[str, int]:
    labels = [view.label for sample in index.samples for view in sample.views]
    found = {"samples": len(index), "views": len(labels), "views_labelled_defective": labels.count(1)}
    # Only where there are any: a workdir of before is not trained again for it.
    return found | (
        {"samples_labelled_defective_only": count} if (count := defective_without_view(index.samples)) else {}
    )


def _fingerprint(config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> str:
    """What the banks of a model depend on: so a changed picture means training again. All must call."""
    parts = [index.select(category=category) for category in index.categories]
    digests = [Extraction.of(config, part, backbone, workdir).fingerprint() for part in parts]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _record(workdir: Path, event: dict[str, Any]) -> None:
    """Appends one line to metrics.jsonl."""
    append_line(workdir / "metrics.jsonl", json.dumps(event))


def _forget(workdir: Path, event: dict[str, Any]) -> None:
    """Takes the lines of such an event out of metrics.jsonl: what they tell of is made again."""
    keep_lines(workdir / "metrics.jsonl", lambda line: not event.items() <= line.items())
