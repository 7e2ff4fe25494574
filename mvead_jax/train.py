"""The job that learns what good looks like: index -> features -> geometry -> fusion -> banks, into a workdir.

    config.json environment.json metrics.jsonl manifest.json
    geometry/<category>.json            only for a method that uses it
    checkpoints/<category or all>/      states of the pre-training
    models/<category or all>/ banks/<category or all>/C<v>.safetensors

Run again with the same workdir, it resumes: what the manifest vouches for is not made again, and a
pre-training goes on from its last state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from mvead_jax.backbone.extractor import Backbone, load_backbone
from mvead_jax.backbone.features import FeatureStore, extract, fingerprint
from mvead_jax.bank.store import Manifest, read_facts
from mvead_jax.calibrate import calibrate, geometry_path, keys_of, uses_geometry
from mvead_jax.checkpoint import Checkpoints
from mvead_jax.config import Config, differences, from_dict, to_dict
from mvead_jax.data.loading import check_files
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.data.source import open_data
from mvead_jax.environment import environment
from mvead_jax.errors import UserError
from mvead_jax.files import append_line, locked, read_json, write_json
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.methods.mvead.evidence import CALIBRATED, calibrate_scores
from mvead_jax.methods.patchcore import check_views
from mvead_jax.model import build_method, fuses, write_model

log = logging.getLogger(__name__)

ALL = "all"  # the folder of banks in the multi-class setting


def train(config: Config, workdir: Path) -> None:
    """Trains every category of `config` into `workdir`, or what is missing of it.

    Raises:
      UserError: anything wrong with the config, the data, the weights or the workdir.
      Stopped: SIGTERM came during a pre-training, whose state is saved.
    """
    _check_workdir(config, workdir)
    index = open_index(config)
    backbone = load_backbone(config.backbone, config.data.image_size, config.seed)
    check_files(index)
    log.info(
        "%s, %s weights: %d x %d patches of %d pixels, %d wide",
        *(backbone.name, backbone.weights, *backbone.grid, backbone.patch_size, backbone.width),
    )
    build_method(config, index.views, backbone)  # so that what does not fit is said at once
    for _, part in models(config, index):
        check_views(part.select(split="train"))
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):
        write_json(workdir / "config.json", to_dict(config))
        write_json(workdir / "environment.json", environment())
        _record(workdir, {"stage": "start", "environment": environment()})
        manifest = Manifest(workdir)
        geometries = {}
        if uses_geometry(config):
            geometries = calibrate(config, index, workdir)
            for category in geometries:
                manifest.record(geometry_path(workdir, category))
        for name, part in models(config, index):
            _train_model(config, workdir, name, part, backbone, geometries, manifest)
        manifest.record(workdir / "config.json")
    log.info("trained; now scripts/score.py --workdir %s", workdir)


def _train_model(
    config: Config,
    workdir: Path,
    name: str,
    index: DatasetIndex,
    backbone: Backbone,
    geometries: Mapping[str, CategoryGeometry],
    manifest: Manifest,
) -> None:
    """Trains one model, or finds that it is there."""
    training = index.select(split="train")
    keys = keys_of(config, geometries, index, backbone)
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
        "features": _fingerprint(config, training, backbone),
        "geometry": {category: own.digest for category, own in keys.items()},
    }
    folder = workdir / "banks" / name
    places = (folder, workdir / "models" / name)
    if all(manifest.covers(place) for place in places) and read_facts(folder) == facts:
        log.info("model %s: already trained", name)
        return
    manifest.forget(workdir / "config.json")  # until all of it is trained again
    begin = time.monotonic()
    features = split_features(config, training, backbone, workdir)
    keeper = None
    if fuses(config):
        sections = {"fusion": dataclasses.asdict(config.fusion), "train": dataclasses.asdict(config.train)}
        decides = facts | sections | {"seed": config.seed}
        keeper = Checkpoints(workdir / "checkpoints" / name, workdir / "metrics.jsonl", name, decides)
    method = build_method(config, index.views, backbone, keeper=keeper, name=name)
    with keeper.heeding_sigterm() if keeper else nullcontext():
        state = method.fit(training, features, keys, jax.random.key(config.seed))
    seconds = time.monotonic() - begin
    chosen = spread_evenly(len(training), CALIBRATED)
    calibration = calibrate_scores(method.leave_one_out(state, training, features, keys, chosen))
    rows = write_model(workdir, name, method, state, calibration, facts, manifest)
    log.info("banks %s: %s patches", name, ", ".join(f"{bank} {count}" for bank, count in rows.items()))
    _record(workdir, {"stage": "banks", "name": name, "rows": rows, "seconds": seconds})


def open_index(config: Config) -> DatasetIndex:
    """The data set that `config` names; its notes go to the log."""
    data = config.data
    index = open_data(
        data.root, data.categories, lists=data.lists, images=data.images, incomplete=data.incomplete
    )
    for note in index.notes:
        log.warning("%s", note)
    return index


def models(config: Config, index: DatasetIndex) -> list[tuple[str, DatasetIndex]]:
    """Each model's name and the part of the data set that belongs to it."""
    if config.setting == "multi":
        return [(ALL, index)]
    return [(category, index.select(category=category)) for category in index.categories]


def split_features(config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> FeatureStore:
    """Features of one split's samples, in their order, on the index's axis of views."""
    cache = (
        Path(config.features.cache) if config.features.cache else workdir.absolute().parent / "feature_cache"
    )
    stores = []
    for category in index.categories:
        part = index.select(category=category)
        stores.append(extract(part, backbone, config.features, cache, batch_size=config.backbone.batch_size))
    return FeatureStore.concatenate(stores, index.views)


def _check_workdir(config: Config, workdir: Path) -> None:
    """Raises UserError if the workdir can't be one, or if something in it was trained with another config."""
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; name a folder")
    cameras = Path(config.data.root) / config.geometry.cameras
    if config.geometry.cameras and not cameras.is_file():
        raise UserError(f"geometry.cameras {cameras}: no such file")
    if not Manifest(workdir).names(workdir / "banks"):
        return  # nothing is trained yet
    earlier = from_dict(read_json(path, "a config"), str(path))
    if changed := differences(earlier, config):
        raise UserError(f"{path}: trained with another config ({'; '.join(changed)}); take another --workdir")


def _kept(config: Config) -> dict[str, Any]:
    """What the rows of a bank were chosen by."""
    own = config.bank
    chosen = {"share": own.share, "projection": own.projection, "seed": config.seed}
    return {"kind": own.kind} | (chosen if own.kind != "full" else {})


def _training_summary(index: DatasetIndex) -> dict[str, int]:
    labels = [view.label for sample in index.samples for view in sample.views]
    return {"samples": len(index), "views": len(labels), "views_labelled_defective": labels.count(1)}


def _fingerprint(config: Config, index: DatasetIndex, backbone: Backbone) -> str:
    """What the banks of a model depend on: so a changed picture means training again."""
    parts = [
        fingerprint(index.select(category=category), backbone, config.features, config.backbone.batch_size)
        for category in index.categories
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _record(workdir: Path, event: dict[str, Any]) -> None:
    """Appends one line to metrics.jsonl."""
    append_line(workdir / "metrics.jsonl", json.dumps(event))
