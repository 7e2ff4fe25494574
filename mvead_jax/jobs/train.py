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

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.added import FILE as ADDED
from mvead_jax.data.added import Added, added_before, as_json, read_labels, without_added
from mvead_jax.data.file_check import check_files
from mvead_jax.data.records import DatasetIndex
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.jobs.calibrate_decision import calibrate_decision
from mvead_jax.jobs.checked_training import check_geometry, check_workdir, checked_training, training_parts_of
from mvead_jax.jobs.estimate_geometry import estimate_geometries, geometry_path, uses_geometry
from mvead_jax.jobs.events import FILE as EVENTS
from mvead_jax.jobs.events import record
from mvead_jax.jobs.inputs import (
    check_same_run,
    check_shapes_of_others,
    ignored_regions,
    load_method_backbone,
    models,
)
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.train_model import train_model
from mvead_jax.jobs.trust import record_method, with_trust
from mvead_jax.jobs.workdir import Job
from mvead_jax.runtime.console import command
from mvead_jax.runtime.disk import check_room, describe
from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.files import keep_lines, locked, make_folder, write_json
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.sharding import is_first, shared_errors
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
                check_workdir(config, workdir, config.without_trust())  # another may have ended since
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
                check_workdir(config, workdir)
                write_json(workdir / "config.json", to_dict(config))
                record_method(asked, config, geometries, workdir)
            if config != asked:
                backbone = load_method_backbone(config)
                geometries = geometries if uses_geometry(config) else {}
        for name, part in models(config, index):
            job = Job(config, workdir, backbone, geometries)
            writer = TensorBoardWriter(workdir / FOLDER / name) if tensorboard else None
            masks = {category: ignored[category] for category in part.categories if category in ignored}
            train_model(job, name, part, manifest, writer, masks, added)
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
            check_geometry(config, index, workdir)
            geometries = estimate_geometries(config, index, workdir)
            for category in geometries:
                manifest.record(geometry_path(workdir, category))
    with shared_errors():
        if not is_first():
            paths = {category: geometry_path(workdir, category) for category in index.categories}
            geometries = {category: read_geometry(path) for category, path in paths.items()}
    return geometries


def _with_new(before: Sequence[Added], lists: Sequence[Path]) -> list[Added]:
    """Return what was added to a workdir, and behind it what lists name; each once."""
    return list(dict.fromkeys([*before, *(one for path in lists for one in read_labels(path))]))


def _shapes_words(backbone: Backbone) -> str:
    shapes = backbone.shapes.items()
    return ", ".join(f"{tap} {rows} x {columns}, {width} wide" for tap, (rows, columns, width) in shapes)
