"""What a job is about to do, said before it does it; nothing is written.

Seconds are measured on one batch of blank pictures where that tells them: for features. Those of matching,
pre-training and searching are unknown until they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvead_jax.backbones.base import Backbone, load_backbone
from mvead_jax.features.cache import Extraction, cache_folder
from mvead_jax.features.extraction import seconds_a_picture
from mvead_jax.bank.store import map_banks, read_facts
from mvead_jax.jobs.estimate_geometry import geometry_path, uses_geometry
from mvead_jax.config.schema import Config
from mvead_jax.data.file_check import check_files
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.readers import reader_of
from mvead_jax.runtime.errors import UserError
from mvead_jax.jobs.decision import calibrating
from mvead_jax.scoring.model_store import build_method, fuses, parameter_count
from mvead_jax.jobs.plan import Part, amount
from mvead_jax.jobs.score import checked_scoring, parts_of
from mvead_jax.jobs.train import checked_training, models, training_parts_of
from mvead_jax.jobs.workdir import model_names


def plan_training(config: Config, workdir: Path) -> tuple[str, list[Part]]:
    """The plan of train.py in words, and what it would write.

    Raises:
      UserError: as `train`, of the config, the data and the weights.
    """
    config, index = checked_training(config, workdir)
    backbone = load_backbone(config.backbone, config.data.image_size, config.seed)
    check_files(index)
    method = build_method(config, index.views, backbone)
    parts = training_parts_of(config, index, backbone, parameter_count(method), workdir)
    training = index.select(split="train")
    lines = [
        "plan of a training; nothing is written",
        f"data {index.root}: {reader_of(config.data)}",
        *_of_data(config, training, "to learn from"),
        *_of_decision(config, index),
        _of_features(config, (training, calibrating(index)), backbone, workdir),
        *_of_geometry(config, index, workdir),
    ]
    done = model_names(workdir)
    for name, part in models(config, index):
        own = part.select(split="train")
        words = f"model {name}: {config.method}, {len(own)} samples, views {', '.join(part.views)}"
        if fuses(config) and config.train.objective != "none":
            steps = config.train.epochs * -(-len(own) // config.train.batch_size)
            words += f"; {config.train.epochs} epochs of pre-training, {steps} steps, seconds unknown"
        lines.append(words + ("; there already, made again if anything differs" if name in done else ""))
    return "\n".join(lines + _of_parts(parts)), parts


def plan_scoring(
    workdir: Path,
    output: Path | None = None,
    *,
    pictures: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    from_test_labels: bool = False,
) -> tuple[str, list[Part]]:
    """The plan of score.py in words, and what it would write. Arguments as of `score`.

    Raises:
      UserError: as `score`, of the workdir, the data and the weights.
    """
    config, index, output, *_ = checked_scoring(
        workdir, output, pictures, overrides or {}, protocols, from_test_labels
    )
    backbone = load_backbone(config.backbone, config.data.image_size, config.seed)
    check_files(index)
    parts = parts_of(config, index, backbone, workdir, output)
    lines = [
        "plan of a scoring; nothing is written",
        f"data {index.root}: {'test split' if pictures is None else 'new pictures'}",
        *_of_data(config, index, "to score"),
        _of_features(config, (index,), backbone, workdir),
    ]
    for name, part in models(config, index):
        folder = workdir / "banks" / name
        if not folder.is_dir():
            raise UserError(f"{name}: not trained; {folder.parent} holds {', '.join(model_names(workdir))}")
        rows = map_banks(folder)
        size = sum(bank.nbytes for bank in rows.values())
        lines.append(
            f"model {name}: {len(part)} samples to search in {len(rows)} banks of "
            f"{sum(map(len, rows.values())):,} patches, {amount(size)} in memory, learned from "
            f"{read_facts(folder)['training']['samples']} samples; seconds unknown"
        )
    return "\n".join(lines + _of_parts(parts)), parts


def _of_data(config: Config, index: DatasetIndex, purpose: str) -> list[str]:
    lines = []
    for category in index.categories:
        own = index.select(category=category)
        pictures = int(own.present().sum())
        lines.append(f"category {category}: {len(own)} samples, {pictures} pictures {purpose}")
    side = config.data.image_size
    return [*lines, f"pictures are resized to {side} x {side}"]


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
    words = f"features of {backbone.name}: {there} pictures cached in {cache}, {computed} to compute"
    return words + (f", about {seconds:.0f} s (measured on one batch)" if computed else "")


def _of_geometry(config: Config, index: DatasetIndex, workdir: Path) -> list[str]:
    if not uses_geometry(config):
        return ["geometry: not used"]
    if config.geometry.cameras:
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
