"""What a job is about to do, said before it does it; nothing is written.

Seconds are measured on one batch of blank images where that tells them: for features. Those of matching,
pre-training and searching are unknown until they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.file_check import check_files
from mvead_jax.data.readers import reader_of
from mvead_jax.data.records import DatasetIndex
from mvead_jax.features.cache import Extraction, cache_folder
from mvead_jax.features.extraction import seconds_a_picture
from mvead_jax.jobs.checked_scoring import check_images, checked_scoring, parts_of
from mvead_jax.jobs.checked_training import checked_training, training_parts_of
from mvead_jax.jobs.decision import calibration_samples
from mvead_jax.jobs.estimate_geometry import geometry_path, given_geometry, uses_geometry
from mvead_jax.jobs.inputs import check_shapes_of_others, load_method_backbone, models
from mvead_jax.jobs.workdir import model_folder, model_names
from mvead_jax.methods.base import Method, Spec, Trains, training_steps
from mvead_jax.runtime.disk import Part, amount
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.host import computing
from mvead_jax.scoring.model_store import STATE, bank_sizes, read_facts


@computing()
def plan_training(config: Config, workdir: Path) -> tuple[str, list[Part]]:
    """Return the plan of train.py in words, and what it would write.

    Raises:
      UserError: as `train`, of the config, the data and the weights.
    """
    config, index = checked_training(config, workdir)
    backbone = load_method_backbone(config)
    check_files(index)
    check_shapes_of_others(index, config.data.strict)
    parts = training_parts_of(config, index, backbone, workdir)
    training = index.select(split="train")
    lines = [
        "plan of a training; nothing is written",
        f"data {index.root}: {reader_of(config.data)}",
        *_of_data(config, training, "to learn from"),
        *_of_decision(config, index),
        _of_features(config, (training, calibration_samples(index)), backbone, workdir),
        *_of_geometry(config, index, workdir),
    ]
    done = model_names(workdir)
    for name, part in models(config, index):
        own = part.select(split="train")
        words = f"model {name}: {config.method}, {len(own)} samples, views {', '.join(part.views)}"
        words += _of_training(config.build(Spec.of(part.views, part.categories, backbone)), len(own))
        lines.append(words + ("; there already, made again if anything differs" if name in done else ""))
    return "\n".join(lines + _of_parts(parts)), parts


@computing()
def plan_scoring(
    workdir: Path,
    output: Path | None = None,
    *,
    images: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    from_test_labels: bool = False,
) -> tuple[str, list[Part]]:
    """Return the plan of score.py in words, and what it would write. Arguments as of `score`.

    Raises:
      UserError: as `score`, of the workdir, the data and the weights.
    """
    config, index, output, *_ = checked_scoring(
        workdir, output, images, overrides or {}, protocols, from_test_labels
    )
    backbone = load_method_backbone(config)
    check_images(config, index, workdir)
    parts = parts_of(config, index, backbone, workdir, output)
    lines = [
        "plan of a scoring; nothing is written",
        f"data {index.root}: {'test split' if images is None else 'new images'}",
        *_of_data(config, index, "to score"),
        _of_features(config, (index,), backbone, workdir),
    ]
    for name, part in models(config, index):
        folder = model_folder(workdir, name)
        if not folder.is_dir():
            raise UserError(f"{name}: not trained; {folder.parent} holds {', '.join(model_names(workdir))}")
        words = f"model {name}: {len(part)} samples to score"
        if banks := bank_sizes(folder):
            words += f" in {len(banks)} banks of {sum(rows for rows, _ in banks.values()):,} patches"
        lines.append(
            f"{words}, {amount((folder / STATE).stat().st_size)} in memory, learned from "
            f"{read_facts(folder)['training']['samples']} samples; seconds unknown"
        )
    return "\n".join(lines + _of_parts(parts)), parts


def _of_training(method: Method, samples: int) -> str:
    if not isinstance(method, Trains) or (own := method.training) is None:
        return ""
    return f"; {own.epochs} epochs of training, {training_steps(method, samples)} steps, seconds unknown"


def _of_data(config: Config, index: DatasetIndex, purpose: str) -> list[str]:
    lines = []
    for category in index.categories:
        own = index.select(category=category)
        images = int(own.present().sum())
        lines.append(f"category {category}: {len(own)} samples, {images} images {purpose}")
    side = config.data.image_size
    return [*lines, f"images are resized to {side} x {side}"]


def _of_decision(config: Config, index: DatasetIndex) -> list[str]:
    held_out = len(index.select(split="held_out"))
    return [f"decision: {held_out} samples held out"] if config.decision.held_out else []


def _of_features(config: Config, parts: Sequence[DatasetIndex], backbone: Backbone, workdir: Path) -> str:
    there = seconds = computed = 0
    categories = [part.select(category=category) for part in parts for category in part.categories]
    for own in categories:
        job = Extraction.of(config, own, backbone, workdir)
        found = sum(len(chunk.samples) for chunk in job.cached())
        there += found * len(own.views)
        if left := (len(own) - found) * len(own.views):
            seconds += left * seconds_a_picture(backbone, job.images_in_a_pass)
            computed += left
    cache = cache_folder(config, workdir)
    words = f"features of {backbone.info.name}: {there} images cached in {cache}, {computed} to compute"
    return words + (f", about {seconds:.0f} s (measured on one batch)" if computed else "")


def _of_geometry(config: Config, index: DatasetIndex, workdir: Path) -> list[str]:
    if not uses_geometry(config):
        return ["geometry: not used"]
    if config.geometry.cameras:
        for category in index.categories:
            given_geometry(config, category, index.select(category=category, split="train"))
        return [f"geometry: given by {config.geometry.cameras}"]
    there = [name for name in index.categories if geometry_path(workdir, name).exists()]
    own = config.geometry
    words = f"geometry: estimated, {own.matches} matches of up to {own.samples} samples of each category"
    return [f"{words}, seconds unknown; there already: {', '.join(there) or 'none'}"]


def _of_parts(parts: Sequence[Part]) -> list[str]:
    lines = [
        f"bytes of {part.what}: {amount(part.bytes)} in {part.folder}"
        + (f", {amount(min(part.there, part.bytes))} of it there" if part.there else "")
        for part in parts
    ]
    return [*lines, f"bytes to be written: {amount(sum(part.missing for part in parts))}"]
