"""Two runs on the same samples beside each other: what differs, how sure that is, and whether they agree.

For a run repeated on another device, other numbers of devices or other versions: do samples, settings, scores
and metrics agree within stated tolerances (docs/reproducibility.md)? For two methods: by how much do the
metrics differ, and would chance do that? Reads the files that score.py left, and needs no data set.

Sample and image metrics are computed from samples and images that both runs scored, by the default rule
(largest patch score, list's labels). Pixel metrics are those of metrics.json, if both have the same samples
and protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.config import from_dict, to_dict
from mvead_jax.errors import UserError
from mvead_jax.evaluation.agreement import rank_changes, score_differences
from mvead_jax.evaluation.bootstrap import copies, paired, ranking_replicates
from mvead_jax.evaluation.folder import ImageLine, read_images, read_replicates
from mvead_jax.evaluation.pooling import largest_of_views, listed_labels, sample_numbers
from mvead_jax.evaluation.tables import LEVELS, level_metrics, mean_replicates
from mvead_jax.files import read_json

# Fields that say where things lie or how many fit at once, not what is computed; eval is in the protocol.
_PLACES = ("data.root", "data.images", "features.cache", "backbone.weights", "backbone.directory")
_PLACES += ("backbone.batch_size", "eval.")
# Of the protocol: what follows from these, and what differs wherever the last bits do.
_NOT_COMPARED = ("config_digest", "models_digest", "weights")


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
    """What score.py left. config: of the workdir, None where only the scores folder was kept."""

    name: str
    images: Mapping[tuple[str, str, str], ImageLine]
    metrics: Mapping[str, Any]
    replicates: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None
    environments: Mapping[str, Any]


def read_run(path: Path) -> ScoredRun:
    """A workdir that was scored, or a scores folder.

    Raises:
      UserError: neither, or not finished.
    """
    folder = path if (path / "images.csv").exists() else path / "scores"
    if not (folder / "images.csv").exists():
        raise UserError(f"{path}: holds no images.csv or scores/images.csv; name a workdir or scores folder")
    metrics = read_json(folder / "metrics.json", "the scores of a finished scripts/score.py")
    if not isinstance(metrics, dict) or not isinstance(metrics.get("protocol"), dict):
        raise UserError(f"{folder / 'metrics.json'}: not written by score.py; score again")
    places = {"train": folder.parent / "environment.json", "score": folder / "environment.json"}
    config = folder.parent / "config.json"
    return ScoredRun(
        name=str(path),
        images={(line.category, line.sample, line.view): line for line in read_images(folder)},
        metrics=metrics,
        replicates=read_replicates(folder),
        config=to_dict(from_dict(read_json(config, "a config"), str(config))) if config.exists() else None,
        environments={
            name: read_json(place, "of train.py") for name, place in places.items() if place.exists()
        },
    )


def compare(
    a: ScoredRun, b: ScoredRun, tolerances: Tolerances, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Everything that differs, JSON-ready; "problems" says why "pass" is false.

    Differences are b - a, with [low, high] of 95 % and p of the paired bootstrap (evaluation/bootstrap.py).

    Raises:
      UserError: the runs have no picture in common.
    """
    common = [key for key in a.images if key in b.images]
    if not common:
        raise UserError(f"{a.name} and {b.name} have no picture in common; compare runs of one test split")
    missing = {
        "only_a": sorted("/".join(key) for key in a.images.keys() - b.images.keys()),
        "only_b": sorted("/".join(key) for key in b.images.keys() - a.images.keys()),
    }
    relabelled = ["/".join(key) for key in common if a.images[key].label != b.images[key].label]
    found: dict[str, Any] = {"a": a.name, "b": b.name, "tolerances": vars(tolerances), "images": len(common)}
    found |= missing | {"other_labels": relabelled}
    found["settings"] = setting_differences(a, b)
    found["environment"] = environment_differences(a, b)
    found["scores"], found["ranks"], values = {}, {}, {}
    for category in dict.fromkeys(key[0] for key in common):
        own = [key for key in common if key[0] == category]
        lines = [[run.images[key] for key in own] for run in (a, b)]
        scores = [np.array([line.score for line in part]) for part in lines]
        found["scores"][category] = of_scores = score_differences(*scores)
        of_scores["at"] = "/".join(own[of_scores["at"]][1:])
        values[category], found["ranks"][category] = _of_category(*lines, resamples, seed)
    whole = not (missing["only_a"] or missing["only_b"] or relabelled)
    found["pixel"] = _add_pixels(a, b, values) if whole else "not compared: other samples or labels"
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
            lines.append(f"{len(names)} pictures {what}: {', '.join(names[:5])}{more}")
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
    told = [run.metrics["protocol"] for run in (a, b)]
    keys = [key for key in dict.fromkeys([*told[0], *told[1]]) if key not in _NOT_COMPARED]
    pairs = [(f"protocol {key}", *(own.get(key) for own in told)) for key in keys]
    if a.config and b.config:
        own, other = dict(_flat(a.config)), dict(_flat(b.config))
        pairs += [(f"config {key}", own[key], other[key]) for key in own if not key.startswith(_PLACES)]
    return [f"{name}: {one!r} and {two!r}" for name, one, two in pairs if one != two]


