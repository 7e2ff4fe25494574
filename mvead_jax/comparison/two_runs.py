"""Two runs on the same samples beside each other: what differs, how sure that is, and whether they agree.

For a run repeated on another device, other numbers of devices or other versions: do samples, settings, scores
and metrics agree within stated tolerances (docs/reproducibility.md)? For two methods: by how much do the
metrics differ, and would chance do that? Reads the files that score.py left, and needs no data set.

Metrics are those of metrics.json, and their resamples those of bootstrap.npz, if both runs have the same
samples and evaluation protocol. Otherwise those of samples and images are computed from what both runs
scored, by the default rule (largest patch score, list's labels), and those of pixels are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.comparison.agreement import rank_changes, score_differences
from mvead_jax.config.io import flatten, from_dict, to_dict
from mvead_jax.config.schema import EvalConfig
from mvead_jax.evaluation.bootstrap import copies, paired, ranking_replicates
from mvead_jax.evaluation.metrics import LEVELS
from mvead_jax.evaluation.pooling import labels_of_parts, largest_of_views, listed_labels, sample_numbers
from mvead_jax.evaluation.score_files import ImageLine, read_images, read_replicates, read_sample_labels
from mvead_jax.evaluation.sealed_metrics import check_files, read_sealed
from mvead_jax.evaluation.tables import level_metrics, mean_replicates
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json

# Fields that say where things lie or how many fit at once, not what is computed; eval is in the protocol.
# score.search is none either: scores do not depend on it.
_PLACES = (
    "data.root",
    "data.images",
    "data.foreground_folder",
    "features.cache",
    "backbone.weights",
    "backbone.directory",
)
_PLACES += ("backbone.batch_size", "geometry.cameras", "score.search", "eval.")
# Of the protocol: what follows from these, and what differs wherever the last bits do.
_NOT_COMPARED = ("config_digest", "models_digest", "scores_digest", "weights")


@dataclass(frozen=True)
class Tolerances:
    """What still counts as agreement.

    Attributes:
      score: of an image score, relative to the median score of its category.
      metric: of any metric of a category or their mean, in [0,1].
    """

    score: float = 1e-4
    metric: float = 1e-3


@dataclass(frozen=True)
class ScoredRun:
    """What score.py left.

    Attributes:
      images: lines of images.csv by (category, sample, view). of_parts: labels of samples.csv.
      protocol: of metrics.json.
      values: {category: {level: {metric: value}}} of metrics.json, NaN where it is not defined.
      replicates: of bootstrap.npz, categories in the order of `values`; none where there is none.
      config: of the workdir, None where only the scores folder was kept.
    """

    name: str
    images: Mapping[tuple[str, str, str], ImageLine]
    of_parts: Mapping[tuple[str, str], int | None]
    protocol: Mapping[str, Any]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    replicates: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None
    environments: Mapping[str, Any]


def read_run(path: Path) -> ScoredRun:
    """A workdir that was scored, or a scores folder.

    Raises:
      UserError: neither, or not finished.
    """
    folder = scores_folder(path)
    metrics = read_sealed(folder / "metrics.json", "the scores of a finished mvead score")
    check_files(folder, metrics, ["images.csv", "samples.csv"])
    images = {(line.category, line.sample, line.view): line for line in read_images(folder)}
    of_parts = read_sample_labels(folder)
    if {key[:2] for key in images} - of_parts.keys():
        raise UserError(f"{folder / 'samples.csv'}: of other samples than images.csv; score again")
    try:
        protocol, values = dict(metrics["protocol"]), _values(metrics)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{folder / 'metrics.json'}: not written by score.py; score again") from None
    if values.keys() != {key[0] for key in images}:
        raise UserError(f"{folder / 'metrics.json'}: of other categories than images.csv; score again")
    places = {"train": folder.parent / "environment.json", "score": folder / "environment.json"}
    config = folder.parent / "config.json"
    return ScoredRun(
        name=str(path),
        images=images,
        of_parts=of_parts,
        protocol=protocol,
        values=values,
        replicates=read_replicates(folder, metrics),
        config=to_dict(from_dict(read_json(config, "a config"), str(config))) if config.exists() else None,
        environments={name: _environment(place) for name, place in places.items() if place.exists()},
    )


def _environment(file: Path) -> dict[str, Any]:
    found = read_json(file, "what a run ran on")
    if not isinstance(found, dict):
        raise UserError(
            f"{file}: not what a run ran on, a JSON object; restore it, or delete it: it decides nothing"
        )
    return found


def scores_folder(path: Path) -> Path:
    """Return the scores folder of a workdir, or the folder itself if it is one. Raises UserError: neither."""
    for folder in (path, path / "scores"):
        if (folder / "images.csv").exists():
            return folder
    raise UserError(f"{path}: holds no images.csv or scores/images.csv; name a workdir or scores folder")


def _values(metrics: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        category: {
            level: {
                name: math.nan if levels[level][name] is None else float(levels[level][name])
                for name in names
            }
            for level, names in LEVELS.items()
        }
        for category, levels in metrics["categories"].items()
    }


def compare(a: ScoredRun, b: ScoredRun, tolerances: Tolerances) -> dict[str, Any]:
    """Everything that differs, JSON-ready; "problems" says why "pass" is false.

    Differences are b - a, with [low, high] of 95 % and p of the paired bootstrap (evaluation/bootstrap.py).

    Raises:
      UserError: the runs have no image in common.
    """
    common = [key for key in a.images if key in b.images]
    if not common:
        raise UserError(f"{a.name} and {b.name} have no image in common; compare runs of one test split")
    missing = {
        "only_a": sorted("/".join(key) for key in a.images.keys() - b.images.keys()),
        "only_b": sorted("/".join(key) for key in b.images.keys() - a.images.keys()),
    }
    relabelled = [
        "/".join(key)
        for key in common
        if a.images[key].label != b.images[key].label or a.of_parts[key[:2]] != b.of_parts[key[:2]]
    ]
    found: dict[str, Any] = {"a": a.name, "b": b.name, "tolerances": vars(tolerances), "images": len(common)}
    found |= missing | {"other_labels": relabelled}
    found["settings"] = setting_differences(a, b)
    found["environment"] = environment_differences(a, b)
    found["scores"], found["ranks"], values = {}, {}, {}
    whole = not (missing["only_a"] or missing["only_b"] or relabelled)
    found["pixel"] = _why_not_metrics(a, b) if whole else "not compared: other samples or labels"
    for category in dict.fromkeys(key[0] for key in common):
        own = [key for key in common if key[0] == category]
        lines = [[run.images[key] for key in own] for run in (a, b)]
        scores = [np.array([line.score for line in part]) for part in lines]
        found["scores"][category] = of_scores = score_differences(*scores)
        of_scores["at"] = "/".join(own[of_scores["at"]][1:])
        sample = sample_numbers(lines[0])
        found["ranks"][category] = rank_changes(*(largest_of_views(one, sample) for one in scores))
        values[category] = _recomputed(*lines, a.of_parts) if found["pixel"] else _told(a, b, category)
    found["metrics"] = _metric_differences(values)
    found["problems"] = problems(found, tolerances)
    found["pass"] = not found["problems"]
    return found


def problems(found: Mapping[str, Any], tolerances: Tolerances) -> list[str]:
    """Why the runs do not agree, a line each; none if they do."""
    lines = []
    for key, what in (
        ("only_a", "only in A"),
        ("only_b", "only in B"),
        ("other_labels", "labelled otherwise"),
    ):
        if names := found[key]:
            more = ", ..." if len(names) > 5 else ""
            lines.append(f"{len(names)} images {what}: {', '.join(names[:5])}{more}")
    lines += [f"not the same experiment: {one}" for one in found["settings"]]
    for category, own in found["scores"].items():
        if not own["relative_largest"] <= tolerances.score:  # NaN neither
            lines.append(
                f"{category}: scores differ by up to {own['relative_largest']:.2g} of their median "
                f"(at {own['at']}), more than {tolerances.score:g}"
            )
    if found["pixel"]:
        lines.append(f"pixel metrics {found['pixel']}")
    for category, levels in found["metrics"].items():
        for level, own in levels.items():
            for metric, one in own.items():
                undefined = [math.isnan(one[key]) for key in "ab"]
                if all(undefined) or abs(one["difference"]) <= tolerances.metric:
                    continue
                lines.append(
                    f"{category}: {level} {metric} differs by {one['difference']:+.2g}, "
                    f"more than {tolerances.metric:g}"
                )
    return lines


def setting_differences(a: ScoredRun, b: ScoredRun) -> list[str]:
    """What makes them two experiments: fields of the configs, and of the protocols beside the figures."""
    told = [run.protocol for run in (a, b)]
    keys = [key for key in dict.fromkeys([*told[0], *told[1]]) if key not in _NOT_COMPARED]
    pairs = [(f"protocol {key}", *(own.get(key) for own in told)) for key in keys]
    if a.config and b.config:
        own, other = dict(flatten(a.config)), dict(flatten(b.config))
        both = [key for key in own if key in other]  # a field of one method alone is no difference
        pairs += [(f"config {key}", own[key], other[key]) for key in both if not key.startswith(_PLACES)]
    return [f"{name}: {one!r} and {two!r}" for name, one, two in pairs if one != two]


def environment_differences(a: ScoredRun, b: ScoredRun) -> list[str]:
    """What the runs ran on, where it differs; no reason to fail."""
    found = []
    for job in dict.fromkeys([*a.environments, *b.environments]):
        if job not in a.environments or job not in b.environments:
            found.append(f"{job}: environment.json only in {'A' if job in a.environments else 'B'}")
            continue
        own, other = dict(flatten(a.environments[job])), dict(flatten(b.environments[job]))
        keys = [key for key in dict.fromkeys([*own, *other]) if own.get(key) != other.get(key)]
        found += [f"{job} {key}: {own.get(key)!r} and {other.get(key)!r}" for key in keys]
    return found


def _why_not_metrics(a: ScoredRun, b: ScoredRun) -> str:
    """Why the figures of metrics.json can't stand beside each other; empty if they can."""
    digests = [run.protocol.get("evaluation_digest") for run in (a, b)]
    if None in digests:
        return "not compared: scored by an earlier version; run mvead score --from-maps"
    return "" if digests[0] == digests[1] else "not compared: other evaluation protocols"


