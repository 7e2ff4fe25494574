"""How well each kind of defect is found, and whether it helps that another view sees the defect too.

Every measure ranks some defects against the normals of the same category; raw scores of two categories are
never mixed.

    sample       defective samples of the kind against normal samples
    image        images that show the kind against all normal images
    seen once    as image, of samples that show the defect in exactly one view
    seen twice   as image, of samples that show it in two
    seen more    as image, of samples that show it in three or more
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mvead_jax.data.records import defect_code
from mvead_jax.evaluation.ranking import auroc
from mvead_jax.evaluation.score_files import ImageLine

BY_VIEWS = ("seen once", "seen twice", "seen more")
MEASURES = ("sample", "image", *BY_VIEWS)
ALL = "all"  # every kind together
UNKNOWN = "unknown"  # a defective sample whose name tells no kind


def kind_in_name(sample: str) -> str:
    """The defect code in a sample's id: "audiojack_0001_NG_HS" -> "HS"; UNKNOWN if it has none."""
    return defect_code(sample) or UNKNOWN


def kinds_of(
    images: Iterable[ImageLine], kind_of: Callable[[str], str] = kind_in_name
) -> dict[str, dict[str, Any]]:
    """AUROC of every measure for each kind of defect.

    Args:
      images: all scored images. Those without a label count only for the score of their sample.
      kind_of: the kind of a defective sample, from its id. Which samples are defective, the labels say.

    Returns:
      {"categories": {category: {kind: {measure: {"auroc", "defects"}}}},
      "mean": {kind: {measure: {"auroc", "defects", "categories"}}}}. AUROC is in [0,1], NaN without defects
      or normals. The mean is the plain mean over the categories that have a value, and counts them.
    """
    samples: dict[str, dict[str, list[ImageLine]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        samples[image.category][image.sample].append(image)
    found = {category: _of_category(own, kind_of) for category, own in sorted(samples.items())}
    kinds = sorted({kind for own in found.values() for kind in own} - {ALL})
    mean = {
        kind: {
            measure: _mean([own[kind][measure] for own in found.values() if kind in own])
            for measure in MEASURES
        }
        for kind in (*kinds, ALL)
    }
    return {"categories": found, "mean": mean}


def auroc_by_views(images: Iterable[ImageLine]) -> dict[str, dict[str, float]]:
    """Return {category: {measure of BY_VIEWS: image AUROC of all kinds together}}, NaN without such a defect."""
    found = kinds_of(images)["categories"]
    return {
        category: {measure: own[ALL][measure]["auroc"] for measure in BY_VIEWS}
        for category, own in found.items()
        if ALL in own
    }


def _of_category(
    samples: Mapping[str, Sequence[ImageLine]], kind_of: Callable[[str], str]
) -> dict[str, dict[str, dict[str, Any]]]:
    normal: dict[str, list[float]] = {"sample": [], "image": []}
    defects: dict[str, dict[str, list[float]]] = defaultdict(lambda: {measure: [] for measure in MEASURES})
    for name, images in samples.items():
        labels = [image.label for image in images if image.label is not None]
        normal["image"] += [image.score for image in images if image.label == 0]
        if not labels:
            continue
        top = max(image.score for image in images)
        if not max(labels):
            normal["sample"].append(top)
            continue
        showing = [image.score for image in images if image.label == 1]
        for kind in (kind_of(name), ALL):
            own = defects[kind]
            own["sample"].append(top)
            own["image"] += showing
            own[BY_VIEWS[min(len(showing), len(BY_VIEWS)) - 1]] += showing
    return {
        kind: {
            measure: _measure(own[measure], normal["sample" if measure == "sample" else "image"])
            for measure in MEASURES
        }
        for kind, own in sorted(defects.items())
    }


def _measure(defects: Sequence[float], normals: Sequence[float]) -> dict[str, Any]:
    scores = np.array([*defects, *normals], np.float64)
    labels = np.repeat(np.array([1, 0]), [len(defects), len(normals)])
    return {"auroc": auroc(scores, labels), "defects": len(defects)}


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [one["auroc"] for one in found if not math.isnan(one["auroc"])]
    return {
        "auroc": math.fsum(values) / len(values) if values else math.nan,
        "defects": sum(one["defects"] for one in found),
        "categories": len(values),
    }
