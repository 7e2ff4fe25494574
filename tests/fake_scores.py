"""A scores folder with its data set, written without any model: what the report reads, in any shape."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mvead_jax.data.records import DatasetIndex, Sample, View, build_index
from mvead_jax.evaluation.score_files import ScoreFiles
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry
from mvead_jax.jobs.evaluate import evaluate
from mvead_jax.methods.mvead.config import MveadConfig
from mvead_jax.report.attention import Attended, attended_path, telling, write_attended

GRID = (4, 6)


@dataclass
class Scored:
    """folder: of the scores. geometries: of each category, as of `geometry`."""

    folder: Path
    index: DatasetIndex
    geometries: dict[str, CategoryGeometry]


def scored_sample(sample, views, maps):
    """Return a sample with maps, whose images are scored by the highest of theirs."""
    scores = maps.max((1, 2))
    return ScoredSample(sample, tuple(views), maps, scores, scores)


def write_scored(
    root: Path,
    *,
    categories=("bolt", "cap"),
    views=("C1", "C2", "C3"),
    samples=6,
    labelled=True,
    size=(60, 40),
    attention=True,
    missing=(),
    name="{category}_{number:04d}_{kind}",
    cold=(),
) -> Scored:
    """Grey images, the same for all samples. Every second sample is defective, with one hot patch, of row 2
    and column 3, and a mask there in its first view; the first defective one has no heat: it is missed.

    Args:
      size: (W, H) of the images.
      missing: (category, number of the sample, view) that are left out.
      name: of a sample; kind is OK or NG_HS.
      cold: numbers of samples that score below all others.
    """
    rng = np.random.default_rng(0)
    listed, maps = [], {}
    for place, category in enumerate(categories):
        for number in range(samples):
            defective = number % 2 == 1
            own_name = name.format(category=category, number=number, kind="NG_HS" if defective else "OK")
            scores = rng.normal(50, 2, (len(views), *GRID)).astype(np.float32)
            scores[0, 1, 2] += 15 if defective and number > 1 else 0
            scores -= 30 if number in cold else 0
            own = []
            for at, view in enumerate(views):
                if (category, number, view) in missing:
                    scores[at] = np.nan
                    continue
                own.append(_view(root, f"pictures/{place}_{at}", view, defective and at == 0, labelled, size))
            listed.append(Sample(own_name, category, "test", tuple(own)))
            maps[category, own_name] = scores
    index = build_index(root, listed)
    files = ScoreFiles(root / "scores")
    for category in index.categories:
        part = index.select(category=category)
        found = [scored_sample(one, views, maps[category, one.id]) for one in part.samples]
        files.add(category, found, [None] * len(found))
        if attention:
            places = telling([one.score for one in found], [one.sample.label for one in found], each=1)
            kept = tuple(found[at].sample.id for at in places)
            write_attended(attended_path(root / "scores", category), _attended(kept, views))
    config = MveadConfig()
    config = replace(
        config,
        data=replace(config.data, image_size=64),
        eval=replace(config.eval, bootstrap=20 if labelled else 0),
    )
    words = {"method": "mvead", "backbone": "efficientnet-lite0", "scored": "test split", "setting": "single"}
    evaluate(root / "scores", index, words, config)
    return Scored(root / "scores", index, {name: geometry(views, size) for name in index.categories})


def geometry(views, size, untrusted=()) -> CategoryGeometry:
    """Rectified views: a point lies on the same row of every other; pairs of `untrusted` are not ok."""
    F = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    pairs = {
        (a, b): PairGeometry(F, (a, b) not in untrusted, "given")
        for a in range(len(views))
        for b in range(a + 1, len(views))
    }
    return CategoryGeometry(tuple(views), (size,) * len(views), pairs)


def add_decisions(scored: Scored, facts, decisions) -> None:
    """Adds what a calibrated run adds to the files: of the one category, and of each sample in turn."""
    for name, more in (("samples", ("p_value", "decision", "reason")), ("images", ("p_value",))):
        path = scored.folder / f"{name}.csv"
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        for at, line in enumerate(lines):
            line += ["0.02", decisions[at], "C3, 2.1 x"] if name == "samples" else ["0.5"]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[*header, *more], *lines])
    path = scored.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    for levels in metrics["categories"].values():
        levels["decision"] = facts
    path.write_text(json.dumps(metrics))


def _view(root, stem, view, defective, labelled, size) -> View:
    (root / stem).parent.mkdir(parents=True, exist_ok=True)
    if not (root / f"{stem}.png").exists():
        Image.new("RGB", size, (90, 110, 120)).save(root / f"{stem}.png")
    mask = None
    if defective and labelled:
        mask = f"{stem}_mask.png"
        pixels = np.zeros(size[::-1], np.uint8)
        height, width = size[1] // GRID[0], size[0] // GRID[1]
        pixels[height : 2 * height, 2 * width : 3 * width] = 255
        Image.fromarray(pixels).save(root / mask)
    return View(view, f"{stem}.png", int(defective) if labelled else None, mask)


def _attended(samples, views) -> Attended:
    """Every patch attends to the same place of the next view with 0.5, and of the one after it with 0.25."""
    count, patches = len(views), GRID[0] * GRID[1]
    view, patch = np.mgrid[:count, :patches]
    number = np.stack([(view + 1) % count * patches + patch, (view + 2) % count * patches + patch], -1)
    weight = np.broadcast_to(np.array([0.5, 0.25]), number.shape)
    shape = (len(samples), *number.shape)
    return Attended(
        tuple(samples), tuple(views), np.broadcast_to(number, shape), np.broadcast_to(weight, shape)
    )
