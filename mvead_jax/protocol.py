"""How a run's metrics came about, in full and in words: what stands beside every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvead_jax.backbone.extractor import Backbone
from mvead_jax.calibrate import uses_geometry
from mvead_jax.config import Config
from mvead_jax.model import fuses


def protocol(
    config: Config, backbone: Backbone, training: Sequence[Mapping[str, int]], scored: str
) -> dict[str, Any]:
    """How the metrics came about, in full.

    Args:
      training: the counts that train.py left with the banks.
      scored: "test split", or the folder of new pictures.
    """
    counts = {key: sum(own[key] for own in training) for key in training[0]}
    trained = "" if backbone.trained else " UNTRAINED: random weights"
    labelled = scored == "test split"
    return {
        "method": config.method,
        "setting": "one model for each category" if config.setting == "single" else "one model for all",
        "scored": scored,
        "lists": config.data.lists,
        "training": f"{counts['samples']} samples, {counts['views']} pictures, "
        f"{counts['views_labelled_defective']} of them labelled defective",
        "incomplete_samples": config.data.incomplete if labelled else "scored by the views they have",
        "backbone": f"{backbone.name}{trained}",
        "weights": backbone.weights,
        "backbone_trained": backbone.trained,
        "backbone_digest": backbone.digest,
        "block": None if backbone.name == "efficientnet-lite0" else config.backbone.block,
        "precision": f"{config.backbone.precision} computed, {config.features.dtype} stored",
        "input": f"{backbone.image_size} x {backbone.image_size}, resized without cropping, bicubic",
        "geometry": _geometry_words(config),
        "fusion": _fusion_words(config),
        "pre_training": _pre_training_words(config),
        "bank": f"full, {'one for each view' if config.bank.per_view else 'one for all views'}",
        "patch_score": _patch_score_words(config),
        "image_score": "largest patch score, no smoothing",
        "sample_score": "largest image score over its views",
        "image_label": "the list's anomaly_class of that view" if labelled else "unknown",
        "sample_label": "defective if any of its views is" if labelled else "unknown",
        "pixel_metrics": "none, so no evaluation size, smoothing or mask threshold",
        "epoch": "last" if _trains(config) else "none: nothing is trained",
        "mean": "plain mean over categories",
        "seed": config.seed,
    }


def _trains(config: Config) -> bool:
    return fuses(config) and config.train.objective != "none" and config.train.epochs > 0


def _geometry_words(config: Config) -> str:
    if not uses_geometry(config):
        return "not used"
    source = f"given, {config.geometry.cameras}" if config.geometry.cameras else "estimated from the pictures"
    near = f"within {config.geometry.threshold:g} patches of the line"
    return f"{source}; {near}; pairs without trust: {config.geometry.on_failure}"


def _fusion_words(config: Config) -> str:
    if not fuses(config):
        return "none"
    own = config.fusion
    parts = [own.kind, f"starts as {own.init}", f"heads {own.heads or 'of the backbone'}"]
    if own.kind == "mvas":
        parts.append(f"{own.windows} x {own.windows} windows, the best {own.top_windows}")
    parts += [f"{own.combine} over views", "residual" if own.residual else "no residual"]
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


def _patch_score_words(config: Config) -> str:
    own = config.score
    if own.evidence == "none":
        return "distance to the nearest patch of its bank"
    place = "on its epipolar line" if own.evidence == "epipolar" else "anywhere"
    return (
        "distance to the nearest patch of its bank, standardised by view with leave-one-out training scores, "
        f"plus {own.weight:g} x the {own.pooling} over other views of the highest {place}"
    )
