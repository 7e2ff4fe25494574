"""What the jobs read: the data set and its models, the backbone, and features as a method takes them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvead_jax.backbones.base import Backbone, load_backbone
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.added import Added, with_added
from mvead_jax.data.ignored import Ignored, ignore_folder, read_ignored
from mvead_jax.data.mirroring import mirrored_table
from mvead_jax.data.readers import open_configured
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.shapes import training_sizes
from mvead_jax.data.trained_images import TrainedImages, check_shapes
from mvead_jax.decision.split import hold_out
from mvead_jax.features.cache import Extraction, cache_folder
from mvead_jax.features.extraction import extract
from mvead_jax.features.foreground import foreground_reader
from mvead_jax.features.images import image_reader
from mvead_jax.features.store import FeatureStore
from mvead_jax.methods.base import Method, foreground_tap
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.sharding import check_shared, same_in_all
from mvead_jax.scoring.scorer import Inputs

log = logging.getLogger(__name__)

ALL = "all"  # the name of the model in the multi-class setting


def load_method_backbone(config: Config) -> Backbone:
    """Return the backbone of a config with the taps that its method reads. Raises UserError as `load_backbone`."""
    return load_backbone(config.backbone, config.data.image_size, config.requires().taps, config.seed)


def check_shapes_of_others(index: DatasetIndex, strict: bool) -> None:
    """Say which images that are not learned from have another shape than those that are, by view.

    Raises:
      DataProblems: there are any, and `strict`.
    """
    others = [sample for sample in index.samples if sample.split != "train"]
    if others:
        check_shapes(index.with_samples(others), TrainedImages.of(index), strict)


def open_index(config: Config, bit_depth: int | None = None, added: Sequence[Added] = ()) -> DatasetIndex:
    """Return the data set that `config` names, with what it holds out; its notes go to the log.

    Args:
      bit_depth: of the training, at work; None: as data.bit_depth says.
      added: further good parts, which are test samples no more.
    """
    data = config.data
    if bit_depth is not None:
        data = dataclasses.replace(data, bit_depth=str(bit_depth))
    index = open_configured(data)
    for note in index.notes:
        log.warning("%s", note)
    index = hold_out(index, config.decision.held_out, config.seed)
    return with_added(index, added, data.mirrored)


def models(config: Config, index: DatasetIndex) -> list[tuple[str, DatasetIndex]]:
    """Return each model's name and the part of the data set that belongs to it."""
    if config.setting == "multi":
        return [(ALL, index)]
    return [(category, index.select(category=category)) for category in index.categories]


def check_same_run(config: Config, workdir: Path) -> None:
    """Raise UserError in all processes unless they have the same config, workdir and cache."""
    same_in_all(
        json.dumps([to_dict(config), str(workdir)]),
        "the processes were started with different configs or workdirs; start all with the same command but "
        "for --process",
    )
    for folder in (workdir, cache_folder(config, workdir)):
        check_shared(folder)


def split_features(
    config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path
) -> dict[str, FeatureStore]:
    """Return the features of one split's samples by tap, in their order, on the index's axis of views.

    All processes must call.
    """
    parts = [index.select(category=category) for category in index.categories]
    stores = [extract(Extraction.of(config, part, backbone, workdir)) for part in parts]
    return {tap: FeatureStore.concatenate([own[tap] for own in stores], index.views) for tap in backbone.taps}


def inputs_of(
    config: Config, method: Method, index: DatasetIndex, features: Mapping[str, FeatureStore]
) -> Inputs:
    """Return samples as a method reads them. Raises UserError: masks of the foreground that are not there."""
    images = image_reader(index, method.spec.image_size) if method.requires.images else None
    masks = foreground_reader(config.data, index, features[foreground_tap(method.spec.maps)])
    return Inputs(features, index.present(), images, masks)


def ignored_regions(config: Config, index: DatasetIndex) -> dict[str, Ignored]:
    """Return the masks that data.ignore names, by category; none where it is empty.

    Args:
      index: of the data set, whose training images tell what size a mask has.

    Raises:
      UserError: as `read_ignored`.
    """
    if not config.data.ignore:
        return {}
    views = {category: index.select(category=category).views for category in index.categories}
    mirrored, sizes = mirrored_table(config.data.mirrored), training_sizes(index)
    return read_ignored(ignore_folder(config.data), views, mirrored, sizes, bool(config.data.categories))


def test_split(config: Config, bit_depth: int, added: Sequence[Added]) -> DatasetIndex:
    """Return the samples to be scored, read as in training, but for those that were added to it.

    Raises:
      UserError: there are none.
    """
    index = open_index(config, bit_depth, added).select(split="test")
    if not len(index):
        raise UserError(f"{config.data.root}: the test lists are empty: nothing to score")
    return index
