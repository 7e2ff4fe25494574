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
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.readers import source_words
from mvead_jax.data.records import DatasetIndex
from mvead_jax.features.foreground import foreground_words
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.methods.base import PATCHES, Method, ScoresImages


def protocol(
    config: Config,
    backbone: Backbone,
    method: Method,
    training: Sequence[Mapping[str, int]],
    scored: str,
    geometries: Mapping[str, CategoryGeometry],
    index: DatasetIndex,
) -> dict[str, Any]:
    """Return how the scores and maps came about, in full.

    Args:
      training: the counts that train.py left with the models.
      scored: "test split", or the folder of new images.
      geometries: of the categories, if any is used.
      index: the samples that were scored.
    """
    info = backbone.info
    labelled = scored == "test split"
    pooling = {"max": "the highest", "mean": "the mean"}[method.requires.sample_score]
    separate = config.score.image_evidence != "none"
    return {
        "method": config.method,
        "setting": "one model for each category" if config.setting == "single" else "one model for all",
        "scored": scored,
        **source_words(config.data, index.views),
        "training": training_words(training),
        "incomplete_samples": config.data.incomplete if labelled else "scored by the views they have",
        "backbone": info.name if info.trained else f"{info.name} UNTRAINED: random weights",
        "weights": info.weights,
        "backbone_trained": info.trained,
        "backbone_digest": backbone.digest,
        "features": _feature_words(config, backbone),
        "precision": f"{_computed(config, backbone)}, {config.features.dtype} stored",
        "bit_depth": index.bit_depth,
        "input": f"{backbone.image_size} x {backbone.image_size}, resized without cropping, bicubic",
        "foreground": foreground_words(config.data),
        "geometry": _geometry_words(config, geometries),
        "trusted_pairs": _trusted_words(geometries),
        **method.describe(),
        "patch_score": patch_score_words(config, method),
        "scored_images": image_score_words(config, method),
        "scored_samples": f"{pooling} over views of {'patch scores' if separate else 'image scores'}",
        "mean": "plain mean over categories",
        "seed": config.seed,
        "config_digest": config_digest(config),
    }


def _computed(config: Config, backbone: Backbone) -> str:
    by = "" if config.backbone.engine == "xla" else f" by {backbone.engine}"
    return f"{config.backbone.precision} computed{by}"


def config_digest(config: Config) -> str:
    """Return the SHA-256 of all fields that decide the scores: those of training with what scoring changed in them.

    Not of the section eval, for maps can be evaluated again (evaluation_digest tells that), nor of the target
    and the threshold of the decision, which read scores.
    """
    fields = to_dict(config)
    del fields["eval"], fields["decision"]["false_alarms"], fields["decision"]["threshold"]
    if not fields["data"]["ignore"]:
        del fields["data"]["ignore"]  # so that the digest is what it was before there was such a field
    if fields["backbone"]["engine"] == "xla":
        del fields["backbone"]["engine"]  # so too
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def training_words(training: Sequence[Mapping[str, int]]) -> str:
    """Return what some models learned from. Args: "training" of the facts of each."""
    counts = sum(map(Counter, training), Counter())
    words = (
        f"{counts['samples']} samples, {counts['views']} images, "
        f"{counts['views_labelled_defective']} of them labelled defective"
    )
    if only := counts["samples_labelled_defective_only"]:
        words += f"; {only} more samples are labelled defective, no image of them is"
    return words


def _feature_words(config: Config, backbone: Backbone) -> str:
    """The feature maps that are read; of a transformer the block that gives the patch features."""
    block = f"{PATCHES} of block {config.backbone.block}" if backbone.info.heads > 1 else PATCHES
    return ", ".join(block if tap == PATCHES else tap for tap in backbone.taps)


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


def patch_score_words(config: Config, method: Method) -> str:
    """Return how a patch is scored, with what is done with the scores of all methods."""
    own, words = config.score, method.describe()["patch_score"]
    if own.evidence == "none":
        return words
    place = "on its epipolar line" if own.evidence == "epipolar" else "anywhere"
    return (
        f"{words}, standardised by view with leave-one-out training scores, "
        f"plus {own.weight:g} x the {own.pooling} over other views of the highest {place}"
    )


def image_score_words(config: Config, method: Method) -> str:
    """Return how the score of an image follows from its patch scores."""
    own = config.score
    if own.image_evidence != "none":
        place = "on its epipolar line" if own.image_evidence == "epipolar" else "anywhere"
        return (
            "highest patch score, standardised by view with leave-one-out training scores, "
            f"plus {own.image_weight:g} x the highest {place} in another view"
        )
    by_method = isinstance(method, ScoresImages) and own.evidence == "none"
    return "by the rule of the method" if by_method else "the highest of its patch scores"