def _told(a: ScoredRun, b: ScoredRun, category: str) -> dict[str, Any]:
    """{level: {metric: (a, b, a's replicates, b's replicates)}} of metrics.json and bootstrap.npz."""
    at = [list(run.values).index(category) for run in (a, b)]

    def replicates(run: ScoredRun, row: int, name: str) -> np.ndarray:
        return run.replicates[name][row] if run.replicates else np.array([np.nan])

    return {
        level: {
            name: (
                *(run.values[category][level][name] for run in (a, b)),
                *(replicates(run, row, f"{level}_{name}") for run, row in zip((a, b), at, strict=True)),
            )
            for name in names
        }
        for level, names in LEVELS.items()
    }


def _recomputed(
    a: Sequence[ImageLine], b: Sequence[ImageLine], of_parts: Mapping[tuple[str, str], int | None]
) -> dict[str, Any]:
    """As `_told`, of samples and images that both have; labels are A's."""
    sample, labels = sample_numbers(a), listed_labels(a)
    of_samples = labels_of_parts(a, of_parts)
    default = EvalConfig()
    drawn = copies(of_samples, default.bootstrap, default.seed, a[0].category)
    scores = [np.array([line.score for line in lines]) for lines in (a, b)]
    pooled = [largest_of_views(own, sample) for own in scores]
    levels = {}
    for level, own, truth, number in (
        ("sample", pooled, of_samples, np.arange(len(of_samples))),
        ("image", scores, labels, sample),
    ):
        known = truth >= 0
        values = [level_metrics(level, one[known], truth[known]) for one in own]
        replicates = [
            ranking_replicates(one[known], truth[known], number[known], drawn, level) for one in own
        ]
        levels[level] = {
            name: (values[0][name], values[1][name], replicates[0][name], replicates[1][name])
            for name in LEVELS[level]
        }
    return levels


