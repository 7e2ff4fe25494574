"""Maps and scores of a scores folder, compared with labels and masks under one protocol or several.

    scores/metrics.json          by the run's own protocol, config eval.protocol
    scores/metrics_<name>.json   by each protocol that was asked for by name
    scores/regions.csv           every defect region as the run's own protocol compares it: place and size,
                                 largest and mean score, and the share found at the F1-max threshold
    scores/regions_<name>.csv    by each protocol that was asked for by name
    scores/bootstrap.npz         resampled metrics of the run's own protocol, for compare_runs.py

Needs neither model nor backbone, and one category at a time: its maps as they are on disk, and a bit for each
pixel of its masks. Metrics of maps come from the float16 files, so that they are the same whenever they are
computed; only `image_score: patch` takes the float32 scores of images.csv.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Float32, Int

from mvead_jax.config.schema import Config, EvalConfig
from mvead_jax.data.records import DatasetIndex, View
from mvead_jax.decision.rates import rates
from mvead_jax.evaluation.bootstrap import copies, ranking_replicates
from mvead_jax.evaluation.defects import Region
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.evaluation.metrics import LEVELS
from mvead_jax.evaluation.pixel_bootstrap import pixel_replicates
from mvead_jax.evaluation.pixels import pixel_metrics
from mvead_jax.evaluation.pooling import (
    labels_of_parts,
    labels_of_samples,
    largest_of_views,
    listed_labels,
    sample_numbers,
)
from mvead_jax.evaluation.protocols import EvaluationProtocol, digest, resolve
from mvead_jax.evaluation.score_files import (
    ImageLine,
    read_images,
    read_maps,
    read_samples,
    scored_files,
    write_regions,
    write_replicates,
)
from mvead_jax.evaluation.sealed_metrics import write_sealed
from mvead_jax.evaluation.strips import strip_metrics
from mvead_jax.evaluation.tables import level_metrics, metrics_of
from mvead_jax.evaluation.truth import Truth
from mvead_jax.evaluation.vanished import NONE_VANISHED, vanished_words
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress

log = logging.getLogger(__name__)

_PIXELS = 2**21  # of enlarged maps at a time


def protocols_of(config: Config, names: Sequence[str] = ()) -> list[EvaluationProtocol]:
    """The run's own protocol, then those of `names` that are others.

    Raises:
      UserError: no such protocol, or a field that does not fit.
    """
    chosen = dict.fromkeys([config.eval.protocol, *names])
    return [resolve(name, config.eval, config.data.image_size, names) for name in chosen]


def evaluate(
    folder: Path,
    index: DatasetIndex,
    words: Mapping[str, Any],
    config: Config,
    names: Sequence[str] = (),
    decided: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Metrics of a scores folder, written into it.

    Args:
      folder: holds images.csv and maps/.
      index: the samples that were scored; their masks are read from it.
      words: how the maps came about (protocol.py); what a protocol says is added.
      names: protocols that get a metrics_<name>.json of their own.
      decided: how the decisions of each category in samples.csv came about (hold_out.py), if there are any;
        their rates are added under the level "decision" of metrics.json, by the labels of the list.

    Returns:
      The content of metrics.json.

    Raises:
      UserError: the files are missing, or are not those of `index`.
    """
    protocols = protocols_of(config, names)
    lines = read_images(folder)
    scores = {(line.category, line.sample): line.score for line in read_samples(folder)}
    views = _views(folder, lines, index)
    of_parts = {(sample.category, sample.id): sample.label for sample in index.samples}
    found: dict[str, dict[str, Found]] = {protocol.name: {} for protocol in protocols}
    categories = [(name, list(own)) for name, own in groupby(lines, lambda line: line.category)]
    labelled = any(of_parts[line.category, line.sample] is not None for line in lines)
    with progress("metrics", len(categories) * len(protocols), "categories x protocols") as bar:
        for name, own in categories:
            maps = read_maps(folder, name, len(own))
            of_views = [views[name, line.sample, line.view] for line in own]
            for protocol in protocols:
                truth = Truth(index.root, of_views, protocol)
                parts = dict.fromkeys(line.sample for line in own)
                sample_scores = np.array([scores[name, sample] for sample in parts], np.float32)
                bounds = words.get("map_ranges", {}).get(name) if protocol.clamp_maps else None
                labels = labels_of_parts(own, of_parts)
                scene = Scene(own, maps, truth, protocol, labels, sample_scores, bounds)
                found[protocol.name][name] = metrics_of_category(scene, config.eval)
                bar.advance(note=f"{name} {protocol.name}")
    metrics = {}
    for protocol in protocols:
        levels = {name: own.levels for name, own in found[protocol.name].items()}
        vanished = vanished_words(protocol, levels)
        if vanished != NONE_VANISHED:
            log.warning("protocol %s: %s", protocol.name, vanished)
        told = {**words, **_words(protocol, config.eval, labelled), "vanished_masks": vanished}
        resampled = _resampled(found[protocol.name], config.eval, labelled)
        metrics[protocol.name] = metrics_of(levels, told, resampled)
    scored = scored_files([name for name, _ in categories])
    for name in dict.fromkeys(names):
        write_regions(folder / f"regions_{name}.csv", _regions(found[name]))
        write_sealed(folder / f"metrics_{name}.json", metrics[name], [*scored, f"regions_{name}.csv"])
    own = config.eval.protocol
    for category, facts in (decided or {}).items():
        metrics[own]["categories"][category]["decision"] = {**facts, **_rates(folder, category)}
    write_regions(folder / "regions.csv", _regions(found[own]))
    write_replicates(folder, metrics[own], _resampled(found[own], config.eval, labelled))
    attended = [f"attended/{path.name}" for path in folder.glob("attended/*.npz")]
    # Last: it says that all is there.
    write_sealed(folder / "metrics.json", metrics[own], [*scored, *attended, "regions.csv", "bootstrap.npz"])
    return metrics[own]


