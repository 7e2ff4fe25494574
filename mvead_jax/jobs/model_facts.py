"""What a model depends on, kept beside it: a model with the same facts is not trained again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.added import Added
from mvead_jax.data.ignored import Ignored, digests
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.sample_rules import defective_without_view
from mvead_jax.data.trained_images import TrainedImages
from mvead_jax.features.cache import Extraction, cache_folder
from mvead_jax.features.foreground import foreground_digest
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.workdir import Job
from mvead_jax.runtime.sharding import broadcast, is_first, shared_errors

# Sections of the config that a model does not depend on.
_NOT_LEARNED = ("data", "eval", "decision", "score")


def model_facts(
    job: Job,
    training: DatasetIndex,
    keys: Mapping[str, EpipolarKeys],
    ignored: Mapping[str, Ignored] | None = None,
    added: Sequence[Added] = (),
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what a model depends on: with the same facts it is not trained again. All must call.

    Args:
      ignored: masks of its categories, whose patches never count. added: further good parts of them.
      files: digests of what the method reads besides.
    """
    config = job.config
    settings = to_dict(config)
    for section in _NOT_LEARNED:
        del settings[section]
    for place in ("weights", "directory", "batch_size", "engine"):  # the digest tells weights and engine
        del settings["backbone"][place]
    del settings["features"]["cache"]
    settings["image_size"] = config.data.image_size
    return {
        "views": list(training.views),
        "categories": list(training.categories),
        "backbone": job.backbone.digest,
        "settings": settings,
        "training": training_summary(training),
        "images": TrainedImages.of(training).to_json(),
        "features": fingerprint(config, training, job.backbone, job.workdir),
        "geometry": {category: own.digest for category, own in keys.items()},
        **({"foreground": foreground_facts(job, training)} if config.data.foreground != "none" else {}),
        **({"ignored": digests(ignored)} if ignored else {}),
        **({"files": dict(files)} if files else {}),
        **(
            {"added": own}
            if (own := [list(one) for one in added if one.category in training.categories])
            else {}
        ),
    }


def foreground_facts(job: Job, index: DatasetIndex) -> dict[str, str]:
    """Return what a model depends on of its foreground masks; the first process reads them. All must call."""
    found = None
    with shared_errors():
        if is_first():
            found = foreground_digest(job.config.data, index, cache_folder(job.config, job.workdir))
    return broadcast(found)


def training_summary(index: DatasetIndex) -> dict[str, int]:
    """Return the counts of samples, of views, and of those labelled defective."""
    labels = [view.label for sample in index.samples for view in sample.views]
    return {
        "samples": len(index),
        "views": len(labels),
        "views_labelled_defective": labels.count(1),
        "samples_labelled_defective_only": defective_without_view(index.samples),
    }


def fingerprint(config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> str:
    """Return what a model depends on of its images: so a changed image means training again. All must call."""
    parts = [index.select(category=category) for category in index.categories]
    digests = [Extraction.of(config, part, backbone, workdir).fingerprint() for part in parts]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