def _metric_differences(values: Mapping[str, Any]) -> dict[str, Any]:
    """{category or "mean": {level: {metric: {"a", "b", "difference", "interval", "p"}}}}."""
    rows = dict(values)
    first = next(iter(values.values()))
    rows["mean"] = {
        level: {metric: _mean([own[level][metric] for own in values.values()]) for metric in first[level]}
        for level in first
    }
    return {
        name: {
            level: {metric: _difference(*one) for metric, one in metrics.items()}
            for level, metrics in levels.items()
        }
        for name, levels in rows.items()
    }


def _mean(rows: Sequence[tuple[float, float, np.ndarray, np.ndarray]]) -> tuple[Any, ...]:
    """Over the categories that have the metric in both runs."""
    both = [row for row in rows if not math.isnan(row[0]) and not math.isnan(row[1])]
    if not both:
        return math.nan, math.nan, np.array([np.nan]), np.array([np.nan])
    means = [math.fsum(row[run] for row in both) / len(both) for run in (0, 1)]
    return *means, *(mean_replicates([row[run] for row in both]) for run in (2, 3))


def _difference(a: float, b: float, of_a: np.ndarray, of_b: np.ndarray) -> dict[str, Any]:
    one = paired(b, a, of_b, of_a)
    return {"a": a, "b": b, "difference": one.value, "interval": list(one.interval), "p": one.p}
