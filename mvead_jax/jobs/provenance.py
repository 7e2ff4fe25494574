"""How a run's scores came about, in full and in words: what stands beside every figure.

How they were compared with the truth is added by evaluate.py.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.config.io import to_dict
from mvead_jax.data.readers import source_words
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.scoring.model_store import fuses


def protocol(
    config: Config,
    backbone: Backbone,
    training: Sequence[Mapping[str, int]],
    scored: str,
    geometries: Mapping[str, CategoryGeometry],
) -> dict[str, Any]:
    """How the scores and maps came about, in full.

    Args:
      training: the counts that train.py left with the banks.
      scored: "test split", or the folder of new pictures.
      geometries: of the categories, if any is used.
    """
    trained = "" if backbone.trained else " UNTRAINED: random weights"
    labelled = scored == "test split"
    return {
        "method": config.method,
        "setting": "one model for each category" if config.setting == "single" else "one model for all",
        "scored": scored,
        "lists": source_words(config.data, ())["lists"],
        "training": training_words(training),
        "incomplete_samples": config.data.incomplete if labelled else "scored by the views they have",
        "backbone": f"{backbone.name}{trained}",
        "weights": backbone.weights,
        "backbone_trained": backbone.trained,
        "backbone_digest": backbone.digest,
        "block": None if backbone.name == "efficientnet-lite0" else config.backbone.block,
        "precision": f"{config.backbone.precision} computed, {config.features.dtype} stored",
        "input": f"{backbone.image_size} x {backbone.image_size}, resized without cropping, bicubic",
        "geometry": _geometry_words(config, geometries),
        "trusted_pairs": _trusted_words(geometries),
        "fusion": _fusion_words(config, backbone),
        "pre_training": _pre_training_words(config),
        "bank": _bank_words(config),
        "patch_score": patch_score_words(config),
        "epoch": "last" if _trains(config) else "none: nothing is trained",
        "mean": "plain mean over categories",
        "seed": config.seed,
        "config_digest": config_digest(config),
    }


def config_digest(config: Config) -> str:
    """SHA-256 of all fields that decide the scores: those of training with what scoring changed in them.

    Not of the section eval, for maps can be evaluated again (evaluation_digest tells that), nor of the target
    of the decision, which reads scores.
    """
    fields = to_dict(config)
    del fields["eval"], fields["decision"]["false_alarms"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _trains(config: Config) -> bool:
    return fuses(config) and config.train.objective != "none" and config.train.epochs > 0


def training_words(training: Sequence[Mapping[str, int]]) -> str:
    """What some models learned from. Args: "training" of the facts of each."""
    counts = sum(map(Counter, training), Counter())
    words = (
        f"{counts['samples']} samples, {counts['views']} pictures, "
        f"{counts['views_labelled_defective']} of them labelled defective"
    )
    if only := counts["samples_labelled_defective_only"]:
        words += f"; {only} more samples are labelled defective, no picture of them is"
    return words


def _geometry_words(config: Config, geometries: Mapping[str, CategoryGeometry]) -> str:
    if not geometries:
        return "not used"
    sources = {pair.source for geometry in geometries.values() for pair in geometry.pairs.values()}
    source = "given" if sources == {"given"} else f"estimated, {' and '.join(sorted(sources))}"
    near = f"within {config.geometry.threshold:g} patches of the line"
    return f"{source}; {near}; pairs without trust: {config.geometry.on_failure}"


def _trusted_words(geometries: Mapping[str, CategoryGeometry]) -> str:
    if not geometries:
        return "no geometry used"
    counts = {
        name: (sum(pair.ok for pair in own.pairs.values()), len(own.pairs))
        for name, own in geometries.items()
    }
    return ", ".join(f"{name} {trusted} of {pairs}" for name, (trusted, pairs) in counts.items())


def _fusion_words(config: Config, backbone: Backbone) -> str:
    if not fuses(config):
        return "none"
    own = config.fusion
    init = own.init if own.init != "copy" or backbone.has_next else "similarity (no block to copy)"
    parts = [own.kind, f"starts as {init}", f"heads: {own.heads or backbone.heads}"]
    if own.kind == "mvas":
        parts.append(f"{own.windows} x {own.windows} windows, the best {own.top_windows}")
    parts += [f"{own.combine} over views", "residual" if own.residual else "no residual"]
    if own.keys == "better":
        parts.append("keys better than chance")
    return ", ".join(parts) + (f", gate for each {own.gate}" if own.gate != "none" else "")


def _pre_training_words(config: Config) -> str:
    if not _trains(config):
        return "none"
    own = config.train
    parts = [f"{own.objective}, {own.epochs} epochs of batches of {own.batch_size}"]
    parts.append(f"AdamW {own.learning_rate:g}, weight decay {own.weight_decay:g}")
    if own.objective != "deepsvdd":
        parts.append(f"{own.centers} centres a view, updated: {own.center_update}")
    if own.objective == "mcp+reg":
        negatives = (
            f"{own.negatives} of a reference view for each of {own.mask_ratio:g} of the patches masked"
        )
        parts.append(f"negatives weigh {own.negative_weight:g}, {negatives} ({own.mask_fill})")
    return "; ".join(parts)


def _bank_words(config: Config) -> str:
    own = config.bank
    views = "one for each view" if own.per_view else "one for all views"
    if own.kind == "full":
        return f"full, {views}"
    if own.kind == "kmeans":
        return f"k-means centres, {own.share:.3g} of the patches, {views}"
    distances = f"in {own.projection} random dimensions" if own.projection else "of the features"
    return f"greedy coreset of {own.share:.3g} of the patches, distances {distances}, {views}"


def patch_score_words(config: Config) -> str:
    """How a patch is scored."""
    own, row = config.score, "centre" if config.bank.kind == "kmeans" else "patch"
    distance = f"distance to the nearest {row} of its bank"
    if fuses(config) and config.bank.unfused:
        distance = "sum of the standardised distances of attended and of plain features to their banks"
    if own.evidence == "none":
        return distance
    place = "on its epipolar line" if own.evidence == "epipolar" else "anywhere"
    return (
        f"{distance}, standardised by view with leave-one-out training scores, "
        f"plus {own.weight:g} x the {own.pooling} over other views of the highest {place}"
    )