def _rates(folder: Path, category: str) -> dict[str, Any]:
    lines = [line for line in read_samples(folder) if line.category == category]
    return rates([line.decision or "undecided" for line in lines], [line.label for line in lines])


@dataclass(frozen=True)
class Scene:
    """A category under one protocol. lines, maps and truth are in the same order, samples together.

    of_samples: their labels by the list: 1, 0, or -1 where it is unknown.
    sample_scores: those of samples.csv.
    bounds: at which maps as compared are cut off; None: they are not.
    """

    lines: Sequence[ImageLine]
    maps: Float16[np.ndarray, "n h w"]
    truth: Truth
    protocol: EvaluationProtocol
    of_samples: Int[np.ndarray, " S"]
    sample_scores: Float32[np.ndarray, " S"]
    bounds: Sequence[float] | None = None

    def enlarged(self, places: Sequence[int]) -> Float32[np.ndarray, "b H W"]:
        """The maps of some views as they are compared; the views have one size."""
        height, width = self.truth.sizes[places[0]]
        own = self.protocol
        maps = enlarge(self.maps[list(places)], height, width, crop=own.crop, smoothing=own.smoothing)
        return maps if self.bounds is None else np.clip(maps, *np.asarray(self.bounds, np.float32))

    def pieces(self, places: Sequence[int]) -> Iterator[list[int]]:
        """Neighbouring places of one size, few enough to be enlarged at once."""
        for (height, width), alike in groupby(places, lambda place: self.truth.sizes[place]):
            own, most = list(alike), max(1, _PIXELS // (height * width))
            yield from (own[start : start + most] for start in range(0, len(own), most))

    def image_scores(self) -> np.ndarray:
        """float32 [n] by the protocol's rule."""
        if self.protocol.image_score == "patch":
            return np.array([line.score for line in self.lines], np.float32)
        scores = np.zeros(len(self.lines), np.float32)
        for places in self.pieces(range(len(self.lines))):
            flat = self.enlarged(places).reshape(len(places), -1)
            if self.protocol.image_score == "max":
                scores[places] = flat.max(1)
            else:
                top = max(1, int(flat.shape[1] * 0.01))
                scores[places] = np.partition(flat, -top, 1)[:, -top:].mean(1, dtype=np.float64)
        return scores

    def labels(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the images [n] and of the samples [S] by the protocol's rule: 1, 0, or -1 where it is unknown.

        Args:
          sample: whose each image is.
        """
        if self.protocol.image_label == "mask":
            of_images = np.where(self.truth.known, self.truth.defective.astype(int), -1)
            listed = self.protocol.sample_label == "list"
            return of_images, self.of_samples if listed else labels_of_samples(of_images, sample)
        return listed_labels(self.lines), self.of_samples


class Found(NamedTuple):
    """Of one category under one protocol.

    Attributes:
      levels: {level: metrics}.
      replicates: {"<level>_<metric>": [B]}.
      regions: with the line of the image that each lies in.
    """

    levels: dict[str, dict[str, Any]]
    replicates: dict[str, np.ndarray]
    regions: list[tuple[ImageLine, Region]]


def metrics_of_category(scene: Scene, config: EvalConfig) -> Found:
    """Everything that is compared."""
    lines, protocol = scene.lines, scene.protocol
    sample = sample_numbers(lines)
    scores, (labels, of_samples) = scene.image_scores(), scene.labels(sample)
    # Drawn by the list's labels under every protocol, so that all draw the same.
    drawn = copies(scene.of_samples, config.bootstrap, config.seed, lines[0].category)
    if protocol.image_score == "patch" and protocol.sample_score == "max":
        pooled = scene.sample_scores  # by the method's own rule
    elif protocol.sample_score == "max":
        pooled = largest_of_views(scores, sample)
    else:
        pooled = np.bincount(sample, scores.astype(np.float64)) / np.bincount(sample)
    if protocol.score_limit is not None:
        scores, pooled = (np.minimum(own, own.dtype.type(protocol.score_limit)) for own in (scores, pooled))
    levels, resampled = {}, {}
    for level, own_scores, own_labels, own_sample in (
        ("sample", pooled, of_samples, np.arange(len(pooled))),
        ("image", scores, labels, sample),
    ):
        known = own_labels >= 0
        of_known = own_scores[known], own_labels[known]
        levels[level] = level_metrics(level, *of_known)
        values = ranking_replicates(*of_known, own_sample[known], drawn, level)
        resampled |= {f"{level}_{metric}": own for metric, own in values.items()}
    levels["pixel"], values, regions = _pixels(scene, sample, drawn)
    resampled |= {f"pixel_{metric}": own for metric, own in values.items()}
    return Found(levels, resampled, regions)


def _pixels(
    scene: Scene, sample: np.ndarray, drawn: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[tuple[ImageLine, Region]]]:
    """Metrics, replicates and regions of all views whose pixels are known."""
    places, truth = np.flatnonzero(scene.truth.known).tolist(), scene.truth

    def batches():
        return ((scene.enlarged(own), truth.masks(own)) for own in scene.pieces(places))

    def samples():
        for number, own in groupby(places, lambda place: sample[place]):
            for piece in scene.pieces(list(own)):
                yield int(number), scene.enlarged(piece), truth.masks(piece)

    measured = pixel_metrics(batches)
    # A region counts the images as they were read: only those whose pixels are known.
    regions = [(scene.lines[places[region.image]], region) for region in measured.regions]
    found = measured.to_dict() | {
        "images": len(places),
        "left_out": len(scene.lines) - len(places),
        "defective_without_mask": truth.without_mask,
        "marked_masks": truth.marked,
        "vanished_masks": truth.vanished,
    }
    told = {name: found[name] for name in LEVELS["pixel"]}
    if strips := scene.protocol.strips:
        counted = {"f1_steps": scene.protocol.f1_steps, "bounds": scene.bounds}
        found |= {"exact": told, "strips": strips}
        told = told | strip_metrics(batches, strips, **counted)
        found |= told
    if len(drawn) and not any(map(math.isnan, told.values())):
        return found, pixel_replicates(samples, drawn, told, found["fpr_limit"]), regions
    return found, {name: np.full(len(drawn), np.nan) for name in told}, regions


def _resampled(found: Mapping[str, Found], config: EvalConfig, labelled: bool) -> list[dict[str, np.ndarray]]:
    """Of each category; none where there are no intervals."""
    return [own.replicates for own in found.values()] if config.bootstrap and labelled else []


def _regions(found: Mapping[str, Found]) -> list[tuple[ImageLine, Region]]:
    return [one for own in found.values() for one in own.regions]


def _views(folder: Path, lines: Sequence[ImageLine], index: DatasetIndex) -> dict[tuple[str, str, str], View]:
    """The views of the data set by (category, sample, view).

    Raises:
      UserError: images.csv is of other images or labels.
    """
    views = {
        (sample.category, sample.id, view.name): view for sample in index.samples for view in sample.views
    }
    for line in lines:
        view = views.get((line.category, line.sample, line.view))
        if view is None or (view.image, view.label) != (line.image, line.label):
            what = "is not in" if view is None else "has another image or label in"
            raise UserError(
                f"{folder / 'images.csv'}: {line.sample} {line.view} {what} the test lists of {index.root}; "
                "name the data set that was scored (--config.data.root) or score again"
            )
    return views


def _words(protocol: EvaluationProtocol, config: EvalConfig, labelled: bool) -> dict[str, Any]:
    """Return what the protocol says."""
    words = protocol.words()
    if not labelled:
        words |= dict.fromkeys(("image_label", "sample_label"), "unknown")
    intervals = "none"
    if config.bootstrap and labelled:
        intervals = (
            f"95 %, percentile bootstrap over samples with all their views, defective and normal apart, "
            f"{config.bootstrap} resamples, seed {config.seed}"
        )
    return {**words, "intervals": intervals, "evaluation_digest": digest(protocol, config)}
