"""What a scoring is given, checked before weights and images are read: which samples, into which folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.added import added_before
from mvead_jax.data.file_check import check_files
from mvead_jax.data.mirroring import mirrored_table, with_mirrored
from mvead_jax.data.readers import open_pictures
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.trained_images import check_shapes
from mvead_jax.decision.calibration import Calibration
from mvead_jax.features.cache import Extraction
from mvead_jax.jobs.decision import check_labels, read_for_scoring
from mvead_jax.jobs.evaluate import protocols_of
from mvead_jax.jobs.inputs import models, test_split
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.plan import scoring_parts
from mvead_jax.jobs.scores_folder import check_output, default_output
from mvead_jax.jobs.workdir import (
    OVERRIDDEN,
    check_ignored,
    is_artefact,
    model_folder,
    model_names,
    trained_config,
    trained_images,
    trained_thresholds,
)
from mvead_jax.methods.base import Spec
from mvead_jax.runtime.disk import Part
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import read_facts


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
    """Return what is scored into where, before weights and images are read. Arguments as of `score.score`.

    Raises:
      UserError: what of the workdir, the data set or the output can't be scored.
    """
    config = trained_config(workdir, overrides, OVERRIDDEN)
    Manifest(workdir).verify(workdir / "config.json")  # a damaged one may still be a config
    check_ignored(config, workdir)
    protocols_of(config, protocols)
    index = _samples_of(config, workdir, images)
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


def _samples_of(config: Config, workdir: Path, images: Path | None) -> DatasetIndex:
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