def environment_differences(a: ScoredRun, b: ScoredRun) -> list[str]:
    """What the runs ran on, where it differs; no reason to fail."""
    found = []
    for job in dict.fromkeys([*a.environments, *b.environments]):
        if job not in a.environments or job not in b.environments:
            found.append(f"{job}: environment.json only in {'A' if job in a.environments else 'B'}")
            continue
        own, other = dict(_flat(a.environments[job])), dict(_flat(b.environments[job]))
        keys = [key for key in dict.fromkeys([*own, *other]) if own.get(key) != other.get(key)]
        found += [f"{job} {key}: {own.get(key)!r} and {other.get(key)!r}" for key in keys]
    return found


def _of_category(
    a: Sequence[ImageLine], b: Sequence[ImageLine], resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({level: {metric: (a, b, a's replicates, b's replicates)}}, rank changes of the samples)."""
    sample, labels = sample_numbers(a), listed_labels(a)
    of_samples = largest_of_views(labels, sample)
    drawn = copies(of_samples, resamples, seed, a[0].category)
    scores = [np.array([line.score for line in lines]) for lines in (a, b)]
    pooled = [largest_of_views(own, sample) for own in scores]
    levels = {}
    for level, own, truth, number in (
        ("sample", pooled, of_samples, np.arange(len(of_samples))),
        ("image", scores, labels, sample),
    ):
        known = truth >= 0
        values = [level_metrics(one[known], truth[known]) for one in own]
        replicates = [ranking_replicates(one[known], truth[known], number[known], drawn) for one in own]
        levels[level] = {
            name: (values[0][name], values[1][name], replicates[0][name], replicates[1][name])
            for name in LEVELS[level]
        }
    return levels, rank_changes(*pooled)


def _add_pixels(a: ScoredRun, b: ScoredRun, values: Mapping[str, Any]) -> str:
    """Adds the pixel level to `values`; or says why not. Replicates of metrics.json's own resamples."""
    digests = [run.metrics["protocol"].get("evaluation_digest") for run in (a, b)]
    if None in digests:
        return "not compared: scored by an earlier version; run score.py --from-maps"
    if digests[0] != digests[1]:
        return "not compared: other evaluation protocols"
    for at, category in enumerate(a.metrics["categories"]):
        own = [run.metrics["categories"][category]["pixel"] for run in (a, b)]
        resampled = [run.replicates for run in (a, b)]
        values[category]["pixel"] = {
            name: (
                *(math.nan if one[name] is None else one[name] for one in own),
                *(run[f"pixel_{name}"][at] if run else np.array([np.nan]) for run in resampled),
            )
            for name in LEVELS["pixel"]
        }
    return ""


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


def _flat(values: Mapping[str, Any], prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
