"""What a training is given, before anything is computed: config, data set and workdir must fit each other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from mvead_jax.backbones.base import Backbone
from mvead_jax.bank.memory import check_views
from mvead_jax.config.io import differences, from_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.added import Added, added_before
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.sufficient import empty_metrics, too_few
from mvead_jax.decision.by_hand import check_before_training
from mvead_jax.features.cache import Extraction
from mvead_jax.geometry.category import read_geometry
from mvead_jax.jobs.decision import calibration_samples, check_held_out
from mvead_jax.jobs.estimate_geometry import cameras_path, geometry_path
from mvead_jax.jobs.evaluate import protocols_of
from mvead_jax.jobs.inputs import ignored_regions, models, open_index
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.plan import training_parts
from mvead_jax.jobs.workdir import refuse_artefact, refuse_version_1
from mvead_jax.methods.base import Spec, file_digests, training_steps
from mvead_jax.runtime.disk import Part
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json
from mvead_jax.runtime.sharding import is_first

log = logging.getLogger(__name__)


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
    check_workdir(config, workdir, config.without_trust())  # which of them it is, the geometry tells
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
    """Return what a training writes.

    Raises:
      UserError: settings that do not fit the data set, or files of the method's own that are not there.
    """
    cached = 0
    for category in index.categories:
        of_category = index.select(category=category)
        for part in (of_category.select(split="train"), calibration_samples(of_category)):
            if len(part):
                cached += Extraction.of(config, part, backbone, workdir).cached_bytes()
    method = config.build(Spec.of(index.views, index.categories, backbone))
    file_digests(method)  # what is not there is said at once
    for _, part in models(config, index):
        training_steps(method, len(part.select(split="train")))
    return training_parts(config, index, method, workdir, cached)


def _check_place(config: Config, workdir: Path) -> None:
    """Raise UserError if the workdir can't be one, or the cameras are not there."""
    refuse_version_1(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; name a folder")
    refuse_artefact(workdir)
    cameras = cameras_path(config)
    if config.geometry.cameras and not cameras.is_file():
        raise UserError(f"geometry.cameras {cameras}: no such file")


def check_workdir(config: Config, workdir: Path, *others: Config) -> None:
    """Raise UserError if something in the workdir was trained with another config than this one, or those others."""
    path = workdir / "config.json"
    if not Manifest(workdir).names(workdir / "models"):
        return  # nothing is trained yet
    earlier = from_dict(read_json(path, "a config"), str(path))
    if earlier not in others and (changed := differences(earlier, config)):
        raise UserError(f"{path}: trained with another config ({'; '.join(changed)}); take another --workdir")


def check_geometry(config: Config, index: DatasetIndex, workdir: Path) -> None:
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
